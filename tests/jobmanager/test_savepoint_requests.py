"""Requests for savepoints and checkpoints on their way to the job's master, and what is told of them afterwards."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from penstock.jobmanager.cluster.cluster_gateway import ClusterGateway
from penstock.jobmanager.cluster.dispatcher_service import DispatcherService, Processes
from penstock.jobmanager.cluster.disposals import Disposals
from penstock.jobmanager.cluster.submission import Submissions
from penstock.jobmanager.cluster.unloaded import without_master
from penstock.jobmanager.events import SavepointRequested
from penstock.jobmanager.gateway import ConflictError, RefusedError, UnavailableError, UnknownError
from penstock.jobmanager.job_states import JobState
from penstock.jobmanager.operations import KEPT_MS, UNDER_WAY
from penstock.jobmanager.views import OperationState, SavepointOperation, TaskManagerView
from penstock.runtime.configuration.config import Configuration
from penstock.state.errors import ConfigurationError, ObjectStoreDenied
from penstock.state.ids import JobId, new_nonce
from penstock.state.store.cluster_store import EndedJob, JobSubmission, put_ended, put_job
from penstock.state.store.counted_objects import ObjectCounter
from penstock.state.store.objects import Put, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

NewWorld = Any
"""The class World of conftest.py."""
JOB = JobId("a" * 32)
REQUEST, OTHER = "b" * 32, "c" * 32
NAME = f"savepoint-{JOB[:6]}-0123456789ab"
WAIT_S = 20.0


class Masters:
    """Processes that note what they are asked; nothing else is called."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def masters(self) -> dict[JobId, list[int]]:
        return {JOB: [3]}

    def watch_master(self, job_id: JobId, number: int, over: Any) -> None: ...
    def overview(self, job_id: JobId, number: int, answer: Any) -> None: ...
    def tend_nodes(self) -> list[TaskManagerView]:
        return []

    def end_master(self, job_id: JobId, number: int) -> None: ...
    def savepoint(self, job_id: JobId, number: int, request: str, target: str, *, stop: bool, drain: bool) -> None:
        self.asked.append((number, request, target, stop, drain))

    def checkpoint(self, job_id: JobId, number: int, request: str) -> None:
        self.asked.append((number, request))


class Jobs:
    """A cluster that knows one job."""

    def __init__(self, tmp_path: Path, cluster: Mapping[str, str], job: Mapping[str, str]) -> None:
        self.objects = ObstoreObjects(str(tmp_path / "cluster"))
        self.submission = JobSubmission(JOB, "clicks", 1_000, str(tmp_path / "job"), dict(job))
        run_program(put_job(self.submission, b"graph", new_nonce), self.objects)
        self.config = Configuration.from_dict({"io.tmp.dirs": str(tmp_path), **cluster})
        self.masters = Masters()
        self.directory = tmp_path

    def ended(self, *savepoints: SavepointOperation) -> None:
        """It has, and its last view is kept."""
        view = replace(without_master(self.submission, JobState.FINISHED, 2_000), savepoints=savepoints)
        ending = EndedJob(self.submission.life, "FINISHED", 2_000, msgspec.json.encode(view))
        run_program(put_ended(ending, new_nonce), self.objects)

    def gateway(self) -> ClusterGateway:
        service = DispatcherService(self.config, self.objects, cast(Processes, self.masters))
        service._take_up()
        submissions = Submissions(self.config, str(self.directory), self.objects, self.directory)
        return ClusterGateway(
            self.config, str(self.directory), self.objects, service, submissions, self.directory, ObjectCounter()
        )


@pytest.mark.parametrize(
    ("given", "job", "cluster", "used"),
    [
        ("/given", "/job", "/cluster", "/given"),
        (None, "/job", "/cluster", "/job"),
        (None, None, "/cluster", "/cluster"),
        ("s3://bucket/given/", None, None, "s3://bucket/given"),
        ("file:///given", None, None, "/given"),
        ("file:/given", None, None, "/given"),
    ],
)
def test_where_a_savepoint_goes(
    tmp_path: Path, given: str | None, job: str | None, cluster: str | None, used: str
) -> None:
    def option(value: str | None) -> dict[str, str]:
        return {} if value is None else {"state.savepoints.dir": value}

    jobs = Jobs(tmp_path, option(cluster), option(job))
    jobs.gateway().savepoint(JOB, REQUEST, given, stop=True, drain=True)
    assert jobs.masters.asked == [(3, REQUEST, used, True, True)]


@pytest.mark.parametrize(("target", "complaint"), [(None, "state.savepoints.dir"), ("below", "is relative")])
def test_a_savepoint_without_a_place_is_refused(tmp_path: Path, target: str | None, complaint: str) -> None:
    jobs = Jobs(tmp_path, {}, {})
    with pytest.raises((RefusedError, ConfigurationError), match=complaint):
        jobs.gateway().savepoint(JOB, REQUEST, target, stop=False, drain=False)
    assert jobs.masters.asked == []


def test_an_unknown_job_and_a_checkpoint_on_request(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, {}, {})
    gateway = jobs.gateway()
    with pytest.raises(UnknownError):
        gateway.savepoint("f" * 32, REQUEST, "/s", stop=False, drain=False)
    with pytest.raises(UnknownError):
        gateway.checkpoint("f" * 32, REQUEST)
    gateway.checkpoint(JOB, REQUEST)
    assert jobs.masters.asked == [(3, REQUEST)]


