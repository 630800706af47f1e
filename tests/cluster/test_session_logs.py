"""Ray's logs of processes that have ended do not pile up."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.jobmanager.startup.session_logs import remove_old

LIVING = 7


def names(logs: Path) -> set[str]:
    return {path.relative_to(logs).as_posix() for path in logs.rglob("*") if path.is_file()}


def files_of(pid: int) -> set[str]:
    return {
        f"worker-{'ab' * 28}-01000000-{pid}.out",
        f"worker-{'ab' * 28}-01000000-{pid}.err",
        f"python-core-worker-{'cd' * 28}_{pid}.log",
        f"events/event_CORE_WORKER_{pid}.log",
        f"export_events/event_EXPORT_TASK_{pid}.log",
    }


def test_the_newest_and_the_living_keep_theirs(tmp_path: Path) -> None:
    of_ray = {
        "raylet.out",
        "gcs_server.err",
        "debug_state.txt",
        "events/event_GCS.log",
        "export_events/event_EXPORT_NODE.log",
    }
    for folder in ("events", "export_events"):
        (tmp_path / folder).mkdir()
    for at_s, pid in enumerate((LIVING, 101, 102, 103, 104)):
        for name in files_of(pid):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (at_s, at_s))
    for name in of_ray:
        (tmp_path / name).touch()
    remove_old(tmp_path, kept=2, lives=lambda pid: pid == LIVING)
    assert names(tmp_path) == of_ray | files_of(LIVING) | files_of(103) | files_of(104)


def test_there_may_be_none(tmp_path: Path) -> None:
    remove_old(tmp_path / "session_latest" / "logs")
