"""How a script ends that was stopped by Ctrl-C or SIGTERM, or its job from elsewhere: without a traceback.

`execute()` raises a KeyboardInterrupt when its job was stopped, so that the script goes no further, and may catch it.
What nobody catches gets to the top of the process, where Python would print frames that say nothing: what has happened
was told. So nothing of it is printed there, or one line where nothing was told. The process ends as Python ends it, by
the signal, which shells show as 130. (For that it must be a KeyboardInterrupt and of no class below it.)
"""

from __future__ import annotations

import sys
from types import TracebackType


class _Last:
    """The last one that was raised here, and what remains to be said of it."""

    error: BaseException | None = None
    text = ""


def stopped() -> KeyboardInterrupt:
    """To be raised when it was told that a job was stopped."""
    _Last.error, _Last.text = KeyboardInterrupt(), ""
    return _Last.error


def interrupted(error: KeyboardInterrupt) -> KeyboardInterrupt:
    """The same, to be raised out of execute(), whoever raised it before."""
    if error is not _Last.error:
        _Last.error, _Last.text = error, "interrupted"
    if sys.excepthook is sys.__excepthook__:  # not a debugger's or a prompt's own
        sys.excepthook = _without_traceback
    return error


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if error is not _Last.error:
        sys.__excepthook__(kind, error, trace)
    elif _Last.text:
        sys.stderr.write(f"{_Last.text}\n")
