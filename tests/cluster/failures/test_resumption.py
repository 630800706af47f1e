"""A cluster ends in mid-stream, and another one over the same storage takes up its job."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from penstock.jobmanager.startup import cluster_control
from penstock.jobmanager.startup.node_processes import is_alive

if TYPE_CHECKING:
    from conftest import Golden, NewCluster, NewGolden, WaitFor

pytestmark = pytest.mark.timeout(600)


def test_a_job_outlives_its_clusters(
    new_cluster: NewCluster, start_golden: NewGolden, golden_settings: dict[str, object], wait_for: WaitFor
) -> None:
    """The first is stopped in order, the second is killed; the third sees the job's end."""
    first = new_cluster(**golden_settings)
    golden: Golden = start_golden(first).in_mid_stream()
    before, known = golden.view, first.processes()
    said: list[str] = []
    cluster_control.stop(first.config, tell=said.append)
    assert said[0] == f"waiting up to 90 s for the last checkpoint of 'golden' ({golden.job_id})"
    assert [process for process in known if is_alive(process)] == []

    second = new_cluster(**golden_settings)
    resumed = golden.moved(second).in_mid_stream().view
    assert resumed.generation > before.generation
    assert resumed.checkpoints.latest_restored is not None
    known = second.processes()
    os.kill(second.supervisor_pid, signal.SIGKILL)
    wait_for(lambda: not any(is_alive(process) for process in known), "all processes end")
    assert cluster_control.status(second.config) is None

    third = new_cluster(**golden_settings)
    again = golden.moved(third).in_mid_stream().view
    assert again.generation > resumed.generation
    golden.finish()
