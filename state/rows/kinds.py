"""From a descriptor to the handles of a row backend: which kind, with a TTL or without, and over which encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..descriptors import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    StateDescriptor,
    ValueStateDescriptor,
)
from ..key_signatures import KeySignatures
from ..serialization.serializers import Serializer
from .cell_cache import Written
from .expiring import ExpiringListState, ExpiringMapState, ExpiringValueState
from .folding import FoldedAggregatingState, FoldedReducingState
from .handles import CachedListState, CachedValueState, Handle
from .list_cells import Chunks, PlainChunks
from .map_state import CachedMapState
from .ttl import Expiry, StampedChunks, StampedSerializer, UnstampedChunks, UnstampedSerializer


@dataclass(frozen=True, slots=True)
class Rows:
    """How the rows of a state are to be read and written."""

    place: tuple[Any, ...]
    """What all handles are given first."""
    serializer: Serializer
    """Of values, elements, or a map's values."""
    keys: KeySignatures
    """Of a map."""
    expiry: Expiry | None
    were_stamped: bool
    """Some may still have a stamp."""
    written: Written


def handles_of(descriptor: StateDescriptor, rows: Rows) -> tuple[Handle[Any], Any]:
    """The handle that the backend rotates and flushes, and what a function is given; often the same."""
    if isinstance(descriptor, ListStateDescriptor):
        handle: Handle[Any] = _list(rows)
        return handle, handle
    if isinstance(descriptor, MapStateDescriptor):
        handle = _map(descriptor, rows)
        return handle, handle
    handle, values = _value(descriptor, rows)
    if isinstance(descriptor, ReducingStateDescriptor):
        return handle, FoldedReducingState(values, descriptor.reduce)
    if isinstance(descriptor, AggregatingStateDescriptor):
        return handle, FoldedAggregatingState(values, descriptor.aggregate_function)
    return handle, values


def _value(descriptor: StateDescriptor, rows: Rows) -> tuple[Handle[Any], Any]:
    default = descriptor.default if isinstance(descriptor, ValueStateDescriptor) else None
    if rows.expiry is not None:
        stamped = StampedSerializer(rows.serializer, rows.expiry.since_ms)
        is_default = None if default is None or stamped.immutable else (lambda cell: cell[1] == default)
        cells: CachedValueState[Any] = CachedValueState(
            *rows.place, serializer=stamped, written=rows.written, is_default=is_default
        )
        return cells, ExpiringValueState(cells, rows.expiry, rows.serializer, default)
    serializer = UnstampedSerializer(rows.serializer) if rows.were_stamped else rows.serializer
    values: CachedValueState[Any] = CachedValueState(
        *rows.place, serializer=serializer, written=rows.written, default=default
    )
    return values, values


def _list(rows: Rows) -> CachedListState[Any]:
    chunks: Chunks = PlainChunks(rows.serializer, rows.serializer.of_lists())
    if rows.expiry is not None:
        chunks = StampedChunks(chunks, rows.expiry.since_ms)
        return ExpiringListState(*rows.place, expiry=rows.expiry, serializer=rows.serializer, chunks=chunks)
    if rows.were_stamped:
        chunks = UnstampedChunks(chunks)
    return CachedListState(*rows.place, serializer=rows.serializer, chunks=chunks)


def _map(descriptor: MapStateDescriptor[Any, Any], rows: Rows) -> CachedMapState[Any, Any]:
    keys = {"key_type": descriptor.key_type, "keys": rows.keys}
    if rows.expiry is not None:
        stamped = StampedSerializer(rows.serializer, rows.expiry.since_ms)
        return ExpiringMapState(*rows.place, expiry=rows.expiry, plain=rows.serializer, serializer=stamped, **keys)
    serializer = UnstampedSerializer(rows.serializer) if rows.were_stamped else rows.serializer
    return CachedMapState(*rows.place, serializer=serializer, **keys)
