"""The local runner's threads: who may keep whom waiting."""

from __future__ import annotations

import threading
from typing import Any

import penstock as ps
from penstock.jobmanager.job_master import JobMaster
from penstock.jobmanager.local_cluster import LocalCluster
from penstock.jobmanager.options import CheckpointOptions, JobMasterOptions
from penstock.state.ids import JobId, new_nonce
from penstock.state.objects import Put, StoreOp
from penstock.state.obstore_objects import ObstoreObjects


class SlowUploads(ObstoreObjects):
    """Counts the leader's beats, and holds back what subtasks write."""

    def __init__(self) -> None:
        super().__init__("memory://")
        self.go_on = threading.Event()
        self.held = 0
        self.beats = 0

    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Put):
            if "/beat/" in op.name:
                self.beats += 1
            elif "/chk-" in op.name and not op.name.endswith("_metadata"):
                self.held += 1
                self.go_on.wait(20)
        return super().execute(op)


def test_slow_uploads_do_not_silence_the_leader() -> None:
    env = ps.StreamExecutionEnvironment().set_parallelism(6).set_state_backend("heap")
    numbers = env.from_sequence(0, 200).key_by(lambda x: x % 40).reduce(lambda a, b: a + b, name="sums")
    numbers.uid("sums").print()
    options = JobMasterOptions(CheckpointOptions(interval_ms=10), beat_interval_ms=20, lease_ms=1_000)
    store = SlowUploads()
    master = JobMaster(env.job_graph("slow"), job_id=JobId("slow"), options=options, new_name=new_nonce)
    cluster = LocalCluster(master, store)
    try:
        assert cluster.run(lambda: store.held >= 4, timeout_s=20)
        before = store.beats
        assert cluster.run(lambda: store.beats >= before + 5, timeout_s=20)
        assert cluster.ended is None
        store.go_on.set()
        assert cluster.run(timeout_s=20)
        assert cluster.ended is not None
        assert cluster.ended.failure is None
    finally:
        store.go_on.set()
        cluster.close()
