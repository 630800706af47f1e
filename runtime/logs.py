"""Logs of a process of a cluster: where lines go, what is on them, and what never is.

    <directory>/<name>.log    one line per record of `logging`, the engine's and the user's alike:
                              time level [job vertex/subtask#attempt] logger: message
    <directory>/<name>.out    what the process prints (redirect_output), and the last words of a crash

The part in brackets says for which subtask the thread was at work: the slot sets it with `set_context` before it calls
into a task, so a user's own `logging` is told apart without the user's doing. It is one assignment to a thread-local,
because it is done for every step of every task. Lines of other threads have none.

Files are rotated by size, so a function that logs or prints every record fills BACKUPS + 1 files and no disk. Secrets
are masked as the line is written: values that were registered (`hide`), `user:password@` in URLs, signatures, and
whatever stands behind a name like password, secret or token.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .configuration.masking import MASK

MAX_BYTES = 10 << 20
BACKUPS = 3
MAX_TAIL_BYTES = 16 << 20
"""What is read of a log at once, at most."""
SHORTEST_SECRET = 6
"""Hiding shorter values would make lines unreadable, and is no secret."""
_SECRET_VARIABLES = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE_?KEY)", re.IGNORECASE)
_NO_SECRET = re.compile(r"(_FILE|_PATH|_MODE|_DIR|_URI|_URL)$", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
_NAMED = re.compile(
    r"((?:password|passwd|secret|token|credential|signature|api[-_]?key|access[-_]?key|private[-_]?key|authorization)"
    r"(?:[-_\w]*)[\"']?\s*[=:]\s*(?:bearer\s+|basic\s+)?[\"']?)([^\s\"'&,;})\]]+)",
    re.IGNORECASE,
)

# what a line is about ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskContext:
    """For which subtask a thread is at work."""

    job: str
    vertex: str
    subtask: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.job} {self.vertex}/{self.subtask}#{self.attempt}"


class _Current(threading.local):
    context: TaskContext | None = None


_current = _Current()


def set_context(context: TaskContext | None) -> None:
    """Of this thread, until the next call. None: no subtask's."""
    _current.context = context


def get_context() -> TaskContext | None:
    return _current.context


@contextmanager
def use_context(context: TaskContext | None) -> Iterator[None]:
    """While the block runs, lines of this thread carry it."""
    before = _current.context
    _current.context = context
    try:
        yield
    finally:
        _current.context = before


# secrets ----------------------------------------------------------------------------------------------------------

_hidden: set[str] = set()


def hide(*secrets: str) -> None:
    """These texts are never written to a log of this process."""
    _hidden.update(secret for secret in secrets if len(secret) >= SHORTEST_SECRET)


def without_secrets(text: str) -> str:
    for secret in _hidden:
        if secret in text:
            text = text.replace(secret, MASK)
    return _NAMED.sub(rf"\g<1>{MASK}", _URL_LOGIN.sub(MASK, text))


def _hide_environment() -> None:
    for name, value in os.environ.items():
        if _SECRET_VARIABLES.search(name) and not _NO_SECRET.search(name):
            hide(value)


# lines ------------------------------------------------------------------------------------------------------------


class LineFormatter(logging.Formatter):
    """One record, one line; tracebacks follow on lines of their own. Times are UTC."""

    def format(self, record: logging.LogRecord) -> str:
        seconds, milliseconds = divmod(int(record.created * 1000), 1000)
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        context = _current.context
        about = f" [{context}]" if context is not None else ""
        line = f"{at}.{milliseconds:03}Z {record.levelname}{about} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        if record.stack_info:
            line = f"{line}\n{self.formatStack(record.stack_info)}"
        return without_secrets(line)


class _LogFile(logging.handlers.RotatingFileHandler):
    """The handler of this module: there is one per process."""


def setup_logging(directory: Path, name: str, level: str = "info") -> Path:
    """All of this process's `logging` goes to `<directory>/<name>.log`. Done again, it moves. Answers the file."""
    directory.mkdir(parents=True, exist_ok=True)
    _hide_environment()
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LogFile)]:
        root.removeHandler(handler)
        handler.close()
    path = directory / f"{name}.log"
    file = _LogFile(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(LineFormatter())
    root.addHandler(file)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    return path


# what a process prints --------------------------------------------------------------------------------------------


class OutputFile:
    """This process's standard output and error, as a file that is rotated."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        """From here on, whoever writes to the descriptors 1 and 2 writes there: compiled code and crashes, too."""
        self.path = path
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self._redirect()
        sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        faulthandler.enable(file=sys.stderr)

    def rotate(self) -> None:
        """To be called now and then: begins a new file if this one has grown too large. No line is lost. Where that
        cannot be done, it goes on as it is: whoever calls this has more important things to do."""
        try:
            if os.fstat(1).st_size >= self._max_bytes:
                self._begin_new_file()
        except OSError as error:
            logging.getLogger(__name__).warning("%s cannot be rotated: %s", self.path, error)

    def _begin_new_file(self) -> None:
        for number in range(BACKUPS - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number + 1}"))
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self._redirect()

    def _redirect(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        finally:
            os.close(descriptor)


def redirect_output(directory: Path, name: str) -> OutputFile:
    """What this process prints goes to `<directory>/<name>.out`."""
    return OutputFile(directory / f"{name}.out")


# reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogFile:
    name: str
    size_bytes: int
    modified_ms: int


def list_logs(directory: Path) -> list[LogFile]:
    """The files of a log directory, by name."""
    found = []
    for path in directory.glob("*") if directory.is_dir() else ():
        try:
            status = path.stat()
        except FileNotFoundError:  # rotated away since the listing
            continue
        if path.is_file():
            found.append(LogFile(path.name, status.st_size, int(status.st_mtime * 1000)))
    return sorted(found, key=lambda file: file.name)


def read_log(directory: Path, name: str, tail_bytes: int) -> bytes:
    """The end of a log, from the beginning of a line. FileNotFoundError: the directory has no file of that name."""
    if name not in {file.name for file in list_logs(directory)}:
        raise FileNotFoundError(name)
    wanted = max(0, min(tail_bytes, MAX_TAIL_BYTES))
    with (directory / name).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= wanted:
            file.seek(0)
            return file.read(wanted)
        file.seek(size - wanted - 1)  # one more, to see whether a line begins there
        data = file.read(wanted + 1)
    return data[1:] if data[:1] == b"\n" else data.partition(b"\n")[2] or data[1:]


def remove_old_logs(directory: Path, keep: frozenset[str], newest: int) -> None:
    """Of processes that have ended, only the `newest` are kept. `keep`: names of those that live."""
    by_process: dict[str, list[LogFile]] = {}
    for file in list_logs(directory):
        by_process.setdefault(re.split(r"\.(?:log|out)\b", file.name)[0], []).append(file)
    ended = [(max(f.modified_ms for f in files), name) for name, files in by_process.items() if name not in keep]
    for _, name in sorted(ended, reverse=True)[newest:]:
        for file in by_process[name]:
            (directory / file.name).unlink(missing_ok=True)
