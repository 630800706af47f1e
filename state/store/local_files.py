"""Files of state on this machine's disk (databases, what is fetched, what is to be uploaded), and what is said when the
disk is full.

That is no end of a job: it goes back to its last checkpoint, as often as its restart strategy says, and on when there
is room. What an attempt has written is removed with it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LocalStateError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
"""Of libraries that say it in words."""


@contextmanager
def on_local_disk(what: str, directory: Path) -> Iterator[None]:
    """`what` cannot be done if the disk is full: LocalStateError. Other errors stay as they are."""
    try:
        yield
    except Exception as error:
        told = as_local(error, what, directory)
        if told is error:
            raise
        raise told from error


def as_local(error: Exception, what: str, directory: Path) -> Exception:
    """LocalStateError if it says that the disk is full, else the error itself."""
    if isinstance(error, LocalStateError) or not is_full(error):
        return error
    return LocalStateError(f"{what}: {full_disk(directory)}")


def is_full(error: Exception) -> bool:
    return (isinstance(error, OSError) and error.errno in FULL) or any(text in str(error) for text in _FULL_TEXTS)


def full_disk(directory: Path) -> str:
    return (
        f"the disk of {directory} is full; make room there, or keep state on a larger one (io.tmp.dirs; for a local "
        "job TMPDIR)"
    )
