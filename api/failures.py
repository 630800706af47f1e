"""Errors as people want to read them: one clear sentence, and of a user's function its own frames, not ours."""

from __future__ import annotations

from ..runtime.tracebacks import user_traceback
from ..state.errors import PenstockError


def explain(error: BaseException) -> str:
    """What happened, for standard error: for an error of ours its sentence, else the user's own traceback."""
    if not isinstance(error, PenstockError):
        return user_traceback(error).rstrip()
    return "\n".join([*getattr(error, "__notes__", ()), f"error: {error}"])
