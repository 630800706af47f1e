"""State that is damaged or foreign: every kind of file, in checkpoints and savepoints, under both backends.

Whatever is cut short, altered or gone is told with the object's name, the job does not start over and over, nothing of
what is there is changed, and with the file put back the job goes on as if nothing had been. What was written in another
format is refused before there is a job.
"""

from __future__ import annotations

import base64
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

import penstock as ps
from penstock.jobmanager.events import JobState
from penstock.jobmanager.local_job import LocalJob
from penstock.state.errors import DamagedCheckpointError, IncompatibleStateError, JobFailedError
from penstock.state.savepoints.savepoint_store import read_savepoint
from penstock.state.snapshots import METADATA_VERSION, CheckpointMetadata, FileHandle
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.documents import seal
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.lists import ListSink, ListSource

NUMBERS, KEYS = 2_500, 13
RULES = [f"rule {n}" for n in range(1_000)]
"""More than stands in the metadata."""


@dataclass
class Event:
    key: int
    number: int


class Counting(ps.KeyedProcessFunction, ps.CheckpointedFunction):
    """Slow while `slow`, so that records wait before it."""

    def __init__(self, slow: bool) -> None:
        self.slow = slow

    def initialize_state(self, context: ps.FunctionInitializationContext) -> None:
        store = context.get_operator_state_store()
        self.rules = store.get_union_list_state(ps.ListStateDescriptor("rules", str))

    def snapshot_state(self, context: ps.FunctionSnapshotContext) -> None:
        self.rules.update(RULES)

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, event: Event, ctx: Any) -> Iterator[tuple[int, int]]:
        until = time.perf_counter() + 0.001 * self.slow
        while time.perf_counter() < until:
            pass
        self.seen.update(self.seen.value() + 1)
        yield event.key, self.seen.value()


def key_of(event: Event) -> int:
    return event.key


def same(event: Event) -> Event:
    return event


def build(env: ps.StreamExecutionEnvironment, slow: bool) -> None:
    source = ListSource([Event(n % KEYS, n) for n in range(NUMBERS)], splits=4, batch_rows=25)
    strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("number")
    events = env.from_source(source, strategy, name="events", uid="events").rebalance().map(same).uid("same")
    counted = events.key_by(key_of).process(Counting(slow)).uid("counting")
    counted.sink_to(ListSink("damaged counts")).uid("counts")
    window = ps.TumblingEventTimeWindows("1h")
    events.key_by("key").window(window).agg(n=ps.count()).uid("windows").sink_to(ListSink("damaged windows")).uid("n")


class Left:
    """What a job has left: a checkpoint that holds records under way, and a savepoint."""

    def __init__(self, directory: Path, backend: str) -> None:
        self.store, self.backend = directory / "store", backend
        job = self.job(slow=True)
        try:
            job.run(now_and_then(lambda: job.status().checkpoints.completed > 1))
            request = job.savepoint(str(directory / "savepoints"))
            job.run(lambda: (found := job.operation(request)) is not None and found.ended)
            savepoint = job.operation(request)
            assert savepoint is not None
            job.run(now_and_then(lambda: "in flight" in self.files(self.newest(job))))
            assert not job.ended, job.status().last_failure
            self.paths = {"checkpoint": self.newest(job), "savepoint": savepoint.path}
        finally:
            job.close()
            clear()

    def job(self, restore: str | None = None, *, slow: bool = False) -> LocalJob:
        env = ps.StreamExecutionEnvironment().set_parallelism(2).set_buffer_timeout("1ms")
        env.enable_checkpointing("10ms", storage=str(self.store), unaligned=True, aligned_timeout="0ms", retained=3)
        env.set_restart_strategy("fixed-delay", attempts=5, delay="1ms").set_state_backend(self.backend)
        options = {"execution.state-recovery.path": restore, "taskmanager.memory.network.channel-window": "3000"}
        env.configure(ps.Configuration(options))
        build(env, slow)
        return LocalJob(env.job_graph("damaged"), env.configuration)

    def newest(self, job: LocalJob) -> str:
        name = job.status().checkpoints.last_metadata_name
        assert name is not None
        return f"{self.store}/{name}".removesuffix("/_metadata")

    def metadata(self, path: str) -> CheckpointMetadata:
        if path.startswith(str(self.store)):
            name = f"{path.removeprefix(f'{self.store}/')}/_metadata"
            return run_program(CheckpointStore.read_metadata(name), ObstoreObjects(str(self.store)))
        return run_program(read_savepoint(path), ObstoreObjects("/"))

    def files(self, path: str) -> dict[str, FileHandle]:
        """The largest of each kind."""
        found: dict[str, list[FileHandle]] = {}
        for subtask in self.metadata(path).subtasks:
            found.setdefault("in flight", []).extend(handle.file for handle in subtask.in_flight)
            for operator in subtask.operators:
                lists = (state.file for state in operator.lists if state.file is not None)
                found.setdefault("operator state", []).extend(lists)
                for handle in operator.keyed:
                    kind = "columns" if "columns" in handle.backend else "rows"
                    found.setdefault(kind, []).extend(handle.files.values())
        return {kind: max(files, key=lambda file: file.size_bytes) for kind, files in found.items() if files}

    def jobs(self) -> list[Path]:
        return sorted(self.store.glob("jobs/*/*"))


