"""What dies of a running cluster, and how: the job's output is that of a run in which nothing happened."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from penstock.jobmanager.startup.node_processes import is_alive

if TYPE_CHECKING:
    from conftest import Golden, WaitFor

    from penstock.jobmanager.views import JobView

pytestmark = pytest.mark.timeout(400)


def test_a_slot_is_killed_and_then_all_at_once(golden: Golden) -> None:
    before, slot = golden.view, golden.slots()[0]
    assert before.restarts == 0
    assert list(golden.cluster.files.directory.glob(f"*/local/{golden.job_id}/*/*")), "copies of state are kept"
    slot.kill()
    golden.restarted(before)
    assert f"its process {slot.pid} has ended: it was killed" in golden.told()
    golden.in_mid_stream()
    golden.until(is_from_copies, "state came from copies on the machine, of the slot that died as well")
    (log,) = [row.name for row in golden.rest.logs(None) if golden.job_id in row.name]
    told = golden.rest.log(None, log).decode()
    assert re.search(r"WARNING .* is RESTARTING: attempt \d+, generation \d+: slot \S+ was lost: its process", told)
    before = golden.in_mid_stream().view
    for slot in golden.slots():
        slot.kill()
    golden.restarted(before)
    golden.in_mid_stream().finish()


def is_from_copies(view: JobView) -> bool:
    """As far as reports tell, which come a little later."""
    restored = [subtask.metrics.details.restored for vertex in view.vertices for subtask in vertex.subtasks]
    return sum(one.total for one in restored) > 0 and all(one.local == one.total for one in restored)


def test_dispatcher_and_task_manager_die_and_the_job_does_not_notice(golden: Golden, wait_for: WaitFor) -> None:
    before, cluster = golden.view, golden.cluster
    restarts, dispatcher = cluster.state().restarts, cluster.actor("Dispatcher")
    dispatcher.kill()
    dispatcher = another_one_answers(golden, dispatcher, wait_for)
    dispatcher.suspend()
    another_one_answers(golden, dispatcher, wait_for)
    assert cluster.state().restarts == restarts, "one that is silent is killed, and nothing else"

    manager, slots = cluster.actor("TaskManager"), golden.slots()
    manager.kill()
    wait_for(lambda: not is_alive(manager), "it is dead")
    finds_its_slots(golden, slots, wait_for)
    golden.in_mid_stream()
    manager = cluster.actor("TaskManager")
    manager.suspend()
    ended = golden.finish()  # what its master gives back now dies with it, and all slots come to be free
    with suppress(psutil.NoSuchProcess):  # the dispatcher may have killed it
        manager.kill()
    assert (ended.attempt, ended.generation) == (before.attempt, before.generation)


def finds_its_slots(golden: Golden, slots: list[psutil.Process], wait_for: WaitFor) -> None:
    """The next task manager: while there is none, REST shows what the last one said."""

    def heard_ms() -> int:
        return max((one["timeSinceLastHeartbeat"] for one in golden.rest.task_managers()), default=0)

    before_ms = heard_ms()
    wait_for(lambda: heard_ms() > before_ms, "the next one is heard")
    wait_for(lambda: {slot.pid for slot in golden.slots()} == {slot.pid for slot in slots}, "its slots are found")


def another_one_answers(golden: Golden, dispatcher: psutil.Process, wait_for: WaitFor) -> psutil.Process:
    """It shows the job as it was before."""
    wait_for(lambda: not is_alive(dispatcher), "it is dead")
    golden.until(lambda view: view, "REST is back")
    golden.in_mid_stream()
    return golden.cluster.actor("Dispatcher")


def test_a_slot_stands_still_and_then_the_job_master_is_killed(golden: Golden, wait_for: WaitFor) -> None:
    before, slot = golden.view, golden.slots()[0]
    slot.suspend()
    wait_for(lambda: not is_alive(slot), "it is given up, and killed")
    golden.restarted(before)
    assert f"its process {slot.pid} has not answered for 5000 ms (heartbeat.timeout)" in golden.told()
    before = golden.in_mid_stream().view
    golden.masters()[0].kill()
    after = golden.restarted(before)
    assert after.generation > before.generation
    assert f"master (generation {after.generation - 1}) was lost: its process has ended" in golden.told()
    golden.in_mid_stream().finish()


def test_the_job_master_stands_still_until_another_one_leads_and_then_ray_is_killed(
    golden: Golden, wait_for: WaitFor
) -> None:
    before, (sleeper,) = golden.view, golden.masters()
    sleeper.suspend()
    after = golden.restarted(before)
    assert after.generation > before.generation
    golden.in_mid_stream()
    sleeper.resume()
    wait_for(lambda: not is_alive(sleeper), "the one that slept finds that it leads no more, and ends")
    before = golden.in_mid_stream().view
    assert (before.attempt, before.generation) == (after.attempt, after.generation)
    golden.cluster.ray_process("gcs_server").kill()
    after = golden.restarted(before)
    assert after.generation > before.generation
    golden.in_mid_stream().finish()


@pytest.mark.long
def test_dispatcher_and_job_master_are_killed(golden: Golden) -> None:
    before = golden.view
    for process in (golden.cluster.actor("Dispatcher"), *golden.masters()):
        process.kill()
    after = golden.restarted(before)
    assert after.generation > before.generation
    golden.in_mid_stream().finish()


@pytest.mark.long
def test_the_task_manager_stands_still(golden: Golden, wait_for: WaitFor) -> None:
    before, manager, slots = golden.view, golden.cluster.actor("TaskManager"), golden.slots()
    manager.suspend()
    wait_for(lambda: not is_alive(manager), "it is given up, and killed")
    finds_its_slots(golden, slots, wait_for)
    golden.in_mid_stream()
    ended = golden.finish()
    assert ended.attempt == before.attempt
