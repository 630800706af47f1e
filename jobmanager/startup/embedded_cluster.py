"""A cluster that belongs to a script: `python job.py` starts it, and it ends with the script, whatever ends that.

    script -> supervisor (cluster_supervisor.py) -> keeper (ray_cluster.py) -> Ray

Each watches the one before it. The cluster's name and store are those of the configuration, so that a job which was
interrupted is resumed by the next run. If a cluster of that name runs already, a name that was not chosen gets a number
behind it, and so does a store that was not chosen: two scripts in one directory do not take each other's jobs.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
from pathlib import Path

from ...runtime.configuration import cluster_options as options
from ...runtime.configuration.config import Configuration
from .cluster_control import DEFAULT_STORAGE, STARTER, STOP_TIMEOUT_S, Order, Tell, read_started, spawn_supervisor
from .cluster_state import ClusterFiles, ClusterState
from .ray_address import ClusterError

MAX_NAMES = 50


class EmbeddedCluster:
    """`start` it; `stop` it, or let the process end."""

    def __init__(
        self, process: subprocess.Popen[bytes], state: ClusterState, notes: list[str], directory: Path
    ) -> None:
        self._process = process
        self.directory = directory
        """Of its processes' files."""
        self.state = state
        self.notes = notes
        """What the user should know: a port or a name that was taken."""

    @property
    def address(self) -> str:
        """URL of REST."""
        return self.state.rest_url or ""

    @classmethod
    def start(cls, config: Configuration, *, starter: str = STARTER, tell: Tell = lambda text: None) -> EmbeddedCluster:
        """Blocks until REST answers, 5 to 8 s, and `tell`s what is being done. ClusterError, ConfigurationError: it
        cannot start, and why."""
        config, notes = unclaimed(config)
        process = spawn_supervisor(Order(config.to_dict(), os.getpid(), True, starter))
        started = read_started(process, tell)
        if started.state is None:
            raise ClusterError(started.error or "the supervisor of the cluster ended without a word")
        directory = ClusterFiles.of(config).directory
        cluster = cls(process, started.state, [*notes, *started.notes], directory)
        atexit.register(cluster.stop)
        return cluster

    @property
    def supervisor_pid(self) -> int:
        return self._process.pid

    def stop(self, *, at_once: bool = False) -> None:
        """Jobs stop with a last checkpoint, and can be resumed; then nothing of it is left. `at_once`: without that
        checkpoint. May be called again."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()  # Ray's keeper sees it and clears up
                self._process.wait()


def unclaimed(config: Configuration) -> tuple[Configuration, list[str]]:
    """The same, under a name that no running cluster has."""
    files = ClusterFiles.of(config)
    if not files.is_claimed() or options.CLUSTER_ID in config:
        return config, []  # a chosen name that is taken: the supervisor says so
    name = config.get(options.CLUSTER_ID)
    for number in range(2, MAX_NAMES):
        other = Configuration().merged(config).set(options.CLUSTER_ID, f"{name}-{number}")
        if not ClusterFiles.of(other).is_claimed():
            if options.CLUSTER_STORAGE not in config:
                other.set(options.CLUSTER_STORAGE, f"{DEFAULT_STORAGE}-{number}")
            return other, [
                f"a cluster '{name}' runs here already: this one is '{name}-{number}'; --address or PENSTOCK_ADDRESS "
                "takes jobs to the other"
            ]
    raise ClusterError(f"{MAX_NAMES} clusters named '{name}-…' run here; stop some, or set {options.CLUSTER_ID.key}")
