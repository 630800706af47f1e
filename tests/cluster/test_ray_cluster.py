"""Ray as penstock starts it: what it offers, who is let in, and that nothing outlives its owner."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import ray

from penstock.jobmanager.startup import node_processes, ray_address, ray_cluster
from penstock.jobmanager.startup.node_processes import is_alive
from penstock.jobmanager.startup.ray_address import ClusterError, RayAddress
from penstock.jobmanager.startup.ray_cluster import RayNode, connect, disconnect, join, start_head
from penstock.runtime.configuration.config import Configuration

if TYPE_CHECKING:
    from conftest import JoinBehindLink, Namespace, Nodes, WaitFor

Connected = Callable[[RayAddress], None]


@ray.remote(num_cpus=0)
class Actor:
    def pid(self) -> int:
        return os.getpid()


def living(node: RayNode) -> list[psutil.Process]:
    return node_processes.members(str(node.directory), node.pid)


@pytest.fixture
def head(short_directory: Path) -> Iterator[RayNode]:
    node = start_head(Configuration({"taskmanager.numberOfTaskSlots": 3}), directory=short_directory / "head")
    yield node
    known = living(node)
    node.stop()
    assert [process for process in known if is_alive(process)] == []
    assert sorted(path.name for path in node.directory.rglob("*")) == ["token"]


def test_a_head_offers_slots_and_listens_on_the_loopback_only(head: RayNode, connected: Connected) -> None:
    connected(head.reach)
    actor: Any = Actor.options(name="someone", lifetime="detached").remote()
    assert ray.get(actor.pid.remote(), timeout=30) in [process.pid for process in living(head)]
    assert ray.cluster_resources()["penstock_slot"] == 3
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in living(head)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert stat.S_IMODE((head.directory / "token").stat().st_mode) == 0o600
    assert not any(str(head.token) in " ".join(process.cmdline()) for process in living(head))


def test_a_stopped_process_of_a_node_ends_with_it(head: RayNode, connected: Connected) -> None:
    connected(head.reach)
    actor: Any = Actor.options(name="stopped", lifetime="detached").remote()
    process = psutil.Process(ray.get(actor.pid.remote(), timeout=30))
    process.suspend()
    disconnect()
    head.stop()
    assert not is_alive(process)


def test_who_has_not_the_token_is_refused_and_told_why(head: RayNode) -> None:
    with pytest.raises(ClusterError, match=r"does not let us in.*(token|authentic)"):
        connect(RayAddress(head.address, "wrong" * 8), "penstock-tests")
    assert not ray.is_initialized()


def test_where_no_ray_is_it_is_said_at_once() -> None:
    with pytest.raises(ClusterError, match=r"no Ray answers at 127\.0\.0\.1:1"):
        connect(RayAddress("127.0.0.1:1", None), "penstock-tests")


def test_when_the_keeper_is_killed_the_node_dies_and_stop_clears_it(head: RayNode, wait_for: WaitFor) -> None:
    core = [process for process in living(head) if process.name() in ("gcs_server", "raylet")]
    assert len(core) == 2
    psutil.Process(head.pid).kill()
    wait_for(lambda: not any(is_alive(process) for process in core), "GCS and raylet die with the keeper")
    assert "gcs_server" in (wait_for(head.died, "the owner sees it") or "")
    head.stop()
    assert living(head) == []


def test_when_the_gcs_is_killed_all_of_the_node_dies(head: RayNode, wait_for: WaitFor) -> None:
    next(process for process in living(head) if process.name() == "gcs_server").kill()
    wait_for(head.died, "the keeper ends the rest")
    head.stop()
    assert living(head) == []


OWNER = """
    import os, signal, sys, threading
    from pathlib import Path
    from penstock.jobmanager.startup.ray_cluster import start_head
    from penstock.runtime.configuration.config import Configuration

    nodes = []
    start = lambda: nodes.append(start_head(Configuration(), directory=Path(sys.argv[1])))
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert nodes[0].died() is None, "the thread that started it is gone, and so is Ray"
    print(nodes[0].pid, flush=True)
    signal.pause()
