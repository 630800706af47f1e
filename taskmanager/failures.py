"""A task's failure as the job master and the user see it: the operator's name, and the user's own frames first."""

from __future__ import annotations

from ..runtime.functions import CallError
from ..runtime.tracebacks import qualified_name, user_traceback
from ..state.errors import PenstockError, UserCodeError
from ..state.ids import Attempt
from ..state.serialization.pickling import dumps
from .messages import Failed, SubtaskId


def failed(attempt: Attempt, subtask: SubtaskId, operator: str, error: Exception) -> Failed:
    """The message for an exception that ended a task. The cause of a UserCodeError is the user's exception."""
    cause: BaseException = error
    message = str(error) if isinstance(error, PenstockError) else f"{type(error).__name__}: {error}"
    if isinstance(error, UserCodeError):
        operator = error.operator
        cause = error.__cause__ or error
    if isinstance(error, CallError):  # what finds keys knows no operator
        cause, message = error.cause, str(error)
    if not message.startswith("operator '"):
        message = f"operator '{operator}', subtask {subtask.index}: {message}"
    return Failed(
        attempt, subtask, operator, message, user_traceback(cause), _pickled(cause), qualified_name(cause)
    )  # fmt: skip


def _pickled(cause: BaseException) -> bytes | None:
    try:
        return dumps(cause.with_traceback(None))
    except Exception:  # an exception that cannot travel is told by its text alone
        return None
