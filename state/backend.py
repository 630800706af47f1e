"""Keyed state as operators and users see it, and the row store beneath it.

Three layers:
  handles (ValueState, ListState, MapState, ...)  what a function reads and writes, for the current key
  cells (cell_cache.py)                           decoded values in a two-generation write-back cache
  rows  (heap.py, rocksdb.py)                     bytes to bytes, ordered, snapshotted

Both backends share the upper two layers, so they behave alike by construction: a value changed in place is saved
as if `update` had been called, an empty state is deleted, a snapshot is isolated from later writes (PROTOCOLS 15).

A row's key: key group 2 B | state id 2 B | length-prefixed encoded key | namespace 8 B | user key (order-preserving);
big-endian, so the rows of a range of key groups are contiguous over all states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .descriptors import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    StateDescriptor,
    ValueStateDescriptor,
)
from .key_groups import KeyGroupRange
from .snapshots import KeyedHandle
from .statistics import StateStatistics
from .store.objects import Program

if TYPE_CHECKING:
    from .rows.cell_reads import CellRead, CellRows

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

VOID_NAMESPACE = 0
"""The namespace of state that belongs to a key alone. Windows use their start, in ms."""


class ValueState(ABC, Generic[V]):
    """One value per key."""

    @abstractmethod
    def value(self) -> V | None:
        """The current key's value, or the descriptor's default."""

    @abstractmethod
    def update(self, value: V) -> None: ...

    @abstractmethod
    def clear(self) -> None: ...

    @abstractmethod
    def fold(self, keys: Sequence[Any], records: Sequence[Any], function: Callable[[V | None, Any], V]) -> list[V]:
        """For each (key, record) in order: value = function(value or None, record). Returns the new values.

        One tight loop: this is how reduce and running aggregates touch state. Leaves no current key.
        """


class ListState(ABC, Generic[V]):
    """A list per key, stored in chunks: appending does not read it."""

    @abstractmethod
    def get(self) -> list[V]:
        """All values in the order they were added; empty when there are none."""

    @abstractmethod
    def add(self, value: V) -> None:
        """Append without reading what is there."""

    @abstractmethod
    def add_all(self, values: Iterable[V]) -> None: ...

    @abstractmethod
    def update(self, values: Iterable[V]) -> None:
        """Replace the whole list; an empty one deletes the state."""

    @abstractmethod
    def clear(self) -> None: ...


class LikeADict(ABC, Generic[K, V]):
    """Python's ways to use a map: `key in state`, `state[key]`, `for key in state`. A key that is not there is a
    KeyError, where `get` gives None; to delete it does nothing."""

    @abstractmethod
    def get(self, key: K) -> V | None: ...

    @abstractmethod
    def contains(self, key: K) -> bool: ...

    @abstractmethod
    def keys(self) -> Iterator[K]: ...

    def __contains__(self, key: K) -> bool:
        return self.contains(key)

    def __getitem__(self, key: K) -> V:
        value = self.get(key)
        if value is None and not self.contains(key):
            raise KeyError(key)
        return value  # type: ignore[return-value]

    def __iter__(self) -> Iterator[K]:
        return self.keys()


class LikeAMutableDict(LikeADict[K, V]):
    """And `state[key] = value`, `del state[key]`."""

    @abstractmethod
    def put(self, key: K, value: V) -> None: ...

    @abstractmethod
    def remove(self, key: K) -> None: ...

    def __setitem__(self, key: K, value: V) -> None:
        self.put(key, value)

    def __delitem__(self, key: K) -> None:
        self.remove(key)


class MapState(LikeAMutableDict[K, V]):
    """A map per key, stored entry by entry: reading one entry does not read the others.

    Iterating goes in the order of the keys (that of their encoding, which for one type is their own) and reads as it
    goes: whoever stops early has read only that part, and a map may be larger than memory, if its values cannot change
    in place. `start` and `end` bound the keys: start <= key < end. An iterator belongs to the current key (StateError
    if it has to read on after that). It shows changes that are made meanwhile to entries ahead of it; new ones it may
    show or not."""

    @abstractmethod
    def put_all(self, entries: dict[K, V]) -> None: ...

    @abstractmethod
    def items(self, start: K | None = None, end: K | None = None) -> Iterator[tuple[K, V]]: ...

    @abstractmethod
    def keys(self, start: K | None = None, end: K | None = None) -> Iterator[K]: ...

    @abstractmethod
    def values(self, start: K | None = None, end: K | None = None) -> Iterator[V]: ...

    @abstractmethod
    def is_empty(self) -> bool:
        """Looks at one entry, if there are any."""

    @abstractmethod
    def clear(self) -> None: ...


class ReducingState(ABC, Generic[V]):
    """One value per key, into which everything added is reduced."""

    @abstractmethod
    def get(self) -> V | None:
        """None when nothing was added."""

    @abstractmethod
    def add(self, value: V) -> None: ...

    @abstractmethod
    def clear(self) -> None: ...


class AggregatingState(ABC, Generic[V, R]):
    """One accumulator per key, into which everything added is aggregated."""

    @abstractmethod
    def get(self) -> R | None:
        """The result; None when nothing was added."""

    @abstractmethod
    def add(self, value: V) -> None: ...

    @abstractmethod
    def clear(self) -> None: ...


class Timers(ABC):
    """Timers of one operator and one time domain: (timestamp, key, namespace), each at most once. Timers are state."""

    @abstractmethod
    def register(self, timestamp: int, namespace: int = VOID_NAMESPACE) -> None:
        """For the current key. Registering the same timer twice is one timer. StateError for a timestamp (ms) that does
        not fit 64 bits, TypeError for one that is no integer; numpy's are."""

    @abstractmethod
    def delete(self, timestamp: int, namespace: int = VOID_NAMESPACE) -> None:
        """For the current key. Nothing happens where there is none; TypeError as above."""

    @abstractmethod
    def register_for(self, key: Any, timestamp: int, namespace: int) -> None:
        """The same for a key given, so that a batch of windows need not switch the current key."""

    @abstractmethod
    def register_all(self, keys: Collection[Any], timestamp: int, namespace: int) -> None:
        """The same for many keys at once, which costs a fraction of as many single ones."""

    @abstractmethod
    def delete_for(self, key: Any, timestamp: int, namespace: int) -> None: ...

    @abstractmethod
    def next_timestamp(self) -> int | None:
        """Of the earliest timer."""

    @abstractmethod
    def pop_due(self, timestamp: int) -> tuple[int, Any, int] | None:
        """Remove and return the earliest timer (timestamp, key, namespace) not after `timestamp`, or None.

        Those of one timestamp fire by namespace; those of one namespace in the order they were registered while they
        are in memory, and in that of their rows if they were read from the store, because there are many or after a
        restore."""

    @abstractmethod
    def pop_due_alike(self, timestamp: int, most: int) -> tuple[int, int, list[Any]] | None:
        """The same, with others that differ only in the key: (timestamp, namespace, keys), at most so many at once."""


