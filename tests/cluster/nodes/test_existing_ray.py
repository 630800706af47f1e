"""penstock on a Ray cluster that somebody else runs: it uses every node, and leaves nothing there when it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import ray

from penstock.jobmanager.startup.embedded_cluster import EmbeddedCluster
from penstock.jobmanager.startup.node_processes import is_alive
from penstock.jobmanager.startup.ray_cluster import RayNode, connect
from penstock.runtime.configuration.config import Configuration

if TYPE_CHECKING:
    from tests.cluster.conftest import Nodes, WaitFor


THEIRS = {"name": "calculator", "namespace": "theirs"}


@ray.remote(num_cpus=0)
class Theirs:
    """Somebody else's actor."""

    def add(self, one: int, other: int) -> int:
        return one + other


@pytest.fixture
def their_ray(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayNode]:
    """A head and a node that know nothing of slots, and an actor on them; this process is their driver."""
    monkeypatch.setattr("penstock.jobmanager.startup.ray_cluster.SLOT_RESOURCE", "something_else")
    head = nodes.head()
    nodes.join(head.reach)
    connect(head.reach, "theirs")
    actor: Any = Theirs
    actor.options(name="calculator", lifetime="detached").remote()
    yield head
    ray.shutdown()


def test_a_cluster_on_anothers_ray_uses_all_nodes_and_leaves_it_as_it_was(
    their_ray: RayNode, short_directory: Path, tmp_path: Path, submit: Callable[..., Any], wait_for: WaitFor
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(str(their_ray.token))
    embedded = EmbeddedCluster.start(
        Configuration(
            {
                "cluster.id": "guest",
                "ray.address": their_ray.address,
                "ray.token-file": str(token_file),
                "io.tmp.dirs": str(short_directory),
                "high-availability.storageDir": str(tmp_path / "cluster"),
                "taskmanager.numberOfTaskSlots": 1,
                "taskmanager.warm-slots": 1,
                "rest.port": 0,
            }
        )
    )
    try:
        job = submit(embedded, parallelism=2)
        job.until_it_runs()
        assert [(view["slotsNumber"], view["freeSlots"]) for view in job.rest.task_managers()] == [(1, 0), (1, 0)]
        assert len(job.slots()) == 2
        guests = [psutil.Process(slot["pid"]) for view in job.rest.task_managers() for slot in view["slots"]]
        job.finish()
    finally:
        embedded.stop()
    wait_for(lambda: not any(is_alive(process) for process in guests), "no slot is left")
    wait_for(lambda: ray.util.list_named_actors(all_namespaces=True) == [THEIRS], "only their actor is left")
    assert ray.get(ray.get_actor("calculator").add.remote(1, 2), timeout=60) == 3
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    assert list((short_directory / f"penstock-{tmp_path.stat().st_uid}").glob("guest*")) == []
