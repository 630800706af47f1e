"""A process of its own for users' code that is looked at and not run as a job: it may do anything.

`python -m <module> <exchange>` is started in a session of its own, with the directory in which the two exchange files
as its argument. It puts its outcome there as soon as it knows it; an outcome that is written counts, even if the
process then refuses to end: it is killed after a moment. Whatever happens, nothing of it is left. Standard input is
empty. What it prints is kept, up to a limit. It does not see this process's own settings (PENSTOCK_*) nor Ray's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import psutil

MAX_PRINTED_BYTES = 64 * 1024
"""Of what it prints, the last so many bytes are kept."""
GRACE_S = 2.0
"""A process whose outcome is known may clean up for so long."""
SHOWN_LINES = 20
_LOOK_S = 0.02
_HIDDEN_VARIABLES = ("PENSTOCK_", "RAY_")


@dataclass(frozen=True, slots=True)
class Ended:
    """How it was."""

    code: int
    """Below zero: the signal that it died of."""
    timed_out: bool
    """It was killed, and had no outcome."""
    printed: str
    """The end of what it wrote to standard output and standard error."""

    def died(self) -> str:
        """Of what, of a process without an outcome that was in time."""
        if self.code >= 0:
            return f"ended itself with code {self.code}"
        try:
            return f"died of {signal.Signals(-self.code).name}"
        except ValueError:
            return f"died of signal {-self.code}"


def run_aside(module: str, exchange: Path, outcome: Path, working_directory: Path, timeout_ms: int) -> Ended:
    """`outcome`: the file that it puts into the exchange when it knows it."""
    process = _start(module, exchange, working_directory)
    assert process.stdout is not None
    printed = _Printed(process.stdout)
    try:
        timed_out = _await(process, outcome, time.monotonic() + timeout_ms / 1000)
    finally:
        _kill(process)
    return Ended(process.returncode, timed_out, printed.text())


def put(file: Path, data: bytes) -> None:
    """Of the process: whole at once, and the first one counts."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_bytes(data)
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    draft.unlink()


def end() -> NoReturn:
    """Of the process: at once. Threads that users' code has started are not waited for, and it has had its chance to
    clean up."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(0)


def last_lines(text: str) -> str:
    lines = text.rstrip().splitlines()
    left_out = [f"… ({len(lines) - SHOWN_LINES} lines before)"] if len(lines) > SHOWN_LINES else []
    return "\n".join([*left_out, *lines[-SHOWN_LINES:]])


def _start(module: str, exchange: Path, working_directory: Path) -> subprocess.Popen[bytes]:
    """-P: a file of the working directory must not be imported in the place of a module of ours or of Python's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN_VARIABLES)}
    return subprocess.Popen(
        [sys.executable, "-P", "-u", "-m", module, str(exchange)],
        cwd=working_directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _await(process: subprocess.Popen[bytes], outcome: Path, deadline_s: float) -> bool:
    """Until it has ended, or has had its time after the outcome was there. True if the deadline came first."""
    known = False
    while process.poll() is None:
        if not known and outcome.exists():
            known = True
            deadline_s = min(deadline_s, time.monotonic() + GRACE_S)
        if time.monotonic() >= deadline_s:
            return not known
        try:
            process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            continue
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all its descendants: those of its session, and those that left it while their parents lived."""
    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        descendants = []
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    for descendant in descendants:
        try:
            descendant.kill()
        except psutil.Error:
            continue
    process.wait()


class _Printed:
    """Reads a pipe to its end on a thread of its own and keeps the last part."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, name="capture output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            while part := os.read(self._pipe.fileno(), MAX_PRINTED_BYTES):
                self._kept += part
                del self._kept[:-MAX_PRINTED_BYTES]

    def text(self) -> str:
        """A process that escaped may still hold the pipe: it is not waited for."""
        self._thread.join(GRACE_S)
        return bytes(self._kept).decode(errors="replace")
