"""The process in which a submitted script is executed, up to its pipeline. Started by jobmanager/cluster/capture.py,
with the directory of their exchange as its argument; what holds between the two is written there.

The first execute(), execute_async() or execute_and_collect() writes the outcome, then ends the script by an exception
that `except Exception` does not catch, so that its `finally` and `with` blocks still run. A script that catches even
that, or calls them on another thread, goes on for a moment; its outcome counts.

Functions and classes of the script travel by value, for the script is `__main__` here as it is with `python script`;
those of modules beside it travel by name, and are imported in the slots from the same code. The script's code is known
by its path within the working directory, which is gone later: tracebacks find its lines where slots have that code.
"""

from __future__ import annotations

import builtins
import faulthandler
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from ..jobmanager.cluster.capture import OUTCOME, REQUEST, CaptureOutcome, CaptureRequest
from ..jobmanager.cluster.user_process import end, put
from ..runtime.configuration.config import Configuration
from ..runtime.graph.describe import describe, plan
from ..runtime.graph.job_graph import JobGraph
from ..runtime.tracebacks import user_traceback
from ..state.errors import PenstockError
from ..state.serialization.pickling import dumps
from . import session
from .added_code import AddedCode
from .failures import missing_module
from .job_options import job_options
from .steps import Step

MISSING = (
    "there where the script runs: name its package in a requirements file (--requirements), or put the module into the "
    "working directory"
)


class Captured(BaseException):
    """Ends the script: its pipeline is known."""


def main(exchange: Path) -> None:
    """Executes the script of the request. The process should end then, whatever threads the script has started."""
    request = msgspec.json.decode((exchange / REQUEST).read_bytes(), type=CaptureRequest)
    session.flags = request.flags
    session.capturing = _Capture(exchange, request)
    _put(exchange, _execute(request))


class _Capture:
    """Called by the environment in the place of running a job."""

    def __init__(self, exchange: Path, request: CaptureRequest) -> None:
        self._exchange = exchange
        self._request = request

    def __call__(self, graph: JobGraph, config: Configuration, code: AddedCode, steps: Sequence[Step]) -> NoReturn:
        from .targets import bound_to_this_process, refuse_for_cluster, refuse_paths_of_the_copy

        refuse_for_cluster(bound_to_this_process(steps))
        refuse_paths_of_the_copy(steps, Path.cwd())
        outcome = CaptureOutcome(
            graph=None if self._request.describe_only else dumps(graph),
            job_name=graph.job_name,
            config=job_options(config),
            plan=plan(graph),
            description=describe(graph),
            notes=(*config.notes, *graph.warnings),
            python_path=code.path_entries(Path.cwd()),
            requirements=code.requirements(),
            archives=code.archives(Path.cwd()),
        )
        _put(self._exchange, outcome)
        raise Captured


def _put(exchange: Path, outcome: CaptureOutcome) -> None:
    """The first one counts."""
    put(exchange / OUTCOME, msgspec.msgpack.encode(outcome))


def _execute(request: CaptureRequest) -> CaptureOutcome:
    """What to say if no pipeline was captured."""
    script = Path(request.script)
    sys.argv = [request.script, *request.arguments]
    directories = [str(script.parent), str(Path.cwd()), *request.python_path]
    sys.path[:0] = list(dict.fromkeys(directories))
    never = f"{script.name} ended without running a pipeline: a pipeline runs when env.execute() is called"
    try:
        _run_as_main(script)
    except Captured:
        return CaptureOutcome(error="the pipeline was captured, and its outcome is missing")
    except SystemExit as ending:
        if ending.code in (None, 0):
            return CaptureOutcome(error=never)
        return CaptureOutcome(error=f"{script.name} ended itself before env.execute(): {_ending(ending.code)}")
    except BaseException as error:
        return _failed(script, error)
    return CaptureOutcome(error=never)


def _run_as_main(script: Path) -> None:
    module = types.ModuleType("__main__")
    module.__file__ = str(script)
    module.__builtins__ = builtins  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    top = Path.cwd()
    name = script.relative_to(top).as_posix() if script.is_relative_to(top) else str(script)
    exec(compile(script.read_bytes(), name, "exec", dont_inherit=True), module.__dict__)


def _ending(code: object) -> str:
    return f"exit code {code}" if isinstance(code, int) else str(code)


def _without_the_copy(text: str) -> str:
    """A relative path was looked for in a copy of the user's directory, whose name would tell the user nothing."""
    copy = f"{Path.cwd()}{os.sep}"
    if copy not in text:
        return text
    return (
        f"{text.replace(copy, '')}\nOn a cluster a script runs in a copy of its directory: where a path is relative, "
        "give an absolute one that all nodes reach"
    )


def _failed(script: Path, error: BaseException) -> CaptureOutcome:
    if isinstance(error, PenstockError):
        return CaptureOutcome(error=_without_the_copy("\n".join([str(error), *getattr(error, "__notes__", ())])))
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError):
        message = missing_module(script.name, error, MISSING)
    elif isinstance(error, EOFError):
        message = f"{script.name} failed before env.execute(): {what} (standard input is empty where the script runs)"
    else:
        message = f"{script.name} failed before env.execute(): {what}"
    return CaptureOutcome(error=message, traceback=user_traceback(error))


if __name__ == "__main__":
    faulthandler.enable()
    main(Path(sys.argv[1]))
    end()
