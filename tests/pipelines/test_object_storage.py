"""Whole jobs whose checkpoints lie in a real S3 store, also while it is away for a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.jobmanager import local_job
from penstock.jobmanager.events import JobState
from penstock.state.errors import ConfigurationError
from penstock.state.store.counted_objects import CountedObjects
from penstock.state.store.objects import List
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.lists import ListSink

NUMBERS = 400
MORE_OUTAGES = 9
"""At most, until a checkpoint has failed: about one in four fails none."""


class Counting(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, number: int, ctx: Any) -> Iterator[tuple[int, int]]:
        self.seen.update(self.seen.value() + 1)
        yield number % 7, self.seen.value()


def last_digit(number: int) -> int:
    return number % 7


def expected() -> Counter[tuple[int, int]]:
    sizes = Counter(number % 7 for number in range(NUMBERS))
    return Counter((key, count) for key, size in sizes.items() for count in range(1, size + 1))


@pytest.fixture
def source(held_source: Any, tmp_path: Path) -> Any:
    return lambda: held_source(list(range(NUMBERS)), tmp_path / "gate", 20, splits=4, batch_rows=10, record_type=int)


def build(env: ps.StreamExecutionEnvironment, source: Any, server: Any, location: str, backend: str) -> None:
    env.configure(ps.Configuration({**server.options, "state.checkpoints.dir": location}))
    env.set_state_backend(backend)
    numbers = env.from_source(source, name="numbers", uid="numbers")
    numbers.key_by(last_digit).process(Counting()).uid("counting").sink_to(ListSink("counts")).uid("counts")


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_a_job_is_killed_stopped_and_continued(
    new_env: Any, drive: Any, results: Any, source: Any, backend: str, s3_server: Any, s3_location: str, tmp_path: Path
) -> None:
    assert results("counts") == []
    env = new_env(2)
    build(env, source(), s3_server, s3_location, backend)
    path = drive(env).checkpoints(2).kill().checkpoints(1).stop()
    assert path.startswith(s3_location)
    (tmp_path / "gate").touch()
    env = new_env(3, restore=path)
    build(env, source(), s3_server, s3_location, backend)
    status = drive(env).end()
    assert status.state is JobState.FINISHED
    assert Counter(results("counts")) == expected()
    left = ObstoreObjects(s3_location, s3_server.options).execute(List(""))
    assert not [name for name in left if "/shared/3" in name or ("/beat/" in name and status.job_id in name)]


def away(job: Any, server: Any, for_s: float) -> bool:
    """The server is killed, and comes back after so long, or once a checkpoint has failed. Whether one has."""
    failed = job.status.checkpoints.failed
    server.kill()
    over_s = time.monotonic() + for_s
    try:
        job.until(lambda status: status.checkpoints.failed > failed or time.monotonic() > over_s)
    finally:
        server.start()
    return bool(job.status.checkpoints.failed > failed)


@pytest.mark.parametrize("for_s", [1.0, 6.0])
def test_the_server_is_killed_and_comes_back(
    new_env: Any, drive: Any, results: Any, source: Any, own_s3_server: Any, for_s: float, tmp_path: Path
) -> None:
    """For less than the budget of retries, and for more: checkpoints fail then, the job goes on. Not every outage has
    one fail: a completion that is on its way into the log waits for the store, and counts."""
    assert results("counts") == []
    location = own_s3_server.create_bucket("bucket") + "/checkpoints"
    env = new_env(2)
    build(env, source(), own_s3_server, location, "rocksdb")
    job = drive(env).checkpoints(2)
    has_failed = away(job, own_s3_server, for_s)
    job.checkpoints(2)
    if for_s > 3:
        for _ in range(MORE_OUTAGES):
            has_failed = has_failed or away(job.checkpoints(1), own_s3_server, for_s)
        assert has_failed, job.status
        job.checkpoints(2)
    job.kill().checkpoints(1)
    (tmp_path / "gate").touch()
    status = job.end()
    assert status.state is JobState.FINISHED
    assert Counter(results("counts")) == expected()


def test_a_store_that_refuses_is_told_at_submission(
    new_env: Any, drive: Any, source: Any, s3_server: Any, s3_location: str
) -> None:
    env = new_env(1)
    build(env, source(), s3_server, s3_location, "heap")
    env.configure(ps.Configuration({"s3.secret-key": "hush"}))
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*SignatureDoesNotMatch"):
        drive(env)


class Counted(CountedObjects):
    def probe(self) -> None: ...


def test_a_subtask_s_checkpoint_is_one_request(
    new_env: Any, drive: Any, source: Any, s3_server: Any, s3_location: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    counted = Counted(ObstoreObjects(s3_location, s3_server.options))
    monkeypatch.setattr(local_job, "ObstoreObjects", lambda location, options: counted)
    env = new_env(2)
    build(env, source(), s3_server, s3_location, "rocksdb")
    job = drive(env).checkpoints(5)
    (tmp_path / "gate").touch()
    taken = job.end().checkpoints.completed
    requests = counted.counts().requests
    assert "put_file" not in requests, "small files of RocksDB go in packs"
    written = sum(requests["put"].values())
    # Two stateful subtasks; metadata, log entries of completion and subsumption; a few at start and end, and beats.
    assert written <= 5 * taken + 20
