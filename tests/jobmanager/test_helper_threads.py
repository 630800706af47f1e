"""Helper threads of the local runner: who may keep whom waiting, and for what."""

from __future__ import annotations

import threading
from typing import Any

import penstock as ps
from penstock.connectors.discard import DiscardingSink
from penstock.jobmanager.job_master import JobMaster
from penstock.jobmanager.local_cluster import LocalCluster
from penstock.jobmanager.options import CheckpointOptions, JobMasterOptions
from penstock.state.ids import JobId, new_nonce
from penstock.state.store.objects import Delete, Put, PutFile, StoreOp
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.testing.lists import ListSource


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


class SlowDeletions(ObstoreObjects):
    """Counts the leader's beats, and holds back deletions."""

    def __init__(self) -> None:
        super().__init__("memory://")
        self.go_on = threading.Event()
        self.held = 0
        self.beats = 0

    def execute(self, op: StoreOp) -> Any:
        if isinstance(op, Put) and "/beat/" in op.name:
            self.beats += 1
        if isinstance(op, Delete):
            self.held += 1
            self.go_on.wait(20)
        return super().execute(op)


def test_slow_deletions_do_not_silence_the_leader() -> None:
    env = ps.StreamExecutionEnvironment()
    env.from_source(ListSource(list(range(100_000)), batch_rows=1, pause_ms=1), name="numbers").sink_to(
        DiscardingSink()
    )
    options = JobMasterOptions(CheckpointOptions(interval_ms=10), beat_interval_ms=20, lease_ms=1_000)
    store = SlowDeletions()
    master = JobMaster(env.job_graph("slow"), job_id=JobId("slow"), options=options, new_name=new_nonce)
    cluster = LocalCluster(master, store)
    try:
        assert cluster.run(lambda: store.held >= 4, timeout_s=30)
        before = store.beats
        assert cluster.run(lambda: store.beats >= before + 5, timeout_s=20)
        assert cluster.ended is None
    finally:
        store.go_on.set()
        cluster.close()


class SlowFirstUpload(ObstoreObjects):
    """Holds the first table file back, and knows what its thread put next."""

    def __init__(self) -> None:
        super().__init__("memory://")
        self.go_on = threading.Event()
        self.holding: int | None = None
        self.put_next: list[str] = []
        self.put: set[str] = set()

    def execute(self, op: StoreOp) -> Any:
        own = threading.get_ident()
        if isinstance(op, PutFile) and self.holding is None:
            self.holding = own
            self.go_on.wait(20)
        elif isinstance(op, Put):
            self.put.add(op.name)
            if own == self.holding and not self.put_next:
                self.put_next.append(op.name)
        return super().execute(op)


def test_an_aborted_checkpoint_is_not_uploaded_to_its_end() -> None:
    env = ps.StreamExecutionEnvironment().set_state_backend("rocksdb")
    slowly = env.from_source(ListSource(list(range(10_000)), batch_rows=5, pause_ms=1, record_type=int))
    slowly.key_by(lambda x: x % 40).reduce(lambda a, b: a + b).uid("sums").sink_to(DiscardingSink())
    options = JobMasterOptions(CheckpointOptions(interval_ms=10, timeout_ms=300))
    store = SlowFirstUpload()
    master = JobMaster(env.job_graph("slow"), job_id=JobId("slow"), options=options, new_name=new_nonce)
    cluster = LocalCluster(master, store)
    try:
        assert cluster.run(lambda: master.status().checkpoints.failed >= 1, timeout_s=20)
        store.go_on.set()
        done = master.status().checkpoints.completed
        assert cluster.run(lambda: master.status().checkpoints.completed >= done + 20, timeout_s=20)
        of_others = [name for name in store.put_next if f"{name.rpartition('/')[0]}/_metadata" in store.put]
        assert store.put_next == of_others
    finally:
        store.go_on.set()
        cluster.close()
