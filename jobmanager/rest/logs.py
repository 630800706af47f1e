"""Log files of a process, for task managers and the job manager alike.

A text is answered from its end: the last LONGEST_LOG_BYTES of it. A name is only ever looked up among the names that
the process lists, so that no path leads anywhere else.
"""

from __future__ import annotations

from ..gateway import Gateway, UnknownError
from . import wire_processes as wire
from .responses import Text

LONGEST_LOG_BYTES = 4 * 2**20
"""Through Ray and into a browser's text field."""
LOG_SUFFIX, OUT_SUFFIX = ".log", ".out"


def list_logs(gateway: Gateway, task_manager: str | None) -> wire.Logs:
    return wire.logs(gateway.logs(task_manager))


def read_log(gateway: Gateway, task_manager: str | None, name: str) -> Text:
    if name not in {file.name for file in gateway.logs(task_manager)}:
        raise UnknownError(f"{_whose(task_manager)} has no log file {name[:200]!r}; /logs lists them")
    return Text(gateway.log(task_manager, name, LONGEST_LOG_BYTES))


def read_own(gateway: Gateway, task_manager: str | None, suffix: str) -> Text:
    """The log of the process, or what it printed; empty if that is nothing."""
    name = wire.own_log(gateway.logs(task_manager), suffix)
    return Text(b"" if name is None else gateway.log(task_manager, name, LONGEST_LOG_BYTES))


def dump_threads(gateway: Gateway, task_manager: str | None) -> wire.ThreadDump:
    return wire.thread_dump(gateway.thread_dump(task_manager))


def _whose(task_manager: str | None) -> str:
    return "the job manager" if task_manager is None else f"task manager {task_manager}"
