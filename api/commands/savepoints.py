"""Verbs that keep a job's state: `savepoint take`, `savepoint list`, `savepoint dispose`, `stop`, `checkpoint`.

What is asked for takes a while, so the job manager answers with a request id, and these verbs wait for its end;
`--detached` leaves it to the cluster, and `savepoint list` shows what became of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ...state.errors import ConfigurationError
from .. import session
from ..operations import awaited
from . import common
from .common import AddressFlag, ConfigFlag, JobArgument, Output, OutputFlag, UsageError, YesFlag, show_time, telling
from .jobs import await_end

if TYPE_CHECKING:
    from ..rest_client import JobRow

app = typer.Typer(name="savepoint", help="Take savepoints of jobs, and dispose of them.", no_args_is_help=True)

TargetArgument = Annotated[
    str | None,
    typer.Argument(help="Directory or URL for it; else state.savepoints.dir.", metavar="[TARGET]", show_default=False),
]
DetachedFlag = Annotated[
    bool, typer.Option("--detached", "-d", help="Print the id of the request, and do not wait for its end.")
]


@app.command("take", no_args_is_help=True)
@telling
def take(
    job: JobArgument,
    target: TargetArgument = None,
    detached: DetachedFlag = False,
    address: AddressFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Take a savepoint of a running job, and print its path. The job goes on."""
    with common.cluster(address) as client:
        found = common.live_job(client, job)
        request = client.begin_savepoint(found.id, _whole(target))
        path = "" if detached else awaited(lambda: client.savepoint(found.id, request)).location
    _print_begun(found, request, path, output)


@telling
def stop(
    job: JobArgument,
    drain: Annotated[bool, typer.Option("--drain", help="End event time before: all windows fire.")] = False,
    target: Annotated[
        str | None,
        typer.Option("--savepoint-path", "-p", help="Directory or URL for the savepoint; else state.savepoints.dir."),
    ] = None,
    detached: DetachedFlag = False,
    address: AddressFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """End a job with a savepoint, and print its path: all that came before it is committed, and `run -s PATH` goes on
    from there. If the savepoint fails the job goes on."""
    with common.cluster(address) as client:
        found = common.live_job(client, job)
        request = client.begin_savepoint(found.id, _whole(target), stop=True, drain=drain)
        path = ""
        if not detached:
            path = awaited(lambda: client.savepoint(found.id, request)).location
            state = await_end(client, found.id).overview.state
            session.say(f"job {found.id} '{found.name}': {state}")
    _print_begun(found, request, path, output)


@telling
def checkpoint(
    job: JobArgument, detached: DetachedFlag = False, address: AddressFlag = None, output: OutputFlag = Output.TEXT
) -> None:
    """Have a checkpoint of a running job taken now, and print its number."""
    with common.cluster(address) as client:
        found = common.live_job(client, job)
        request = client.begin_checkpoint(found.id)
        number = None if detached else awaited(lambda: client.checkpoint(found.id, request)).checkpoint_id
    if output is Output.JSON:
        document = {"job_id": found.id, "job_name": found.name, "request_id": request, "checkpoint_id": number}
        common.print_json(document)
    else:
        typer.echo(request if number is None else number)


def _print_begun(job: JobRow, request: str, path: str, output: Output) -> None:
    if output is Output.JSON:
        document = {"job_id": job.id, "job_name": job.name, "request_id": request, "savepoint": path or None}
        common.print_json(document)
    else:
        typer.echo(path or request)


@app.command("list", no_args_is_help=True)
@telling
def list_savepoints(job: JobArgument, address: AddressFlag = None, output: OutputFlag = Output.TEXT) -> None:
    """Show what became of the savepoints that were asked of a job in the last minutes, or at its end."""
    import msgspec

    with common.cluster(address) as client:
        operations = client.job(common.find_job(client, job).id).savepoints
    if output is Output.JSON:
        common.print_json(msgspec.to_builtins(operations))
        return
    cells = [[it.request, it.state.value, show_time(it.requested_ms), it.failure or it.path] for it in operations]
    common.print_table(("REQUEST", "STATE", "ASKED (UTC)", "WHERE, OR WHY NOT"), cells)


@app.command("dispose", no_args_is_help=True)
@telling
def dispose(
    path: Annotated[str, typer.Argument(help="The savepoint: its directory, or the URL of it.")],
    yes: YesFlag = False,
    address: Annotated[
        str | None,
        typer.Option("--address", "-a", help="The cluster that does it, with its access; without it this process."),
    ] = None,
    config: ConfigFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Delete a savepoint for good. Nothing else ever does."""
    from ...state.savepoints.disposal import check_disposable, dispose_of

    options = common.configuration(common.parse_settings(config or []))
    try:
        directory = check_disposable(_whole(path) or "")
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    common.confirm(f"Delete the savepoint {directory}?", yes)
    if address is None:
        dispose_of(directory, options.to_dict())
    else:
        _dispose_there(address, directory)
    if output is Output.JSON:
        common.print_json({"disposed": directory})
    else:
        session.say(f"disposed of {directory}")


def _dispose_there(address: str, directory: str) -> None:
    with common.cluster(address) as client:
        request = client.begin_disposal(directory)
        awaited(lambda: client.disposal(request))


def _whole(path: str | None) -> str | None:
    """As the cluster's processes understand it."""
    from ...state.savepoints.savepoint_store import located

    return None if path is None else located(path)
