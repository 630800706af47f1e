"""What the process of a job's master writes as the job's ending, and when it must not write any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import cloudpickle
import pytest

import penstock as ps
from penstock.connectors.collect import keep_collected
from penstock.jobmanager.cluster import job_process
from penstock.jobmanager.cluster.job_process import JobProcess, JobProcessSettings
from penstock.jobmanager.gateway import UnavailableError
from penstock.jobmanager.leadership import Beat, beat_name
from penstock.jobmanager.master_loop import MasterLoop
from penstock.runtime.configuration.config import Configuration
from penstock.runtime.resources import Resources
from penstock.state.errors import ObjectStoreUnavailable
from penstock.state.ids import Attempt, Generation, JobId, SlotId, new_nonce
from penstock.state.store.cluster_store import JobSubmission, get_ended, put_job
from penstock.state.store.documents import seal
from penstock.state.store.job_log import AttemptStarted, Finished, JobLog, LeaderElected
from penstock.state.store.objects import Get, Put, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.taskmanager.messages import ToSlot

JOB = JobId("a" * 32)
WAIT_S = 30.0


class Stores(ObstoreObjects):
    """Stores of a job process, of which some do not answer."""

    down: ClassVar[set[str]] = set()
    read: ClassVar[set[str]] = set()
    """Names of objects that were asked for."""

    def execute(self, op: StoreOp) -> Any:
        if self.location in Stores.down:
            raise ObjectStoreUnavailable("the store is down")
        if isinstance(op, Get):
            Stores.read.add(op.name)
        return super().execute(op)


class NoSlots:
    """A cluster without room."""

    def __init__(self, lease: Any) -> None: ...
    def bind(self, loop: MasterLoop) -> None: ...
    def check(self, now_ms: int) -> None: ...
    def close(self) -> None: ...
    def send(self, slot: SlotId, message: ToSlot) -> None: ...
    def acquire(self, slots: tuple[Resources, ...]) -> None: ...
    def release(self, slots: tuple[SlotId, ...]) -> None: ...
    def discard(self, slot: SlotId, reason: str) -> None: ...


class Running:
    """A job of a cluster, and a process of a master of it on a thread of its own."""

    def __init__(self, tmp_path: Path, graph: bytes, *, gives_up: bool = True) -> None:
        self.storage, cluster_storage = str(tmp_path / "job"), str(tmp_path / "cluster")
        self.cluster, self.job = ObstoreObjects(cluster_storage), ObstoreObjects(self.storage)
        self.submission = JobSubmission(JOB, "clicks", 1_000, self.storage)
        run_program(put_job(self.submission, graph, new_nonce), self.cluster)
        config = Configuration.from_dict(
            {
                "io.tmp.dirs": str(tmp_path),
                "high-availability.lease-timeout": "800ms",
                "high-availability.beat-interval": "50ms",
            }
        )
        settings = JobProcessSettings(self.submission, 1, config, cluster_storage, b"secret", gives_up)
        self.pauses: list[float] = []
        self.back_after = -1
        """The cluster's store is back after so many pauses."""
        self.process = JobProcess(settings, NoSlots, self._pause)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Running:
        self._thread.start()
        return self

    def _pause(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        if len(self.pauses) == self.back_after:
            Stores.down.discard(self.cluster.location)

    def _run(self) -> None:
        try:
            self.process.run()
        except BaseException as error:
            self.error = error

    def over(self) -> BaseException | None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the process of the master does not end"
        return self.error

    def ending(self) -> str | None:
        found = run_program(get_ended(self.submission.life), self.cluster)
        return None if found is None else found.state

    def logged_end(self) -> Finished | None:
        log = JobLog(JOB, new_nonce)
        run_program(log.read(), self.job)
        return log.state.finished


class OtherMaster:
    """It leads and beats until it is closed."""

    def __init__(self, running: Running) -> None:
        self._store = running.job
        self._log = JobLog(JOB, new_nonce)
        run_program(self._log.append(LeaderElected(Generation(1))), self._store)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        counter = 0
        while not self._closed.wait(0.02):
            counter += 1
            data = seal("beat", 1, new_nonce(), Beat(Generation(1), counter, ""))
            run_program(iter_put(beat_name(JOB, 1), data), self._store)

    def end(self) -> None:
        run_program(self._log.append_as_leader(Finished("FINISHED")), self._store)

    def close(self) -> None:
        self._closed.set()
        self._thread.join(WAIT_S)


def iter_put(name: str, data: bytes) -> Any:
    yield Put(name, data, create_only=False)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline_s, pause = monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert monotonic() < deadline_s, what
        pause.wait(0.01)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    monkeypatch.setattr(job_process, "ObstoreObjects", Stores)
    Stores.down.clear()
    Stores.read.clear()
    yield lambda graph=None, **how: Running(tmp_path, packaged() if graph is None else graph, **how)
    Stores.down.clear()
    keep_collected(None)


@pytest.fixture
def other(run: Callable[..., Running]) -> Iterator[Callable[[Running], OtherMaster]]:
    masters: list[OtherMaster] = []

    def lead(running: Running) -> OtherMaster:
        masters.append(OtherMaster(running))
        return masters[-1]

    yield lead
    for master in masters:
        master.close()


def packaged() -> bytes:
    env = ps.StreamExecutionEnvironment()
    env.from_collection([1, 2]).print()
    graph: bytes = cloudpickle.dumps(env.job_graph("clicks"))
    return graph


def state_of(running: Running) -> str:
    overview = running.process.overview()
    return "" if overview is None else overview.state


def test_a_store_that_is_down_for_a_while_ends_the_process_and_not_the_job(run: Callable[..., Running]) -> None:
    running = run().start()
    wait_for(lambda: state_of(running) == "STARTING", "it does not come to lead")
    Stores.down.add(running.storage)
    assert isinstance(running.over(), ObjectStoreUnavailable)
    assert running.ending() is None
    assert not running.process.ended.is_set()


def test_a_master_that_starts_while_the_store_is_down_does_not_end_the_job(run: Callable[..., Running]) -> None:
    running = run()
    Stores.down.add(running.storage)
    assert isinstance(running.start().over(), ObjectStoreUnavailable)
    assert running.ending() is None


def test_a_master_that_loads_while_the_store_is_down_asks_with_growing_pauses(run: Callable[..., Running]) -> None:
    running = run()
    Stores.down.add(running.cluster.location)
    running.back_after = 5
    running.start()
    wait_for(lambda: state_of(running) == "STARTING", "it does not come to lead")
    assert running.pauses == [0.5, 1.0, 2.0, 4.0, 5.0]


def test_a_master_does_not_ask_a_store_that_is_down_for_ever(run: Callable[..., Running]) -> None:
    running = run()
    Stores.down.add(running.cluster.location)
    assert isinstance(running.start().over(), ObjectStoreUnavailable)
    assert 20 < sum(running.pauses) < 60


def test_a_candidate_that_cannot_reach_the_store_leaves_the_job_alone(
    run: Callable[..., Running], other: Callable[[Running], OtherMaster]
) -> None:
    running = run()
    other(running)
    running.start()
    wait_for(lambda: state_of(running) == "CREATED", "it is not loaded")
    Stores.down.add(running.storage)
    assert isinstance(running.over(), ObjectStoreUnavailable)
    assert running.ending() is None


def test_what_is_asked_of_a_candidate_is_refused_and_changes_nothing(
    run: Callable[..., Running], other: Callable[[Running], OtherMaster]
) -> None:
    running = run()
    leader = other(running)
    running.start()

    wait_for(lambda: beat_name(JOB, 1) in Stores.read, "it does not see who leads")
    with pytest.raises(UnavailableError, match="another master"):
        running.process.stop(remember=True)
    with pytest.raises(UnavailableError, match="another master"):
        running.process.cancel()
    with pytest.raises(UnavailableError, match="another master"):
        running.process.savepoint("b" * 32, "/s", stop=True, drain=False)
    assert running.ending() is None
    leader.end()
    assert running.over() is None
    assert running.ending() == "FINISHED"


def test_what_becomes_of_a_savepoint_or_checkpoint_is_known_as_soon_as_it_is_asked_for(
    run: Callable[..., Running],
) -> None:
    running = run().start()
    wait_for(lambda: state_of(running) == "STARTING", "it does not come to lead")
    running.process.savepoint("b" * 32, "/s", stop=False, drain=False)
    running.process.checkpoint("c" * 32)
    view = running.process.view()
    assert view is not None
    (savepoint,), (checkpoint,) = view.savepoints, view.requested_checkpoints
    assert (savepoint.request, checkpoint.request) == ("b" * 32, "c" * 32)
    assert "not running" in (savepoint.failure or ""), "it waits for slots"
    assert "not running" in (checkpoint.failure or "")


def test_a_job_that_cannot_be_loaded_has_failed_by_its_log(run: Callable[..., Running]) -> None:
    running = run(b"no graph").start()
    assert running.over() is None
    assert running.ending() == "FAILED"
    assert running.logged_end() == Finished("FAILED")
    view = running.process.view()
    assert view is not None
    assert "could not be loaded" in view.exceptions[0].message


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_job_that_ran_before_is_tried_again_before_it_has_failed(run: Callable[..., Running], gives_up: bool) -> None:
    running = run(b"no graph", gives_up=gives_up)
    log = JobLog(JOB, new_nonce)
    run_program(log.append(LeaderElected(Generation(1))), running.job)
    run_program(log.append_as_leader(AttemptStarted(Attempt(1))), running.job)
    error = running.start().over()
    assert (error is None, running.ending()) == ((True, "FAILED") if gives_up else (False, None))


def test_a_job_that_never_ran_has_failed_at_once(run: Callable[..., Running]) -> None:
    running = run(b"no graph", gives_up=False).start()
    assert running.over() is None
    assert running.ending() == "FAILED"


def test_who_cannot_load_a_job_that_another_master_leads_waits_for_what_becomes_of_it(
    run: Callable[..., Running], other: Callable[[Running], OtherMaster]
) -> None:
    running = run(b"no graph")
    leader = other(running)
    running.start()
    assert not running.process.ended.wait(2.0), "longer than the lease"
    assert running.ending() is None
    leader.end()
    assert running.over() is None
    assert running.ending() == "FINISHED"
