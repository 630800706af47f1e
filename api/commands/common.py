"""What all verbs share: output for people and for programs, exit codes, the cluster that is meant, the job that is
meant.

Exit codes: 0, done; 1, it failed; 2, the command was used wrongly; 130, interrupted. What people want to know goes to
standard error; standard output has results only: text, or with `--output json` one JSON document.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from ...runtime.configuration import cluster_options
from ...runtime.configuration.config import Configuration, load
from ...runtime.configuration.state_settings import check_settings
from ...runtime.units import format_duration
from ...state.errors import ConfigurationError, PenstockError
from .. import session
from ..failures import explain

if TYPE_CHECKING:
    from ..rest_client import JobRow, RestClient

FAILED, USAGE, STOPPED = 1, 2, 130
SHORTEST_PREFIX = 4
"""Of a job id."""
SHOWN_JOBS = 5
"""Of those that one name means."""

P = ParamSpec("P")


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


OutputFlag = Annotated[Output, typer.Option("--output", "-o", help="How results are printed.")]
AddressFlag = Annotated[
    str | None, typer.Option("--address", "-a", help="The cluster, like http://127.0.0.1:8081; else PENSTOCK_ADDRESS.")
]
ConfigFlag = Annotated[list[str] | None, typer.Option("--config", "-c", help="An option: key=value.")]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
JobArgument = Annotated[str, typer.Argument(help="Its id, the beginning of its id, or its name.", metavar="JOB")]


class UsageError(PenstockError):
    """The command was used wrongly."""


def usage(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(USAGE)


def telling(command: Callable[P, None]) -> Callable[P, None]:
    """Errors of a verb become one clear sentence and an exit code; with `--output json` also a document."""

    @wraps(command)
    def told(*arguments: P.args, **settings: P.kwargs) -> None:
        try:
            command(*arguments, **settings)
        except UsageError as error:
            raise usage(str(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(STOPPED) from None
        except PenstockError as error:
            if settings.get("output") is Output.JSON:
                typer.echo(json.dumps({"error": str(error), "type": type(error).__name__}))
            session.say(explain(error))
            raise typer.Exit(FAILED) from None

    return told


def parse_settings(config: Sequence[str]) -> dict[str, object]:
    """`-c key=value` flags. UsageError."""
    flags: dict[str, object] = {}
    for setting in config:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"-c takes key=value, not {setting!r}")
        flags[key.strip()] = value.strip()
    return checked(flags)


def checked(flags: dict[str, object]) -> dict[str, object]:
    """UsageError: an option that is unknown, or cannot have that value."""
    try:
        Configuration(flags)
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    return flags


def configuration(flags: dict[str, object] | None = None) -> Configuration:
    """File, environment and flags. UsageError."""
    try:
        loaded = load(os.environ, Path.cwd(), flags or {})
        check_settings(loaded)
        return loaded
    except ConfigurationError as error:
        raise UsageError(str(error)) from None


# the cluster -------------------------------------------------------------------------------------------------------


@contextmanager
def cluster(address: str | None) -> Iterator[RestClient]:
    """A client of the cluster that is meant: by the flag, by configuration, else the one that runs on this machine."""
    from ..rest_client import RestClient

    try:
        client = RestClient(address or _configured_address())
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    try:
        yield client
    finally:
        client.close()


def _configured_address() -> str:
    config = configuration()
    if address := config.get(cluster_options.ADDRESS):
        return address
    from ...jobmanager.startup.cluster_control import status

    state = status(config)
    if state is not None and state.rest_url:
        return state.rest_url
    return f"http://127.0.0.1:{config.get(cluster_options.REST_PORT)}"


def find_job(client: RestClient, text: str) -> JobRow:
    """By its id, a beginning of it, or its name; of several of one name the one that runs. UsageError: none or several
    are meant."""
    rows = client.jobs()
    exact = [row for row in rows if row.id == text]
    prefixed = [row for row in rows if len(text) >= SHORTEST_PREFIX and row.id.startswith(text.lower())]
    named = [row for row in rows if row.name == text]
    for found in (exact, [row for row in named if row.is_live], prefixed, named):
        if len(found) == 1:
            return found[0]
        if found:
            newest = sorted(found, key=lambda row: -row.started_ms)[:SHOWN_JOBS]
            listed = "; ".join(f"{row.id} '{row.name}' {row.state}" for row in newest)
            more = f" and {len(found) - SHOWN_JOBS} older ones" if len(found) > SHOWN_JOBS else ""
            raise UsageError(f"{text!r} means several jobs: {listed}{more}; give the id, or its beginning")
    raise UsageError(f"there is no job {text!r} on {client.address}; `penstock list --all` shows all")


def live_job(client: RestClient, text: str) -> JobRow:
    """One that has not ended. PenstockError: it has; UsageError as of find_job."""
    found = find_job(client, text)
    if not found.is_live:
        raise PenstockError(f"job {found.id} '{found.name}' has ended already: {found.state}")
    return found


# people ------------------------------------------------------------------------------------------------------------


def confirm(question: str, yes: bool) -> None:
    """Asks before something is destroyed. UsageError where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is here to answer: add --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(FAILED)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2 if sys.stdout.isatty() else None))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they must be, none cut: for people and for `awk`."""
    lines = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_time(time_ms: int) -> str:
    """UTC, as in logs."""
    return "-" if time_ms <= 0 else datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_duration(duration_ms: int) -> str:
    return (
        "-" if duration_ms < 0 else format_duration(duration_ms // 1000 * 1000 if duration_ms > 10_000 else duration_ms)
    )
