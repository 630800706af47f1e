"""The line that people watch while a job runs."""

from __future__ import annotations

from dataclasses import replace

from penstock.api.progress import progress_text
from penstock.jobmanager.events import CheckpointStatus, JobState, JobStatus, VertexStatus
from penstock.state.ids import Attempt, VertexId

SOURCES = frozenset({"a", "b"})
STATUS = JobStatus(
    job_id="job",
    job_name="job",
    state=JobState.RUNNING,
    attempt=Attempt(1),
    restarts=0,
    vertices=(
        VertexStatus(VertexId("a"), "a", 1, ("RUNNING",), records_in=1_000),
        VertexStatus(VertexId("b"), "b", 1, ("RUNNING",), records_in=500, watermark=1_356_998_400_000),
        VertexStatus(VertexId("c"), "c", 1, ("RUNNING",), records_in=7),
    ),
    checkpoints=CheckpointStatus(completed=3),
)


def test_records_of_all_sources_rate_and_checkpoints() -> None:
    assert progress_text(STATUS, SOURCES, 1234.5) == "RUNNING · 1,500 records, 1,234/s · 3 checkpoints"


def test_the_watermark_is_the_lowest_of_the_sources() -> None:
    first = replace(STATUS.vertices[0], watermark=1_356_998_461_000)
    status = replace(STATUS, vertices=(first, *STATUS.vertices[1:]), restarts=2)
    expected = "RUNNING · 1,500 records, 0/s · watermark 2013-01-01 00:00:00 · 3 checkpoints · 2 restarts"
    assert progress_text(status, SOURCES, 0) == expected
