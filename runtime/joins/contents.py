"""What one side of a windowed join has: rows in order, per key and namespace, for many keys at once.

The last rows are a value, which keys share a look at the store for; what makes it too long to be written anew with
every change moves to a list, to which state only adds. The value knows whether there is such a list, so that nobody
asks the store in vain: most keys have few rows in a window.

    value    (are there earlier rows, the last rows); none if there are no rows at all
    list     earlier rows
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ...state.backend import KeyedStateBackend, ListState
from ...state.descriptors import ListStateDescriptor, ValueStateDescriptor
from ...state.rows.handles import CachedValueState
from ..operators.running import state_type
from ..records.record_types import RecordType

LAST_ROWS = 64
"""So many stand in a value, at most, between two batches."""
_NOTHING: tuple[bool, tuple[Any, ...]] = (False, ())


class Contents:
    """All methods work in the backend's current namespace; those for many keys leave no current key."""

    def __init__(self, backend: KeyedStateBackend, side: str, record_type: RecordType) -> None:
        kind = state_type(record_type)
        last = None if kind is None else tuple[bool, tuple[kind, ...]]  # type: ignore[valid-type]
        descriptor: ValueStateDescriptor[Any] = ValueStateDescriptor(f"{side}-contents", last)
        self._backend = backend
        self._last = cast(CachedValueState[Any], backend.value_state(descriptor))
        self._earlier: ListState[Any] = backend.list_state(ListStateDescriptor(f"{side}-earlier", kind))

    def add(self, keys: Sequence[Any], rows: Sequence[Any]) -> list[int]:
        """Every row to its key's. Positions of the rows that were the first of a key that had none."""
        added: dict[Any, list[Any]] = {}
        begins: dict[Any, int] = {}
        for position, (key, row) in enumerate(zip(keys, rows, strict=True)):
            own = added.get(key)
            if own is None:
                added[key] = [row]
                begins[key] = position
            else:
                own.append(row)
        first: list[int] = []
        long: list[Any] = []

        def step(kept: Any, key: Any) -> Any:
            if kept is None:
                first.append(begins[key])
                kept = _NOTHING
            last = (*kept[1], *added[key])
            if len(last) > LAST_ROWS:
                long.append(key)
            return kept[0], last

        self._last.fold(list(added), list(added), step)
        for key in long:
            self._backend.set_current_key(key)
            self._put_away()
        return first

    def _put_away(self) -> None:
        """For the current key: all rows become earlier ones."""
        _, last = self._last.value() or _NOTHING
        self._earlier.add_all(last)
        self._last.update((True, ()))

    def get(self) -> list[Any]:
        """Of the current key; the list is the caller's."""
        earlier, last = self._last.value() or _NOTHING
        return [*self._earlier.get(), *last] if earlier else list(last)

    def clear(self) -> None:
        """For the current key."""
        if (self._last.value() or _NOTHING)[0]:
            self._earlier.clear()
        self._last.clear()

    def extend(self, rows: Sequence[Any]) -> None:
        """For the current key."""
        earlier, last = self._last.value() or _NOTHING
        if rows:
            self._last.update((earlier, (*last, *rows)))
            if len(last) + len(rows) > LAST_ROWS:
                self._put_away()

    def take_all(self, keys: Sequence[Any]) -> list[Sequence[Any]]:
        """What each of the keys, which are different ones, has; it has nothing afterwards."""
        taken: list[Sequence[Any]] = []
        for key, kept in zip(keys, self._last.values_of(keys), strict=True):
            earlier, last = kept or _NOTHING
            if earlier:
                self._backend.set_current_key(key)
                taken.append([*self._earlier.get(), *last])
                self._earlier.clear()
            else:
                taken.append(list(last))
        self._last.clear_all(keys)
        return taken
