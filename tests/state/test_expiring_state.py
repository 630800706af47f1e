"""State that expires against a naive model: all kinds, both backends, clocks that jump, TTLs that change at restores.

The model keeps the stamp of every value, element and entry. With clean-up on, what has expired may be gone at any time,
so it must not be seen; without it, what is there and when is exactly Flink's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from penstock.state.descriptors import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    ValueStateDescriptor,
)
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.ttl_config import StateTtlConfig

KEYS = ["a", "b", "c"]
USER_KEYS = ["p", "q", "r"]
TTL_MS = 100
key_of = st.sampled_from(KEYS)
user_key_of = st.sampled_from(USER_KEYS)
number_of = st.integers(0, 3)
Cell = list[Any]
"""[stamp, value]."""


class Mean:
    """The accumulator can change in place."""

    def create_accumulator(self) -> list[int]:
        return [0, 0]

    def add(self, value: int, accumulator: list[int]) -> list[int]:
        accumulator[0] += value
        accumulator[1] += 1
        return accumulator

    def get_result(self, accumulator: list[int]) -> float:
        return accumulator[0] / accumulator[1]


class Model:
    """What is stored, expired or not, and the rules of access."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, Any], Cell] = {}
        """(state, key or (key, user key)) -> cell."""
        self.lists: dict[str, list[Cell]] = {}

    def copy(self) -> Model:
        other = Model()
        other.values = {place: list(cell) for place, cell in self.values.items()}
        other.lists = {key: [list(cell) for cell in cells] for key, cells in self.lists.items()}
        return other

    def restamp(self, now: int) -> None:
        for cell in [*self.values.values(), *(cell for cells in self.lists.values() for cell in cells)]:
            cell[0] = now

    def drop(self, now: int, ttl: int) -> None:
        """What a clean-up that misses nothing leaves."""
        self.values = {place: cell for place, cell in self.values.items() if cell[0] + ttl > now}
        self.lists = {key: [cell for cell in cells if cell[0] + ttl > now] for key, cells in self.lists.items()}


