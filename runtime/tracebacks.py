"""Tracebacks of users' code: without the frames of penstock that called it."""

from __future__ import annotations

import runpy
import traceback
from pathlib import Path

from ..state.errors import PenstockError, ProtocolError

_ROOT = Path(__file__).resolve().parents[1]
_HIDDEN = (
    str(_ROOT / "__init__.py"),
    *(f"{_ROOT / floor}/" for floor in ("state", "runtime", "connectors", "taskmanager", "jobmanager", "api")),
    runpy.__file__,
    "<frozen runpy>",
)


def qualified_name(error: BaseException) -> str:
    """Of its class, as a traceback prints it: builtins without their module."""
    kind = type(error)
    short = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if short else f"{kind.__module__}.{kind.__qualname__}"


def user_traceback(error: BaseException) -> str:
    """As Python prints it, without our frames. Where none is the user's: nothing for an error of ours, whose sentence
    says it all, and all frames for any other, for then it is our bug."""
    shown = traceback.TracebackException.from_exception(error)
    if not _hide(shown):
        if isinstance(error, PenstockError) and not isinstance(error, ProtocolError):
            return ""
        shown = traceback.TracebackException.from_exception(error)
    return "".join(shown.format())


def _hide(shown: traceback.TracebackException) -> bool:
    """Take our frames out, also of what it was raised from. False if no frame is left in the end."""
    frames = [frame for frame in shown.stack if not frame.filename.startswith(_HIDDEN)]
    shown.stack = traceback.StackSummary.from_list(frames)
    before = [_hide(other) for other in (shown.__cause__, shown.__context__) if other is not None]
    return bool(frames) or any(before)
