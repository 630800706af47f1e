"""`penstock cluster join`: a node waits for its head, for so long and no longer, and comes back to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.jobmanager.startup.node_supervisor import NodeSupervisor
from penstock.jobmanager.startup.ray_address import ClusterError, RayAddress
from penstock.runtime.configuration.config import Configuration

if TYPE_CHECKING:
    from tests.cluster.conftest import NewCluster, WaitFor

NOBODY = "127.0.0.1:1"
JoinProcess = Callable[..., "subprocess.Popen[bytes]"]


def test_without_a_head_a_node_gives_up_after_the_time(tmp_path: Path) -> None:
    config = Configuration({"io.tmp.dirs": str(tmp_path), "taskmanager.registration.timeout": "500 ms"})
    supervisor = NodeSupervisor(config, RayAddress(NOBODY, None))
    with pytest.raises(ClusterError, match=rf"at {NOBODY} for 0\.5 s \(taskmanager\.registration\.timeout\)"):
        supervisor.run()
    assert [str(path) for path in tmp_path.rglob("node-*")] == []


@pytest.fixture
def join_process(short_directory: Path) -> Iterator[JoinProcess]:
    """Call it with the cluster's `reach`: a node of one slot that notices the loss of its head soon."""
    started: list[subprocess.Popen[bytes]] = []

    def join(reach: RayAddress) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "penstock.api.command_line", "cluster", "join", reach.address, "--slots", "1"]
        quick = {"RAY_AUTH_TOKEN": reach.token or "", "RAY_gcs_rpc_server_reconnect_timeout_s": "1"}
        options = ["-c", f"io.tmp.dirs={short_directory}", "-c", "cluster.id=joins"]
        started.append(subprocess.Popen([*command, *options], env={**os.environ, **quick}))
        return started[-1]

    yield join
    for process in started:
        process.terminate()
        assert process.wait(60) == 0
    assert [str(path) for path in short_directory.rglob("node-*")] == []


def test_a_node_comes_back_to_a_head_that_was_restarted(
    new_cluster: NewCluster, join_process: JoinProcess, own_address: str, wait_for: WaitFor
) -> None:
    cluster = new_cluster(taskmanager__numberOfTaskSlots=1, ray__host=own_address)
    node = join_process(cluster.reach)

    def slots() -> int:
        try:
            return int(cluster.get("/overview")["slots-total"])
        except OSError:  # it is being restarted
            return 0

    wait_for(lambda: slots() == 2, "the node has joined")
    before = {each["id"] for each in cluster.get("/taskmanagers")["taskmanagers"]}
    cluster.ray_process("gcs_server").kill()
    wait_for(lambda: cluster.state().restarts == 1 and cluster.state().phase == "running", "the head is back")
    wait_for(lambda: slots() == 2, "the node is back")
    assert before.isdisjoint(each["id"] for each in cluster.get("/taskmanagers")["taskmanagers"])
    assert node.poll() is None
