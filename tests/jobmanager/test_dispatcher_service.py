"""What the dispatcher does with the jobs that its store knows, and when a process cannot be started."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.jobmanager.cluster.cluster_gateway import ClusterGateway
from penstock.jobmanager.cluster.dispatcher import TakeBack
from penstock.jobmanager.cluster.dispatcher_service import NEVER_LED_MS, DispatcherService
from penstock.jobmanager.cluster.patient_store import PatientStore
from penstock.jobmanager.cluster.submission import Submissions
from penstock.jobmanager.cluster.unloaded import without_master
from penstock.jobmanager.gateway import ConflictError, GraphRequest, RefusedError, UnavailableError
from penstock.jobmanager.job_states import JobState
from penstock.jobmanager.leadership import Beat, beat_name
from penstock.jobmanager.process_identity import this_process
from penstock.jobmanager.views import JobOverview, JobView, LogFile, SlotView, TaskManagerView
from penstock.runtime.configuration.config import Configuration
from penstock.runtime.versions import own_versions
from penstock.state.errors import ObjectNotFound, ObjectStoreUnavailable
from penstock.state.ids import Generation, JobId, SlotId, new_nonce
from penstock.state.store.cluster_store import EndedJob, JobSubmission, get_ended, list_records, put_ended, put_job
from penstock.state.store.counted_objects import ObjectCounter
from penstock.state.store.documents import seal
from penstock.state.store.job_log import Finished, JobLog, LeaderElected
from penstock.state.store.objects import Get, ObjectStore, Pause, Put, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

JOB = JobId("a" * 32)
WAIT_S = 20.0


class Started:
    """Other processes: which masters were started. The first `refused` starts fail."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.refused = 0
        self.ended: list[int] = []
        self.candidate = False
        self.says: JobOverview | None = None
        """What every master answers; None: nothing."""
        self.over: Callable[[str], None] = lambda reason: None
        """Of the master that was watched last."""
        self.all_ended = threading.Event()
        self.said: list[TaskManagerView] = []
        self.taken_back: queue.SimpleQueue[TakeBack] = queue.SimpleQueue()

    def masters(self) -> dict[JobId, list[int]]:
        return {}

    def start_master(self, submission: JobSubmission, number: int, gives_up: bool) -> None:
        self.numbers.append(number)
        if len(self.numbers) <= self.refused:
            raise RuntimeError("no process can be started")

    def end_master(self, job_id: JobId, number: int) -> None:
        self.ended.append(number)

    def watch_master(self, job_id: JobId, number: int, over: Callable[[str], None]) -> None:
        self.over = over

    def overview(
        self, job_id: JobId, number: int, answer: Callable[[JobOverview | None, Exception | None], None]
    ) -> None:
        if self.says is not None:
            answer(self.says, None)

    def view(self, job_id: JobId, number: int) -> JobView | None: ...
    def cancel(self, job_id: JobId, number: int) -> None: ...
    def stop(self, job_id: JobId, number: int, remember: bool) -> None:
        if self.candidate:
            raise UnavailableError("another master leads")

    def savepoint(self, job_id: JobId, number: int, request: str, target: str, *, stop: bool, drain: bool) -> None: ...
    def checkpoint(self, job_id: JobId, number: int, request: str) -> None: ...
    def tend_nodes(self) -> list[TaskManagerView]:
        said, self.said = self.said, []
        return said

    def take_back(self, slots: TakeBack) -> None:
        self.taken_back.put(slots)

    def task_managers(self) -> list[TaskManagerView]:
        return []

    def task_manager_logs(self, name: str) -> list[LogFile]:
        return []

    def task_manager_log(self, name: str, file: str, tail_bytes: int) -> bytes:
        return b""

    def task_manager_threads(self, name: str) -> Mapping[str, str]:
        return {}

    def end_all(self) -> None:
        self.all_ended.set()


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.storage = str(tmp_path / "job")
        self.objects, self.job = ObstoreObjects(str(tmp_path / "cluster")), ObstoreObjects(self.storage)
        self.processes = Started()
        self.services: list[DispatcherService] = []

    def record(self, created_at_ms: int = 1_000) -> JobSubmission:
        submission = JobSubmission(JOB, "clicks", created_at_ms, self.storage)
        run_program(put_job(submission, b"graph", new_nonce), self.objects)
        return submission

    def led_by(self, process: str, *, resigned: bool = False) -> None:
        run_program(JobLog(JOB, new_nonce).append(LeaderElected(Generation(1))), self.job)
        data = seal("beat", 1, new_nonce(), Beat(Generation(1), 1, process, resigned))
        self.job.execute(Put(beat_name(JOB, 1), data, create_only=False))

    def start(self, *, resumes: bool) -> DispatcherService:
        service = self.new_service(resumes)
        service.start()
        return service

    def new_service(self, resumes: bool, objects: ObjectStore | None = None) -> DispatcherService:
        config = Configuration.from_dict({"high-availability.resume-jobs": str(resumes).lower()})
        service = DispatcherService(config, objects or self.objects, self.processes)
        self.services.append(service)
        return service

    def ending(self) -> str | None:
        (submission,) = run_program(list_records(), self.objects)
        found = run_program(get_ended(submission.life), self.objects)
        return None if found is None else found.state


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    for service in found.services:
        service.shut_down()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline_s, pause = time.monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, what
        pause.wait(0.01)


