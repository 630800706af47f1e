"""Timers of which a few are in memory and the others in the store, against a set of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from penstock.state.backend import KeyedStateBackend
from penstock.state.key_groups import KeyGroupRange, key_group, subtask_of
from penstock.state.rows.keyed_backend import BackendOptions
from penstock.state.rows.rocksdb import RocksStore
from penstock.state.rows.row_keys import encode_word
from penstock.state.snapshots import KeyedHandle

GROUPS = 3
EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1
TIMES = st.integers(-3, 30) | st.sampled_from([EARLIEST, LATEST])
NAMESPACES = st.sampled_from([0, -60_000, 60_000])
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
BYTES_OF_A_TIMER = 460
Timer = tuple[int, Any, int]
Handles = tuple[KeyedHandle, ...]


def options_for(timers: int) -> BackendOptions:
    """A backend that has room for so many in memory, if each has a time of its own."""
    return BackendOptions(
        block_cache_bytes=8 << 20, write_buffer_bytes=8 << 20, cache_bytes=4 * timers * BYTES_OF_A_TIMER
    )


class TimerMachine(RuleBasedStateMachine):
    """Two names of timers in one to three subtasks; every restore may be at another parallelism and backend."""

    def __init__(self, kind: str, new_rig: Callable[..., Any]) -> None:
        super().__init__()
        self.kind = kind
        self.new_rig = new_rig

    @initialize(
        room=st.sampled_from([2, 5, 1_000]),
        parallelism=st.integers(1, 3),
        keys=st.sampled_from([list(range(-2, 8)), ["", "a", "b", "c", "key d", "é"], [("a", 1), ("a", 2), ("b", 0)]]),
    )
    def start(self, room: int, parallelism: int, keys: list[Any]) -> None:
        self.directory = TemporaryDirectory(prefix="penstock-test-")
        self.rig = self.new_rig(self.kind, Path(self.directory.name))
        self.options = options_for(room)
        self.keys = keys
        self.model: dict[str, set[Timer]] = {"event": set(), "processing": set()}
        self.programs: list[Any] = []
        self.checkpoint = 0
        self.completed: tuple[Handles, dict[str, set[Timer]]] = ((), {"event": set(), "processing": set()})
        self.open(parallelism, ())

    def open(self, parallelism: int, handles: Handles) -> None:
        self.rig.close()
        self.programs = []
        ranges = [KeyGroupRange.of_subtask(subtask, parallelism, GROUPS) for subtask in range(parallelism)]
        self.backends: list[KeyedStateBackend] = []
        for own in ranges:
            parts = [h for h in handles if len(KeyGroupRange(h.first_key_group, h.last_key_group).intersection(own))]
            self.backends.append(self.rig.open(tuple(parts), own, self.options, GROUPS))
            for name in self.model:
                self.backends[-1].timers(name)

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            for name in self.model:
                self.fire(name, LATEST)
                assert not self.model[name]
            assert sum(backend.statistics().timers for backend in self.backends) == 0, "nothing is left to be unsure of"
            self.rig.close()
            self.directory.cleanup()

    def owner(self, key: Any) -> KeyedStateBackend:
        return self.backends[subtask_of(key_group(key, GROUPS), len(self.backends), GROUPS)]

    # ---- operations

    @rule(name=st.sampled_from(["event", "event", "processing"]), at=TIMES, namespace=NAMESPACES, data=st.data())
    def register(self, name: str, at: int, namespace: int, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.keys))
        self.owner(key).timers(name).register_for(key, at, namespace)
        self.model[name].add((at, key, namespace))

    @rule(start=TIMES, step=st.integers(0, 4), namespace=NAMESPACES)
    def register_many(self, start: int, step: int, namespace: int) -> None:
        for number, key in enumerate(3 * self.keys):
            at = min(start + number * step, LATEST)
            backend = self.owner(key)
            backend.set_current_key(key)
            backend.timers("event").register(at, namespace)
            self.model["event"].add((at, key, namespace))

    @rule(at=TIMES, namespace=NAMESPACES, data=st.data())
    def register_all(self, at: int, namespace: int, data: st.DataObject) -> None:
        """As windows do it: for many keys at once, of which some may have that timer."""
        keys = data.draw(st.lists(st.sampled_from(self.keys)))
        for backend in self.backends:
            backend.timers("event").register_all([key for key in keys if self.owner(key) is backend], at, namespace)
        self.model["event"] |= {(at, key, namespace) for key in keys}

    @rule(name=st.sampled_from(["event", "event", "processing"]), at=TIMES, namespace=NAMESPACES, data=st.data())
    def delete(self, name: str, at: int, namespace: int, data: st.DataObject) -> None:
        """One that is there, or perhaps not."""
        there = sorted(self.model[name], key=repr)
        timer = data.draw(st.sampled_from(there)) if there else (at, self.keys[0], namespace)
        if data.draw(st.booleans()):
            timer = (at, timer[1], namespace)
        self.owner(timer[1]).timers(name).delete_for(timer[1], timer[0], timer[2])
        self.model[name].discard(timer)

    @rule(name=st.sampled_from(["event", "processing"]), up_to=TIMES)
    def fire(self, name: str, up_to: int) -> None:
        for backend in self.backends:
            timers, last = backend.timers(name), EARLIEST
            while (due := timers.pop_due(up_to)) is not None:
                assert due in self.model[name], "fires once, and if it was not deleted"
                assert last <= due[0] <= up_to
                last = due[0]
                self.model[name].remove(due)
        assert all(timer[0] > up_to for timer in self.model[name])

    @rule(name=st.sampled_from(["event", "processing"]), how_many=st.integers(1, 12))
    def fire_some(self, name: str, how_many: int) -> None:
        """As an operator does that is interrupted."""
        for backend in self.backends:
            timers = backend.timers(name)
            for _ in range(how_many):
                due = timers.pop_due(LATEST)
                own = [timer for timer in self.model[name] if self.owner(timer[1]) is backend]
                assert (None if due is None else due[0]) == min((timer[0] for timer in own), default=None)
                self.model[name].discard(due)  # type: ignore[arg-type]

    @rule(name=st.sampled_from(["event", "event", "processing"]), up_to=TIMES, most=st.sampled_from([1, 3, 100]))
    def fire_alike(self, name: str, up_to: int, most: int) -> None:
        """As windows do it: those of a timestamp and namespace at once."""
        for backend in self.backends:
            timers, last = backend.timers(name), EARLIEST
            while (due := timers.pop_due_alike(up_to, most)) is not None:
                timestamp, namespace, keys = due
                assert 1 <= len(keys) <= most
                assert last <= timestamp <= up_to
                last = timestamp
                for key in keys:
                    self.model[name].remove((timestamp, key, namespace))
        assert all(timer[0] > up_to for timer in self.model[name])

    @rule(name=st.sampled_from(["event", "processing"]))
    def look(self, name: str) -> None:
        for backend in self.backends:
            own = [timer[0] for timer in self.model[name] if self.owner(timer[1]) is backend]
            assert backend.timers(name).next_timestamp() == min(own, default=None)

    @rule(batches=st.integers(1, 3))
    def between_batches(self, batches: int) -> None:
        for backend in self.backends * batches:
            backend.between_batches()

    # ---- snapshots

    def copy(self) -> dict[str, set[Timer]]:
        return {name: set(timers) for name, timers in self.model.items()}

    @rule()
    def begin_snapshot(self) -> None:
        """Whose changes wait until its program runs, or another's; or for ever."""
        self.checkpoint += 1
        self.programs = [(backend.snapshot(self.checkpoint), backend, self.checkpoint) for backend in self.backends]
        self.frozen = self.copy()

    @precondition(lambda self: self.programs)
    @rule()
    def finish_snapshot(self) -> None:
        handles = [handle for program, _backend, _id in self.programs for handle in self.rig.finish(program)]
        for _program, backend, checkpoint_id in self.programs:
            backend.checkpoint_completed(checkpoint_id)
        self.programs, self.completed = [], (tuple(handles), self.frozen)

    @precondition(lambda self: self.programs)
    @rule()
    def abort_snapshot(self) -> None:
        for program, backend, checkpoint_id in self.programs:
            program.close()
            backend.checkpoint_aborted(checkpoint_id)
        self.programs = []

    @rule(parallelism=st.integers(1, 3), other_backend=st.booleans(), room=st.sampled_from([2, 5, 1_000]))
    def restore(self, parallelism: int, other_backend: bool, room: int) -> None:
        if other_backend:
            self.rig.kind = "heap" if self.rig.kind == "rocksdb" else "rocksdb"
        handles, model = self.completed
        self.model = {name: set(timers) for name, timers in model.items()}
        self.options = options_for(room)
        self.open(parallelism, handles)


