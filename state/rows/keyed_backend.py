"""Keyed state of one operator subtask over a row store: handles, timers, cache and write queue put together.

Life of a change: a handle changes a cell (cell_cache.py); the cell leaves the cache or a barrier comes, and the
change is in a layer (write_queue.py); the layer reaches the store (heap.py, rocksdb.py).

At a barrier everything changed goes into the last layer, on the slot's thread. The snapshot's program writes the
layers out, takes the store's local checkpoint and uploads it. It may fail at any point, be closed, or never run: the
layers stay until somebody has written them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..backend import AggregatingState, KeyedStateBackend, ListState, MapState, ReducingState, Timers, ValueState
from ..descriptors import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    StateDescriptor,
    ValueStateDescriptor,
)
from ..errors import StateError
from ..ids import CheckpointId
from ..key_groups import KeyGroupRange
from ..key_signatures import annotated_signature
from ..savepoints.savepoint_store import StatePlace
from ..serialization.serializers import serializer_for
from ..serialization.type_evolution import show
from ..snapshots import CANONICAL, FileHandle, KeyedHandle
from ..statistics import StateStatistics
from ..store.objects import Program
from .backend_meta import StateRegistry
from .backend_timers import BackendTimers
from .cell_cache import MISSING, Written
from .cell_reads import CellRead, CellRows, NoSuchStateError, cell_rows
from .cell_weight import CacheShares, Generation
from .handles import Cursor, Handle
from .kinds import Rows, handles_of
from .layers import Layer, Marker
from .row_keys import key_of
from .row_store import LocalCheckpoint, RowStore, Uploads
from .survey import Growth, Survey
from .sweeper import Sweeper
from .ttl import DeadRows, Expiry
from .tuning import RocksTuning
from .write_queue import WriteQueue

K = TypeVar("K")
V = TypeVar("V")

_BATCHES_PER_WEIGHING = 128
"""For cells that grow where they are."""
_MORE_TABLES = 1_000
"""Of the cache, since a generation began: windows that have ended leave theirs, and every batch looks at them all."""


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Limits of one operator subtask; block cache and write buffers are shared by all that name the same size."""

    cache_cells: int = 200_000
    """Cells in both generations: about 100 MB of small values."""
    dirty_cells: int = 10_000
    """Changed cells of mutable values, which the barrier has to encode on the slot's thread: about 10 ms."""
    generic_types: bool = True
    """False: state whose values would be pickled is refused (pipeline.generic-types)."""
    block_cache_bytes: int = 256 << 20
    write_buffer_bytes: int = 256 << 20
    tuning: RocksTuning = field(default_factory=RocksTuning)
    compress_snapshots: bool = True
    """Of the heap: rows are compressed in checkpoints. RocksDB's files are what its tuning makes them."""
    cache_bytes: int = 128 << 20
    """For cells, estimated, and what leaves the cache; also a limit on their number."""
    shares: CacheShares = field(default_factory=CacheShares)
    """With whom the bytes for cells are shared."""


class _Declared(NamedTuple):
    descriptor: StateDescriptor
    handle: Handle[Any]
    state: Any
    """What functions are given."""
    expiry: Expiry | None
    written: Written