def test_what_has_not_ended_is_taken_up(world: World) -> None:
    world.record()
    assert world.start(resumes=True).is_live(JOB)
    assert world.processes.numbers == [1]


@pytest.mark.parametrize("resigned", [False, True])
def test_what_a_dead_cluster_left_is_laid_down_where_jobs_are_not_resumed(world: World, resigned: bool) -> None:
    world.record()
    gone = this_process().replace('"started":', '"started":1')
    world.led_by(this_process() if resigned else gone, resigned=resigned)
    service = world.start(resumes=False)
    ended = service.ended(JOB)
    assert ended is not None
    assert ended.state == world.ending() == "SUSPENDED"
    assert world.processes.numbers == []


@pytest.mark.parametrize("leader", ["here", "elsewhere"])
def test_what_another_cluster_may_run_is_left_alone(world: World, leader: str) -> None:
    world.record()
    world.led_by(this_process() if leader == "here" else "a process of another machine")
    service = world.start(resumes=False)
    assert world.ending() is None
    assert not service.is_known(JOB)


def test_what_another_cluster_is_about_to_start_is_left_alone(world: World) -> None:
    world.record(time.time_ns() // 1_000_000)
    world.start(resumes=False)
    assert world.ending() is None


def test_what_was_never_started_is_laid_down_some_time_later(world: World) -> None:
    world.record(time.time_ns() // 1_000_000 - NEVER_LED_MS - 1_000)
    world.start(resumes=False)
    assert world.ending() == "SUSPENDED"


def test_what_had_come_to_its_end_is_remembered_as_it_ended(world: World) -> None:
    world.record()
    log = JobLog(JOB, new_nonce)
    run_program(log.append(LeaderElected(Generation(1))), world.job)
    run_program(log.append_as_leader(Finished("FINISHED")), world.job)
    world.start(resumes=False)
    assert world.ending() == "FINISHED"


def test_slots_of_a_job_that_has_ended_are_taken_back(world: World) -> None:
    world.record(time.time_ns() // 1_000_000 - NEVER_LED_MS - 1_000)
    slots = (
        SlotView("slot-1", JOB, 1, generation=3),
        SlotView("slot-2", "b" * 32, 2),
        SlotView("s", "", 3),
    )
    world.processes.said = [TaskManagerView("tm", "host", "node", 1, 2, 4, 1, slots, 0, 2, 0, 0, 0)]
    assert world.start(resumes=False).ended(JOB) is not None
    assert world.processes.taken_back.get(timeout=WAIT_S) == TakeBack("tm", JOB, Generation(3), (SlotId("slot-1"),))
    assert world.processes.taken_back.empty(), "what is not known to have ended is left alone"


def test_a_master_that_cannot_be_started_is_tried_again(world: World) -> None:
    world.processes.refused = 2
    world.record()
    world.start(resumes=True)
    wait_for(lambda: world.processes.numbers == [1, 2, 3], "no further start was tried")


def test_a_master_that_does_not_stop_its_job_is_ended_with_the_cluster(world: World) -> None:
    """A candidate would take the job up when the leader lets go of it."""
    world.record()
    service = world.start(resumes=True)
    world.processes.candidate = True
    service.shut_down()
    assert world.processes.all_ended.wait(WAIT_S)
    assert world.processes.ended == [1]


class DownStore:
    """A store that does not answer until it is `up`."""

    def __init__(self, objects: ObstoreObjects) -> None:
        self.objects = objects
        self.up = threading.Event()

    def execute(self, op: StoreOp) -> Any:
        if self.up.is_set():
            return self.objects.execute(op)
        if isinstance(op, Pause):
            return None
        raise ObjectStoreUnavailable("nobody answers")


def test_a_dispatcher_that_is_restarted_waits_for_its_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.jobmanager.cluster.dispatcher_service.TAKE_UP_S", 0.1)
    world.record()
    down = DownStore(world.objects)
    service = world.new_service(resumes=True, objects=down)
    service.start(patiently=True)
    wait_for(lambda: "nobody answers" in why_unavailable(service), "the reason is not told")
    assert world.processes.numbers == []
    down.up.set()
    wait_for(lambda: not why_unavailable(service), "the store's return was not noticed")
    assert service.is_live(JOB)
    assert world.processes.numbers == [1]


def why_unavailable(service: DispatcherService) -> str:
    try:
        service.overviews()
    except UnavailableError as error:
        return str(error)
    return ""


def test_a_store_that_cannot_be_used_is_told_at_the_first_start(world: World) -> None:
    with pytest.raises(ObjectStoreUnavailable, match="nobody answers"):
        world.new_service(resumes=True, objects=DownStore(world.objects)).start()


def test_masters_are_ended_with_a_cluster_whose_store_is_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.jobmanager.cluster.dispatcher_service.TAKE_UP_S", 0.1)
    monkeypatch.setattr(world.processes, "masters", lambda: {JOB: [3]})
    world.processes.candidate = True
    service = world.new_service(resumes=True, objects=DownStore(world.objects))
    service.start(patiently=True)
    service.shut_down()
    assert world.processes.all_ended.wait(WAIT_S)
    assert world.processes.ended == [3]


def test_a_directory_that_cannot_be_opened_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "mount").write_text("not there yet")
    store = PatientStore(str(tmp_path / "mount" / "cluster"), {})
    with pytest.raises(ObjectStoreUnavailable, match="cannot be used"):
        store.execute(Get("a"))
    (tmp_path / "mount").unlink()
    with pytest.raises(ObjectNotFound):
        store.execute(Get("a"))


# submissions --------------------------------------------------------------------------------------------------------


def gateway_of(world: World, service: DispatcherService) -> ClusterGateway:
    config = Configuration.from_dict({"io.tmp.dirs": world.storage})
    submissions = Submissions(config, world.storage, world.objects, Path(world.storage))
    return ClusterGateway(
        config, world.storage, world.objects, service, submissions, Path(world.storage), ObjectCounter()
    )


def submit(world: World, service: DispatcherService, **options: str) -> str:
    request = GraphRequest("clicks", b"graph", options, own_versions())
    return gateway_of(world, service).submit(request).job_id


def end(world: World, service: DispatcherService, state: JobState) -> JobView:
    """As a master does: the ending is written, then told. Answers its last view."""
    (submission,) = run_program(list_records(), world.objects)
    view = without_master(submission, state, 2_000)
    ending = EndedJob(submission.life, state.value, 2_000, msgspec.json.encode(view))
    run_program(put_ended(ending, new_nonce), world.objects)
    world.processes.says = view.overview
    world.processes.over("")
    wait_for(lambda: not service.is_live(submission.job_id), "its end is not heard")
    world.processes.says = None
    return view


def interrupted(world: World) -> JobId:
    """A job that a cluster before this one left."""
    before = world.start(resumes=True)
    job_id = JobId(submit(world, before, **{"execution.checkpointing.interval": "1s"}))
    before.shut_down()
    assert world.processes.all_ended.wait(WAIT_S)
    run_program(JobLog(job_id, new_nonce).append(LeaderElected(Generation(1))), world.job)
    data = seal("beat", 1, new_nonce(), Beat(Generation(1), 1, this_process(), resigned=True))
    world.job.execute(Put(beat_name(job_id, 1), data, create_only=False))
    return job_id


CONTINUED = {"execution.savepoint.path": "latest"}


def test_a_job_that_is_continued_has_not_ended_as_it_had_before(world: World) -> None:
    """Neither before its first master speaks, nor when it has ended anew."""
    job_id = interrupted(world)
    service = world.start(resumes=False)
    gateway = gateway_of(world, service)
    assert gateway.job(job_id).overview.state == "SUSPENDED"
    world.processes.refused = 1_000
    assert submit(world, service, **CONTINUED) == job_id
    wait_for(lambda: service.master(job_id) is None, "none can be started")
    assert gateway.job(job_id).overview.state == "CREATED"
    world.processes.refused = 0
    wait_for(lambda: service.master(job_id) is not None, "no further start was tried")
    assert gateway.job(job_id).overview.state == "CREATED"
    view = end(world, service, JobState.FINISHED)
    assert gateway.job(job_id) == view


def test_the_ending_of_a_life_before_counts_for_nothing(world: World) -> None:
    """A master of another cluster that has the same store may write it late."""
    job_id = interrupted(world)
    (first,) = run_program(list_records(), world.objects)
    service = world.start(resumes=False)
    submit(world, service, **CONTINUED)
    late = EndedJob(first.life, "SUSPENDED", 1_500, msgspec.json.encode(without_master(first, JobState.SUSPENDED, 1)))
    run_program(put_ended(late, new_nonce), world.objects)
    assert world.start(resumes=True).is_live(job_id), "for a dispatcher that takes its place, too"
    view = end(world, service, JobState.FINISHED)
    assert gateway_of(world, service).job(job_id) == view


def test_a_running_job_is_not_continued_beside_itself(world: World) -> None:
    service = world.start(resumes=True)
    job_id = JobId(submit(world, service, **{"execution.checkpointing.interval": "1s"}))
    run_program(JobLog(job_id, new_nonce).append(LeaderElected(Generation(1))), world.job)
    with pytest.raises(ConflictError, match="is running"):
        submit(world, service, **{"execution.savepoint.path": "latest", "pipeline.allow-duplicate-names": "true"})
    assert [record.job_id for record in run_program(list_records(), world.objects)] == [job_id]
    assert world.processes.numbers == [1]


@pytest.mark.parametrize("key", ["state.savepoints.dir", "state.checkpoints.dir"])
def test_directories_that_only_the_client_knows_are_refused(world: World, key: str) -> None:
    service = world.start(resumes=True)
    with pytest.raises(RefusedError, match=f"'below' is relative.*{key}|'below' is relative.*checkpointing.dir"):
        submit(world, service, **{key: "below"})
    assert world.processes.numbers == []
