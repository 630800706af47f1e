"""`state list`, `state cat`: what a savepoint or a checkpoint holds (stored_state.py). `state show`, `state get`:
what a job that runs has (jobmanager/rest/state.py)."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from .. import session
from . import common
from .common import AddressFlag, ConfigFlag, JobArgument, Output, OutputFlag, UsageError, telling

if TYPE_CHECKING:
    from ...state.savepoints.stored_state import StoredSnapshot, StoredState

app = typer.Typer(name="state", help="Look into savepoints, checkpoints and jobs that run.", no_args_is_help=True)

PathArgument = Annotated[
    str, typer.Argument(help="Directory or URL of a savepoint or a checkpoint.", metavar="PATH", show_default=False)
]
OperatorFlag = Annotated[str | None, typer.Option("--operator", help="Only of the operator with this uid or id.")]


@app.command("list", no_args_is_help=True)
@telling
def list_states(
    path: PathArgument, operator: OperatorFlag = None, config: ConfigFlag = None, output: OutputFlag = Output.TEXT
) -> None:
    """List the states: of which operators, of what kind and types, and how large they are."""
    states = _wanted(_open(path, config), operator, None)
    if output is Output.JSON:
        common.print_json(msgspec.to_builtins(states))
        return
    cells = [
        [each.operator, each.name, each.kind, each.key or "-", each.type or "-", _size(each.bytes)] for each in states
    ]
    common.print_table(("OPERATOR", "STATE", "KIND", "KEY", "TYPE", "BYTES"), cells)


@app.command("cat", no_args_is_help=True)
@telling
def cat(
    path: PathArgument,
    operator: OperatorFlag = None,
    state: Annotated[str | None, typer.Option("--state", help="Only the state of this name.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Rows of each state at most; 100 as text, all as JSON.")
    ] = None,
    config: ConfigFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Print rows of state. Values that were pickled are shown without running their classes' code."""
    snapshot = _open(path, config)
    states = _wanted(snapshot, operator, state)
    if limit is None and output is Output.TEXT:
        limit = 100
    found = [(each, list(islice(snapshot.rows(each), limit))) for each in states]
    if output is Output.JSON:
        typer.echo(msgspec.json.encode([_as_document(each, rows) for each, rows in found], enc_hook=str).decode())
        return
    for number, (each, rows) in enumerate(found):
        _print_state(each, rows, limit, heading=len(found) > 1, first=number == 0)


@app.command("show", no_args_is_help=True)
@telling
def show(job: JobArgument, address: AddressFlag = None, output: OutputFlag = Output.TEXT) -> None:
    """List the states of a job that runs, which `get` can ask for."""
    with common.cluster(address) as client:
        states = client.states(common.live_job(client, job).id)
    if output is Output.JSON:
        common.print_json(states)
        return
    cells = [
        [each["operator"], each["name"], each["kind"], _key(each), each["type"], _size(each["bytes"])]
        for each in states
    ]
    common.print_table(("OPERATOR", "STATE", "KIND", "KEY", "TYPE", "BYTES"), cells)


def _key(state: dict[str, Any]) -> str:
    key, map_key = state["key"] or "-", state["map-key"]
    return f"{key}, of the map {map_key}" if map_key else key


@app.command("get", no_args_is_help=True)
@telling
def get(
    job: JobArgument,
    operator: Annotated[str, typer.Argument(help="Its uid or id, or its name.", show_default=False)],
    state: Annotated[str, typer.Argument(help="The state's name.", metavar="STATE", show_default=False)],
    key: Annotated[
        str,
        typer.Argument(help="As JSON; tuples as lists. What is no JSON is a string. -- before -1.", show_default=False),
    ],
    map_key: Annotated[
        str | None, typer.Option("--map-key", "-k", help="Of a map only what is under this key.")
    ] = None,
    namespace: Annotated[int, typer.Option("--namespace", help="Of a window's state: its start, ms, or number.")] = 0,
    address: AddressFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Print what a key has in a state of a job that runs, now, as JSON: ahead of the last checkpoint."""
    from ...jobmanager.gateway import StateQuestion

    with common.cluster(address) as client:
        found = common.live_job(client, job)
        answer = client.state(found.id, StateQuestion(operator, state, key, map_key, namespace))
    common.print_json(answer if output is Output.JSON else answer["value"])
    if output is Output.JSON:
        return
    if not answer["found"]:
        where = "" if namespace else "; state of windows is asked for with --namespace and the window's start"
        session.say(f"the key has nothing there{where}")
    elif answer["truncated"]:
        session.say("(there is more: this is the beginning)")


def _open(path: str, config: list[str] | None) -> StoredSnapshot:
    from ...state.savepoints.stored_state import StoredSnapshot

    return StoredSnapshot.open(path, common.configuration(common.parse_settings(config or [])).to_dict())


def _wanted(snapshot: StoredSnapshot, operator: str | None, state: str | None) -> list[StoredState]:
    states = snapshot.states()
    found = [each for each in states if operator in (None, each.operator) and state in (None, each.name)]
    if not found and (operator is not None or state is not None):
        there = ", ".join(f"{each.operator}/{each.name}" for each in states)
        raise UsageError(f"there is no such state; it holds {there or 'none'}")
    return found


def _as_document(state: StoredState, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"operator": state.operator, "state": state.name, "kind": state.kind, "rows": rows}


def _print_state(
    state: StoredState, rows: list[dict[str, Any]], limit: int | None, *, heading: bool, first: bool
) -> None:
    from ...state.savepoints.stored_state import as_text

    if heading:
        typer.echo(f"{'' if first else chr(10)}{state.operator} / {state.name} ({state.kind})")
    if rows:
        common.print_table(list(rows[0]), [[as_text(value) for value in row.values()] for row in rows])
    if len(rows) == limit:
        typer.echo(f"(the first {limit} rows; --limit shows more)", err=True)


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size:,}"
