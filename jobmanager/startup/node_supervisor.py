"""The process that keeps one more node in a cluster: `penstock cluster join ADDRESS`.

It starts a Ray node that offers slots, and starts it again when it dies, as it does when the head was restarted: within
a budget, since a node that dies again and again must be said. A head that does not answer is asked again, at growing
intervals, for `taskmanager.registration.timeout`: at the beginning, and whenever the node has died. The dispatcher sees
new nodes by itself. SIGTERM, SIGINT: the node ends; what ran on it goes on elsewhere.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time

from ...runtime.configuration import cluster_options as options
from ...runtime.configuration.config import Configuration
from ...runtime.directories import private_directory
from .cluster_state import ClusterFiles
from .ray_address import ClusterError, RayAddress, reachable
from .ray_cluster import RayNode, clear_remains, join, slots_of
from .restart_budget import RestartBudget

logger = logging.getLogger(__name__)

TICK_S = 0.2
LONGEST_PAUSE_S = 5.0
"""Between two questions whether the head is there; the first pause is a tick."""


class NodeSupervisor:
    """`run` it on the main thread of its own process; `stop` from signal handlers."""

    def __init__(self, config: Configuration, reach: RayAddress, *, host: str | None = None) -> None:
        self._config, self._reach, self._host = config, reach, host
        self._files = ClusterFiles(private_directory(ClusterFiles.of(config).directory / f"node-{os.getpid()}"))
        self._stopped = threading.Event()
        self._budget = RestartBudget()
        self._has_joined = False

    def stop(self) -> None:
        """The node ends, and `run` returns."""
        self._stopped.set()

    def run(self) -> None:
        """Until it is stopped. ClusterError: it cannot join, or the node has died too often."""
        if not self._files.claim():
            raise ClusterError(f"{self._files.directory} is in use by another process; remove it if that is not so")
        node: RayNode | None = None
        try:
            while not self._stopped.is_set():
                node = self._join()
                if node is None:
                    return
                self._watch(node)
                node.stop()
        finally:
            if node is not None:
                node.stop()
            self._files.release()
            shutil.rmtree(self._files.directory, ignore_errors=True)

    def _join(self) -> RayNode | None:
        """None: it was stopped meanwhile."""
        timeout_s = self._config.get(options.REGISTRATION_TIMEOUT) / 1_000
        deadline, pause_s = time.monotonic() + timeout_s, TICK_S
        while (node := self._try_to_join()) is None:
            if time.monotonic() + pause_s > deadline:
                raise ClusterError(
                    f"no Ray has answered at {self._reach.address} for {timeout_s:g} s "
                    f"({options.REGISTRATION_TIMEOUT.key}); `penstock cluster status` there tells its address, which "
                    f"stays the same over restarts if {options.RAY_PORT.key} is set"
                )
            if pause_s == TICK_S:
                logger.info("no Ray answers at %s; it is asked for up to %g s", self._reach.address, timeout_s)
            if self._stopped.wait(pause_s):
                return None
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._has_joined = True
        logger.info("this node offers %d slots to the cluster at %s", slots_of(self._config), self._reach.address)
        return node

    def _try_to_join(self) -> RayNode | None:
        """None: the head is not there, or was lost meanwhile. ClusterError: it is there, and it cannot be joined."""
        if not reachable(self._reach):
            return None
        clear_remains(self._files.directory)
        try:
            return join(self._config, self._reach, directory=self._files.directory, host=self._host)
        except ClusterError as failure:
            if not self._has_joined and reachable(self._reach):
                raise
            logger.warning("the cluster at %s could not be joined: %s", self._reach.address, failure)
            return None

    def _watch(self, node: RayNode) -> None:
        """Until the node has died and may be started again, or it is stopped."""
        while (logs := node.died()) is None:
            if self._stopped.wait(TICK_S):
                return
        logger.error("this node died; the last lines of its logs:\n%s", logs)
        delay_ms = self._budget.failed(time.monotonic_ns() // 1_000_000)
        if delay_ms is None:
            raise ClusterError(f"given up after more than {self._budget}; the last lines of Ray's logs:\n{logs}")
        self._stopped.wait(delay_ms / 1_000)