def now_and_then(condition: Callable[[], bool]) -> Callable[[], bool]:
    """A look is not free."""
    looks = itertools.count(1)
    return lambda: next(looks) % 10 == 0 and condition()


def clear() -> None:
    ListSink.clear("damaged counts")
    ListSink.clear("damaged windows")


@pytest.fixture(scope="module", params=["heap", "rocksdb"])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Left:
    return Left(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(autouse=True)
def nothing_shown() -> Iterator[None]:
    yield
    clear()


def truncated(whole: bytes, file: FileHandle) -> bytes:
    return whole[: (file.offset or 0) + file.size_bytes // 2]


def flipped(whole: bytes, file: FileHandle) -> bytes:
    place = (file.offset or 0) + file.size_bytes // 2
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def missing(whole: bytes, file: FileHandle) -> None:
    return None


@pytest.mark.parametrize("damage", [truncated, flipped, missing])
@pytest.mark.parametrize("kind", ["checkpoint", "savepoint"])
def test_every_kind_of_file(left: Left, kind: str, damage: Callable[[bytes, FileHandle], bytes | None]) -> None:
    path = left.paths[kind]
    files = left.files(path)
    assert set(files) == {"rows", "columns", "operator state", *(["in flight"] if kind == "checkpoint" else [])}
    for what, file in files.items():
        place = left.store / file.name
        whole = place.read_bytes()
        place.unlink()
        if (content := damage(whole, file)) is not None:
            place.write_bytes(content)
        try:
            status, told = failed(left.job(path))
        finally:
            place.write_bytes(whole)
        assert file.name.rpartition("/")[2] in told, what
        assert ("is missing" if damage is missing else "is damaged") in told, what
        assert status.restarts == 0, "it would come again"


def failed(job: LocalJob) -> tuple[Any, str]:
    try:
        job.run()
        with pytest.raises(JobFailedError) as refused:
            job.result()
        return job.status(), str(refused.value)
    finally:
        job.close()


@pytest.mark.parametrize("kind", ["checkpoint", "savepoint"])
def test_what_was_put_back_is_restored_exactly(left: Left, kind: str) -> None:
    job = left.job(left.paths[kind])
    try:
        job.run()
        assert job.result() is JobState.FINISHED
    finally:
        job.close()
    sizes = {key: len(range(key, NUMBERS, KEYS)) for key in range(KEYS)}
    counts = ListSink.results("damaged counts")
    assert max(Counter(counts).values()) == 1
    assert {key: max(n for other, n in counts if other == key) for key in sizes} == sizes
    assert {row["key"]: row["n"] for row in ListSink.results("damaged windows")} == sizes


# other formats ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["checkpoint", "savepoint"])
def document(left: Left, request: pytest.FixtureRequest) -> Iterator[tuple[Path, str]]:
    """The metadata of one, which may be written over; and what it is."""
    place = Path(left.paths[request.param]) / "_metadata"
    whole = place.read_bytes()
    yield place, request.param
    place.write_bytes(whole)


@pytest.mark.parametrize("version", [METADATA_VERSION + 1, 0])
def test_metadata_of_another_format(left: Left, document: tuple[Path, str], version: int) -> None:
    place, kind = document
    content = msgspec.json.decode(place.read_bytes())["document"]
    place.write_bytes(seal(kind, version, "other", content))
    before = left.jobs()
    with pytest.raises(DamagedCheckpointError, match=f"_metadata is a {kind} of format version {version}; this"):
        left.job(left.paths[kind])
    assert left.jobs() == before, "there is no job yet"


ROWS = "operator 'process Counting': the keyed state has format"


@pytest.mark.parametrize(
    ("field", "version", "said"),
    [
        ("format", 99, f"{ROWS} 99 and was written by a newer version of penstock"),
        ("format", 1, f"{ROWS} 1 and was written by a version before the first release"),
        ("version", 99, "operator '.*': vectorised state has format 99, this version of penstock reads 1"),
    ],
)
def test_keyed_state_of_another_format(
    left: Left, document: tuple[Path, str], field: str, version: int, said: str
) -> None:
    place, kind = document
    content = msgspec.json.decode(place.read_bytes())["document"]
    for handle in (h for s in content["subtasks"] for o in s["operators"] for h in o["keyed"]):
        meta = msgspec.json.decode(base64.b64decode(handle["meta"]))
        if field in meta:
            handle["meta"] = base64.b64encode(msgspec.json.encode({**meta, field: version})).decode()
    place.write_bytes(seal(kind, METADATA_VERSION, "other", content))
    before = left.jobs()
    with pytest.raises(IncompatibleStateError, match=said):
        left.job(left.paths[kind])
    assert left.jobs() == before