class KeyedStateBackend(ABC):
    """All keyed state of one operator in one subtask."""

    key_groups: KeyGroupRange
    max_parallelism: int

    @abstractmethod
    def declare_keys(self, key_type: Any) -> None:
        """Of which type the keys to come are, as far as it is known. IncompatibleStateError: restored ones are of
        another."""

    @abstractmethod
    def value_state(self, descriptor: ValueStateDescriptor[V]) -> ValueState[V]: ...

    @abstractmethod
    def list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]: ...

    @abstractmethod
    def map_state(self, descriptor: MapStateDescriptor[K, V]) -> MapState[K, V]: ...

    @abstractmethod
    def reducing_state(self, descriptor: ReducingStateDescriptor[V]) -> ReducingState[V]: ...

    @abstractmethod
    def aggregating_state(self, descriptor: AggregatingStateDescriptor[Any]) -> AggregatingState[Any, Any]: ...

    @property
    @abstractmethod
    def changes_in_place(self) -> bool:
        """Values of some state may be objects that change in place: what is handed on must not be those."""

    @abstractmethod
    def timers(self, name: str) -> Timers:
        """The timers of that name, e.g. 'event', 'processing'; restored ones are in it."""

    @abstractmethod
    def set_current_key(self, key: Any) -> None:
        """A normalised key (key_groups.py). Its key group is computed only when a row is touched."""

    @property
    @abstractmethod
    def current_key(self) -> Any:
        """StateError when there is none."""

    @abstractmethod
    def clear_current_key(self) -> None:
        """State is out of reach until the next set_current_key."""

    @abstractmethod
    def apply_to_all_keys(self, descriptor: StateDescriptor, function: Callable[[Any, Any], None]) -> None:
        """function(key, state handle) for every key that has something in the state, each as the current one.

        Writes out what is changed, then reads the state's rows: for rare use. Leaves no current key."""

    @abstractmethod
    def read(self, asked: CellRead) -> CellRows:
        """What a key has in a state, for whoever asks from outside, at no matter which key is the current one; changes
        nothing. StateError, NoSuchStateError, KeyTypeError."""

    @abstractmethod
    def set_namespace(self, namespace: int) -> None:
        """For all state handles of this backend, until the next call. VOID_NAMESPACE at the start."""

    @abstractmethod
    def between_batches(self) -> None:
        """Trickle dirty cells out, so that the dirty set stays within its cap (PROTOCOLS 15); remove some of what has
        expired."""

    @abstractmethod
    def next_sweep_ms(self) -> int | None:
        """When to call `between_batches` though nothing arrives, by the clock of the backend; None: no need."""

    @abstractmethod
    def statistics(self) -> StateStatistics:
        """How much there is now; some ten microseconds. Not after it was closed."""

    @abstractmethod
    def snapshot(self, checkpoint_id: int) -> Program[tuple[KeyedHandle, ...]]:
        """Freeze now; the program writes the frozen generation out and uploads what the store does not have."""

    @abstractmethod
    def savepoint(self, checkpoint_id: int) -> Program[tuple[KeyedHandle, ...]]:
        """The same, whole and in a form that every backend reads (canonical.py). Nothing of it is referred to later:
        to the backend its end is that of a snapshot that was aborted."""

    @abstractmethod
    def checkpoint_completed(self, checkpoint_id: int) -> None:
        """Its files may be referred to by later snapshots from now on (PROTOCOLS 7)."""

    @abstractmethod
    def checkpoint_aborted(self, checkpoint_id: int) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


__all__ = [
    "AggregatingState",
    "KeyedStateBackend",
    "ListState",
    "MapState",
    "Path",
    "ReducingState",
    "Timers",
    "ValueState",
    "VOID_NAMESPACE",
]
