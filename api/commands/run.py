"""`run` and `submit`: a script's jobs, here or on a cluster.

Without an address the script runs in this process, and its jobs where execution.target says (targets.py). With one,
the working directory goes to the cluster, and the script runs there beside the job manager, up to its first
env.execute(); what it collects is printed here.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ...runtime.configuration import cluster_options
from ...runtime.configuration.config import Configuration, from_environment
from ...state.errors import PenstockError
from .. import session, unexecuted
from ..failures import explain, missing_module
from ..job_options import job_options
from . import common
from .common import FAILED, STOPPED, AddressFlag, ConfigFlag, Output, OutputFlag, UsageError, telling

if TYPE_CHECKING:
    from ..job_client import JobResult
    from ..remote_job import RemoteJob, RemoteRows
    from ..rest_client import Accepted, RestClient

ScriptArgument = Annotated[Path, typer.Argument(help="A Python file that builds a pipeline and calls execute().")]
Arguments = Annotated[list[str] | None, typer.Argument(help="For the script; write them after --.")]
RestoreFlag = Annotated[
    str | None, typer.Option("--restore", "-s", help="Continue: 'latest', or the path of a checkpoint or savepoint.")
]
NonRestoredFlag = Annotated[
    bool, typer.Option("--allow-non-restored-state", "-n", help="Drop state of operators that are gone.")
]
ParallelismFlag = Annotated[int | None, typer.Option("--parallelism", "-p", help="Default parallelism.")]
RequirementsFlag = Annotated[
    Path | None, typer.Option("--requirements", help="A requirements.txt to be installed on the cluster.")
]
CONTINUE = "-s latest"
MISSING = f"installed here: install its package for {sys.executable}, or put the module beside the script"


@telling
def run(
    script: ScriptArgument,
    arguments: Arguments = None,
    local: Annotated[bool, typer.Option("--local", help="Run the whole job in this process.")] = False,
    address: AddressFlag = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the job's id and leave it running.")] = False,
    restore: RestoreFlag = None,
    allow_non_restored: NonRestoredFlag = False,
    parallelism: ParallelismFlag = None,
    config: ConfigFlag = None,
    requirements: RequirementsFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Run a script's jobs to their end: on the cluster at the address, else on one that is started for them."""
    flags = _flags(restore, allow_non_restored, parallelism, config or [])
    if local and address:
        raise UsageError("--local and --address exclude each other")
    if local:
        flags[cluster_options.TARGET.key] = "local"
    target = _address(address, flags)
    if target is None:
        if detach or requirements:
            what = "--detach" if detach else "--requirements"
            raise UsageError(f"{what} is for jobs on a cluster: name it with --address or PENSTOCK_ADDRESS")
        _check(script)
        session.flags = flags
        session.continue_with = CONTINUE
        code = _run_script(script, arguments or [], output)
        if output is Output.JSON and code in (0, STOPPED):
            _print_results(session.results)
        raise typer.Exit(code)
    _run_there(target, script, arguments or [], flags, requirements, detach=detach, output=output)


