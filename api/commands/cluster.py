"""`cluster start`, `stop`, `status`, `join`: a cluster on this machine, and more nodes for it."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ...runtime.configuration import cluster_options
from ...runtime.configuration.config import Configuration
from ...state.errors import PenstockError
from .. import session
from . import common
from .common import AddressFlag, ConfigFlag, Output, OutputFlag, UsageError, YesFlag, show_time, telling

if TYPE_CHECKING:
    from ...jobmanager.startup.cluster_state import ClusterState

app = typer.Typer(name="cluster", help="Start, stop and look at clusters on this machine.", no_args_is_help=True)


def _config(config: list[str] | None, port: int | None = None, slots: int | None = None) -> Configuration:
    flags = common.parse_settings(config or [])
    if port is not None:
        flags[cluster_options.REST_PORT.key] = port
    if slots is not None:
        flags[cluster_options.TASK_SLOTS.key] = slots
    return common.configuration(common.checked(flags))


@app.command()
@telling
def start(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background.")] = False,
    port: Annotated[int | None, typer.Option("--port", help="Of REST; 0 takes a free one.")] = None,
    slots: Annotated[int | None, typer.Option("--slots", help="Slots of this node; else one for each core.")] = None,
    config: ConfigFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Start a cluster on this machine, and keep it until Ctrl-C; jobs it had are resumed."""
    configuration = _config(config, port, slots)
    if detach:
        from ...jobmanager.startup.cluster_control import start_in_background

        started = start_in_background(configuration, tell=session.say)
        assert started.state is not None, "a cluster that was started has a state"
        for note in started.notes:
            session.say(f"note: {note}")
        _print_started(started.state, output)
        return
    _run_here(configuration, output)


def _run_here(configuration: Configuration, output: Output) -> None:
    from ...jobmanager.startup.cluster_supervisor import Supervisor, handle_signals

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    supervisor = Supervisor(configuration, tell=session.say)
    supervisor.claim()
    handle_signals(supervisor)
    supervisor.run(lambda state: _print_started(state, output))


def _print_started(state: ClusterState, output: Output) -> None:
    if output is Output.JSON:
        common.print_json(msgspec.to_builtins(state))
        return
    session.say(
        f"cluster '{state.cluster_id}' runs: REST at the address below (/docs describes it), Ray at {state.ray_address}"
    )
    typer.echo(state.rest_url or "")


@app.command()
@telling
def stop(
    yes: YesFlag = False,
    force: Annotated[bool, typer.Option("--force", help="At once, without last checkpoints.")] = False,
    address: AddressFlag = None,
    config: ConfigFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Stop a cluster: its jobs take a last checkpoint, and go on when it is started again."""
    address = _address(address, config)
    if address is not None:
        if force:
            raise UsageError("--force is for clusters of this machine, by id (-c cluster.id=…) and not by address")
        _stop_at(address, yes, output, _config(config))
        return
    from ...jobmanager.startup import cluster_control

    configuration = _config(config)
    state = cluster_control.status(configuration)
    if state is not None:
        common.confirm(f"Stop cluster '{state.cluster_id}' ({state.rest_url}) and its jobs?", yes)
    state = cluster_control.stop(configuration, force=force, tell=session.say)
    if output is Output.JSON:
        common.print_json({"cluster_id": state.cluster_id, "state": "stopped"})
    else:
        session.say(f"cluster '{state.cluster_id}' has stopped")


def _address(flag: str | None, config: list[str] | None) -> str | None:
    """Of the cluster that is meant; None: one of this machine, by its id."""
    configured: str | None = _config(config).get(cluster_options.ADDRESS)
    return flag or configured


def _stop_at(address: str, yes: bool, output: Output, config: Configuration) -> None:
    from ...jobmanager.startup.cluster_rest import JOBS_STOP_TIMEOUT_S, live_jobs, wait_until_gone, waiting_for

    with common.cluster(address) as client:
        counts = client.overview()
        common.confirm(f"Stop the cluster at {client.address} with {counts['jobs-running']} running jobs?", yes)
        jobs = live_jobs(client.address)
        client.shut_down()
    session.say(f"the cluster at {client.address} stops")
    if jobs:
        session.say(f"it is {waiting_for(jobs, JOBS_STOP_TIMEOUT_S)}")
    wait_until_gone(client.address, config)
    if output is Output.JSON:
        common.print_json({"address": client.address, "state": "stopped"})
    else:
        session.say(f"the cluster at {client.address} has stopped")


@app.command()
@telling
def status(address: AddressFlag = None, config: ConfigFlag = None, output: OutputFlag = Output.TEXT) -> None:
    """Show the clusters that run on this machine, or the one at the address."""
    address = _address(address, config)
    if address is not None:
        with common.cluster(address) as client:
            counts = client.overview()
        if output is Output.JSON:
            common.print_json(counts)
        else:
            for name, value in counts.items():
                typer.echo(f"{name}: {value}")
        return
    from ...jobmanager.startup.cluster_state import running_clusters

    states = running_clusters(_config(config))
    if output is Output.JSON:
        common.print_json([msgspec.to_builtins(state) for state in states])
        return
    if not states:
        raise PenstockError("no cluster runs on this machine; `penstock cluster start` starts one")
    cells = [
        [s.cluster_id, s.phase, s.rest_url or "-", s.ray_address or "-", show_time(s.started_ms), str(s.restarts)]
        for s in states
    ]
    common.print_table(("CLUSTER", "STATE", "REST", "RAY", "STARTED (UTC)", "RESTARTS"), cells)


@app.command()
@telling
def join(
    address: Annotated[str, typer.Argument(help="host:port of the cluster's Ray, as `cluster status` shows it there.")],
    host: Annotated[str | None, typer.Option("--host", help="Address of this machine that others reach.")] = None,
    slots: Annotated[int | None, typer.Option("--slots", help="Slots of this node; else one for each core.")] = None,
    config: ConfigFlag = None,
) -> None:
    """Make this machine a node of a cluster, until Ctrl-C. Its token is read as for ray.address."""
    from ...jobmanager.startup.node_supervisor import NodeSupervisor
    from ...jobmanager.startup.ray_address import RayAddress, find_token

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    configuration = _config(config, slots=slots)
    reach = RayAddress(address, find_token(configuration.get(cluster_options.RAY_TOKEN)))
    supervisor = NodeSupervisor(configuration, reach, host=host)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    session.say(f"this machine becomes a node of the cluster at {address}; Ctrl-C takes it out")
    supervisor.run()
