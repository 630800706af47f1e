"""Clusters from outside: started in the background, found, stopped. None of it needs Ray, nor its supervisor's code.

What starts a supervisor (cluster_supervisor.py) writes an Order to its input and reads from its output what it is
doing, until Started: lines of JSON, because options can hold credentials, which arguments and environments would show
to everybody.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

import msgspec

from ...runtime.configuration import cluster_options as options
from ...runtime.configuration.config import Configuration
from .cluster_rest import JOBS_STOP_TIMEOUT_S, live_jobs, waiting_for
from .cluster_state import ClusterFiles, ClusterState, forget_if_empty
from .node_processes import MARK
from .ray_address import ClusterError
from .ray_cluster import clear_remains

STARTER = "penstock.jobmanager.cluster.actors:start_dispatcher"
DEFAULT_STORAGE = ".penstock/cluster"
MAX_COMPLAINT_BYTES = 4_000
START_TIMEOUT_S = 400.0
"""Two starts of Ray on a busy machine, and the dispatcher's."""
STOP_TIMEOUT_S = JOBS_STOP_TIMEOUT_S + 30.0
TELL_S = 10.0
"""Between two words on what is waited for."""
SILENT_S = 1.0
"""A start that takes longer is told of."""
Tell = Callable[[str], None]


class Order(msgspec.Struct, frozen=True):
    """What a supervisor in the background is told."""

    config: dict[str, str]
    owner: int | None = None
    """Pid of the parent with which the cluster ends; None: it stays."""
    embedded: bool = False
    """It takes another port for REST if its own is in use, and leaves nothing behind."""
    starter: str = STARTER


class Started(msgspec.Struct, frozen=True):
    """What it says once REST answers, or once it is clear that it will not."""

    state: ClusterState | None = None
    notes: tuple[str, ...] = ()
    """What the user should know: a port that was taken."""
    error: str | None = None
    doing: str | None = None
    """It is not up yet: more will follow."""


def spawn_supervisor(order: Order, complaints: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """In a session of its own: what ends this one's terminal does not end it. `complaints`: where its standard error
    goes; None: where this process's goes."""
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", f"{__package__}.cluster_supervisor"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended at once; what it printed says why
    return process


def read_started(process: subprocess.Popen[bytes], tell: Tell = lambda text: None) -> Started:
    """Waits for it, and `tell`s what is being done if that takes longer than a second. Never without a state or an
    error; a supervisor that says nothing is killed."""
    assert process.stdout is not None
    begun, doing, said = time.monotonic(), "", b""
    with process.stdout as output, suppress(msgspec.DecodeError):
        while (waited := time.monotonic() - begun) < START_TIMEOUT_S:
            if waited > SILENT_S and doing:
                tell(doing)
                doing = ""
            if not select.select([output], [], [], SILENT_S)[0]:
                continue
            if not (data := os.read(output.fileno(), 65_536)):
                break
            *lines, said = (said + data).split(b"\n")
            for line in lines:
                started = msgspec.json.decode(line, type=Started)
                if started.doing is None:
                    return started
                doing = started.doing
    process.kill()
    code = process.wait()
    slow = "" if waited < START_TIMEOUT_S else f" within {START_TIMEOUT_S:.0f} s"
    return Started(error=f"the supervisor of the cluster has not come up{slow} (code {code}); see its log")


def start_in_background(config: Configuration, *, starter: str = STARTER, tell: Tell = lambda text: None) -> Started:
    """Blocks until REST answers; the cluster outlives this process. `tell`s what is being done, if that takes long.
    ClusterError: it does not start, and why."""
    with tempfile.TemporaryFile() as complaints:  # not ours: who reads our output in a pipe would wait for its end
        process = spawn_supervisor(Order(config.to_dict(), starter=starter), complaints)
        started = read_started(process, tell)
        if started.state is None:
            complaints.seek(0)
            text = complaints.read()[-MAX_COMPLAINT_BYTES:].decode(errors="replace").rstrip()
            raise ClusterError("\n".join(filter(None, (started.error or "the cluster did not start", text))))
    process.returncode = 0  # not ours any more: no warning that it still runs
    return started


def status(config: Configuration) -> ClusterState | None:
    """Of the cluster with that `cluster.id` on this machine; None if there is none."""
    files = ClusterFiles.of(config)
    state = files.read()
    forget_if_empty(files.directory)
    return state


def stop(config: Configuration, *, force: bool = False, tell: Tell = lambda text: None) -> ClusterState:
    """Its jobs stop with a last checkpoint, and can be resumed; `force`: at once, without. Blocks until nothing is
    left, and `tell`s now and then for which jobs it waits. ClusterError: there is no such cluster on this machine, or
    it does not end."""
    files = ClusterFiles.of(config)
    state = files.read()
    if state is None:
        forget_if_empty(files.directory)
        raise ClusterError(
            f"no cluster '{config.get(options.CLUSTER_ID)}' runs on this machine; `penstock cluster status` lists "
            f"those that do, -c {options.CLUSTER_ID.key}=NAME names one"
        )

    def look(waited_s: float) -> None:
        if not force and (jobs := live_jobs(state.rest_url or "")):
            tell(waiting_for(jobs, JOBS_STOP_TIMEOUT_S - waited_s))

    look(0)
    os.kill(state.pid, signal.SIGQUIT if force else signal.SIGTERM)
    if not _await_release(files, STOP_TIMEOUT_S, look):
        if not force:
            raise ClusterError(f"the cluster has not stopped within {STOP_TIMEOUT_S:.0f} s; stop it with --force")
        os.kill(state.pid, signal.SIGKILL)
        _await_release(files, STOP_TIMEOUT_S, look)
        clear_remains(files.directory, state.keeper_pid)
    return state


def _await_release(files: ClusterFiles, timeout_s: float, look: Callable[[float], None]) -> bool:
    """`look` is called now and then, with the time since the beginning."""
    begun = looked = time.monotonic()
    while files.is_claimed():
        now = time.monotonic()
        if now - begun > timeout_s:
            return False
        if now - looked > TELL_S:
            looked = now
            look(now - begun)
        time.sleep(0.05)
    return True
