"""Which worker of a pool of models has which batch, and what becomes of it when workers die."""

from __future__ import annotations

import itertools

import pytest

from penstock.runtime.model_pool import (
    CALLS_PER_WORKER,
    DEATHS_IN_A_ROW,
    FIRST_PAUSE_MS,
    MS,
    NO_ROOM_MS,
    NO_ROOM_PAUSE_MS,
    ModelPool,
    PoolError,
    SendBatch,
    StartWorker,
)


def started(size: int = 2) -> ModelPool:
    pool = ModelPool(size, start_timeout_ms=1_000)
    assert pool.start(0) == [StartWorker(worker) for worker in range(1, size + 1)]
    return pool


def test_batches_go_to_the_worker_that_has_fewest_and_two_at_most_to_each() -> None:
    pool = started()
    assert [pool.submit(number) for number in range(6)] == [[]] * 6
    assert pool.worker_ready(1) == [SendBatch(1, 0), SendBatch(1, 1)]
    assert pool.worker_ready(2) == [SendBatch(2, 2), SendBatch(2, 3)]
    assert pool.answered(2, 2) == [SendBatch(2, 4)]
    assert CALLS_PER_WORKER == 2
    assert not pool.idle


def test_what_a_dead_worker_had_is_sent_again_before_all_that_waits() -> None:
    pool = started()
    for number in range(5):
        pool.submit(number)
    pool.worker_ready(1)
    assert pool.worker_ended(1, "killed", 0) == [0, 1]
    assert pool.worker_ready(2) == [SendBatch(2, 0), SendBatch(2, 1)]
    assert pool.next_due_ns() == FIRST_PAUSE_MS * MS
    assert pool.tick(FIRST_PAUSE_MS * MS) == [StartWorker(3)]
    assert pool.worker_ready(3) == [SendBatch(3, 2), SendBatch(3, 3)]
    assert pool.worker_ended(1, "heard twice", 0) == []
    assert pool.next_due_ns() is None


def test_who_is_left_takes_over_at_once() -> None:
    pool = started()
    pool.worker_ready(1)
    pool.worker_ready(2)
    assert pool.submit(0) == [SendBatch(1, 0)]
    assert pool.worker_ended(1, "killed", 0) == [0]
    assert pool.tick(0) == [SendBatch(2, 0)], "before another one is there, which may take minutes, or not come at all"


def test_a_node_that_takes_all_workers_with_it_is_one_death_of_each() -> None:
    pool = started(DEATHS_IN_A_ROW + 2)
    for worker in range(1, DEATHS_IN_A_ROW + 3):
        pool.worker_ready(worker)
        pool.worker_ended(worker, "its node is lost", 0)
    assert len(pool.tick(FIRST_PAUSE_MS * MS)) == DEATHS_IN_A_ROW + 2


def test_what_no_node_has_room_for_is_tried_again_for_a_moment() -> None:
    pool, now_ns = started(1), 0
    for worker in range(1, NO_ROOM_MS // NO_ROOM_PAUSE_MS + 1):
        assert pool.no_room(worker, now_ns)
        now_ns += NO_ROOM_PAUSE_MS * MS
        assert pool.next_due_ns() == now_ns
        assert pool.tick(now_ns) == [StartWorker(worker + 1)]
    assert not pool.no_room(worker + 1, now_ns)


def test_pauses_grow_with_deaths_in_a_row_and_an_answer_ends_the_row() -> None:
    pool, now_ns, workers, pauses_ms = started(1), 0, itertools.count(1), []
    for death in range(DEATHS_IN_A_ROW):
        pool.worker_ended(next(workers), "killed", now_ns)
        due_ns = pool.next_due_ns()
        assert due_ns is not None
        pauses_ms.append((due_ns - now_ns) // MS)
        now_ns = due_ns
        assert pool.tick(now_ns) == [StartWorker(death + 2)]
    assert pauses_ms == [FIRST_PAUSE_MS << n for n in range(DEATHS_IN_A_ROW)]
    worker = next(workers)
    pool.worker_ready(worker)
    pool.submit(0)
    pool.answered(worker, 0)
    pool.worker_ended(worker, "killed", now_ns)
    assert pool.next_due_ns() == now_ns + FIRST_PAUSE_MS * MS


def test_a_pool_whose_workers_only_die_gives_up() -> None:
    pool = started(1)
    for worker in range(1, DEATHS_IN_A_ROW + 1):
        pool.worker_ended(worker, "short of memory", 0)
        pool.tick(10**12)
    with pytest.raises(PoolError, match=f"{DEATHS_IN_A_ROW + 1} of its actors have ended in a row.*short of memory"):
        pool.worker_ended(DEATHS_IN_A_ROW + 1, "short of memory", 0)


def test_a_batch_that_workers_die_of_is_named() -> None:
    pool = started(3)
    pool.submit(0)
    pool.submit(1)
    for worker in (1, 2, 3):
        pool.worker_ready(worker)
        if worker < 3:
            pool.worker_ended(worker, "killed", 0)
    with pytest.raises(PoolError, match="3 of its actors have ended while they worked on one batch") as caught:
        pool.worker_ended(3, "killed", 0)
    assert caught.value.number == 0


def test_a_worker_that_does_not_come_up_is_not_waited_for() -> None:
    pool = started()
    pool.worker_ready(1)
    assert pool.next_due_ns() == 1_000 * MS
    assert pool.tick(999 * MS) == []
    with pytest.raises(PoolError, match="did not come up within 1 s"):
        pool.tick(1_000 * MS)
