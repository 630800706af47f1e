"""Many checkpoints and savepoints, of which some fail, in a job whose slots die: no object is left that nothing refers
to, neither while the job goes on nor when it has ended. CHECKPOINTS=1000 in the long form (make soak)."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.collections import RangeReader, SequenceSource
from penstock.jobmanager import local_job
from penstock.jobmanager.events import JobState
from penstock.runtime.connector import NotReady, PollResult, ReaderContext
from penstock.state.errors import ObjectStoreDenied
from penstock.state.savepoints.savepoint_store import read_savepoint
from penstock.state.store.checkpoint_store import CheckpointStore, attempt_of, objects_of
from penstock.state.store.garbage import find_garbage
from penstock.state.store.job_log import JobLog
from penstock.state.store.objects import Delete, List, Pause, Put, PutFile, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.lists import ListSink

CHECKPOINTS = int(os.environ.get("CHECKPOINTS", "20"))
TROUBLE = 0.04
"""How likely it is for each write or deletion of a file of state."""

pytestmark = pytest.mark.timeout(120 + CHECKPOINTS)


class Troubled:
    """A real store, in which writes and deletions of files of state fail at random, done or not: without retries, so
    that checkpoints fail often. The log is spared, which has tests of its own."""

    def __init__(self, inner: ObstoreObjects) -> None:
        self.inner = inner
        self.trouble = TROUBLE
        self._random = random.Random(7)
        self._lock = threading.Lock()
        self.failed: Counter[str] = Counter()

    def probe(self) -> None:
        self.inner.probe()

    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Pause) or not self._is_state(op):
            return self.inner.execute(op)
        with self._lock:
            fails, is_done = self._random.random() < self.trouble, self._random.random() < 0.5
        if not fails:
            return self.inner.execute(op)
        self.failed[type(op).__name__] += 1
        if is_done:
            self.inner.execute(op)
        raise ObjectStoreDenied(
            f"{type(op).__name__} does not work, {'though' if is_done else 'and'} it is done or not"
        )

    @staticmethod
    def _is_state(op: StoreOp) -> bool:
        if isinstance(op, Delete):
            return True
        return isinstance(op, Put | PutFile) and (attempt_of(op.name) is not None or "savepoint-" in op.name)


class SlowSequence(SequenceSource):
    """A few rows every two milliseconds."""

    def create_reader(self, context: ReaderContext) -> RangeReader:
        reader = super().create_reader(context)
        poll, next_ms = reader.poll, 0

        def slow_poll(max_rows: int) -> PollResult:
            nonlocal next_ms
            if context.clock.now_ms() < next_ms:
                return NotReady(next_ms)
            next_ms = context.clock.now_ms() + 2
            return poll(min(max_rows, 10))

        reader.poll = slow_poll  # type: ignore[method-assign]
        return reader


class Counting(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, number: int, ctx: Any) -> Iterator[tuple[int, int]]:
        self.seen.update(self.seen.value() + 1)
        yield number % 97, self.seen.value()


def orphans(store: Any, job_id: Any) -> list[str]:
    """Files of state that no checkpoint needs which the job's log retains."""
    log = JobLog(job_id, lambda: "test")
    run_program(log.read_newest(), store)
    needed: set[str] = set()
    for completed in log.state.completed:
        needed.update(objects_of(run_program(CheckpointStore.read_metadata(completed.metadata_name), store)))
    return [name for name in store.execute(List("")) if attempt_of(name) is not None and name not in needed]


def left_of_savepoints(directory: Path, failed: set[str]) -> list[str]:
    """Files of savepoints that failed, and files that no savepoint refers to."""
    left = []
    for path in directory.glob("savepoint-*"):
        files = {str(file) for file in path.rglob("*") if file.is_file() and file.name != "_metadata"}
        if (path / "_metadata").exists() and str(path) not in failed:
            metadata = run_program(read_savepoint(str(path)), ObstoreObjects("/"))
            files -= {file.name for subtask in metadata.subtasks for file in subtask.files()}
        left += files
    return left


@pytest.mark.parametrize("where", ["directory", "s3"])
def test_no_orphans(
    new_env: Any, drive: Any, results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    where: str, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    options = {"state.checkpoints.dir": str(tmp_path / "checkpoints")}
    if where == "s3":
        server = request.getfixturevalue("s3_server")
        options = {**server.options, "state.checkpoints.dir": request.getfixturevalue("s3_location")}
    stores: list[Troubled] = []

    def open_store(location: str, options: Any) -> Troubled:
        stores.append(Troubled(ObstoreObjects(location, options)))
        return stores[-1]

    monkeypatch.setattr(local_job, "ObstoreObjects", open_store)
    assert results("counts") == []
    env = new_env(2).configure(ps.Configuration(options)).set_state_backend("rocksdb")
    env.enable_checkpointing("5ms").set_restart_strategy("fixed-delay", attempts=1_000_000, delay="1ms")
    numbers = env.from_source(SlowSequence(0, 1 << 40), name="numbers", uid="numbers")
    numbers.key_by(lambda number: number % 97).process(Counting()).uid("counting").sink_to(ListSink("counts")).uid("to")
    job, requests = drive(env), []
    while (done := job.status.checkpoints.completed) < CHECKPOINTS:
        job.checkpoints(5)
        requests.append(job.job.savepoint(str(tmp_path / "savepoints")))
        if done % 3 == 0 and done < CHECKPOINTS / 2:  # a restart sweeps, so the rest is one attempt
            job.kill()
    for store in stores:
        store.trouble = 0.0
    objects = stores[0].inner

    def known(one: str) -> bool:
        found = job.job.operation(one)
        return found is None or found.ended

    job.checkpoints(2).until(lambda _status: all(map(known, requests)))
    assert job.status.checkpoints.failed > CHECKPOINTS / 20, job.status
    left = set(orphans(objects, job.status.job_id))  # some are about to be deleted
    job.checkpoints(10)
    assert left & set(orphans(objects, job.status.job_id)) == set()
    failed = {found.path for one in requests if (found := job.job.operation(one)) is not None and found.failure}
    job.job.cancel()
    assert job.end().state is JobState.CANCELED
    assert orphans(objects, job.job.job_id) == []
    assert list((tmp_path / "savepoints").glob("savepoint-*/_metadata"))
    assert left_of_savepoints(tmp_path / "savepoints", failed) == []
    findings = run_program(find_garbage(int(time.time() * 1000) + 60_000, 0), objects)
    assert (findings.candidates, findings.kept) == ((), {})
