"""Keyed state of one operator subtask over a row store: handles, timers, cache and write queue put together.

Life of a change: a handle changes a cell (cell_cache.py); the cell leaves the cache or a barrier comes, and the
change is in a layer (write_queue.py); the layer reaches the store (heap.py, rocksdb.py).

At a barrier everything changed goes into the last layer, on the slot's thread. The snapshot's program writes the
layers out, takes the store's local checkpoint and uploads it. It may fail at any point, be closed, or never run: the
layers stay until somebody has written them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .backend import KeyedStateBackend, ListState, MapState, Timers, ValueState
from .backend_meta import StateRegistry
from .cell_cache import MISSING
from .descriptors import ListStateDescriptor, MapStateDescriptor, StateDescriptor, ValueStateDescriptor
from .errors import StateError
from .handles import CachedListState, CachedMapState, CachedValueState, Cursor, Handle
from .ids import CheckpointId
from .key_groups import KeyGroupRange
from .objects import Program
from .serializers import Serializer, serializer_for
from .snapshots import FileHandle, KeyedHandle
from .statistics import StateStatistics
from .timers import StoredTimers
from .write_queue import Layer, LocalCheckpoint, Marker, RowStore, Uploads, WriteQueue

K = TypeVar("K")
V = TypeVar("V")

_TIMER_CHANGES = 50_000
"""Changed timers that are kept back: those that fire before they are written leave no trace in the store."""


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
    ) -> None:
        self.key_groups = key_groups
        self.max_parallelism = max_parallelism
        self._operator = operator_name
        self._store = store
        self._registry = registry
        self._uploads = uploads
        self._generation_cells = max(1, options.cache_cells // 2)
        self._dirty_cells = options.dirty_cells
        self._generic_types = options.generic_types
        self._queue = WriteQueue(store)
        self._cursor = Cursor()
        self._declared: dict[str, tuple[StateDescriptor, Handle[Any]]] = {}
        self._timers: dict[str, StoredTimers] = {}
        self._markers: dict[int, Marker] = {}

    # ---- states

    def value_state(self, descriptor: ValueStateDescriptor[V]) -> ValueState[V]:
        def new(place: tuple[Any, ...]) -> Handle[Any]:
            serializer = serializer_for(descriptor.type)
            return CachedValueState[V](*place, serializer=serializer, default=descriptor.default)

        state: Any = self._state(descriptor, "value", serializer_for(descriptor.type), new)
        return state  # type: ignore[no-any-return]

    def list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]:
        element = serializer_for(descriptor.type)
        chunk = element if element.generic else serializer_for(list[descriptor.type])  # type: ignore[name-defined]

        def new(place: tuple[Any, ...]) -> Handle[Any]:
            return CachedListState[V](*place, element_serializer=element, chunk_serializer=chunk)

        state: Any = self._state(descriptor, "list", element, new)
        return state  # type: ignore[no-any-return]

    def map_state(self, descriptor: MapStateDescriptor[K, V]) -> MapState[K, V]:
        serializer = serializer_for(descriptor.value_type)

        def new(place: tuple[Any, ...]) -> Handle[Any]:
            return CachedMapState[K, V](*place, key_type=descriptor.key_type, serializer=serializer)

        state: Any = self._state(descriptor, "map", serializer, new)
        return state  # type: ignore[no-any-return]

    def _state(
        self,
        descriptor: StateDescriptor,
        kind: str,
        serializer: Serializer,
        new: Callable[[tuple[Any, ...]], Handle[Any]],
    ) -> Handle[Any]:
        name = descriptor.name
        known = self._declared.get(name)
        if known is not None:
            if known[0] != descriptor or type(known[0]) is not type(descriptor):
                raise StateError(
                    f"operator '{self._operator}' declares its state '{name}' twice: {known[0]} and {descriptor}"
                )
            return known[1]
        where = f"state '{name}' of operator '{self._operator}'"
        if serializer.generic and not self._generic_types:
            raise StateError(
                f"{where} would be pickled, and pipeline.generic-types is false; "
                "give its descriptor the type of its values"
            )
        state_id = self._registry.declare(name, kind, serializer.description)
        handle = new((self._cursor, self._queue, state_id, self.max_parallelism, where))
        self._declared[name] = (descriptor, handle)
        return handle

    @property
    def changes_in_place(self) -> bool:
        return any(handle.changes_in_place for _descriptor, handle in self._declared.values())

    def timers(self, name: str) -> Timers:
        timers = self._timers.get(name)
        if timers is None:
            state_id = self._registry.declare(f"timers/{name}", "timers")
            timers = self._timers[name] = StoredTimers(self._cursor, state_id, self.max_parallelism)
            timers.restore(self._store.rows_of_state(state_id, self.key_groups))
        return timers

    # ---- where the handles stand

    def set_current_key(self, key: Any) -> None:
        if self._cursor.admitted >= self._generation_cells:
            self._rotate()
        self._cursor.key = key

    @property
    def current_key(self) -> Any:
        return self._cursor.current_key()

    def set_namespace(self, namespace: int) -> None:
        self._cursor.namespace = namespace

    # ---- what leaves the cache

    def between_batches(self) -> None:
        self._cursor.key = MISSING
        if self._cursor.admitted >= self._generation_cells:
            self._rotate()
        elif sum(handle.changed_mutable() for _descriptor, handle in self._declared.values()) > self._dirty_cells:
            self._flush(self._queue.open_layer(), mutable_only=True)
        if sum(timers.changed for timers in self._timers.values()) > _TIMER_CHANGES:
            self._flush_timers(self._queue.open_layer())
        if self._queue.waiting:
            self._queue.write_some()

    def _rotate(self) -> None:
        self._cursor.admitted = 0
        layer = self._queue.open_layer()
        self._registry.generation += 1
        for _descriptor, handle in self._declared.values():
            handle.rotate(layer, self._registry.generation)

    def _flush(self, layer: Layer, *, mutable_only: bool = False) -> None:
        self._registry.generation += 1
        for _descriptor, handle in self._declared.values():
            handle.flush(layer, self._registry.generation, mutable_only=mutable_only)

    def _flush_timers(self, layer: Layer) -> None:
        for timers in self._timers.values():
            timers.flush(layer)

    @property
    def cache_misses(self) -> int:
        """Cells so far that were not in the cache when they were used."""
        return self._queue.fetched

    def statistics(self) -> StateStatistics:
        rows = self._store.statistics()
        changed = sum(handle.changed() for _descriptor, handle in self._declared.values())
        timers = sum(timers.count for timers in self._timers.values())
        return replace(rows, entries=rows.entries + changed, timers=timers)

    # ---- snapshots

    def snapshot(self, checkpoint_id: int) -> Program[tuple[KeyedHandle, ...]]:
        layer = self._queue.open_layer()
        self._flush(layer)
        self._flush_timers(layer)
        marker = self._markers[checkpoint_id] = self._queue.seal(layer, checkpoint_id)
        return self._write_out(marker, self._registry.encode())

    def _write_out(self, marker: Marker, meta: bytes) -> Program[tuple[KeyedHandle, ...]]:
        try:
            local: LocalCheckpoint = self._queue.reach(marker)
            uploads = self._uploads(CheckpointId(marker.checkpoint_id))
            files: dict[str, FileHandle] = yield from local.upload(uploads)
        finally:
            self._queue.forget(marker)
            if marker.checkpoint is not None:
                marker.checkpoint.discard()
        groups = self.key_groups
        return (KeyedHandle(self._store.kind, groups.first, groups.last, files, meta),)

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
        self._queue.close()
        for marker in self._markers.values():
            self._queue.forget(marker)