"""


def test_when_the_owner_is_killed_nothing_is_left(short_directory: Path, wait_for: WaitFor) -> None:
    directory = short_directory / "owned"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), str(directory)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        session = int(owner.stdout.readline())
        known = node_processes.members(str(directory), session)
        assert len(known) >= 5
        owner.kill()
    wait_for(lambda: not any(is_alive(process) for process in known), "every process of the node ends")
    assert sorted(path.name for path in directory.rglob("*")) == ["token"]


def test_a_directory_too_deep_for_sockets_is_no_obstacle(short_directory: Path) -> None:
    deep = short_directory / ("deep" * 20)
    node = start_head(Configuration(), directory=deep)
    said = " ".join(word for process in living(node) for word in process.cmdline())
    short = {found.name for found in node_processes.user_directory().glob("r-*") if str(found) in said}
    node.stop()
    assert node_processes.members(str(deep)) == []
    assert len(short) == 1, "others, if any, belong to nodes of other tests"
    assert not (node_processes.user_directory() / short.pop()).exists()


def test_a_start_that_fails_shows_what_ray_says(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "OBJECT_STORE_BYTES", 10)
    with pytest.raises(ClusterError, match=r"Ray does not start(.|\n)*10 bytes, but the minimum allowed"):
        start_head(Configuration(), directory=short_directory / "failing")
    assert node_processes.members(str(short_directory / "failing")) == []


def test_starts_wait_for_each_other_but_not_for_ever() -> None:
    with node_processes.one_at_a_time(5) as first, node_processes.one_at_a_time(0.2) as second:
        assert first
        assert not second
    with node_processes.one_at_a_time(0) as third:
        assert third


# several nodes -------------------------------------------------------------------------------------------------


def test_nodes_join_a_head_that_can_be_reached(nodes: Nodes, connected: Connected, wait_for: WaitFor) -> None:
    head = nodes.head(slots=2)
    other = nodes.join(head.reach, slots=3)
    connected(head.reach)
    assert ray.cluster_resources()["penstock_slot"] == 5
    psutil.Process(other.pid).kill()
    wait_for(other.died, "the owner of the node sees it")
    assert head.died() is None


def test_a_head_on_the_loopback_cannot_be_joined(short_directory: Path) -> None:
    with pytest.raises(ClusterError, match=r"ray\.host"):
        join(Configuration(), RayAddress("127.0.0.1:1234", "token"), directory=short_directory / "lonely")


def test_a_link_to_a_node_is_cut_and_heals(
    nodes: Nodes, namespace: Namespace, namespaced_node: JoinBehindLink, connected: Connected
) -> None:
    head = nodes.head(slots=1)
    namespaced_node(head.reach, slots=1)
    connected(head.reach)
    behind = next(node["NodeID"] for node in ray.nodes() if node["NodeManagerAddress"] == namespace.address)
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(behind, soft=False)
    actor: Any = Actor.options(scheduling_strategy=affinity).remote()
    pid = ray.get(actor.pid.remote(), timeout=30)
    namespace.cut()
    waiting = actor.pid.remote()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(waiting, timeout=2)
    namespace.heal()
    assert ray.get(waiting, timeout=60) == pid
    assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


# addresses and tokens ------------------------------------------------------------------------------------------


def test_the_token_is_found_where_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    here = Configuration({"ray.address": "ray.example:6379"})
    assert ray_address.existing(here) == RayAddress("ray.example:6379", None)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("default\n")
    assert ray_address.existing(here) == RayAddress("ray.example:6379", "default")
    (tmp_path / "other").write_text("other")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert ray_address.find_token(None) == "other"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "environment")
    assert ray_address.find_token(None) == "environment"
    (tmp_path / "named").write_text("named")
    assert ray_address.find_token(str(tmp_path / "named")) == "named"
    with pytest.raises(ClusterError, match="missing: No such file"):
        ray_address.find_token(str(tmp_path / "missing"))


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(ClusterError, match="host:port"):
        ray_address.existing(Configuration({"ray.address": "ray.example"}))


def test_a_token_is_not_shown() -> None:
    assert "hidden" not in repr(RayAddress("127.0.0.1:1", "hidden"))


def test_signals_reach_the_owner_of_a_node_that_died_with_its_parent(tmp_path: Path, wait_for: WaitFor) -> None:
    """`on_death_of` acts even if the parent is gone before it looks."""
    marker = tmp_path / "noticed"
    child = f"""
        import os, pathlib, signal, threading
        from penstock.jobmanager.startup.node_processes import on_death_of
        owner = os.getppid()
        os.kill(owner, signal.SIGKILL)
        on_death_of(owner, lambda: pathlib.Path({str(marker)!r}).touch() or os._exit(0))
        threading.Event().wait(60)
    """
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {textwrap.dedent(child)!r}])"
    assert subprocess.run([sys.executable, "-c", parent], check=False).returncode == -signal.SIGKILL
    wait_for(marker.exists, "the child notices")
