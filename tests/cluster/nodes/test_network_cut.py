"""A node behind a link that is cut in mid-stream, and heals: what comes back from it changes nothing."""

from __future__ import annotations

import threading
import urllib.error
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from penstock.jobmanager.startup.node_processes import is_alive

if TYPE_CHECKING:
    from tests.cluster.conftest import Cluster, Namespace, WaitFor

PATIENCE_S = 150.0
Submit = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster_settings(own_address: str) -> dict[str, object]:
    return {
        "ray__host": own_address,
        "taskmanager__numberOfTaskSlots": 2,
        "heartbeat__interval": "1s",
        "heartbeat__timeout": "5s",
        "taskmanager__master_lost__cancel_after": "10s",
        "taskmanager__master_lost__exit_after": "12s",
    }


def clean_task_manager(cluster: Cluster, namespace: Namespace) -> dict[str, Any] | None:
    """Of the node there: all of its slots are free, and processes are ready."""
    for one in cluster.get("/taskmanagers")["taskmanagers"]:
        if one["path"].startswith(f"ray://{namespace.address}/"):
            try:
                view: dict[str, Any] = cluster.get(f"/taskmanagers/{one['id']}")
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise
                return None  # it was given up between the two questions
            blank = [slot for slot in view["slots"] if not slot["jobId"]]
            return view if view["freeSlots"] == view["slotsNumber"] == len(blank) == len(view["slots"]) else None
    return None


def spread(
    cluster: Cluster, namespace: Namespace, node_behind_the_link: Any, submit: Submit, wait_for: WaitFor
) -> tuple[Any, str, psutil.Process]:
    """A job with one slot on each side of the link; the task manager on the other side, and the process there."""
    node_behind_the_link(cluster.reach, slots=2)
    far = wait_for(lambda: clean_task_manager(cluster, namespace), "the far node is ready", PATIENCE_S)["id"]
    job = submit(cluster, parallelism=2).until_it_runs(timeout_s=PATIENCE_S)
    assert len(cluster.actors("JobMaster")) == 1, "the master is on this side"
    slots = job.slots()
    assert sorted(len(pids) for pids in slots.values()) == [1, 1]
    return job, far, psutil.Process(slots[far][0])


@pytest.mark.timeout(400)
def test_what_comes_back_from_a_node_that_was_cut_off_for_seconds_changes_nothing(
    cluster: Cluster, namespace: Namespace, node_behind_the_link: Any, submit: Submit, wait_for: WaitFor
) -> None:
    """A cut that nobody need notice; then one after which the job goes on elsewhere, while its old slot still runs."""
    job, far, cut_off = spread(cluster, namespace, node_behind_the_link, submit, wait_for)
    namespace.cut()
    threading.Event().wait(2)
    namespace.heal()
    job.until_it_runs(2)

    restored = job.checkpoints()["restored"]
    (cut_off,) = (psutil.Process(pid) for pid in job.slots()[far])
    namespace.cut()
    wait_for(lambda: f"its process {cut_off.pid} has not answered" in job.reasons(), "the cut is noticed", PATIENCE_S)
    assert is_alive(cut_off)
    namespace.heal()
    wait_for(lambda: not is_alive(cut_off), "the slot that was given up is killed", PATIENCE_S)
    job.until_it_is_restored(restored + 1, PATIENCE_S)
    job.finish(PATIENCE_S)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_node_that_was_cut_off_for_long_comes_back_with_clean_slots(
    cluster: Cluster, namespace: Namespace, node_behind_the_link: Any, submit: Submit, wait_for: WaitFor
) -> None:
    """Its slot ends by itself, as nobody speaks to it."""
    job, far, cut_off = spread(cluster, namespace, node_behind_the_link, submit, wait_for)
    namespace.cut()
    job.until_it_is_restored(1, PATIENCE_S)
    assert far not in job.slots()
    wait_for(lambda: not is_alive(cut_off), "the slot that was cut off has ended itself", PATIENCE_S)
    namespace.heal()
    back = wait_for(lambda: clean_task_manager(cluster, namespace), "its task manager is back", PATIENCE_S)
    assert cut_off.pid not in [slot["pid"] for slot in back["slots"]]
    job.until_it_runs(2)
    assert job.checkpoints()["restored"] == 1
    log = job.rest.text(f"/taskmanagers/{back['id']}/logs/{cut_off_log(job, back, cut_off)}")
    assert "tasks are cancelled" in log
    assert "nobody has spoken to this slot" in log
    job.finish(PATIENCE_S)


def cut_off_log(job: Any, view: dict[str, Any], cut_off: psutil.Process) -> str:
    """Of the slot that ended itself."""
    names = [log["name"] for log in job.rest.ask("GET", f"/taskmanagers/{view['id']}/logs")["logs"]]
    living = {slot["id"] for slot in view["slots"]}
    (name,) = [name for name in names if name.endswith(".log") and name.startswith("slot-") and name[:-4] not in living]
    return str(name)