@pytest.mark.parametrize(("kind", "examples"), [("heap", 8), ("rocksdb", 25)])
def test_timers_are_those_of_the_model(kind: str, examples: int, new_rig: Callable[..., Any]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: TimerMachine(kind, new_rig),
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=SLOW),
    )


# ---- what is promised, case by case


def popped(timers: Any, up_to: int = LATEST) -> list[Timer]:
    fired = []
    while (due := timers.pop_due(up_to)) is not None:
        fired.append(due)
    return fired


def test_only_as_many_are_in_memory_as_there_is_room_for(rocks: Any) -> None:
    backend = rocks.open(options=options_for(100))
    timers = backend.timers("event")
    for number in range(2_000):
        timers.register_for(number, number * 7 % 2_000 * 1_000, 0)
        assert timers._head.size <= 110, "a little more, as int keys are light"
        if number % 100 == 0:
            backend.between_batches()
    assert backend.statistics().timers == 2_000
    fired = []
    while (due := timers.pop_due(LATEST)) is not None:
        fired.append(due)
        assert timers._head.size <= 500, "what is on its way to the store may be in memory twice"
        backend.between_batches()
    assert sorted(fired) == sorted((number * 7 % 2_000 * 1_000, number, 0) for number in range(2_000))
    assert [timer[0] for timer in fired] == sorted(timer[0] for timer in fired)


