"""Whom the dispatcher takes for hung."""

from __future__ import annotations

from penstock.jobmanager.cluster.task_manager_watch import START_S, TaskManagerWatch

ONE = ["taskmanager-1"]


def watch() -> TaskManagerWatch:
    return TaskManagerWatch(interval_s=2, timeout_s=10)


def spoken() -> TaskManagerWatch:
    """Has answered at 0, and owes an answer since 2."""
    found = watch()
    assert found.look(ONE, 0) == (ONE, [])
    found.answered(ONE[0], alive=True)
    assert found.look(ONE, 1) == ([], [])
    assert found.look(ONE, 2) == (ONE, [])
    return found


def looks(found: TaskManagerWatch, start_s: int, end_s: int) -> list[int]:
    """The seconds at which it is killed."""
    return [now_s for now_s in range(start_s, end_s) if found.look(ONE, now_s)[1]]


def test_one_that_owes_an_answer_for_too_long_is_killed_once() -> None:
    assert looks(spoken(), 3, 60) == [13]


def test_one_that_answers_lives() -> None:
    found = spoken()
    for now_s in range(3, 100):
        found.answered(ONE[0], alive=True)
        assert found.look(ONE, now_s)[1] == []


def test_one_that_starts_has_more_time() -> None:
    found = watch()
    assert looks(found, 0, 200)[0] == START_S + 1


def test_one_that_is_being_started_again_has_more_time() -> None:
    found = spoken()
    found.answered(ONE[0], alive=False)
    assert looks(found, 3, 200)[0] > START_S


def test_whoever_stood_still_himself_kills_nobody() -> None:
    found = spoken()
    assert found.look(ONE, 100) == ([], [])
    found.answered(ONE[0], alive=True)
    assert found.look(ONE, 101) == (ONE, [])


def test_one_that_is_gone_is_forgotten() -> None:
    found = spoken()
    found.look([], 3)
    assert looks(found, 4, 60) == []
