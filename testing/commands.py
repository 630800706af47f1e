"""The command line in this process, for tests: what a verb answers and prints, and nothing of it is left."""

from __future__ import annotations

import signal

from typer.testing import CliRunner


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
