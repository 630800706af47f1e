"""What Ray's processes of a node leave in the session's directory of logs, kept small.

Ray writes some files for every process that it starts, names them by its pid, and removes them only with the session.
A cluster starts and ends a few processes for every job, so for one that lives for months those files would fill the
disk. Only files of processes that have ended are removed, the oldest first.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

KEPT = 20
"""Ended processes whose files stay, to be looked into."""
INTERVAL_S = 10.0
_OF_A_PROCESS = re.compile(
    r"(?:worker|python-core-(?:worker|driver)|event_CORE_WORKER|event_EXPORT_\w+)[-_].*?(\d+)\.\w+"
)
_FOLDERS = (".", "events", "export_events")


def keep_small(logs: Path) -> None:
    """On a thread of its own, until the process ends."""

    def run() -> None:
        never = threading.Event()
        while not never.wait(INTERVAL_S):
            remove_old(logs)

    threading.Thread(target=run, name="session logs", daemon=True).start()


def remove_old(logs: Path, *, kept: int = KEPT, lives: Callable[[int], bool] = psutil.pid_exists) -> None:
    """Of processes that have ended only the newest `kept` keep their files."""
    newest_s: dict[int, float] = {}
    files: dict[int, list[Path]] = {}
    for pid, path, changed_s in _files(logs):
        files.setdefault(pid, []).append(path)
        newest_s[pid] = max(changed_s, newest_s.get(pid, 0.0))
    ended = sorted((pid for pid in files if not lives(pid)), key=lambda pid: newest_s[pid], reverse=True)
    for pid in ended[kept:]:
        for path in files[pid]:
            path.unlink(missing_ok=True)


def _files(logs: Path) -> Iterator[tuple[int, Path, float]]:
    for folder in _FOLDERS:
        for path in (logs / folder).glob("*"):
            if match := _OF_A_PROCESS.fullmatch(path.name):
                try:
                    yield int(match[1]), path, path.stat().st_mtime
                except FileNotFoundError:
                    continue
