"""`savepoint check`: whether a savepoint fits a script's job, before anything is stopped (jobmanager/restore_check.py).

The script is executed in this process up to its first execute(), as `penstock run --local` does it; nothing is run.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ...state.errors import PenstockError
from .. import session, unexecuted
from . import common
from .common import FAILED, ConfigFlag, Output, OutputFlag, UsageError, show_time, telling
from .run import Arguments, NonRestoredFlag, ParallelismFlag, ScriptArgument
from .state import PathArgument

if TYPE_CHECKING:
    from ...jobmanager.restore_check import Fit
    from ...runtime.graph.job_graph import JobGraph
    from ...state.snapshots import CheckpointMetadata


class _Captured(BaseException):
    """Ends the script: its pipeline is known."""

    def __init__(self, graph: JobGraph) -> None:
        self.graph = graph


@telling
def check(
    path: PathArgument,
    script: ScriptArgument,
    arguments: Arguments = None,
    allow_non_restored: NonRestoredFlag = False,
    open_functions: Annotated[
        bool, typer.Option("--open/--no-open", help="Call open() of functions, to compare the state they declare.")
    ] = True,
    parallelism: ParallelismFlag = None,
    config: ConfigFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Tell whether a script's job can go on from a savepoint or checkpoint; if not, what does not fit, and exit with 1.
    The script is executed up to its pipeline, and nothing is run."""
    from ...jobmanager.restore_check import check_restore
    from ...state.savepoints.stored_state import StoredSnapshot

    flags = common.parse_settings(config or [])
    if parallelism is not None:
        flags["parallelism.default"] = parallelism
    if not script.is_file():
        raise UsageError(f"there is no file {script}")
    snapshot = StoredSnapshot.open(path, common.configuration(common.checked(flags)).to_dict())
    fit = check_restore(snapshot.metadata, _graph_of(script, arguments or [], flags), open_functions=open_functions)
    fits = fit.refusal(may_drop=allow_non_restored) is None
    if output is Output.JSON:
        common.print_json(_as_document(fit, fits=fits))
    else:
        typer.echo(_as_text(fit, snapshot.metadata, script, fits=fits))
    raise typer.Exit(0 if fits else FAILED)


def _graph_of(script: Path, arguments: list[str], flags: dict[str, object]) -> JobGraph:
    own_arguments, sys.argv = sys.argv, [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    session.flags, session.capturing = flags, _capture
    try:
        runpy.run_path(str(script.absolute()), run_name="__main__")
    except _Captured as captured:
        return captured.graph
    except (SystemExit, Exception) as error:
        if isinstance(error, PenstockError):
            raise
        what = f"{type(error).__name__}: {error}"
        raise PenstockError(f"{script.name} failed before env.execute(): {what}") from error
    finally:
        session.flags, session.capturing, sys.argv = {}, None, own_arguments
        unexecuted.forget()
    raise PenstockError(f"{script.name} has no pipeline: it ended without calling env.execute()")


def _capture(graph: JobGraph, _config: Any, _code: Any, _steps: Any) -> NoReturn:
    raise _Captured(graph)


def _as_document(fit: Fit, *, fits: bool) -> dict[str, Any]:
    dropped = [{"operator": each.operator, "states": each.states, "more": each.more} for each in fit.dropped]
    return {
        "fits": fits,
        "problems": fit.problems,
        "dropped": dropped,
        "empty": fit.empty,
        "unknown": fit.unknown,
    }


def _as_text(fit: Fit, metadata: CheckpointMetadata, script: Path, *, fits: bool) -> str:
    of = f"{fit.checkpoint}, {show_time(metadata.completed_at_ms)} UTC"
    lines = [f"{'fits' if fits else 'does not fit'} {script.name}: {of}"]
    lines += [f"problem: {problem}" for problem in fit.problems]
    lines += [f"dropped with -n, else refused: operator {each}" for each in fit.dropped]
    lines += [f"begins empty: operator '{name}'" for name in fit.empty]
    lines += [f"not compared: {reason}" for reason in fit.unknown]
    return "\n".join(lines)
