"""State, jobs and code are in an S3 store: processes die, and the store itself is gone for a while."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from penstock.jobmanager.startup.node_processes import is_alive

if TYPE_CHECKING:
    from conftest import Golden, WaitFor
    from s3_server import S3Server

pytestmark = pytest.mark.timeout(400)

LEASE_S = 12.0
"""Half of it is the leader's patience: longer than an outage of three seconds on a busy machine."""


@pytest.fixture(scope="module")
def cluster_settings(golden_settings: dict[str, object], s3_server: S3Server) -> dict[str, object]:
    bucket = s3_server.create_bucket("penstock-failures")
    return {
        **golden_settings,
        **s3_server.options,
        "high_availability__lease_timeout": f"{LEASE_S:g} s",
        "high_availability__storageDir": f"{bucket}/{secrets.token_hex(4)}",
    }


def test_a_slot_is_killed_and_then_the_job_master(golden: Golden) -> None:
    before = golden.view
    golden.slots()[0].kill()
    golden.restarted(before)
    before = golden.in_mid_stream().view
    golden.masters()[0].kill()
    after = golden.restarted(before)
    assert after.generation > before.generation
    golden.in_mid_stream().finish()


def test_the_store_is_gone_for_less_than_its_leader_bears_and_then_for_longer(
    golden: Golden, s3_server: S3Server, wait_for: WaitFor
) -> None:
    """Three seconds, which is less than half a lease: the same master leads on, nothing is restarted. Then for longer
    than the lease: the leader stops by itself while nobody can take over (PROTOCOLS 2); the next one does when the
    store is back."""
    before, (master,) = golden.view, golden.masters()
    s3_server.kill()
    over_s = time.monotonic() + 3
    try:
        wait_for(lambda: time.monotonic() > over_s, "three seconds pass")
    finally:
        s3_server.start()
    done = golden.view.checkpoints.completed
    after = golden.until(lambda view: view.checkpoints.completed > done + 1 and view, "checkpoints are completed again")
    assert golden.masters() == [master]
    assert (after.generation, after.attempt, after.restarts) == (before.generation, before.attempt, before.restarts)

    s3_server.kill()
    gone_s = time.monotonic()
    try:
        wait_for(lambda: not is_alive(master), "the leader stops by itself")
        # half a lease after its last beat, which was up to a quarter of it before, and something for the beat itself
        assert time.monotonic() - gone_s > LEASE_S / 8, "it has given up at the first failure"
        wait_for(lambda: time.monotonic() - gone_s > LEASE_S + 1, "the lease is over")
    finally:
        s3_server.start()
    after = golden.restarted(before)
    assert after.generation > before.generation
    golden.in_mid_stream().finish()


@pytest.mark.long
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


@pytest.mark.long
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
