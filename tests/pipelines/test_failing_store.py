"""The store refuses for a while, under a job that runs: checkpoints fail, the job goes on, and its output is exact."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from refusing_proxy import RefusingProxy

import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.jobmanager import local_job
from penstock.jobmanager.events import JobState

NUMBERS = 400
REFUSED_S = float(os.environ.get("REFUSED_S", "5"))
"""A minute in the long form (make soak)."""
LEASE_MS = 4_000
"""Shorter than the outage, in the short form too."""
COMPLETED = b'"record":{"type":"CheckpointCompleted"'

pytestmark = pytest.mark.timeout(REFUSED_S + 120)


class Counting(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))

    def process_element(self, number: int, ctx: Any) -> Iterator[dict[str, int]]:
        self.seen.update(self.seen.value() + 1)
        yield {"key": number % 7, "seen": self.seen.value()}


@pytest.fixture
def proxy(s3_server: Any) -> Iterator[RefusingProxy]:
    with RefusingProxy(s3_server) as through:
        yield through


@pytest.mark.parametrize("from_the_first", [("/chk-", b""), ("/log/", COMPLETED)], ids=["upload", "log entry"])
def test_a_store_that_answers_503(
    new_env: Any, drive: Any, held_source: Any, proxy: RefusingProxy, s3_location: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, from_the_first: tuple[str, bytes],
) -> None:  # fmt: skip
    """From the upload of a checkpoint on, which fails; or from its entry in the log on: then nobody knows whether it is
    complete, until the store can say so, and nothing has failed."""
    options_of = local_job.job_master_options
    short = {"lease_ms": LEASE_MS, "beat_interval_ms": 500}
    monkeypatch.setattr(local_job, "job_master_options", lambda config: replace(options_of(config), **short))
    env = new_env(2)
    env.configure(ps.Configuration({**proxy.options, "state.checkpoints.dir": s3_location}))
    env.set_state_backend("rocksdb")
    values = list(range(NUMBERS))
    source = held_source(values, tmp_path / "gate", 20, splits=4, batch_rows=10, record_type=int)
    numbers = env.from_source(source, name="numbers", uid="numbers")
    counted = numbers.key_by(lambda number: number % 7).process(Counting()).uid("counting")
    counted.sink_to(FileSink(str(tmp_path / "out"), Json())).uid("files")
    job = drive(env).checkpoints(2)
    before = job.status
    proxy.refuse_from(*from_the_first)
    try:
        job.until(lambda status: proxy.refuses_since_s is not None)
        over_s = proxy.refuses_since_s + REFUSED_S
        job.until(lambda status: time.monotonic() > over_s)
        told = job.status.checkpoints
    finally:
        proxy.serve()
    if from_the_first[1]:
        assert (told.failed, told.in_progress) == (0, 1)
    else:
        assert told.failed > 0
        assert "answers 503 SlowDown" in told.last_failure, told.last_failure
    job.checkpoints(2)
    assert (job.status.attempt, job.status.restarts) == (before.attempt, before.restarts)
    (tmp_path / "gate").touch()
    assert job.end().state is JobState.FINISHED
    rows = Counter(line for path in (tmp_path / "out").glob("part-*") for line in path.read_text().splitlines())
    sizes = Counter(number % 7 for number in values)
    assert rows == Counter(f'{{"key":{key},"seen":{n}}}' for key, size in sizes.items() for n in range(1, size + 1))
