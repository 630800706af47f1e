"""A submitted script is executed to learn its pipeline: in a process of its own, for it may do anything.

The parent (here) starts `python -m penstock.api.capture` (user_process.py) with a directory for what they exchange:
the request, as JSON, and the outcome, which the child puts there as soon as it knows it. Whatever happens, the parent
gives an outcome, and nothing of the child is left:

    env.execute() is reached            the child writes graph, plan and description; the script ends there
    the script raises, exits, ends      the child writes the error
    it needs longer than the timeout    killed; the error says what it printed last
    it dies (signal, os._exit)          the error says how

Nothing the child writes is unpickled here: the graph stays bytes, which only the job's own processes open.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from ...runtime.units import format_duration
from .user_process import Ended, last_lines, run_aside

REQUEST, OUTCOME = "request.json", "outcome.msgpack"
CAPTURE = f"{__package__.partition('.')[0]}.api.capture"
"""The module of the child, one floor above this one."""
MAX_OUTCOME_BYTES = 512 * 2**20


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
    """Pickle of the JobGraph (state/serialization/pickling.py)."""
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
        ended = run_aside(CAPTURE, exchange, exchange / OUTCOME, working_directory, timeout_ms)
        text = ended.printed
        outcome = _read(exchange / OUTCOME) or CaptureOutcome(error=_why_none(request, ended, timeout_ms))
        if outcome.error is not None and not outcome.traceback and text:
            outcome = replace(outcome, error=f"{outcome.error}\nit printed last:\n{last_lines(text)}")
        elif outcome.error is None and text:
            outcome = replace(outcome, notes=(*outcome.notes, f"the script printed:\n{last_lines(text)}"))
        return replace(outcome, printed=text)


def _read(path: Path) -> CaptureOutcome | None:
    try:
        if path.stat().st_size > MAX_OUTCOME_BYTES:
            return CaptureOutcome(error="the pipeline is too large: its functions and collections hold too much data")
        return msgspec.msgpack.decode(path.read_bytes(), type=CaptureOutcome)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        return CaptureOutcome(error=f"the outcome of the script cannot be read: {error}")


def _why_none(request: CaptureRequest, ended: Ended, timeout_ms: int) -> str:
    name = Path(request.script).name
    if ended.timed_out:
        return (
            f"{name} did not come to env.execute() within {format_duration(timeout_ms)}, and was ended "
            "(jobmanager.capture-timeout); what takes long belongs into functions of the pipeline"
        )
    return f"the process of {name} {ended.died()} before it came to env.execute()"