class ExpiringStateMachine(RuleBasedStateMachine):
    def __init__(self, kind: str, new_rig: Callable[..., Any]) -> None:
        super().__init__()
        self.kind = kind
        self.new_rig = new_rig

    @initialize(
        update_type=st.sampled_from(["on_create_and_write", "on_read_and_write"]),
        visibility=st.sampled_from(["never_return_expired", "return_expired_if_not_cleaned_up"]),
        cleanup=st.booleans(),
        cells=st.sampled_from([2, 1_000]),
    )
    def start(self, update_type: Any, visibility: Any, cleanup: bool, cells: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-test-"))
        self.rig = self.new_rig(self.kind, self.directory)
        self.options = BackendOptions(cells, 1, block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20)
        self.cleanup = cleanup
        if cleanup:
            visibility = "never_return_expired"
        self.config: StateTtlConfig = StateTtlConfig(
            TTL_MS, update_type, visibility, cleanup_in_snapshots=cleanup, cleanup_rows=2 if cleanup else 0
        )
        self.ttl: int | None = TTL_MS
        self.model = Model()
        self.checkpoint = 0
        self.open(())

    def open(self, handles: Any) -> None:
        self.rig.close()
        self.backend = self.rig.open(handles, options=self.options)
        ttl = None if self.ttl is None else replace(self.config, ttl=self.ttl)
        backend = self.backend
        self.value = backend.value_state(ValueStateDescriptor[int]("value", int, ttl=ttl))
        self.pickled: Any = backend.value_state(ValueStateDescriptor[list[int]]("pickled", default=[], ttl=ttl))
        self.list = backend.list_state(ListStateDescriptor[int]("list", int, ttl=ttl))
        self.map = backend.map_state(MapStateDescriptor[str, int]("map", str, int, ttl=ttl))
        self.sum = backend.reducing_state(ReducingStateDescriptor[int]("sum", lambda a, b: a + b, int, ttl))
        self.mean = backend.aggregating_state(AggregatingStateDescriptor[Any]("mean", Mean(), list[int], ttl))

    def at(self, key: str) -> int:
        self.backend.set_current_key(key)
        return self.rig.now_ms

    def expired(self, cell: Cell) -> bool:
        return self.ttl is not None and cell[0] + self.ttl <= self.rig.now_ms

    def read(self, place: tuple[str, Any]) -> Any:
        """The model's answer, and what the access does."""
        cell = self.model.values.get(place)
        if cell is None:
            return None
        if self.expired(cell):
            del self.model.values[place]
            return None if self.hides else cell[1]
        if self.config.update_type == "on_read_and_write":
            cell[0] = self.rig.now_ms
        return cell[1]

    def write(self, place: tuple[str, Any], value: Any) -> None:
        self.model.values[place] = [self.rig.now_ms, value]

    # ---- values

    @rule(key=key_of, number=number_of)
    def update(self, key: str, number: int) -> None:
        self.at(key)
        self.value.update(number)
        self.write(("value", key), number)

    @rule(key=key_of)
    def read_value(self, key: str) -> None:
        self.at(key)
        assert self.value.value() == self.read(("value", key))

    @rule(key=key_of)
    def clear(self, key: str) -> None:
        self.at(key)
        self.value.clear()
        self.list.clear()
        self.map.clear()
        self.sum.clear()
        self.model.values = {
            place: cell
            for place, cell in self.model.values.items()
            if place[0] in ("pickled", "mean") or place[1] not in (key, *((key, each) for each in USER_KEYS))
        }
        self.model.lists.pop(key, None)

    @rule(keys=st.lists(key_of, max_size=4))
    def fold(self, keys: list[str]) -> None:
        results = self.value.fold(keys, range(len(keys)), lambda value, record: (value or 0) + record)
        for record, (key, result) in enumerate(zip(keys, results, strict=True)):
            cell = self.model.values.get(("value", key))
            old = None if cell is None or (self.expired(cell) and self.hides) else cell[1]
            assert result == (old or 0) + record
            self.write(("value", key), result)

    @property
    def hides(self) -> bool:
        return self.config.visibility == "never_return_expired"

    @rule(key=key_of, number=number_of, write=st.booleans())
    def change_in_place(self, key: str, number: int, write: bool) -> None:
        """A default that is changed in place is state from then on; one that is not is none."""
        now = self.at(key)
        place = ("pickled", key)
        before = self.read(place)
        value = self.pickled.value()
        assert value == (before or [])
        expired = before is not None and place not in self.model.values
        if expired:  # what is given out after it has expired is not stored any more
            return
        if write:
            self.pickled.update([number])
            self.write(place, [number])
        elif before is None:
            value.append(number)
            self.write(place, [number])
            assert self.model.values[place][0] == now
        else:
            value.append(number)
            if value is not before:
                before.append(number)

    # ---- lists

    @rule(key=key_of, numbers=st.lists(number_of, min_size=1, max_size=3))
    def add(self, key: str, numbers: list[int]) -> None:
        now = self.at(key)
        for number in numbers:
            self.list.add(number)
        self.model.lists.setdefault(key, []).extend([now, number] for number in numbers)

    @rule(key=key_of, numbers=st.lists(number_of, max_size=3))
    def replace_list(self, key: str, numbers: list[int]) -> None:
        now = self.at(key)
        self.list.update(numbers)
        self.model.lists[key] = [[now, number] for number in numbers]

    @rule(key=key_of, insert=st.booleans(), add=st.booleans())
    def read_list(self, key: str, insert: bool, add: bool) -> None:
        now = self.at(key)
        cells = self.model.lists.get(key, [])
        live = [cell for cell in cells if not self.expired(cell)]
        given = [cell[1] for cell in (live if self.hides else cells)]
        if self.config.update_type == "on_read_and_write" and self.ttl is not None:
            live = [[now, cell[1]] for cell in live]
        values = self.list.get()
        assert values == given
        if insert:
            values.insert(0, 7)
            live = [[now, 7], *([now, number] for number in given)]
        if add:
            self.list.add(8)
            live = [*live, [now, 8]]
            assert values == [*([7] if insert else []), *given, 8]
        self.model.lists[key] = live

    # ---- maps

    @rule(key=key_of, user_key=user_key_of, number=number_of)
    def put(self, key: str, user_key: str, number: int) -> None:
        self.at(key)
        self.map.put(user_key, number)
        self.write(("map", (key, user_key)), number)

    @rule(key=key_of, user_key=user_key_of, contains=st.booleans())
    def read_entry(self, key: str, user_key: str, contains: bool) -> None:
        self.at(key)
        found = self.read(("map", (key, user_key)))
        if contains:
            assert self.map.contains(user_key) == (found is not None)
        else:
            assert self.map.get(user_key) == found

    @rule(key=key_of, user_key=user_key_of)
    def remove(self, key: str, user_key: str) -> None:
        self.at(key)
        self.map.remove(user_key)
        self.model.values.pop(("map", (key, user_key)), None)

    @rule(key=key_of, start=st.none() | user_key_of, keys=st.booleans())
    def iterate(self, key: str, start: str | None, keys: bool) -> None:
        self.at(key)
        places = [("map", (key, each)) for each in USER_KEYS if start is None or each >= start]
        entries = [(place[1][1], found) for place in places if (found := self.read(place)) is not None]
        if keys:
            assert list(self.map.keys(start)) == [entry[0] for entry in entries]
        else:
            assert list(self.map.items(start)) == entries

    @rule(key=key_of)
    def ask_whether_empty(self, key: str) -> None:
        self.at(key)
        cells = [cell for place, cell in self.model.values.items() if place[0] == "map" and place[1][0] == key]
        assert self.map.is_empty() == (not [cell for cell in cells if not (self.hides and self.expired(cell))])

    # ---- what folds

    @rule(key=key_of, number=st.integers(1, 3))
    def reduce(self, key: str, number: int) -> None:
        self.at(key)
        before = self.read(("sum", key))
        self.sum.add(number)
        self.write(("sum", key), number if before is None else before + number)

    @rule(key=key_of)
    def read_sum(self, key: str) -> None:
        self.at(key)
        assert self.sum.get() == self.read(("sum", key))

    @rule(key=key_of, number=number_of)
    def aggregate(self, key: str, number: int) -> None:
        self.at(key)
        before = self.read(("mean", key)) or (0, 0)
        self.mean.add(number)
        self.write(("mean", key), (before[0] + number, before[1] + 1))

    @rule(key=key_of)
    def read_mean(self, key: str) -> None:
        self.at(key)
        before = self.read(("mean", key))
        assert self.mean.get() == (None if before is None else before[0] / before[1])

    # ---- time, batches, restores

    @rule(passed=st.sampled_from([1, 49, 50, 99, 100, 1_000]))
    def advance(self, passed: int) -> None:
        self.rig.now_ms += passed

    @rule(times=st.integers(1, 20))
    def between_batches(self, times: int) -> None:
        for _ in range(times):
            self.backend.between_batches()

    @rule(other_kind=st.booleans())
    def restore(self, other_kind: bool) -> None:
        self.checkpoint += 1
        handles = self.rig.snapshot(self.backend, self.checkpoint)
        if other_kind:
            self.rig.kind = "heap" if self.rig.kind == "rocksdb" else "rocksdb"
        self.open(handles)

    @precondition(lambda self: not self.cleanup)
    @rule(ttl=st.sampled_from([None, 50, 100, 500]))
    def restore_with_another_ttl(self, ttl: int | None) -> None:
        turned_on = self.ttl is None and ttl is not None
        self.ttl = ttl
        self.restore(other_kind=False)
        if turned_on:
            self.model.restamp(self.rig.now_ms)

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            for key in KEYS:
                self.read_value(key)
                self.read_list(key, insert=False, add=False)
                self.iterate(key, None, keys=False)
                self.read_sum(key)
                self.read_mean(key)
            self.rig.close()
            shutil.rmtree(self.directory)


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.parametrize(("kind", "examples"), [("heap", 60), ("rocksdb", 12)])
def test_state_expires_as_the_model_says(kind: str, examples: int, new_rig: Callable[..., Any]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: ExpiringStateMachine(kind, new_rig),
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=SLOW),
    )
