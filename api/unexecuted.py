"""A script that builds a pipeline and never runs it ends like one that has done its work: at its exit it is told.

Only of a script's own process, and of pipelines that nobody has asked anything of: execute() in any form, or the plan.
Not where a pipeline may well be built for its own sake (a Python prompt, a test runner), not for a script that is
executed to learn its pipeline (capture.py), not after an exception. `penstock run` tells it itself (commands/run.py).
"""

from __future__ import annotations

import atexit
import sys
import sysconfig
from pathlib import Path
from types import FrameType

from . import session

_TEST_RUNNERS = ("unittest", "_pytest", "doctest")

_pipelines: dict[object, str] = {}
"""A mark of each that was begun and not asked for -> its script, which Python forgets before the exit."""


def begun(mark: object) -> None:
    """It has a first transformation, which is being recorded."""
    script = _script()
    if script is None or session.capturing is not None or _is_tested(sys._getframe()):
        return
    if not _pipelines:
        atexit.unregister(_tell)
        atexit.register(_tell)
    _pipelines[mark] = script.name


def used(mark: object) -> None:
    """It was executed, or its plan was wanted."""
    _pipelines.pop(mark, None)


def forget() -> None:
    """Somebody else tells it."""
    _pipelines.clear()


def _script() -> Path | None:
    """The user's file that this process runs; not a command that is installed, nor a prompt, nor a child's copy."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    children = sys.modules.get("multiprocessing.process")
    if not isinstance(file, str) or not file.endswith(".py") or sys.flags.inspect or hasattr(sys, "ps1"):
        return None
    if children is not None and children.parent_process() is not None:
        return None
    script = Path(file).resolve()
    installed = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib", "scripts")]
    return None if any(script.is_relative_to(directory) for directory in installed) else script


def _is_tested(frame: FrameType | None) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _TEST_RUNNERS:
            return True
        frame = frame.f_back
    return False


def _tell() -> None:
    if hasattr(sys, "last_value"):  # an exception that nobody has caught
        return
    for name in dict.fromkeys(_pipelines.values()):
        session.say(f"note: {name} has built a pipeline and never run it; a pipeline runs when env.execute() is called")