def test_a_job_that_has_ended_knows_with_which_savepoint_and_takes_no_other(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, {}, {})
    taken = SavepointOperation(REQUEST, f"/s/{NAME}", True, False, OperationState.COMPLETED, 1_500, 1_900)
    jobs.ended(taken)
    gateway = jobs.gateway()
    assert gateway.job(JOB).savepoints == (taken,)
    gateway.savepoint(JOB, REQUEST, "/s", stop=True, drain=False)  # the client has not heard the answer
    with pytest.raises(ConflictError, match="has ended as FINISHED"):
        gateway.savepoint(JOB, OTHER, "/s", stop=True, drain=False)
    with pytest.raises(ConflictError, match="has ended as FINISHED"):
        gateway.checkpoint(JOB, OTHER)
    assert jobs.masters.asked == []


def test_a_master_that_finds_the_job_finished_knows_of_its_savepoint(new_world: NewWorld) -> None:
    world = new_world().run()
    world.tell(SavepointRequested(REQUEST, "savepoints", stop=True))
    world.settle()
    assert world.ended is not None
    (before,) = world.master.view(world.now).savepoints
    assert before.state is OperationState.COMPLETED
    later = new_world(world.objects)
    later.settle()
    assert later.ended == world.ended
    (after,) = later.master.view(later.now).savepoints
    assert (after.request, after.path, after.state) == (REQUEST, before.path, OperationState.COMPLETED)


def test_savepoints_are_shown_among_checkpoints_and_outlive_them(new_world: NewWorld) -> None:
    world = new_world().run()
    world.pass_time(1_000)
    world.tell(SavepointRequested(REQUEST, "savepoints"))
    world.settle()
    world.pass_time(2_000)
    shown = world.master.view(world.now).checkpoints
    assert [(one.id, one.is_savepoint, one.stops_job, one.discarded) for one in reversed(shown.history)] == [
        (1, False, False, True),
        (2, True, False, False),
        (3, False, False, True),
        (4, False, False, False),
    ]
    assert (shown.latest_completed.id, shown.latest_savepoint.id) == (4, 2)
    (operation,) = world.master.view(world.now).savepoints
    assert shown.latest_savepoint.external_path == operation.path
    restored = new_world(job=JobId("another"), store=world.objects, restore=operation.path).run()
    latest = restored.master.view(restored.now).checkpoints.latest_restored
    assert (latest.is_savepoint, latest.external_path, latest.id) == (True, operation.path, 2)


def test_so_many_savepoints_may_wait(new_world: NewWorld) -> None:
    world = new_world().run()
    world.held = {"metadata"}
    for number in range(UNDER_WAY + 1):
        world.tell(SavepointRequested(f"{number}", "savepoints"))
    world.settle()
    *waiting, refused = world.master.view(world.now).savepoints
    assert {each.state for each in waiting} == {OperationState.IN_PROGRESS}
    assert "are waiting already" in (refused.failure or "")


# disposal -----------------------------------------------------------------------------------------------------------


def outcome(disposals: Disposals, request: str) -> tuple[OperationState, str | None]:
    """Of one that ends."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        found = disposals.find(request)
        assert found is not None
        if found.state is not OperationState.IN_PROGRESS:
            return found.state, found.failure
        pause.wait(0.01)
    raise AssertionError("it does not end")


def savepoint(directory: Path) -> Path:
    path = directory / NAME
    for name in ("_metadata", "file-1", "file-2"):
        ObstoreObjects(str(path)).execute(Put(name, b"x"))
    return path


def test_a_savepoint_is_deleted_with_its_directory_and_nothing_beside_it(tmp_path: Path) -> None:
    path, beside = savepoint(tmp_path / "s"), savepoint(tmp_path / "other")
    disposals = Disposals({})
    disposals.begin(f"file://{path}/", REQUEST)
    assert outcome(disposals, REQUEST) == (OperationState.COMPLETED, None)
    assert not path.exists()
    assert len(list(beside.iterdir())) == 3
    disposals.begin(str(path), REQUEST)
    assert outcome(disposals, REQUEST)[0] is OperationState.COMPLETED, "the same request is not begun again"
    disposals.begin(str(path), OTHER)
    state, failure = outcome(disposals, OTHER)
    assert state is OperationState.FAILED
    assert "there is no savepoint" in (failure or "")
    assert not path.exists(), "looking for it has not made it"


def test_a_directory_without_its_document_is_left_alone(tmp_path: Path) -> None:
    path = savepoint(tmp_path)
    (path / "_metadata").unlink()
    disposals = Disposals({})
    disposals.begin(str(path), REQUEST)
    assert outcome(disposals, REQUEST)[0] is OperationState.FAILED
    assert len(list(path.iterdir())) == 2


@pytest.mark.parametrize("path", ["/etc", "/", "relative/" + NAME, f"/s/{NAME}/../../etc", "s3://bucket/chk-1"])
def test_what_cannot_be_a_savepoint_is_refused_at_once(path: str) -> None:
    disposals = Disposals({})
    with pytest.raises(ConfigurationError):
        disposals.begin(path, REQUEST)
    assert disposals.find(REQUEST) is None


def test_disposals_are_bounded_and_forgotten() -> None:
    now_ms, go = [0], threading.Event()

    def slow(path: str, options: Mapping[str, str]) -> int:
        assert go.wait(WAIT_S)
        raise ObjectStoreDenied("the bucket refuses")

    disposals = Disposals({}, slow, lambda: now_ms[0])
    requests = [f"{number:032x}" for number in range(UNDER_WAY)]
    for request in requests:
        disposals.begin(f"/s/{NAME}", request)
    with pytest.raises(UnavailableError):
        disposals.begin(f"/s/{NAME}", OTHER)
    go.set()
    assert {outcome(disposals, each) for each in requests} == {(OperationState.FAILED, "the bucket refuses")}
    now_ms[0] = KEPT_MS
    disposals.begin(f"/s/{NAME}", OTHER)
    assert outcome(disposals, OTHER)[0] is OperationState.FAILED
    assert disposals.find(requests[0]) is None
