"""State, jobs and code are in an S3 store: processes die, and the store itself is gone for a while."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import httpx
import pytest

from penstock.jobmanager.startup.node_processes import is_alive

if TYPE_CHECKING:
    from conftest import Golden, WaitFor
    from s3_server import S3Server

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def cluster_settings(golden_settings: dict[str, object], s3_server: S3Server) -> dict[str, object]:
    bucket = s3_server.create_bucket("penstock-failures")
    return {
        **golden_settings,
        **s3_server.options,
        "high_availability__storageDir": f"{bucket}/{secrets.token_hex(4)}",
    }


def test_a_slot_is_killed(golden: Golden) -> None:
    before = golden.view
    golden.slots()[0].kill()
    golden.restarted(before)
    golden.in_mid_stream().finish()


def test_the_job_master_is_killed(golden: Golden) -> None:
    before = golden.view
    golden.masters()[0].kill()
    after = golden.restarted(before)
    assert after.generation > before.generation
    golden.in_mid_stream().finish()


def test_the_store_is_gone_for_a_moment(golden: Golden, s3_server: S3Server) -> None:
    """Shorter than the leader's patience: nothing is restarted, checkpoints go on as soon as it is back."""
    before = golden.view
    s3_server.kill()
    s3_server.start()
    done = golden.view.checkpoints.completed
    golden.until(lambda view: view.checkpoints.completed > done + 1, "checkpoints are completed again")
    golden.in_mid_stream()
    ended = golden.finish()
    assert ended.generation == before.generation


def test_the_store_is_gone_until_nobody_leads(golden: Golden, s3_server: S3Server, wait_for: WaitFor) -> None:
    """Longer than the lease: the leader gives up; the job goes on from its last checkpoint once the store is back."""
    before, (master,) = golden.view, golden.masters()
    s3_server.kill()
    try:
        wait_for(lambda: not is_alive(master), "the leader gives up")
    finally:
        s3_server.start()
    after = golden.restarted(before)
    assert after.generation > before.generation
    golden.in_mid_stream().finish()


def test_the_dispatcher_dies_while_the_store_is_gone(golden: Golden, s3_server: S3Server, wait_for: WaitFor) -> None:
    """REST comes back before the store does, and says what is missing."""
    dispatcher = golden.cluster.actor("Dispatcher")
    s3_server.kill()
    try:
        dispatcher.kill()
        wait_for(lambda: not is_alive(dispatcher), "it is dead")
        wait_for(lambda: "cannot be read from its store" in refusal(golden), "REST says why it has no jobs")
    finally:
        s3_server.start()
    golden.in_mid_stream().finish()


def test_rays_head_dies_while_the_store_is_gone(golden: Golden, s3_server: S3Server, wait_for: WaitFor) -> None:
    """A new head, and a dispatcher on it that waits for the store; then it takes up the job."""
    before, restarts = golden.view, golden.cluster.state().restarts
    s3_server.kill()
    try:
        golden.cluster.ray_process("gcs_server").kill()
        wait_for(lambda: golden.cluster.state().restarts > restarts, "the supervisor starts another head")
        wait_for(lambda: "cannot be read from its store" in refusal(golden), "REST says why it has no jobs")
    finally:
        s3_server.start()
    after = golden.restarted(before)
    assert after.generation > before.generation
    golden.in_mid_stream().finish()


def refusal(golden: Golden) -> str:
    """Without the client's patience: what REST answers, now, who is asked for jobs."""
    try:
        answer = httpx.get(f"{golden.cluster.address}/jobs", timeout=20)
    except httpx.HTTPError:
        return ""
    return answer.text if answer.status_code == 503 else ""