class RowBackend(KeyedStateBackend):
    """Keyed state over rows; which store is under it decides where the rows are."""

    def __init__(
        self,
        store: RowStore,
        registry: StateRegistry,
        *,
        operator_name: str,
        key_groups: KeyGroupRange,
        max_parallelism: int,
        uploads: Callable[[CheckpointId], Uploads],
        options: BackendOptions,
        now_ms: Callable[[], int],
        directory: Path,
        place: StatePlace,
    ) -> None:
        """directory: for the files of savepoints until they are uploaded. place: what these are called."""
        self.key_groups = key_groups
        self.max_parallelism = max_parallelism
        self._operator = operator_name
        self._store = store
        self._registry = registry
        self._keys = registry.keys
        self._uploads = uploads
        self._shares = options.shares
        self._shares.join()
        self._generation = Generation(options.cache_cells, options.cache_bytes, options.shares)
        self._batches = 0
        self._most_tables = _MORE_TABLES
        self._dirty_cells = options.dirty_cells
        self._generic_types = options.generic_types
        self._queue = WriteQueue(store)
        self._cursor = Cursor(registry.keys)
        self._now_ms = now_ms
        self._directory = directory
        self._place = place
        self._sweeper = Sweeper(self._queue, key_groups, now_ms)
        self._survey = Survey(self._queue, key_groups)
        self._growth = Growth()
        self._declared: dict[str, _Declared] = {}
        self._timers = BackendTimers(
            self._cursor, self._queue, store, registry, self._generation, key_groups, max_parallelism
        )
        self._markers: dict[int, Marker] = {}

    # ---- states

    def declare_keys(self, key_type: Any) -> None:
        self._keys.declare(annotated_signature(key_type))

    def value_state(self, descriptor: ValueStateDescriptor[V]) -> ValueState[V]:
        return self._state(descriptor)  # type: ignore[no-any-return]

    def list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]:
        return self._state(descriptor)  # type: ignore[no-any-return]

    def map_state(self, descriptor: MapStateDescriptor[K, V]) -> MapState[K, V]:
        return self._state(descriptor)  # type: ignore[no-any-return]

    def reducing_state(self, descriptor: ReducingStateDescriptor[V]) -> ReducingState[V]:
        return self._state(descriptor)  # type: ignore[no-any-return]

    def aggregating_state(self, descriptor: AggregatingStateDescriptor[Any]) -> AggregatingState[Any, Any]:
        return self._state(descriptor)  # type: ignore[no-any-return]

    def _state(self, descriptor: StateDescriptor) -> Any:
        known = self._declared.get(descriptor.name)
        if known is None:
            known = self._declared[descriptor.name] = self._declare(descriptor)
        elif known.descriptor != descriptor:
            raise StateError(
                f"operator '{self._operator}' declares its state '{descriptor.name}' twice: {known.descriptor} and "
                f"{descriptor}"
            )
        return known.state

    def _declare(self, descriptor: StateDescriptor) -> _Declared:
        name, registry = descriptor.name, self._registry
        where = f"state '{name}' of operator '{self._operator}'"
        key_type, value_type = None, getattr(descriptor, "type", None)
        if isinstance(descriptor, MapStateDescriptor):
            key_type, value_type = descriptor.key_type, descriptor.value_type
        serializer = serializer_for(value_type)
        if serializer.generic and not self._generic_types:
            raise StateError(
                f"{where} would be pickled, and pipeline.generic-types is false; "
                "give its descriptor the type of its values"
            )
        state_id = registry.declare(name, descriptor.kind, serializer.description, annotated_signature(key_type))
        since_ms, were_stamped = registry.declare_ttl(name, None if descriptor.ttl is None else self._now_ms())
        expiry = None if descriptor.ttl is None else Expiry(descriptor.ttl, since_ms, self._now_ms)
        self._survey.add(name, state_id, descriptor.kind, show(serializer.description), registry.map_keys(name))
        place = (self._cursor, self._queue, state_id, self.max_parallelism, where)
        reading = serializer.reading(registry.written_as(name))
        written = Written(registry.namespaces_to(name))
        rows = Rows(place, reading, registry.map_keys(name), expiry, were_stamped, written)
        handle, state = handles_of(descriptor, rows)
        if expiry is not None:
            self._sweeper.add(state_id, expiry)
        return _Declared(descriptor, handle, state, expiry, written)

    @property
    def descriptors(self) -> tuple[StateDescriptor, ...]:
        """Of all states that were declared so far."""
        return tuple(declared.descriptor for declared in self._declared.values())

    @property
    def changes_in_place(self) -> bool:
        return any(handle.changes_in_place for handle in self._handles())

    def timers(self, name: str) -> Timers:
        return self._timers.of(name)

    # ---- where the handles stand

    def set_current_key(self, key: Any) -> None:
        if self._cursor.admitted >= self._generation.look_at and self._is_full():
            self._rotate()
        if type(key) not in self._keys.seen:
            self._keys.admit(key)
        self._cursor.key = key

    @property
    def current_key(self) -> Any:
        return self._cursor.current_key()

    def clear_current_key(self) -> None:
        self._cursor.key = MISSING

    def apply_to_all_keys(self, descriptor: StateDescriptor, function: Callable[[Any, Any], None]) -> None:
        known = self._declared.get(descriptor.name)
        if known is None or known.descriptor != descriptor:
            raise StateError(f"operator '{self._operator}' has no state for {descriptor}; get it in open() first")
        self._flush(self._queue.open_layer())
        self._queue.write_all()
        rows = self._store.rows_of_state(known.handle.state_id, self.key_groups)
        try:
            for key in list(dict.fromkeys(key_of(row_key) for row_key, _value in rows)):
                self.set_current_key(key)
                function(key, known.state)
        finally:
            self.clear_current_key()

    def read(self, asked: CellRead) -> CellRows:
        known = self._declared.get(asked.state)
        if known is None:
            there = ", ".join(f"'{name}'" for name in sorted(self._declared))
            raise NoSuchStateError(f"operator '{self._operator}' has no state '{asked.state}', only {there or 'none'}")
        last_dead = None if known.expiry is None else known.expiry.last_dead(self._now_ms())
        written_as = self._registry.written_as(asked.state)
        return cell_rows(known.handle, asked, known.descriptor.kind, written_as, last_dead)

    def set_namespace(self, namespace: int) -> None:
        self._cursor.namespace = namespace

    # ---- what leaves the cache

    def between_batches(self) -> None:
        self._cursor.key = MISSING
        for handle in self._handles():
            handle.between_batches()
        self._batches += 1
        if (
            self._cursor.admitted >= self._generation.look_at or self._batches % _BATCHES_PER_WEIGHING == 0
        ) and self._is_full():
            self._rotate()
        elif sum(handle.changed_mutable() for handle in self._handles()) > self._dirty_cells:
            self._flush(self._queue.open_layer(), mutable_only=True)
        self._timers.between_batches()
        if self._queue.waiting:
            self._queue.write_some()
        self._sweeper.bite()

    def next_sweep_ms(self) -> int | None:
        return self._sweeper.next_at_ms()

    def _handles(self) -> list[Handle[Any]]:
        return [known.handle for known in self._declared.values()]

    def _dead_rows(self, *, all_states: bool = False) -> DeadRows:
        """Those of now, that snapshots leave out: of states whose TTL says so, or of all."""
        last_dead: dict[int, bytes] = {}
        for known in self._declared.values():
            if known.expiry is not None and (known.expiry.in_snapshots or all_states):
                last = known.expiry.last_dead(self._now_ms())
                if last is not None:
                    last_dead[known.handle.state_id] = last
        return DeadRows(last_dead)

    def _is_full(self) -> bool:
        self._generation.timers = self._timers.weight
        return self._tables > self._most_tables or self._generation.is_full(self._cursor.admitted, self._weight)

    @property
    def _tables(self) -> int:
        return sum(handle.tables for handle in self._handles())

    def _weight(self) -> int:
        return sum(handle.weight() for handle in self._handles())

    def _rotate(self) -> None:
        if self._generation.leaves(self._cursor.admitted, is_waiting=self._queue.waiting):
            self._queue.write_all()
        self._cursor.admitted = 0
        self._generation.begin()
        layer = self._queue.open_layer()
        self._registry.generation += 1
        for handle in self._handles():
            handle.rotate(layer, self._registry.generation)
        self._most_tables = self._tables + _MORE_TABLES

    def _flush(self, layer: Layer, *, mutable_only: bool = False) -> None:
        self._registry.generation += 1
        for handle in self._handles():
            handle.flush(layer, self._registry.generation, mutable_only=mutable_only)

    @property
    def cache_misses(self) -> int:
        """Cells so far that were not in the cache when they were used."""
        return self._queue.fetched

    def statistics(self) -> StateStatistics:
        now_ms, rows = self._now_ms(), self._store.statistics()
        self._survey.bite()
        changed = sum(handle.changed() for handle in self._handles())
        return replace(
            rows,
            entries=rows.entries + changed,
            timers=self._timers.count,
            growth=self._growth.rate(now_ms, rows.bytes),
            states=self._survey.states(now_ms),
            keys=tuple(self._keys.known),
        )

    # ---- snapshots

    def snapshot(self, checkpoint_id: int) -> Program[tuple[KeyedHandle, ...]]:
        dead = self._dead_rows()
        marker = self._seal(checkpoint_id, lambda: self._store.checkpoint(checkpoint_id, dead))
        return self._write_out(marker, self._store.kind, self._registry.encode())

    def savepoint(self, checkpoint_id: int) -> Program[tuple[KeyedHandle, ...]]:
        dead = self._dead_rows(all_states=True)
        directory = self._directory / f"savepoint-{checkpoint_id}"

        def take() -> LocalCheckpoint:
            from ..savepoints.canonical import CanonicalCheckpoint  # with all of Parquet

            return CanonicalCheckpoint(self._store.freeze(), meta, self.key_groups, dead, self._place, directory)

        marker = self._seal(checkpoint_id, take)
        meta = self._registry.encode()
        return self._write_out(marker, CANONICAL, meta)

    def _seal(self, checkpoint_id: int, take: Callable[[], LocalCheckpoint]) -> Marker:
        layer = self._queue.open_layer()
        self._flush(layer)
        self._timers.flush(layer)
        for name, known in self._declared.items():
            self._registry.note_namespaces(name, known.written.up_to)
        marker = self._markers[checkpoint_id] = self._queue.seal(layer, checkpoint_id, take)
        return marker

    def _write_out(self, marker: Marker, kind: str, meta: bytes) -> Program[tuple[KeyedHandle, ...]]:
        try:
            local: LocalCheckpoint = self._queue.reach(marker)
            uploads = self._uploads(CheckpointId(marker.checkpoint_id))
            files: dict[str, FileHandle] = yield from local.upload(uploads)
        finally:
            self._queue.forget(marker)
            if marker.checkpoint is not None:
                marker.checkpoint.discard()
        groups = self.key_groups
        return (KeyedHandle(kind, groups.first, groups.last, files, meta),)

    def checkpoint_completed(self, checkpoint_id: int) -> None:
        self._store.checkpoint_completed(checkpoint_id)
        for number in [number for number in self._markers if number <= checkpoint_id]:
            self._queue.forget(self._markers.pop(number))

    def checkpoint_aborted(self, checkpoint_id: int) -> None:
        self._store.checkpoint_aborted(checkpoint_id)
        marker = self._markers.pop(checkpoint_id, None)
        if marker is not None:
            self._queue.forget(marker)

    def close(self) -> None:
        if not self._queue.closed:
            self._shares.leave()
        self._queue.close()
        for marker in self._markers.values():
            self._queue.forget(marker)
