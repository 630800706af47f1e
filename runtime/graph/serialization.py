"""Operators, sources and sinks as bytes; and, where that fails, which thing in the user's function is to blame."""

from __future__ import annotations

from typing import Any

from ...state.errors import PipelineError
from ...state.serialization.pickling import dumps
from ..references import culprit


def pickled(value: Any) -> bytes:
    """cloudpickle of it: functions and classes of the script by value. PipelineError says what is in the way."""
    try:
        return dumps(value)
    except Exception as error:  # a user's __getstate__ or __reduce__ may raise anything
        raise PipelineError(_explanation(value, error)) from error


def _explanation(value: Any, error: Exception) -> str:
    guilty = culprit(value, _fails)
    if guilty is None:
        return f"it cannot be serialised: {error}"
    name, used = guilty
    kind = f"{type(used).__module__}.{type(used).__qualname__}".removeprefix("builtins.")
    return (
        f"its function cannot be serialised, because it uses '{name}' (a {kind}); "
        "create it in open(), or pass what it is made from"
    )


def _fails(value: Any) -> bool:
    try:
        dumps(value)
    except Exception:  # as above
        return True
    return False
