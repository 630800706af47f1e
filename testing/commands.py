"""The command line in this process, for tests: what a verb answers and prints, and nothing of it is left."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from ..api import session


def penstock(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error. What is no exit of the command's own is raised."""
    from ..api.command_line import app

    before = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(app, arguments)
    finally:
        signal.signal(signal.SIGTERM, before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def penstock_in(directory: Path, *arguments: str) -> tuple[int, str, str]:
    """The same in that working directory, as if no other verb had run in this process."""
    with contextlib.chdir(directory), _own_session():
        return penstock(*arguments)


@contextlib.contextmanager
def _own_session() -> Iterator[None]:
    before = session.flags, session.results, session.submitted
    path, sys.path = sys.path, list(sys.path)
    session.flags, session.results, session.submitted = {}, [], False
    try:
        yield
    finally:
        session.flags, session.results, session.submitted = before
        sys.path = path
