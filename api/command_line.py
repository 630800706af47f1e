"""The command `penstock`.

Exit codes: 0, the bounded job has finished and all its results are committed; 1, it failed; 2, the command was used
wrongly; 130, it was stopped (Ctrl-C, SIGTERM) after a last checkpoint, from which `-s latest` continues.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ..runtime.config import Configuration, load
from ..runtime.options import OPTIONS
from ..state.errors import ConfigurationError
from . import session
from .failures import explain

FAILED, USAGE, STOPPED = 1, 2, 130

app = typer.Typer(
    name="penstock",
    help="Stateful stream processing for Python.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


OutputFlag = Annotated[Output, typer.Option("--output", "-o", help="How results are printed.")]


@app.command(no_args_is_help=True)
def run(
    script: Annotated[Path, typer.Argument(help="A Python file that builds a pipeline and calls execute().")],
    arguments: Annotated[list[str] | None, typer.Argument(help="For the script; write them after --.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Run the whole job in this process.")] = False,
    restore: Annotated[
        str | None, typer.Option("--restore", "-s", help="Continue: 'latest', or the path of a checkpoint.")
    ] = None,
    allow_non_restored: Annotated[
        bool, typer.Option("--allow-non-restored-state", "-n", help="Drop state of operators that are gone.")
    ] = False,
    parallelism: Annotated[int | None, typer.Option("--parallelism", "-p", help="Default parallelism.")] = None,
    config: Annotated[list[str] | None, typer.Option("--config", "-c", help="An option: key=value.")] = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Run a script's jobs to their end. Without a cluster's address that is here, in one process, as with --local."""
    if not script.is_file():
        raise _usage(f"there is no file {script}")
    if os.environ.get("PENSTOCK_ADDRESS") and not local:
        raise _usage("PENSTOCK_ADDRESS names a cluster, and this version runs jobs in one process only; use --local")
    session.flags = _flags(restore, allow_non_restored, parallelism, config or [])
    code = _run_script(script, arguments or [], output)
    if output is Output.JSON and code == 0:
        typer.echo(json.dumps([result.to_dict() for result in session.results]))
    raise typer.Exit(code)


@app.command()
def version(output: OutputFlag = Output.TEXT) -> None:
    """Print the versions of penstock and of Python."""
    from importlib.metadata import version as installed

    versions = {"penstock": installed("penstock"), "python": sys.version.split()[0]}
    if output is Output.JSON:
        typer.echo(json.dumps(versions))
    else:
        typer.echo(", ".join(f"{name} {number}" for name, number in versions.items()))


@app.command(name="config")
def show_config(
    config: Annotated[list[str] | None, typer.Option("--config", "-c", help="An option: key=value.")] = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Print every option with its value here (flags, environment, penstock.yaml) and what it does."""
    try:
        configuration = load(os.environ, Path.cwd(), _flags(None, False, None, config or []))
    except ConfigurationError as error:
        raise _usage(str(error)) from None
    rows: list[dict[str, Any]] = [
        {
            "key": option.key,
            "value": option.format(configuration.get(option)),
            "default": option.format(option.default),
            "type": option.kind.name,
            "description": option.description,
        }
        for option in OPTIONS
    ]
    if output is Output.JSON:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        changed = "" if row["value"] == row["default"] else f"  (default {row['default'] or 'none'})"
        typer.echo(f"{row['key']}: {row['value'] or 'none'}{changed}\n    {row['description']}")
    for note in configuration.notes:
        typer.echo(f"note: {note}", err=True)


def _flags(
    restore: str | None, allow_non_restored: bool, parallelism: int | None, config: list[str]
) -> dict[str, object]:
    flags: dict[str, object] = {}
    for setting in config:
        key, equals, value = setting.partition("=")
        if not equals:
            raise _usage(f"-c takes key=value, not {setting!r}")
        flags[key.strip()] = value.strip()
    if restore is not None:
        flags["execution.state-recovery.path"] = restore
    if allow_non_restored:
        flags["execution.state-recovery.ignore-unclaimed-state"] = True
    if parallelism is not None:
        flags["parallelism.default"] = parallelism
    try:
        Configuration(flags)
    except ConfigurationError as error:
        raise _usage(str(error)) from None
    return flags


def _usage(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(USAGE)


def _run_script(script: Path, arguments: list[str], output: Output) -> int:
    """As `python script` would, but a failure is told in the user's terms. Answers the exit code."""
    own_arguments, sys.argv = sys.argv, [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        runpy.run_path(str(script.absolute()), run_name="__main__")
    except SystemExit as ending:
        return _exit_code(ending)
    except KeyboardInterrupt:
        return STOPPED
    except Exception as error:
        if output is Output.JSON:
            typer.echo(json.dumps({"error": str(error), "type": type(error).__name__}))
        session.say(explain(error))
        return FAILED
    finally:
        sys.argv = own_arguments
    if not session.submitted:
        session.say(f"note: {script} has run no job; a pipeline runs when env.execute() is called")
    return 0


def _exit_code(ending: SystemExit) -> int:
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or 0
    session.say(str(ending.code))
    return FAILED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    app()


if __name__ == "__main__":
    main()
