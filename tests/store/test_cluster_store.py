"""What a cluster remembers of its jobs, and of what they collected."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from penstock.jobmanager.cluster.collected import CollectedPages, fetch
from penstock.state.errors import ObjectNotFound, ObjectStoreUnavailable
from penstock.state.ids import JobId, new_nonce
from penstock.state.store.cluster_store import (
    EndedJob,
    JobSubmission,
    forget,
    get_ended,
    get_graph,
    list_ended,
    list_records,
    put_ended,
    put_job,
)
from penstock.state.store.objects import List, Put, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

JOB = JobId("a" * 32)


@pytest.fixture
def store() -> ObstoreObjects:
    return ObstoreObjects("memory://")


def submission(job_id: JobId = JOB, at_ms: int = 1) -> JobSubmission:
    return JobSubmission(job_id, "clicks", at_ms, "s3://bucket/checkpoints", {"parallelism.default": "2"})


def test_a_job_is_found_with_its_graph(store: ObstoreObjects) -> None:
    run_program(put_job(submission(), b"graph", new_nonce), store)
    assert run_program(list_records(), store) == [submission()]
    assert run_program(get_graph(JOB), store) == b"graph"


def test_jobs_are_listed_in_the_order_they_came(store: ObstoreObjects) -> None:
    for at_ms in (30, 4, 100):
        run_program(put_job(submission(JobId(f"{at_ms:032x}"), at_ms), b"", new_nonce), store)
    assert [record.created_at_ms for record in run_program(list_records(), store)] == [4, 30, 100]


def test_there_is_no_job_without_its_graph(store: ObstoreObjects) -> None:
    """A dispatcher that dies while it stores a submission leaves no half of it."""
    program = put_job(submission(), b"graph", new_nonce)
    store.execute(next(program))  # the first object is written, the second one never
    assert run_program(list_records(), store) == []


def test_the_first_ending_counts(store: ObstoreObjects) -> None:
    assert run_program(get_ended(submission().life), store) is None
    run_program(put_ended(EndedJob(submission().life, "FINISHED", 5, b"{}"), new_nonce), store)
    run_program(put_ended(EndedJob(submission().life, "FAILED", 6, b"{}"), new_nonce), store)
    ended = run_program(get_ended(submission().life), store)
    assert ended is not None
    assert ended.state == "FINISHED"
    assert run_program(list_ended(), store) == {submission().life}


def test_an_ending_is_that_of_one_submission(store: ObstoreObjects) -> None:
    """A job that is continued has the same id, and has not ended."""
    again = submission(at_ms=2)
    run_program(put_ended(EndedJob(submission().life, "SUSPENDED", 5, b"{}"), new_nonce), store)
    assert run_program(get_ended(again.life), store) is None
    run_program(put_ended(EndedJob(again.life, "FINISHED", 6, b"{}"), new_nonce), store)
    ended = run_program(get_ended(again.life), store)
    assert ended is not None
    assert ended.state == "FINISHED"


def test_a_forgotten_job_leaves_nothing_and_never_comes_back(store: ObstoreObjects) -> None:
    run_program(put_job(submission(), b"graph", new_nonce), store)
    run_program(put_ended(EndedJob(submission().life, "FINISHED", 5, b"{}"), new_nonce), store)
    CollectedPages(store, JOB).add("collect", "c1", [1])
    program = forget(submission())
    store.execute(program.send(None))
    assert run_program(list_records(), store) == [], "the record goes first"
    run_program(forget(submission()), store)
    assert store.execute(List("cluster/")) == []


# ---- collected records


def rows(pages: tuple[bytes, ...]) -> list[int]:
    return [row for page in pages for row in pickle.loads(page)]


def test_records_are_fetched_in_the_order_of_their_commits(store: ObstoreObjects) -> None:
    kept = CollectedPages(store, JOB)
    for i in range(5):
        kept.add("collect", f"c{i}", [i, i])
    pages, position = fetch(store, JOB, "collect", 0)
    assert (rows(pages), position) == ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 5)
    assert fetch(store, JOB, "collect", position) == ((), 5)


def test_a_commit_that_is_repeated_adds_nothing(store: ObstoreObjects) -> None:
    CollectedPages(store, JOB).add("collect", "c1", [1])
    successor = CollectedPages(store, JOB)
    successor.add("collect", "c1", [1])
    successor.add("collect", "c2", [2])
    assert rows(fetch(store, JOB, "collect", 0)[0]) == [1, 2]


def test_also_after_its_records_were_fetched(store: ObstoreObjects) -> None:
    CollectedPages(store, JOB).add("collect", "c1", [1])
    _, position = fetch(store, JOB, "collect", 0)
    assert fetch(store, JOB, "collect", position) == ((), position)
    CollectedPages(store, JOB).add("collect", "c1", [1])
    assert fetch(store, JOB, "collect", position) == ((), position)


def test_asking_again_with_the_same_position_gives_the_same(store: ObstoreObjects) -> None:
    """An answer that was lost on its way loses no record."""
    kept = CollectedPages(store, JOB)
    kept.add("collect", "c1", [1])
    assert rows(fetch(store, JOB, "collect", 0)[0]) == [1]
    kept.add("collect", "c2", [2])
    assert rows(fetch(store, JOB, "collect", 0)[0]) == [1, 2]


def test_two_masters_that_commit_the_same_at_once_add_it_once(store: ObstoreObjects) -> None:
    """The old one is deposed, but its commit is still on its way."""
    old, new = CollectedPages(store, JOB), CollectedPages(store, JOB)
    old.add("collect", "c1", [1])
    new.add("collect", "c1", [1])  # has listed what there was only now
    late = CollectedPages(store, JOB)
    late._known["collect"] = {}  # listed before anything was there
    late.add("collect", "c1", [1])
    assert rows(fetch(store, JOB, "collect", 0)[0]) == [1]


def test_collectors_do_not_see_each_others_records(store: ObstoreObjects) -> None:
    kept = CollectedPages(store, JOB)
    kept.add("one", "c1", [1])
    kept.add("other", "c1", [2])
    assert rows(fetch(store, JOB, "one", 0)[0]) == [1]
    assert rows(fetch(store, JOB, "other", 0)[0]) == [2]


class _Failing:
    """A store that fails once, before or after it has done a put."""

    def __init__(self, store: ObstoreObjects, when: Callable[[StoreOp], bool], done: bool) -> None:
        self._store, self._when, self._done = store, when, done

    def execute(self, op: StoreOp) -> object:
        if self._when(op):
            self._when = lambda op: False
            if self._done:
                self._store.execute(op)
            raise ObjectStoreUnavailable("the connection was reset")
        return self._store.execute(op)


@pytest.mark.parametrize("done", [False, True])
def test_a_put_that_may_have_been_done_is_done_once(store: ObstoreObjects, done: bool) -> None:
    kept = CollectedPages(_Failing(store, lambda op: isinstance(op, Put), done), JOB)
    kept.add("collect", "c1", [1])
    kept.add("collect", "c2", [2])
    assert rows(fetch(store, JOB, "collect", 0)[0]) == [1, 2]


def test_an_unknown_graph_is_not_found(store: ObstoreObjects) -> None:
    with pytest.raises(ObjectNotFound):
        run_program(get_graph(JOB), store)
