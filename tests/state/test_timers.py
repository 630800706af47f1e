"""Timers of which a few are in memory and the others in the store, against a set of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from penstock.state.backend import KeyedStateBackend
from penstock.state.key_groups import KeyGroupRange, key_group, subtask_of
from penstock.state.keyed_backend import BackendOptions
from penstock.state.snapshots import KeyedHandle

GROUPS = 8
EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1
TIMES = st.integers(-3, 12) | st.sampled_from([EARLIEST, LATEST])
NAMESPACES = st.sampled_from([0, -60_000, 60_000])
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
BYTES_OF_A_TIMER = 460
Timer = tuple[int, Any, int]
Handles = tuple[KeyedHandle, ...]


def options_for(timers: int) -> BackendOptions:
    """A backend that has room for so many in memory."""
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

    @rule(at=TIMES, namespace=NAMESPACES)
    def register_every_key(self, at: int, namespace: int) -> None:
        for key in self.keys:
            backend = self.owner(key)
            backend.set_current_key(key)
            backend.timers("event").register(at, namespace)
            self.model["event"].add((at, key, namespace))

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

    @rule(name=st.sampled_from(["event", "processing"]), how_many=st.integers(1, 4))
    def fire_some(self, name: str, how_many: int) -> None:
        """As an operator does that is interrupted."""
        for backend in self.backends:
            timers = backend.timers(name)
            for _ in range(how_many):
                due = timers.pop_due(LATEST)
                own = [timer for timer in self.model[name] if self.owner(timer[1]) is backend]
                assert (None if due is None else due[0]) == min((timer[0] for timer in own), default=None)
                self.model[name].discard(due)  # type: ignore[arg-type]

    @rule(name=st.sampled_from(["event", "processing"]))
    def look(self, name: str) -> None:
        for backend in self.backends:
            own = [timer[0] for timer in self.model[name] if self.owner(timer[1]) is backend]
            assert backend.timers(name).next_timestamp() == min(own, default=None)

    @rule()
    def between_batches(self) -> None:
        for backend in self.backends:
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


@pytest.mark.parametrize(("kind", "examples"), [("heap", 8), ("rocksdb", 20)])
def test_timers_are_those_of_the_model(kind: str, examples: int, new_rig: Callable[..., Any]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: TimerMachine(kind, new_rig),
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=SLOW),
    )