def test_one_time_for_all_of_them_needs_no_more_room(rocks: Any) -> None:
    """All windows of one end: the horizon lies amid its timers."""
    backend = rocks.open(options=options_for(50))
    timers = backend.timers("event")
    for number in range(1_000):
        timers.register_for(number, 7, number % 3)
        assert timers._head.size <= 180, "their bucket is there but once"
    restored = rocks.open(rocks.snapshot(backend), options=options_for(50)).timers("event")
    for each in (timers, restored):
        fired = popped(each, 7)
        assert len(fired) == 1_000
        assert set(fired) == {(7, number, number % 3) for number in range(1_000)}


def test_a_restore_reads_only_the_first_timers(rocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = rocks.open()
    for number in range(20_000):
        backend.timers("event").register_for(number, number, 0)
    handles = rocks.snapshot(backend)
    read: list[int] = []
    some_of = RocksStore.some_of

    def counted(store: RocksStore, *place: Any) -> Any:
        rows, position = some_of(store, *place)
        read.append(len(rows))
        return rows, position

    monkeypatch.setattr(RocksStore, "some_of", counted)
    restored = rocks.open(handles, options=options_for(200))
    timers = restored.timers("event")
    assert timers.next_timestamp() == 0
    assert sum(read) < 1_000
    assert abs(restored.statistics().timers - 20_000) < 200, "about as many as the snapshot says"
    assert [timer[0] for timer in popped(timers)] == list(range(20_000))
    assert restored.statistics().timers == 0


def test_a_restore_begins_where_the_timers_do(rocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at the tombstones of what has fired."""
    backend = rocks.open()
    timers = backend.timers("event")
    for number in range(3_000):
        timers.register_for(number, number, 0)
    rocks.snapshot(backend, 1)
    assert len(popped(timers, 2_499)) == 2_500
    handles = rocks.snapshot(backend, 2)
    starts: list[bytes] = []
    some_of = RocksStore.some_of

    def noted(store: RocksStore, place: bytes, position: bytes, most: int) -> Any:
        starts.append(position[8:16])
        return some_of(store, place, position, most)

    monkeypatch.setattr(RocksStore, "some_of", noted)
    restored = rocks.open(handles)
    assert len(popped(restored.timers("event"))) == 500
    assert min(starts) >= encode_word(2_500)


def test_how_many_there_are_is_known_at_another_parallelism(rocks: Any) -> None:
    backend = rocks.open(options=options_for(10))
    for number in range(4_000):
        backend.timers("event").register_for(number, number, 0)
    handles = rocks.snapshot(backend)
    counts = []
    for own in (KeyGroupRange(0, 15), KeyGroupRange(16, 31)):
        part = rocks.open(handles, own, options_for(10))
        part.timers("event")
        counts.append(part.statistics().timers)
    assert all(abs(count - 2_000) < 100 for count in counts)


def test_timers_share_the_memory_of_cells(rocks: Any) -> None:
    """Timers of two names have half of the room each, and cells have what timers leave."""
    backend = rocks.open(options=options_for(100))
    for name in ("event", "processing"):
        for number in range(1_000):
            backend.timers(name).register_for(number, number, 0)
    for number in range(1_000, 1_200):  # both know of each other now
        backend.timers("event").register_for(number, number - 2_000, 0)
    assert backend.timers("event")._head.size <= 55
    allowed = backend._generation._allowed()
    backend._is_full()
    assert backend._generation._allowed() < allowed


def test_what_leaves_memory_late_is_read_again(rocks: Any) -> None:
    """Rows may appear before the place up to which the store was read."""
    backend = rocks.open(options=options_for(40))
    timers = backend.timers("event")
    for number in range(500):
        timers.register_for(number, 1_000 + number, 0)
    rocks.snapshot(backend, 1)
    assert popped(timers, 1_249) == [(1_000 + number, number, 0) for number in range(250)]
    for number in range(200):
        timers.register_for(number, number, 0)
    rocks.snapshot(backend, 2)
    early = [(number, number, 0) for number in range(200)]
    assert popped(timers) == early + [(1_000 + number, number, 0) for number in range(250, 500)]


def test_what_is_on_its_way_to_the_store_is_read_as_well(rocks: Any) -> None:
    """A snapshot whose program never ran has it all, and nothing is written."""
    backend = rocks.open(options=options_for(20))
    timers = backend.timers("event")
    for number in range(200):
        timers.register_for(number, number, 0)
    pending = backend.snapshot(1)
    for number in range(100, 200, 2):
        timers.delete_for(number, number, 0)
    assert [timer[0] for timer in popped(timers)] == [*range(100), *range(101, 200, 2)]
    pending.close()


def test_timers_at_the_horizon(rocks: Any) -> None:
    """Registered where the store was read already, and deleted where it was not."""
    backend = rocks.open(options=options_for(20))
    timers = backend.timers("event")
    for number in range(300):
        timers.register_for(number, 7, 0)
    rocks.snapshot(backend, 1)
    fired = {timers.pop_due(7) for _ in range(100)}
    left = [(7, number, 0) for number in range(300) if (7, number, 0) not in fired]
    for timer in left[::2]:
        timers.delete_for(timer[1], 7, 0)
    for number in range(300):
        timers.register_for(number, 7, -5)
    rocks.snapshot(backend, 2)
    again = popped(timers)
    assert sorted(again, key=repr) == sorted([*left[1::2], *((7, number, -5) for number in range(300))], key=repr)


def test_what_all_have_left_behind_is_removed(rocks: Any) -> None:
    """Though nothing new comes, which compaction would wait for."""
    backend = rocks.open()
    timers = backend.timers("event")
    for checkpoint in range(1, 6):  # enough for what is there to be compacted once
        for number in range(2_000):
            timers.register_for(number, checkpoint, 0)
        rocks.snapshot(backend, checkpoint)
    full = backend.statistics().rocksdb["live-sst-files-size"]
    assert len(popped(timers)) == 10_000
    rocks.snapshot(backend, 6)
    deadline, pause = time.monotonic() + 60, Event()
    while (left := backend.statistics().rocksdb["live-sst-files-size"]) > full // 4:
        assert time.monotonic() < deadline, (left, full)
        pause.wait(0.02)
