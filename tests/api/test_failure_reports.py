"""A job that fails and is restarted says so, each time and at once, also where nobody watches a progress line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import penstock as ps
from penstock.api.failures import FailureReports
from penstock.jobmanager.events import CheckpointStatus, JobState, JobStatus
from penstock.state.errors import JobFailedError
from penstock.state.ids import Attempt

RUNNING = JobStatus("id", "job", JobState.RUNNING, Attempt(1), 0, (), CheckpointStatus())
TRACE = 'Traceback (most recent call last):\n  File "job.py", line 4, in invert\nValueError: no\n'


def failed(attempt: int, message: str, trace: str | None = TRACE, delay_ms: int = 1_000) -> JobStatus:
    return replace(
        RUNNING,
        state=JobState.RESTARTING,
        attempt=Attempt(attempt),
        restarts=attempt,
        last_failure=message,
        failure_traceback=trace,
        restart_delay_ms=delay_ms,
    )


def test_every_failure_is_told_and_the_same_frames_once() -> None:
    reports = FailureReports()
    assert reports.text(RUNNING) == ""
    first = failed(1, "operator 'inverted', subtask 0: ValueError: no")
    sentence = "operator 'inverted', subtask 0: ValueError: no; restarting in 1s, attempt 2"
    assert reports.text(first) == f"{TRACE.rstrip()}\n{sentence}"
    assert reports.text(first) == ""
    assert reports.text(failed(2, first.last_failure or "", delay_ms=1_500)) == sentence.replace(
        "1s, attempt 2", "1500ms, attempt 3"
    )
    assert reports.text(failed(3, first.last_failure or "")).endswith("-c restart-strategy.type=none fails at once")
    other = TRACE.replace("line 4", "line 9")
    assert reports.text(failed(4, "other", other)) == f"{other.rstrip()}\nother; restarting in 1s, attempt 5"


def test_a_failure_without_frames_of_the_users_is_one_sentence() -> None:
    assert FailureReports().text(failed(1, "slot slot-1 was lost: killed", None)) == (
        "slot slot-1 was lost: killed; restarting in 1s, attempt 2"
    )


def test_failed_checkpoints_are_told_while_the_job_runs() -> None:
    reports = FailureReports()
    once = replace(RUNNING, checkpoints=CheckpointStatus(failed=1, last_failure="checkpoint 3 timed out"))
    assert reports.text(replace(once, state=JobState.FINISHING)) == ""
    assert reports.text(once) == "checkpoint 3 timed out; the job goes on without it"
    assert reports.text(once) == ""


@pytest.mark.parametrize("aside", [False, True], ids=["here", "in the background"])
def test_restarts_are_reported_in_a_pipe_with_the_users_frames(
    aside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def invert(x: int) -> float:
        return 1 / (x - 2)

    env = ps.StreamExecutionEnvironment()
    env.set_restart_strategy("fixed-delay", attempts=2, delay="1ms")
    env.from_sequence(1, 3).map(invert, name="inverted").print()
    client = env.submit()
    with pytest.raises(JobFailedError):
        client.start().result(60) if aside else client.run()
    told = capfd.readouterr().err
    assert told.count("return 1 / (x - 2)") == 1
    assert "/runtime/" not in told
    sentence = (
        "operator 'inverted', subtask 0: ZeroDivisionError: division by zero (on the record 2); restarting in 1ms"
    )
    assert [line for line in told.splitlines() if "restarting" in line] == [
        f"{sentence}, attempt 2",
        f"{sentence}, attempt 3",
    ]


def test_what_a_cancel_left_uncommitted_is_told_once() -> None:
    reports = FailureReports()
    reports.text(failed(1, "the first"))
    assert reports.text(replace(failed(1, "the first"), state=JobState.CANCELED)).strip() == ""
    left = replace(failed(1, "the job was cancelled before …", None), state=JobState.CANCELED)
    assert reports.text(left).strip() == "the job was cancelled before …"
    assert reports.text(left) == ""


class FailsToClose(ps.MapFunction):
    """Its work is done when it fails."""

    def map(self, value: int) -> int:
        return value

    def close(self) -> None:
        raise OSError("the connection is gone")


def test_an_error_of_close_after_the_last_record_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    env = ps.StreamExecutionEnvironment()
    env.enable_checkpointing("10s", storage=tmp_path)
    env.from_collection([1, 2, 3]).map(FailsToClose(), name="closes badly").print()
    env.execute("closing")
    told = capsys.readouterr().err
    assert "OSError: the connection is gone; the results are complete" in told
    assert "closes badly" in told
