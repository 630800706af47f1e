"""Savepoints of whole jobs: taken while the job goes on, stopped with, drained with, and gone on from elsewhere."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.jobmanager.events import JobState
from penstock.jobmanager.views import OperationState, SavepointOperation
from penstock.state.errors import PenstockError
from penstock.state.savepoints.savepoint_store import dispose, read_savepoint
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.lists import ListSink

NUMBERS = 400
KEYS = 7
WINDOW_MS = 100


class Counting(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, number: int, ctx: Any) -> Iterator[tuple[int, int]]:
        self.seen.update(self.seen.value() + 1)
        yield number % KEYS, self.seen.value()


def key_of(number: int) -> int:
    return number % KEYS


def counts_expected() -> Counter[tuple[int, int]]:
    sizes = Counter(key_of(number) for number in range(NUMBERS))
    return Counter((key, count) for key, size in sizes.items() for count in range(1, size + 1))


def windows_expected() -> Counter[tuple[int, ...]]:
    starts = range(0, NUMBERS, WINDOW_MS)
    found = Counter()
    for start in starts:
        for key in range(KEYS):
            own = [n for n in range(start, min(NUMBERS, start + WINDOW_MS)) if key_of(n) == key]
            if own:
                found[(key, *own)] += 1
    return found


class Gathered(ps.ProcessWindowFunction):
    def process(self, key: int, context: Any, elements: Any) -> Iterator[tuple[int, ...]]:
        yield (key, *sorted(elements))


@pytest.fixture
def build(held_source: Any, tmp_path: Path, results: Any) -> Any:
    """The job on an environment; held after 20 numbers a subtask until the gate is there."""
    assert results("counts") == []
    assert results("windows") == []

    def on(
        env: ps.StreamExecutionEnvironment, backend: str = "heap", restamped: bool = False
    ) -> ps.StreamExecutionEnvironment:
        env.set_state_backend(backend)
        values = list(range(NUMBERS))
        source = held_source(values, tmp_path / "gate", 60, splits=4, batch_rows=10, record_type=int, timestamps=int)
        strategy = ps.WatermarkStrategy.for_bounded_out_of_orderness(str(NUMBERS) + "ms")
        stream = env.from_source(source, strategy, name="numbers", uid="numbers")
        stream.key_by(key_of).process(Counting()).uid("counting").sink_to(ListSink("counts")).uid("counts")
        timed = stream.assign_timestamps_and_watermarks(strategy).uid("timed") if restamped else stream
        windows = timed.key_by(key_of).window(ps.TumblingEventTimeWindows(f"{WINDOW_MS}ms"))
        windows.process(Gathered()).uid("windows").sink_to(ListSink("windows")).uid("windows out")
        return env

    return on


def ended(job: Any, request: str) -> SavepointOperation:
    """What became of it; the job goes on meanwhile, or ends."""
    job.job.run(lambda: (found := job.job.operation(request)) is not None and found.ended)
    operation: SavepointOperation = job.job.operation(request)
    return operation


@pytest.mark.parametrize(("backend", "other", "parallelism"), [("heap", "rocksdb", 3), ("rocksdb", "heap", 1)])
def test_the_job_goes_on_and_another_one_begins_there(
    new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path, backend: str, other: str, parallelism: int
) -> None:
    job = drive(build(new_env(2), backend)).checkpoints(2)
    operation = ended(job, job.job.savepoint(str(tmp_path / "savepoints")))
    assert (operation.state, operation.failure) == (OperationState.COMPLETED, None)
    job.checkpoints(2).kill().checkpoints(1)
    (tmp_path / "gate").touch()
    job.end()
    assert Counter(results("counts")) == counts_expected()
    assert Counter(results("windows")) == windows_expected()
    before = Counter(results("counts"))
    ListSink.clear("counts")
    ListSink.clear("windows")
    moved = tmp_path / "elsewhere" / Path(operation.path).name
    shutil.move(operation.path, moved)
    assert drive(build(new_env(parallelism, restore=str(moved)), other)).end().state is JobState.FINISHED
    after = Counter(results("counts"))
    assert after < before, "it goes on behind what was read, and counts on"
    assert max(count for _, count in after) == max(count for _, count in before)
    assert Counter(results("windows")) == windows_expected(), "no window had fired before"


@pytest.mark.parametrize("restore", ["latest", "path"])
def test_a_job_stops_with_one_and_nothing_is_lost_or_doubled(
    new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path, restore: str
) -> None:
    job = drive(build(new_env(2))).checkpoints(1)
    request = job.job.savepoint(str(tmp_path / "savepoints"), stop=True)
    assert job.end().state is JobState.FINISHED
    operation = job.job.operation(request)
    assert operation.state is OperationState.COMPLETED
    assert 0 < len(results("counts")) < NUMBERS, "what was read is committed, and no more was"
    goes_on_from("latest" if restore == "latest" else operation.path, new_env, drive, build, results, tmp_path)


def test_a_stop_that_is_decided_outlives_its_master(
    new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path
) -> None:
    """The next one runs the job until its own savepoint is taken, and no longer."""
    job = drive(build(new_env(2))).checkpoints(1)
    request = job.job.savepoint(str(tmp_path / "savepoints"), stop=True)
    job.job.run(lambda: job.job.cluster.master.log.state.stopping is not None)
    job.job.close()
    following = drive(build(new_env(2, restore="latest")))
    assert following.end().state is JobState.FINISHED
    operation = following.job.operation(request)
    assert operation.state is OperationState.COMPLETED
    assert [str(path.parent) for path in tmp_path.glob("savepoints/*/_metadata")] == [operation.path]
    goes_on_from(operation.path, new_env, drive, build, results, tmp_path)


def test_a_savepoint_with_which_a_job_stops_counts_though_its_master_dies_before_the_end(
    new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path
) -> None:
    job = drive(build(new_env(2))).checkpoints(1)
    job.job.savepoint(str(tmp_path / "savepoints"), stop=True)
    job.job.run(lambda: job.job.cluster.master.log.state.savepoint is not None)
    assert not job.job.ended
    job.job.close()
    goes_on_from("latest", new_env, drive, build, results, tmp_path)


def goes_on_from(restore: str, new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path) -> None:
    """And nothing is lost or doubled."""
    (tmp_path / "gate").touch()
    assert drive(build(new_env(3, restore=restore))).end().state is JobState.FINISHED
    assert Counter(results("counts")) == counts_expected()
    assert Counter(results("windows")) == windows_expected()


@pytest.mark.parametrize("restamped", [False, True])
def test_drained_it_fires_every_window(
    new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path, restamped: bool
) -> None:
    """Also those whose watermarks are made in the middle of the pipeline: event time ends for everybody."""
    job = drive(build(new_env(2), restamped=restamped)).checkpoints(1)
    request = job.job.savepoint(str(tmp_path / "savepoints"), stop=True, drain=True)
    assert job.end().state is JobState.FINISHED
    assert job.job.operation(request).state is OperationState.COMPLETED
    fired = sorted(number for _key, *numbers in results("windows") for number in numbers)
    assert len(fired) == len(results("counts")) > 0
    assert len(set(fired)) == len(fired)


def test_one_that_fails_leaves_the_job_running(
    new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    job = drive(build(new_env(2))).checkpoints(1)
    for stop in (False, True):
        operation = ended(job, job.job.savepoint(str(tmp_path / "file" / "below"), stop=stop))
        assert operation.state is OperationState.FAILED
        assert operation.failure
        job.checkpoints(1)
    (tmp_path / "gate").touch()
    assert job.end().state is JobState.FINISHED
    assert Counter(results("counts")) == counts_expected()


def test_without_a_place_it_is_refused(new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path) -> None:
    job = drive(build(new_env(1))).checkpoints(1)
    operation = ended(job, job.job.savepoint())
    assert operation.failure == "nowhere to put it: name a target directory, or set state.savepoints.dir"
    (tmp_path / "gate").touch()
    job.end()


def test_disposal_removes_it_and_nothing_else(
    new_env: Any, drive: Any, build: Any, results: Any, tmp_path: Path
) -> None:
    job = drive(build(new_env(1))).checkpoints(1)
    paths = [ended(job, job.job.savepoint(str(tmp_path / "savepoints"))).path for _ in range(2)]
    (tmp_path / "gate").touch()
    job.end()
    store = ObstoreObjects(tmp_path)
    names = [str(Path(path).relative_to(tmp_path)) for path in paths]
    run_program(dispose(names[0]), store)
    assert not Path(paths[0]).exists()
    assert run_program(read_savepoint(names[1]), store).job_name == "job"
    with pytest.raises(PenstockError, match="there is no savepoint at"):
        run_program(dispose(names[0]), store)
    with pytest.raises(PenstockError, match="is not a savepoint"):
        run_program(dispose("savepoints"), store)
