"""The process that keeps a cluster alive, outside of Ray: it starts Ray's head and then the dispatcher, watches both,
and ends them.

    claim the cluster's name on this machine (cluster_state.py)
    start the head (ray_cluster.py), then the dispatcher (dispatcher_starter.py), wait until REST answers
    watch:  the head died              -> a new head at the same port, a new dispatcher, within a budget
            REST is silent             -> its process is killed (Ray starts it again), then as above
            SIGTERM, SIGINT            -> DELETE /cluster: jobs stop with a last checkpoint; then everything ends
            a file `stop`              -> the dispatcher was told so by somebody else, and its jobs have stopped
            SIGQUIT, death of its owner-> everything ends at once
    end: Ray's processes, and the cluster's directory

Nothing it does can lose a job: what is to run is in the cluster's store, and the next dispatcher takes it up. The death
of the supervisor ends the cluster: Ray's keeper sees it. It is no driver of Ray, which would end with its Ray.

On a Ray that somebody else runs (`ray.address`) there is no head to start and to watch, and only the actors are ended.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from ...runtime.configuration import cluster_options as options
from ...runtime.configuration.config import Configuration
from ...runtime.logs import setup_logging
from ...state.errors import PenstockError
from .cluster_control import DEFAULT_STORAGE, STARTER, Order, Started, Tell
from .cluster_rest import (
    JOBS_STOP_TIMEOUT_S,
    RestProbe,
    answers,
    delete_cluster,
    listens,
    live_jobs,
    port_of,
    settle_rest_port,
    waiting_for,
)
from .cluster_state import LOCK, ClusterFiles, ClusterState, Phase
from .dispatcher_starter import Request, StarterProcess
from .node_processes import members, on_death_of
from .ray_address import LOOPBACK, ClusterError, RayAddress, existing
from .ray_cluster import TOKEN_FILE, RayNode, clear_remains, start_head
from .restart_budget import Remedy, RestartBudget

logger = logging.getLogger(__name__)

TICK_S = 0.2
REST_TIMEOUT_S = 60.0


class Supervisor:
    """Of the main thread: `run` it, and `ask` from signal handlers, which Python runs there too."""

    def __init__(
        self,
        config: Configuration,
        *,
        embedded: bool = False,
        starter: str = STARTER,
        tell: Tell = lambda text: None,
    ) -> None:
        """`tell`: what is being done while it starts. ConfigurationError, ClusterError: the configuration makes no
        cluster."""
        self.config = config
        self.files = ClusterFiles.of(config)
        self._embedded = embedded
        self._starter = starter
        self._tell = tell
        self._foreign = existing(config)
        self._node: RayNode | None = None
        self._state = ClusterState(
            cluster_id=config.get(options.CLUSTER_ID) or "",
            pid=os.getpid(),
            phase="starting",
            started_ms=time.time_ns() // 1_000_000,
        )
        self._starting = False
        self._budget = RestartBudget()
        self._stop, self._at_once, self._wake = threading.Event(), threading.Event(), threading.Event()
        self.notes: list[str] = []
        """What the user should know: a port that was taken."""

    # ---- from outside

    def ask(self, *, at_once: bool) -> None:
        """To stop; twice is at once. On the main thread: while it starts, ClusterError is raised there."""
        (self._at_once if at_once or self._stop.is_set() else self._stop).set()
        self._wake.set()
        if self._starting:
            self._starting = False
            raise ClusterError("asked to stop before it was up")

    def claim(self) -> None:
        """ClusterError: a cluster of this name runs here already."""
        if self.files.claim():
            return
        state = self.files.read()
        where = "" if state is None else f" (process {state.pid}, REST {state.rest_url or 'not up yet'})"
        raise ClusterError(
            f"a cluster '{self._state.cluster_id}' runs on this machine already{where}; stop it with `penstock cluster "
            f"stop`, or give this one another name with -c {options.CLUSTER_ID.key}=NAME"
        )

    def run(self, started: Callable[[ClusterState], None]) -> None:
        """After `claim`: until it is asked to stop. `started` is called once REST answers. ClusterError: it does not
        start, or has died too often; then the logs are left where they are."""
        clean = False
        try:
            self._settle()
            self._bring_up(0)
            started(self._state)
            self._watch()
            clean = True
        finally:
            self._close(clean or self._embedded)

    # ---- starting

    def _settle(self) -> None:
        """What the last one left is cleared; ports and directories are fixed, so that they stay over restarts."""
        killed = self.files.last()
        clear_remains(self.files.directory, killed.keeper_pid if killed is not None else None)
        for name in (TOKEN_FILE, "secret"):
            (self.files.directory / name).unlink(missing_ok=True)
        self.files.forget_stop()
        storage = self.config.get(options.CLUSTER_STORAGE) or DEFAULT_STORAGE
        if "://" not in storage:
            storage = str(Path(storage).absolute())
        self.config.set(options.CLUSTER_STORAGE, storage)
        if self._foreign is None:
            note = settle_rest_port(self.config, any_port=self._embedded)
            self.notes += [note] if note else []

    def _bring_up(self, port: int) -> None:
        self._write("restarting" if self._state.restarts else "starting")
        self._starting = True
        try:
            self._start_processes(port)
        finally:
            self._starting = False
        self._write("running")
        for note in self.notes:
            logger.info("%s", note)
        state = self._state
        logger.info("cluster '%s' is ready: REST at %s, Ray at %s", state.cluster_id, state.rest_url, state.ray_address)

    def _start_processes(self, port: int) -> None:
        with StarterProcess(self._expected_reach(), self._starter) as starter:
            reach = self._foreign
            if reach is None:
                self._tell("starting Ray")
                self._node = start_head(self.config, directory=self.files.directory, port=port or None)
                reach = self._node.reach
            self._tell(f"Ray runs at {reach.address}; starting the dispatcher on it")
            url = starter.ask(self._request("start", reach)).url
        if url is None:
            raise ClusterError("the dispatcher started without telling the address of its REST")
        self._state = msgspec.structs.replace(
            self._state,
            rest_url=url,
            ray_address=reach.address,
            keeper_pid=self._node.pid if self._node else None,
        )
        self._await_rest(url)

    def _expected_reach(self) -> RayAddress:
        """Enough for the environment of a process that will connect."""
        host = self.config.get(options.RAY_HOST) or LOOPBACK
        return self._foreign or RayAddress(f"{host}:0", self.files.secret(TOKEN_FILE))

    def _request(self, task: str, reach: RayAddress) -> Request:
        storage = self.config.get(options.CLUSTER_STORAGE) or ""
        return Request(
            task="end" if task == "end" else "start",
            config=self.config.to_dict(),
            storage=storage,
            secret=self.files.secret(),
            address=reach.address,
            token=reach.token,
        )

    def _await_rest(self, url: str) -> None:
        self._tell(f"waiting for REST to answer at {url}")
        deadline = time.monotonic() + REST_TIMEOUT_S
        while not answers(url):
            if time.monotonic() > deadline:
                raise ClusterError(f"REST does not answer at {url} within {REST_TIMEOUT_S:.0f} s")
            if self._node is not None and (failure := self._node.died()) is not None:
                raise ClusterError(f"Ray ended while REST was coming up:\n{failure}")
            self._wake.wait(0.05)

    # ---- watching

    def _watch(self) -> None:
        probe = RestProbe(self.config)
        try:
            while not self._at_once.is_set():
                self._wake.wait(TICK_S)
                if self._stop.is_set():
                    self._stop_jobs()
                    return
                if self.files.stop_requested:
                    logger.info("the jobs have stopped, as somebody asked for: the cluster ends")
                    return
                if (failure := self._failure(probe)) is not None:
                    self._restart(failure)
                    probe.forget()
        finally:
            probe.close()

    def _failure(self, probe: RestProbe) -> str | None:
        """Why the head, or on another's Ray the dispatcher, is to be started again."""
        if self._node is not None and (logs := self._node.died()) is not None:
            return f"Ray's head died; the last lines of its logs:\n{logs}"
        url = self._state.rest_url or ""
        remedy, silent_ms = probe.check(url)
        if remedy is Remedy.NONE:
            return None
        what = f"REST has not answered at {url} for {silent_ms / 1_000:.0f} s"
        if remedy is Remedy.RESTART:
            return what
        logger.warning("%s: the dispatcher's process is killed, Ray starts it again", what)
        self._kill_dispatcher(port_of(url))
        return None

    def _kill_dispatcher(self, port: int) -> None:
        """Ray's call for it waits for a process that hangs; the process is found by its port."""
        if self._node is None:
            return
        for process in members(str(self.files.directory), self._node.pid):
            try:
                if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp")):
                    process.kill()
            except psutil.Error:
                continue

    def _restart(self, failure: str) -> None:
        """Until it is up again, or the budget is used up: then ClusterError."""
        self.config.set(options.RESUME_JOBS, True)  # those that have not ended by now are this cluster's own
        port = port_of(self._state.ray_address or "")
        while not (self._stop.is_set() or self._at_once.is_set()):
            logger.error("%s", failure)
            if self._node is not None:
                self._node.stop()
                self._node = None
            delay_ms = self._budget.failed(time.monotonic_ns() // 1_000_000)
            if delay_ms is None:
                raise ClusterError(f"given up after more than {self._budget}; the last one: {failure}")
            self._state = msgspec.structs.replace(
                self._state, restarts=self._state.restarts + 1, last_failure=failure.splitlines()[0]
            )
            self._write("restarting")
            self._wake.wait(delay_ms / 1_000)
            try:
                self._bring_up(port)
                return
            except ClusterError as error:
                failure = str(error)
                if self._foreign is None and self.config.get(options.RAY_HOST) is None:
                    port = 0  # nobody else knows the old one, and perhaps somebody else has it now

    # ---- ending

    def _stop_jobs(self) -> None:
        self._write("stopping")
        url = self._state.rest_url or ""
        jobs = live_jobs(url)
        logger.info("%s", waiting_for(jobs, JOBS_STOP_TIMEOUT_S) if jobs else "no job runs that would have to stop")
        if not delete_cluster(url):
            logger.warning("REST does not take the request to stop; jobs can be resumed from what they have")
            return
        deadline = time.monotonic() + JOBS_STOP_TIMEOUT_S
        while not (self._at_once.is_set() or self.files.stop_requested or not listens(url)):
            if time.monotonic() > deadline:
                logger.warning("jobs have not stopped in %.0f s; they can be resumed", JOBS_STOP_TIMEOUT_S)
                return
            self._at_once.wait(TICK_S / 4)

    def _close(self, clean: bool) -> None:
        if self._node is not None:
            self._node.stop()
        elif self._foreign is not None and self._state.rest_url is not None:
            self._end_actors(self._foreign)
        if clean:
            remove_files(self.files.directory)
        self.files.release()

    def _end_actors(self, reach: RayAddress) -> None:
        try:
            with StarterProcess(reach, self._starter) as starter:
                starter.ask(self._request("end", reach))
        except ClusterError as failure:
            logger.warning("the cluster's actors could not be ended: %s", failure)

    def _write(self, phase: Phase) -> None:
        self._state = msgspec.structs.replace(self._state, phase=phase)
        self.files.write(self._state)


def remove_files(directory: Path) -> None:
    """Of a cluster that has ended; not those of nodes on this machine that joined it, which have their own lock."""
    for path in directory.iterdir():
        if path.name.startswith("node-") or path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not any(path.name != LOCK for path in directory.iterdir()):
        shutil.rmtree(directory, ignore_errors=True)


# its own process ------------------------------------------------------------------------------------------------


def main() -> int:
    """In the background: reads its Order, prints Started, then logs to its file."""
    output = os.fdopen(os.dup(1), "wb")
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    config = Configuration.from_dict(order.config)

    def tell(started: Started) -> None:
        """Who waits may be gone."""
        with suppress(BrokenPipeError):
            if not output.closed:
                output.write(msgspec.json.encode(started) + b"\n")
                output.flush()
                if started.doing is None:
                    output.close()

    try:
        supervisor = Supervisor(
            config, embedded=order.embedded, starter=order.starter, tell=lambda text: tell(Started(doing=text))
        )
        supervisor.claim()
        setup_logging(supervisor.files.directory / "logs", "supervisor", config.get(options.LOG_LEVEL))
        handle_signals(supervisor)
        if order.owner is not None:
            on_death_of(order.owner, lambda: os.kill(os.getpid(), signal.SIGQUIT))
        supervisor.run(lambda state: tell(Started(state, tuple(supervisor.notes))))
    except PenstockError as failure:
        if logger.hasHandlers():  # else it goes to standard error, where who waits says the same
            logger.error("%s", failure)
        tell(Started(error=str(failure)))
        return 1
    return 0


def handle_signals(supervisor: Supervisor) -> None:
    """SIGTERM and SIGINT stop it, the second time at once, as SIGQUIT does. SIGHUP (terminal closed) is ignored."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.ask(at_once=False))
    signal.signal(signal.SIGQUIT, lambda *_: supervisor.ask(at_once=True))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
