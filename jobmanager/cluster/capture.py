"""A submitted script is executed to learn its pipeline: in a process of its own, for it may do anything.

The parent (here) starts `python -m penstock.api.capture` in a session of its own, with a directory for what they
exchange: the request, as JSON, and the outcome, which the child puts there as soon as it knows it. Whatever happens,
the parent gives an outcome, and nothing of the child is left:

    env.execute() is reached            the child writes graph, plan and description; the script ends there
    the script raises, exits, ends      the child writes the error
    it needs longer than the timeout    killed; the error says what it printed last
    it dies (signal, os._exit)          the error says how

An outcome that is written counts, even if the script then refuses to end: it is killed after a moment. Standard input
is empty. What it prints is kept, up to a limit. It does not see this process's own settings (PENSTOCK_*) nor Ray's.

Nothing the child writes is unpickled here: the graph stays bytes, which only the job's own processes open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil

from ...runtime.units import format_duration

REQUEST, OUTCOME = "request.json", "outcome.msgpack"
CAPTURE = f"{__package__.partition('.')[0]}.api.capture"
"""The module of the child, one floor above this one."""
MAX_PRINTED_BYTES = 64 * 1024
"""Of what a script prints, the last so many bytes are kept."""
MAX_OUTCOME_BYTES = 512 * 2**20
GRACE_S = 2.0
"""A script whose outcome is known may clean up for so long."""
SHOWN_LINES = 20
_LOOK_S = 0.02
_HIDDEN_VARIABLES = ("PENSTOCK_", "RAY_")


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What to execute, and how."""

    script: str
    """Absolute path."""
    arguments: tuple[str, ...] = ()
    flags: dict[str, str] = field(default_factory=dict)
    """Options that beat the working directory's penstock.yaml."""
    python_path: tuple[str, ...] = ()
    """Directories to import from, besides the script's own and the working directory: installed requirements."""
    describe_only: bool = False
    """Only plan and description are wanted, no graph."""


@dataclass(frozen=True, slots=True)
class CaptureOutcome:
    """What came of it. Either `error` is set, or the rest."""

    graph: bytes | None = None
    """Pickle of the JobGraph (state/pickling.py)."""
    job_name: str = ""
    config: dict[str, str] = field(default_factory=dict)
    """Options of the job: file, flags and what the script set itself."""
    plan: dict[str, Any] = field(default_factory=dict)
    """As runtime/graph/describe.plan."""
    description: str = ""
    notes: tuple[str, ...] = ()
    """For the user: options without effect, warnings, what the script printed."""
    python_path: tuple[str, ...] = ()
    """That the script has added; relative to the working directory where below it."""
    requirements: tuple[str, ...] = ()
    """Likewise."""
    archives: tuple[tuple[str, str], ...] = ()
    """Likewise, each with the directory it is unpacked to."""
    error: str | None = None
    """One or more sentences for the user."""
    traceback: str = ""
    """The user's own frames, if an exception was the reason."""
    printed: str = ""
    """The end of what the script wrote to standard output and standard error."""


def run_capture(request: CaptureRequest, working_directory: Path, timeout_ms: int) -> CaptureOutcome:
    """Never raises for what the script does. `working_directory`: where the script runs; it may write there."""
    with tempfile.TemporaryDirectory(prefix="penstock-capture-", ignore_cleanup_errors=True) as name:
        exchange = Path(name)
        (exchange / REQUEST).write_bytes(msgspec.json.encode(request))
        process = _start(exchange, working_directory)
        assert process.stdout is not None
        printed = _Printed(process.stdout)
        try:
            timed_out = _await(process, exchange / OUTCOME, time.monotonic() + timeout_ms / 1000)
        finally:
            _kill(process)
        text = printed.text()
        outcome = _read(exchange / OUTCOME)
        if outcome is None:
            outcome = CaptureOutcome(error=_why_none(request, process.returncode, timeout_ms if timed_out else None))
        if outcome.error is not None and not outcome.traceback and text:
            outcome = replace(outcome, error=f"{outcome.error}\nit printed last:\n{_last_lines(text)}")
        elif outcome.error is None and text:
            outcome = replace(outcome, notes=(*outcome.notes, f"the script printed:\n{_last_lines(text)}"))
        return replace(outcome, printed=text)


def _start(exchange: Path, working_directory: Path) -> subprocess.Popen[bytes]:
    """-P: a file of the working directory must not be imported in the place of a module of ours or of Python's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN_VARIABLES)}
    return subprocess.Popen(
        [sys.executable, "-P", "-u", "-m", CAPTURE, str(exchange)],
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


def _read(path: Path) -> CaptureOutcome | None:
    try:
        if path.stat().st_size > MAX_OUTCOME_BYTES:
            return CaptureOutcome(error="the pipeline is too large: its functions and collections hold too much data")
        return msgspec.msgpack.decode(path.read_bytes(), type=CaptureOutcome)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        return CaptureOutcome(error=f"the outcome of the script cannot be read: {error}")


def _why_none(request: CaptureRequest, code: int, timeout_ms: int | None) -> str:
    name = Path(request.script).name
    if timeout_ms is not None:
        return (
            f"{name} did not come to env.execute() within {format_duration(timeout_ms)}, and was ended "
            "(jobmanager.capture-timeout); what takes long belongs into functions of the pipeline"
        )
    if code < 0:
        try:
            died = signal.Signals(-code).name
        except ValueError:
            died = f"signal {-code}"
        return f"the process of {name} died of {died} before it came to env.execute()"
    return f"the process of {name} ended itself with code {code} before it came to env.execute()"


def _last_lines(text: str) -> str:
    lines = text.rstrip().splitlines()
    left_out = [f"… ({len(lines) - SHOWN_LINES} lines before)"] if len(lines) > SHOWN_LINES else []
    return "\n".join([*left_out, *lines[-SHOWN_LINES:]])