@telling
def submit(
    script: ScriptArgument,
    arguments: Arguments = None,
    address: AddressFlag = None,
    restore: RestoreFlag = None,
    allow_non_restored: NonRestoredFlag = False,
    parallelism: ParallelismFlag = None,
    config: ConfigFlag = None,
    requirements: RequirementsFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Start a script's job on a cluster, print its id and leave it running."""
    flags = _flags(restore, allow_non_restored, parallelism, config or [])
    target = address or common.configuration(flags).get(cluster_options.ADDRESS)
    _run_there(target, script, arguments or [], flags, requirements, detach=True, output=output)


def _flags(
    restore: str | None, allow_non_restored: bool, parallelism: int | None, config: list[str]
) -> dict[str, object]:
    flags = common.parse_settings(config)
    if restore is not None:
        flags["execution.state-recovery.path"] = _whole(restore)
    if allow_non_restored:
        flags["execution.state-recovery.ignore-unclaimed-state"] = True
    if parallelism is not None:
        flags["parallelism.default"] = parallelism
    return common.checked(flags)


def _whole(restore: str) -> str:
    """A savepoint can be anywhere, and is found from other working directories than this one, too."""
    from ...state.savepoints.savepoint_store import is_savepoint, located

    return located(restore) if is_savepoint(restore) else restore


def _address(flag: str | None, flags: dict[str, object]) -> str | None:
    """The cluster to go to; None: the script runs here."""
    config = common.configuration(flags)
    target = config.get(cluster_options.TARGET)
    if flag is not None:
        return flag
    if target in ("local", "embedded"):
        return None
    address = config.get(cluster_options.ADDRESS)
    if target == "remote" and not address:
        raise UsageError("execution.target is remote, and no cluster is named: --address, or PENSTOCK_ADDRESS")
    return address


def _check(*files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise UsageError(f"there is no file {file}")


# here --------------------------------------------------------------------------------------------------------------


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
        told = explain(error)
        if isinstance(error, ModuleNotFoundError):
            error = PenstockError(missing_module(script.name, error, MISSING))
            told = f"{told}\n{explain(error)}"
        if output is Output.JSON:
            typer.echo(json.dumps({"error": str(error), "type": type(error).__name__}))
        session.say(told)
        return FAILED
    finally:
        sys.argv = own_arguments
        unexecuted.forget()
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


# on a cluster ------------------------------------------------------------------------------------------------------


def _run_there(
    address: str | None,
    script: Path,
    arguments: list[str],
    flags: dict[str, object],
    requirements: Path | None,
    *,
    detach: bool,
    output: Output,
) -> None:
    _check(script, *([requirements] if requirements else []))
    with common.cluster(address) as client:
        client.overview()  # whether anybody answers there
        session.say(f"{script} runs on the cluster at {client.address}")
        accepted = _send(client, script, arguments, flags, requirements, interactive=not detach)
        for note in accepted.notes:
            session.say(f"note: {note}")
        if detach:
            document = {"job_id": accepted.job_id, "job_name": accepted.job_name, "notes": list(accepted.notes)}
            if output is Output.JSON:
                common.print_json(document)
            else:
                typer.echo(accepted.job_id)
            return
        what = "continuing" if accepted.continued else "submitted"
        session.say(f"{what} job {accepted.job_id} '{accepted.job_name}'")
        sys.path.insert(0, str(script.resolve().parent))  # records it collects may be of its modules' classes
        _attend(client, accepted, output)


def _send(
    client: RestClient,
    script: Path,
    arguments: list[str],
    flags: dict[str, object],
    requirements: Path | None,
    *,
    interactive: bool,
) -> Accepted:
    """The code, if it is not there yet, and the request to run it."""
    from ...jobmanager.gateway import RunRequest
    from ...runtime.versions import own_versions
    from ..packaging import member_name, top_of
    from ..targets import send_directory, user_name

    top = top_of(script, Path.cwd())
    added = [script, *([requirements] if requirements else [])]
    artefact = send_directory(client, top, import_from=script.resolve().parent, add=added)
    return client.run(
        RunRequest(
            artefact=artefact,
            entry=member_name(script, top),
            arguments=tuple(arguments),
            config=job_options(_own_options(flags, top)),
            requirements=None if requirements is None else member_name(requirements, top),
            versions=own_versions(),
            user=user_name(),
            interactive=interactive,
        )
    )


def _own_options(flags: dict[str, object], top: Path) -> Configuration:
    """What the script cannot find where it runs: flags and environment, and penstock.yaml if it does not go along."""
    if top == Path.cwd().resolve():
        return from_environment(os.environ).merged(Configuration(flags))
    return common.configuration(flags)


def _attend(client: RestClient, accepted: Accepted, output: Output) -> None:
    from ..remote_job import RemoteJob

    job = RemoteJob(client, accepted)
    signal.signal(signal.SIGTERM, _interrupt)
    session.continue_with = CONTINUE
    printer = _CollectedPrinter(job, output)
    try:
        job.run(printer.print_new, printer.print_rest)
    except KeyboardInterrupt:
        _print_result_of(accepted.job_id, output)
        raise
    _print_result_of(accepted.job_id, output)


def _print_result_of(job_id: str, output: Output) -> None:
    """Nothing is in the list if the job was left alone."""
    if output is Output.JSON:
        _print_results(result for result in session.results if result.job_id == job_id)


def _print_results(results: Iterable[JobResult]) -> None:
    typer.echo(json.dumps([result.to_dict() for result in results]))


class _CollectedPrinter:
    """Records that the script collects, a line each."""

    def __init__(self, job: RemoteJob, output: Output) -> None:
        self._job = job
        self._sources: dict[str, RemoteRows] = {}
        self._output = output

    def print_new(self) -> None:
        for source in self._known():
            self._print(source.more(0) or ())

    def print_rest(self) -> None:
        for source in self._known():
            while (rows := source.more()) is not None:
                self._print(rows)

    def _known(self) -> list[RemoteRows]:
        """A job that is still being loaded does not name its collectors yet."""
        for name in self._job.collectors():
            if name not in self._sources:
                self._sources[name] = self._job.rows(name)
        return list(self._sources.values())

    def _print(self, rows: Any) -> None:
        if rows:
            self._job.give_way()
        for row in rows:
            if self._output is Output.JSON:
                typer.echo(msgspec.json.encode(row, enc_hook=repr))
            else:
                typer.echo(repr(row))
