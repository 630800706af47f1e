"""Whether a submitted job can go on from what it restores: asked before the job exists, in a process of its own.

Only the job's own code can say what state its functions declare, and says so in their `open` (restore_check.py); and no
process of the cluster runs users' code but the job's own. So the graph, which stays bytes here, and the metadata of
what is restored go to a process (user_process.py) that can import the job's code. It answers twice:

    ids.msgpack        what ids and parallelism alone say
    outcome.msgpack    with the declared state compared as well

If the second is not there in time, because an open() waits for something or has taken its process with it, the first
counts, and a note says what was not compared: the restore itself does it then.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ...runtime.configuration import options
from ...runtime.configuration.config import Configuration
from ...runtime.graph.job_graph import JobGraph
from ...runtime.units import format_duration
from ...state.errors import PenstockError
from ...state.serialization import pickling
from ...state.snapshots import CheckpointMetadata
from ...taskmanager.processes.user_code import activate
from ..restore_check import require_fit
from .user_process import end, last_lines, put, run_aside

_GRAPH, _REQUEST, _IDS, _OUTCOME = "graph", "request.json", "ids.msgpack", "outcome.msgpack"


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of it."""

    refusal: str | None = None
    notes: tuple[str, ...] = ()
    """For the user: what is dropped, what could not be compared."""


@dataclass(frozen=True, slots=True)
class _Request:
    metadata: CheckpointMetadata
    config: dict[str, str]
    """Of the job."""
    python_path: tuple[str, ...]


def check_aside(
    graph: bytes,
    metadata: CheckpointMetadata,
    config: Configuration,
    python_path: Sequence[str],
    working_directory: Path | None,
    timeout_ms: int,
) -> Checked:
    """Never raises for what the job's code does. `python_path`: what that is imported from."""
    with tempfile.TemporaryDirectory(prefix="penstock-check-", ignore_cleanup_errors=True) as name:
        exchange, own = Path(name), Path(name) / "work"
        own.mkdir()
        (exchange / _GRAPH).write_bytes(graph)
        request = _Request(metadata, config.to_dict(), tuple(python_path))
        (exchange / _REQUEST).write_bytes(msgspec.json.encode(request))
        ended = run_aside(__name__, exchange, exchange / _OUTCOME, working_directory or own, timeout_ms)
        outcome = _read(exchange / _OUTCOME)
        if outcome is not None:
            return outcome
        why = f"the process in which functions are opened for that {ended.died()}"
        if ended.timed_out:
            limit = f"{format_duration(timeout_ms)} (jobmanager.capture-timeout)"
            why = f"opening the job's functions for that did not come to an end within {limit}"
        if ended.printed:
            why = f"{why}; it printed last:\n{last_lines(ended.printed)}"
        known = _read(exchange / _IDS) or Checked()
        return replace(known, notes=(*known.notes, f"declared state is compared by the restore alone: {why}"))


def _read(path: Path) -> Checked | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Checked)
    except (OSError, msgspec.DecodeError):
        return None


# in the process ---------------------------------------------------------------------------------------------------


def main(exchange: Path) -> None:
    request = msgspec.json.decode((exchange / _REQUEST).read_bytes(), type=_Request)
    activate(list(request.python_path))
    try:
        graph: JobGraph = pickling.loads((exchange / _GRAPH).read_bytes())
    except Exception as error:  # whatever the job's modules raise; its master will tell
        reason = f"its pipeline cannot be read here: {type(error).__name__}: {error}"
        _put(exchange / _OUTCOME, Checked(notes=(f"not compared with what is restored before the start: {reason}",)))
        return
    config = Configuration.from_dict(request.config)
    ids_alone = config.merged(Configuration({options.CHECK_FUNCTIONS.key: False}))
    _put(exchange / _IDS, _checked(request.metadata, graph, ids_alone))
    _put(exchange / _OUTCOME, _checked(request.metadata, graph, config))


def _checked(metadata: CheckpointMetadata, graph: JobGraph, config: Configuration) -> Checked:
    try:
        return Checked(notes=tuple(require_fit(metadata, graph, config)))
    except PenstockError as error:
        return Checked(str(error))


def _put(file: Path, checked: Checked) -> None:
    put(file, msgspec.msgpack.encode(checked))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end()
