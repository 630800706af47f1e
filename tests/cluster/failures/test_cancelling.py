"""Jobs that do not want to end: full of records that nobody takes, or in a function that never returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from penstock.jobmanager.startup.node_processes import is_alive

if TYPE_CHECKING:
    from conftest import Cluster, Golden, NewGolden, WaitFor

    from penstock.jobmanager.views import JobView

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def start(cluster: Cluster, start_golden: NewGolden, clean_jobs: None) -> Iterator[NewGolden]:
    """On the module's cluster; its input comes at full speed."""

    def started(*arguments: str, **options: Any) -> Golden:
        golden = start_golden(cluster, *arguments, **options)
        golden.gate.touch()
        return golden

    return started


def test_a_job_that_is_held_back_by_its_sink(start: NewGolden) -> None:
    golden = start("--slow-sink", "500", rows=1_000_000)
    golden.until(is_held_back, "its source waits")
    golden.rest.cancel(golden.job_id)
    golden.until(lambda view: view.overview.state == "CANCELED", "it is cancelled")


def is_held_back(view: JobView) -> bool:
    return any(subtask.metrics.backpressured_rate > 800 for vertex in view.vertices[:1] for subtask in vertex.subtasks)


def test_a_function_that_never_returns(start: NewGolden, wait_for: WaitFor) -> None:
    golden = start("--never-returns", "1000", config={"task.cancellation.timeout": "1 s"})
    wait_for((golden.out / "hangs").exists, "it hangs")
    slots, others = golden.slots(), [*golden.cluster.actors("TaskManager"), golden.cluster.actor("Dispatcher")]
    golden.rest.cancel(golden.job_id)
    golden.until(lambda view: view.overview.state == "CANCELED", "it is cancelled")
    assert "was told to end, and a function of it has not returned within 1 s" in golden.told()
    wait_for(lambda: not any(is_alive(slot) for slot in slots), "its slots are gone")
    assert all(is_alive(process) for process in others)
