"""How a job is found again by its name."""

from __future__ import annotations

import itertools

import pytest

from penstock.state.errors import DamagedCheckpointError
from penstock.state.ids import Attempt, CheckpointId, Generation, JobId
from penstock.state.store.job_log import AttemptStarted, CheckpointCompleted, Finished, JobLog, LeaderElected, LogRecord
from penstock.state.store.job_registry import JobDescription, find_latest, list_jobs, register_job
from penstock.state.store.objects import List, Put, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

NAMES = itertools.count(1)
BEGUN = (LeaderElected(Generation(1)), AttemptStarted(Attempt(1)))
CHECKPOINT = CheckpointCompleted(Attempt(1), CheckpointId(1), "_")


def new_name() -> str:
    return f"n{next(NAMES)}"


@pytest.fixture
def store() -> ObstoreObjects:
    return ObstoreObjects("memory://")


def register(
    store: ObstoreObjects, job: str, name: str, created_at_ms: int, *records: LogRecord, origin: str | None = None
) -> JobDescription:
    description = JobDescription(JobId(job), name, created_at_ms, origin)
    run_program(register_job(description, new_name), store)
    log = JobLog(JobId(job), new_name)
    for record in records:
        run_program(log.append(record), store)
    return description


def latest(store: ObstoreObjects, name: str) -> str | None:
    found = run_program(find_latest(name, new_name), store)
    return None if found is None else found.job_id


def test_jobs_are_listed_oldest_first(store: ObstoreObjects) -> None:
    newer = register(store, "j1", "flights", 20)
    older = register(store, "j2", "flights", 3)
    other = register(store, "j3", "Flüge / über % alles", 10)
    assert run_program(list_jobs("flights"), store) == [older, newer]
    assert run_program(list_jobs("Flüge / über % alles"), store) == [other]
    assert run_program(list_jobs("flight"), store) == []
    assert run_program(list_jobs(), store) == [older, other, newer]


def test_registering_again_changes_nothing(store: ObstoreObjects) -> None:
    register(store, "j1", "flights", 20)
    register(store, "j1", "flights", 20)
    assert len(store.execute(List("jobs/"))) == 1


def test_the_newest_that_has_not_ended(store: ObstoreObjects) -> None:
    register(store, "j1", "flights", 1, *BEGUN)
    register(store, "j2", "flights", 2, *BEGUN, CHECKPOINT)
    register(store, "j3", "flights", 3, *BEGUN, CHECKPOINT, Finished("FINISHED", retained=True))
    register(store, "j4", "flights", 4, *BEGUN, CHECKPOINT, Finished("CANCELED"))
    register(store, "j5", "others", 5, *BEGUN)
    assert latest(store, "flights") == "j2"
    found = run_program(find_latest("flights", new_name), store)
    assert found is not None
    assert found.state.last_completed == CHECKPOINT


@pytest.mark.parametrize("state", ["CANCELED", "FAILED"])
def test_one_that_ended_with_a_retained_checkpoint(store: ObstoreObjects, state: str) -> None:
    register(store, "j1", "flights", 1, *BEGUN)
    register(store, "j2", "flights", 2, *BEGUN, CHECKPOINT, Finished(state, retained=True))  # type: ignore[arg-type]
    assert latest(store, "flights") == "j2"


FAILED = Finished("FAILED", retained=True)
FIRST = "j1/chk-1-1/_metadata"


def test_a_job_that_another_one_went_on_from_is_not_continued_again(store: ObstoreObjects) -> None:
    register(store, "j1", "flights", 1, *BEGUN, CHECKPOINT, FAILED)
    register(store, "j2", "flights", 2, *BEGUN, CHECKPOINT, Finished("FINISHED"), origin=FIRST)
    assert latest(store, "flights") is None


def test_one_that_went_on_but_got_nowhere_leaves_the_other_to_be_continued(store: ObstoreObjects) -> None:
    register(store, "j1", "flights", 1, *BEGUN, CHECKPOINT, FAILED)
    register(store, "j2", "flights", 2, *BEGUN, FAILED, origin=FIRST)
    assert latest(store, "flights") == "j1"
    register(store, "j3", "flights", 3, *BEGUN, origin=FIRST)
    found = run_program(find_latest("flights", new_name), store)
    assert found is not None
    assert (found.job_id, found.description.restored_from) == ("j3", FIRST)


def test_one_that_never_began_is_passed_over(store: ObstoreObjects) -> None:
    register(store, "j1", "flights", 1, *BEGUN, CHECKPOINT)
    register(store, "j2", "flights", 2)
    assert latest(store, "flights") == "j1"


def test_none(store: ObstoreObjects) -> None:
    assert latest(store, "flights") is None
    register(store, "j1", "flights", 1, *BEGUN, Finished("FAILED", retained=True))
    assert latest(store, "flights") is None, "it retained nothing"


def test_a_damaged_description_is_named(store: ObstoreObjects) -> None:
    register(store, "j1", "flights", 1)
    name = store.execute(List("jobs/"))[0]
    store.execute(Put(name, b"{", create_only=False))
    with pytest.raises(DamagedCheckpointError, match=name):
        latest(store, "flights")
