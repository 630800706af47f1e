"""An operator in slots of its own and a pool of models, on a cluster: what they get, what they do not get, and that
every number comes out once, whoever is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from penstock.jobmanager.startup.node_processes import is_alive

if TYPE_CHECKING:
    from conftest import Cluster, NewJob, SubmittedJob, WaitFor

pytestmark = pytest.mark.timeout(400)
SCRIPT = Path(__file__).with_name("resources_job.py")
NUMBERS = 20_000
"""As in the script."""
OWN = {"cpu": 0.25, "memory": 32 * 2**20, "gpu": 0.5}
REQUEST_TIMEOUT_S = 12


@pytest.fixture(scope="module")
def cluster_settings(golden_settings: dict[str, object]) -> Iterator[dict[str, object]]:
    """Of a machine with one GPU, as far as Ray knows: it only counts them, and tells each process which are its own.
    Nothing hangs here: who is only slow, on a busy machine, must not be taken for dead, nor his region restarted."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
        patient = {"heartbeat__timeout": "30 s", "slot__request__timeout": f"{REQUEST_TIMEOUT_S} s"}
        yield {**golden_settings, "cluster__id": "resources", **patient}


def slots(job: SubmittedJob, resources: dict[str, float]) -> list[int]:
    """Processes of the job's slots that have these."""
    (manager,) = job.rest.task_managers()
    found = job.cluster.get(f"/taskmanagers/{manager['id']}")["slots"]
    return [slot["pid"] for slot in found if slot["jobId"] == job.job_id and slot["resources"] == resources]


def test_every_number_comes_once_whoever_is_killed(cluster: Cluster, new_job: NewJob, wait_for: WaitFor) -> None:
    job = new_job(SCRIPT)
    job.submit("--gpu", "0.5")
    job.in_mid_stream()
    assert [path.read_text() for path in sorted(job.out.glob("gpus-*"))] == ["0", "0"], "they share it"
    own = slots(job, OWN)
    assert (len(own), len(slots(job, {}))) == (2, 2)
    vertices = {vertex["name"]: vertex for vertex in job.cluster.get(f"/jobs/{job.job_id}")["vertices"]}
    assert {name: vertex["resources"] for name, vertex in vertices.items()} == {
        "numbers -> map unscored -> scored": {}, "heavy": OWN, "sink": {},
    }  # fmt: skip

    wait_for(lambda: len(cluster.actors("ModelActor")) == 2, "both actors have started")
    before, actors = job.view, cluster.actors("ModelActor")
    actors[0].kill()
    wait_for(lambda: len(living(cluster, but=actors)) == 1, "an actor takes its place")
    assert job.in_mid_stream().view.attempt == before.attempt, "the job did not even notice"

    before, actors = job.view, cluster.actors("ModelActor")
    psutil.Process(slots(job, {})[0]).kill()
    after = job.restarted(before)
    wait_for(lambda: sum(map(is_alive, actors)) == 1, "an actor ends with its slot; the other region has not noticed")
    wait_for(lambda: len(cluster.actors("ModelActor")) == 2, "the new slot has one")

    own = slots(job, OWN)
    job.masters()[0].kill()
    after = job.restarted(after)
    assert sorted(slots(job, OWN)) == sorted(own), "the next master finds the slots that the job has"

    psutil.Process(own[0]).kill()
    job.restarted(after)
    wait_for(lambda: len(slots(job, OWN)) == 2, "a slot with the same resources takes its place")
    job.in_mid_stream().finish()
    counted = Counter((row["number"], row["score"]) for row in job.rows_of("scored"))
    assert counted == {(number, number * 3): 1 for number in range(NUMBERS)}
    wait_for(lambda: not cluster.actors("ModelActor"), "no actor is left")


def living(cluster: Cluster, but: list[psutil.Process]) -> list[psutil.Process]:
    return [actor for actor in cluster.actors("ModelActor") if actor not in but and is_alive(actor)]


def test_what_no_node_has_fails_the_job_with_what_they_have(new_job: NewJob, wait_for: WaitFor) -> None:
    job = new_job(SCRIPT)
    job.submit("--gpu", "2")

    def failed() -> Any:
        view = job.view
        return view if view.overview.state == "FAILED" else None

    view = wait_for(failed, "it fails", 3 * REQUEST_TIMEOUT_S)
    told = view.exceptions[0].message
    assert "2 with cpu 0.25, memory 32MiB, gpu 2" in told
    assert "'heavy' asks for cpu 0.25, memory 32MiB, gpu 2" in told
    assert "no node has so much" in told
