"""Whole jobs under backpressure whose barriers overtake records: none is lost or doubled, whoever dies, at whatever
parallelism the job goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from threading import Lock
from typing import Any

import pytest

import penstock as ps
from penstock.jobmanager.events import JobState
from penstock.state.snapshots import CheckpointMetadata, InFlightHandle
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.lists import ListSink, ListSource

NUMBERS = 1_500
KEYS = 13


class Counting(ps.KeyedProcessFunction):
    """Slow, so that everything before it waits."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, number: int, ctx: Any) -> Iterator[tuple[int, int]]:
        until = time.perf_counter() + 0.0005
        while time.perf_counter() < until:
            pass
        self.seen.update(self.seen.value() + 1)
        yield number % KEYS, self.seen.value()


def key_of(number: int) -> int:
    return number % KEYS


def same(number: int) -> int:
    return number


EXPECTED = Counter((key, count) for key in range(KEYS) for count in range(1, len(range(key, NUMBERS, KEYS)) + 1))


def configure(env: ps.StreamExecutionEnvironment, backend: str, mode: str = "unaligned", window: int = 3_000) -> None:
    options = {
        "execution.checkpointing.aligned-checkpoint-timeout": "0ms",
        "execution.checkpointing.unaligned.enabled": str(mode == "unaligned").lower(),
        "taskmanager.memory.network.channel-window": str(window),
        "state.checkpoints.num-retained": "3",
    }
    env.configure(ps.Configuration(options))
    env.set_state_backend(backend)


def build(env: ps.StreamExecutionEnvironment, backend: str, mode: str = "unaligned") -> None:
    configure(env, backend, mode)
    source = ListSource(list(range(NUMBERS)), splits=4, batch_rows=50, record_type=int)
    numbers = env.from_source(source, name="numbers", uid="numbers").rebalance().map(same, name="same").uid("same")
    numbers.key_by(key_of).process(Counting()).uid("counting").sink_to(ListSink("counts")).uid("counts")


class Seen:
    """The newest completed checkpoint of a job that is driven."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self._name: str | None = None

    def metadata(self) -> CheckpointMetadata | None:
        name = self._job.status.checkpoints.last_metadata_name
        if name is None or name == self._name:
            return None
        self._name = name
        return run_program(CheckpointStore.read_metadata(name), ObstoreObjects(self._job.job.location))

    def in_flight(self) -> list[InFlightHandle]:
        metadata = self.metadata()
        return [] if metadata is None else [h for subtask in metadata.subtasks for h in subtask.in_flight]


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_a_slot_dies_and_what_was_under_way_is_sent_again(new_env: Any, drive: Any, results: Any, backend: str) -> None:
    assert results("counts") == []
    env = new_env(2)
    build(env, backend)
    job = drive(env)
    seen = Seen(job)
    for _ in range(3):
        job.until(lambda _status: bool(seen.in_flight()))
        job.kill()
    status = job.end()
    assert status.state is JobState.FINISHED
    assert Counter(results("counts")) == EXPECTED


@pytest.mark.parametrize("parallelism", [1, 2, 3, 7])
def test_it_goes_on_at_another_parallelism(new_env: Any, drive: Any, results: Any, parallelism: int) -> None:
    """From an unaligned checkpoint, twice: the second is taken amid the first one's recovery, perhaps."""
    assert results("counts") == []
    path = None
    for before in (2, 3):
        env = new_env(before, restore=path)
        build(env, "heap")
        job = drive(env)
        seen = Seen(job)
        job.until(lambda _status, seen=seen: bool(seen.in_flight()))
        path = f"{job.job.location}/{job.status.checkpoints.last_metadata_name}"
        job.job.close()
    env = new_env(parallelism, restore=path)
    build(env, "rocksdb" if parallelism % 2 else "heap")
    assert drive(env).end().state is JobState.FINISHED
    assert Counter(results("counts")) == EXPECTED


def test_in_order_of_each_key(new_env: Any, drive: Any, results: Any) -> None:
    """Counts of a key come out in their order, though its records were under way when the job was rescaled."""
    assert results("counts") == []
    env = new_env(3)
    build(env, "heap")
    job = drive(env)
    seen = Seen(job)
    job.until(lambda _status: bool(seen.in_flight()))
    path = f"{job.job.location}/{job.status.checkpoints.last_metadata_name}"
    job.job.close()
    env = new_env(2, restore=path)
    build(env, "heap")
    drive(env).end()
    for key in range(KEYS):
        counts = [count for k, count in results("counts") if k == key]
        assert counts == sorted(counts)


class Eightfold(ps.KeyedProcessFunction):
    def process_element(self, number: int, ctx: Any) -> list[int]:
        return [number] * 8


def test_a_stream_that_meets_its_own_results_goes_on(new_env: Any, drive: Any, results: Any) -> None:
    """`same` has more to send again to `eightfold` than that can hand on before `counting` has heard all of `same`."""
    assert results("counts") == []
    few = 400
    env = new_env(2)
    configure(env, "heap", window=600)
    source = ListSource(list(range(few)), splits=4, batch_rows=500, record_type=int)
    numbers = env.from_source(source, name="numbers", uid="numbers").rebalance().map(same, name="same").uid("same")
    more = numbers.key_by(key_of).process(Eightfold(), output_type=int).uid("eightfold")
    more.union(numbers).key_by(key_of).process(Counting()).uid("counting").sink_to(ListSink("counts")).uid("counts")
    job = drive(env)
    seen = Seen(job)
    for _ in range(2):
        job.until(lambda _status: any(handle.edge == "same>eightfold#0" for handle in seen.in_flight()))
        job.kill()
    deadline = time.monotonic() + 60
    assert job.job.run(lambda: time.monotonic() > deadline), "what is under way is never sent again"
    assert job.end().state is JobState.FINISHED
    numbers_of = {key: len(range(key, few, KEYS)) for key in range(KEYS)}
    assert Counter(results("counts")) == Counter(
        (k, n + 1) for k, count in numbers_of.items() for n in range(9 * count)
    )


class Holding:
    """It cannot be pickled, and need not be within a slot."""

    def __init__(self, number: int) -> None:
        self.number, self.lock = number, Lock()


def number_of(holding: Holding) -> int:
    return holding.number


def test_records_that_cannot_be_written_down_fail_checkpoints_and_not_the_job(
    new_env: Any, drive: Any, results: Any
) -> None:
    assert results("counts") == []
    env = new_env(1)
    configure(env, "heap", window=600)
    source = ListSource(list(range(1_500)), batch_rows=50, record_type=int)
    held = env.from_source(source, name="numbers").map(Holding, output_type=object).rebalance()
    held.map(number_of, output_type=int).key_by(key_of).process(Counting()).sink_to(ListSink("counts"))
    job = drive(env)
    job.until(lambda status: "cannot pickle" in (status.checkpoints.last_failure or ""))
    status = job.end()
    assert (status.state, status.restarts) == (JobState.FINISHED, 0)
    assert len(results("counts")) == 1_500


def test_aligned_ones_hold_nothing_under_way(new_env: Any, drive: Any, results: Any) -> None:
    assert results("counts") == []
    env = new_env(2)
    build(env, "heap", "aligned")
    job = drive(env).checkpoints(1)
    assert Seen(job).in_flight() == []
    job.end()
    assert Counter(results("counts")) == EXPECTED
