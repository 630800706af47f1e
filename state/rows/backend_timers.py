"""All the timers of one backend, by name: which store they go to, and what memory they share."""

from __future__ import annotations

from ..key_groups import KeyGroupRange
from .backend_meta import StateRegistry
from .cell_weight import Generation
from .handles import Cursor
from .layers import Layer
from .row_store import RowStore
from .timer_rows import TimerReader
from .timers import StoredTimers
from .write_queue import WriteQueue

_MOST_CHANGES = 50_000
"""Changed timers that are kept back: those that fire before they are written leave no trace in the store."""
_CHANGE_BYTES = 250
_PREFIX = "timers/"


class BackendTimers:
    """Opens them by name, and sends their changes on their way."""

    def __init__(
        self,
        cursor: Cursor,
        queue: WriteQueue,
        store: RowStore,
        registry: StateRegistry,
        generation: Generation,
        key_groups: KeyGroupRange,
        max_parallelism: int,
    ) -> None:
        """`generation`: of the cells, with which timers share the memory."""
        self._cursor = cursor
        self._queue = queue
        self._store = store
        self._registry = registry
        self._generation = generation
        self._key_groups = key_groups
        self._max_parallelism = max_parallelism
        self._timers: dict[str, StoredTimers] = {}

    def of(self, name: str) -> StoredTimers:
        timers = self._timers.get(name)
        if timers is None:
            timers = self._timers[name] = self._open(_PREFIX + name)
        return timers

    def _open(self, name: str) -> StoredTimers:
        state_id = self._registry.declare(name, "timers")
        place = (self._cursor, self._queue, state_id, self._max_parallelism)
        if self._store.ordered:
            reader = TimerReader(self._queue, state_id, self._key_groups)
            count, earliest = self._registry.timers(name)
            reader.go_to(earliest)
            return StoredTimers(*place, reader=reader, room=self._room, about=count)
        timers = StoredTimers(*place)
        timers.restore(row_key for row_key, _value in self._store.rows_of_state(state_id, self._key_groups))
        return timers

    def _room(self) -> int:
        """Bytes, for those of one name."""
        return self._generation.room_for_timers() // max(1, sum(timers.weight > 0 for timers in self._timers.values()))

    @property
    def weight(self) -> int:
        """About how many bytes they take, of those that they share with cells."""
        return sum(timers.weight for timers in self._timers.values())

    @property
    def count(self) -> int:
        """Of all that are registered; where not all are in memory, about."""
        return sum(timers.count for timers in self._timers.values())

    def between_batches(self) -> None:
        """Let changes go to the store when there are many."""
        changed = sum(timers.changed for timers in self._timers.values())
        if changed * _CHANGE_BYTES > min(_MOST_CHANGES * _CHANGE_BYTES, self._generation.room_for_timers()):
            if self._generation.leaves(0, is_waiting=self._queue.waiting, timers=changed * _CHANGE_BYTES):
                self._queue.write_all()
            self.flush(self._queue.open_layer())

    def flush(self, layer: Layer) -> None:
        for name, timers in self._timers.items():
            timers.flush(layer)
            self._registry.note_timers(_PREFIX + name, timers.count, timers.earliest)
