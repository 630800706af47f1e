"""One cluster on several nodes: jobs are spread over them, lose them, wait for them, and use those that come."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from penstock.jobmanager.startup.cluster_rest import answers
from penstock.jobmanager.startup.node_processes import is_alive

if TYPE_CHECKING:
    from tests.cluster.conftest import Cluster, Nodes, WaitFor

HEAD_SLOTS = 2
Submit = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster_settings(own_address: str) -> dict[str, object]:
    return {
        "ray__host": own_address,
        "taskmanager__numberOfTaskSlots": HEAD_SLOTS,
        "taskmanager__warm_slots": 2,
        "slot__request__timeout": "5s",
    }


def await_slots(cluster: Cluster, total: int, wait_for: WaitFor) -> None:
    """They are offered, and the nodes' processes are ready."""

    def ready() -> bool:
        names = [one["id"] for one in cluster.get("/taskmanagers")["taskmanagers"]]
        views = [cluster.get(f"/taskmanagers/{name}") for name in names]
        return sum(view["slotsNumber"] for view in views) == total <= sum(len(view["slots"]) for view in views)

    wait_for(ready, f"{total} slots are ready")


def connections(pid: int) -> set[tuple[int, int]]:
    """Over TCP: ports at both ends."""
    found = psutil.Process(pid).net_connections("tcp")
    return {(c.laddr.port, c.raddr.port) for c in found if c.status == psutil.CONN_ESTABLISHED}


def talk(one: int, other: int) -> bool:
    """Over TCP, with each other."""
    return any((theirs, mine) in connections(other) for mine, theirs in connections(one))


def test_a_job_is_spread_over_the_nodes_and_waits_for_another_when_it_loses_one(
    cluster: Cluster, nodes: Nodes, submit: Submit, kill_node: Any, wait_for: WaitFor
) -> None:
    node = nodes.join(cluster.reach)
    await_slots(cluster, 4, wait_for)
    job = submit(cluster, parallelism=4).until_it_runs()
    views = job.rest.task_managers()
    assert [(view["slotsNumber"], view["freeSlots"], view["assignedTasks"]) for view in views] == [(2, 0, 4)] * 2
    for view in views:
        assert view["path"] == f"ray://{nodes.host}/{view['id']}"
        socket.create_connection((nodes.host, view["dataPort"]), timeout=10).close()
    assert len(cluster.actors("JobMaster")) == 1
    here, there = job.slots().values()
    assert all(talk(one, other) for one in here for other in there)
    assert not talk(*here)
    assert not talk(*there)

    lost = job.task_manager_on(node)
    kill_node(node)
    wait_for(lambda: lost not in [view["id"] for view in job.rest.task_managers()], "its task manager is gone")
    wait_for(lambda: "lower the parallelism, or add nodes" in job.reasons(), "it says what it waits for")
    assert "slot.request.timeout" in job.reasons()
    assert job.ended() is None

    nodes.join(cluster.reach)
    job.until_it_is_restored()
    assert sorted(len(pids) for pids in job.slots().values()) == [2, 2]
    job.finish()


def test_a_job_that_needs_fewer_slots_goes_on_without_the_lost_node(
    cluster: Cluster, nodes: Nodes, submit: Submit, kill_node: Any, wait_for: WaitFor
) -> None:
    node = nodes.join(cluster.reach)
    await_slots(cluster, 4, wait_for)
    job = submit(cluster, parallelism=2).until_it_runs()
    assert sorted(len(pids) for pids in job.slots().values()) == [1, 1]
    kill_node(node)
    job.until_it_is_restored()
    wait_for(lambda: [len(pids) for pids in job.slots().values()] == [2], "the lost node is left out")
    job.finish()


def test_the_job_manager_stays_with_the_head(cluster: Cluster, nodes: Nodes, wait_for: WaitFor) -> None:
    """Where REST is expected; Ray itself would put it anywhere."""
    nodes.join(cluster.reach)
    for _ in range(3):
        dispatcher = cluster.actor("Dispatcher")
        dispatcher.kill()
        wait_for(lambda gone=dispatcher: not is_alive(gone) and answers(cluster.address), "REST answers again")
        assert cluster.actor("Dispatcher").pid != dispatcher.pid


def other_version(package: str, directory: Path) -> tuple[str, ...]:
    """Before a command that finds version 99.0 of that package installed: a file is mounted over its metadata, where
    nobody else sees it."""
    found = next(file for file in files(package) or () if file.name == "METADATA").locate()
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 99.0\n")
    mount = f'mount --bind {directory / "METADATA"} {found} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mount, "sh")


def test_a_node_with_other_versions_is_not_used_and_says_why(
    cluster: Cluster, nodes: Nodes, submit: Submit, root: None, tmp_path: Path, wait_for: WaitFor
) -> None:
    """And so there are not enough slots for the job."""
    nodes.join(cluster.reach, prefix=other_version("cloudpickle", tmp_path))

    def unfit() -> dict[str, Any] | None:
        found = cluster.get("/taskmanagers")["taskmanagers"]
        return next((one for one in found if "99.0" in one["problem"]), None)

    node = wait_for(unfit, "the node says what is wrong with it")
    assert "cloudpickle is 99.0 at this node" in node["problem"]
    assert (node["slotsNumber"], node["freeSlots"]) == (0, 0)
    assert cluster.get("/overview")["slots-total"] == HEAD_SLOTS
    job = submit(cluster, parallelism=3, restart_strategy__type="none")
    assert wait_for(lambda: job.ended(), "the job gives up") == "FAILED"
    for part in ("slot.request.timeout", "asks for 3 slots, and 2 of 2 are free", "cloudpickle is 99.0 at this node"):
        assert part in job.reasons()
    assert "this node is not used: cloudpickle is 99.0" in job.rest.text(f"/taskmanagers/{node['id']}/log")
    views = {view["id"]: view for view in job.rest.task_managers()}
    assert views[node["id"]]["slots"] == []


def test_a_node_whose_task_manager_cannot_begin_says_why(cluster: Cluster, nodes: Nodes, wait_for: WaitFor) -> None:
    nodes.join(cluster.reach, io__tmp__dirs="/proc/none")

    def failed() -> dict[str, Any] | None:
        found = cluster.get("/taskmanagers")["taskmanagers"]
        return next((one for one in found if one["problem"]), None)

    node = wait_for(failed, "the node says why it has no slots")
    assert "/proc/none cannot be used" in node["problem"]
    assert "io.tmp.dirs" in node["problem"]
    assert (node["path"], node["slotsNumber"]) == (f"ray://{nodes.host}/{node['id']}", 0)
