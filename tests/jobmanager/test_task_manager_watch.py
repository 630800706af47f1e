"""Whom the dispatcher takes for hung, and what it shows of task managers meanwhile."""

from __future__ import annotations

from dataclasses import replace

from penstock.jobmanager.cluster.task_manager_watch import START_S, TaskManagerWatch
from penstock.jobmanager.views import TaskManagerView

ONE = ["taskmanager-1"]
VIEW = TaskManagerView("taskmanager-1", "host", "node", 1, 2, 4, 3, (), 0, 2, 0, 0, 0)


def watch() -> TaskManagerWatch:
    return TaskManagerWatch(interval_s=2, timeout_s=10)


def spoken() -> TaskManagerWatch:
    """Has answered at 0, and owes an answer since 2."""
    found = watch()
    assert found.look(ONE, 0) == (ONE, [])
    found.answered(ONE[0], VIEW, 0)
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
        found.answered(ONE[0], VIEW, now_s)
        assert found.look(ONE, now_s)[1] == []


def test_one_that_starts_has_more_time() -> None:
    found = watch()
    assert looks(found, 0, 200)[0] == START_S + 1


def test_one_that_is_being_started_again_has_more_time() -> None:
    found = spoken()
    found.answered(ONE[0], None, 3)
    assert looks(found, 3, 200)[0] > START_S


def test_whoever_stood_still_himself_kills_nobody() -> None:
    found = spoken()
    assert found.look(ONE, 100) == ([], [])
    found.answered(ONE[0], VIEW, 100)
    assert found.look(ONE, 101) == (ONE, [])


def test_what_is_said_is_news_once_whoever_asked() -> None:
    found = spoken()
    assert found.news() == [VIEW]
    assert found.news() == []
    found.answered(ONE[0], None, 3)
    assert found.news() == []
    assert found.ask_now(4) == ONE
    for free in (1, 2):
        found.answered(ONE[0], replace(VIEW, slots_free=free), 4)
    assert found.news() == [replace(VIEW, slots_free=2)]


def test_one_that_is_gone_is_forgotten() -> None:
    found = spoken()
    found.look([], 3)
    assert looks(found, 4, 60) == []


# what is shown -------------------------------------------------------------------------------------------------


def test_one_that_is_silent_is_shown_as_it_was_until_it_is_given_up() -> None:
    found = spoken()
    assert [now_s for now_s in range(3, 30) if found.views(now_s) == [VIEW]] == list(range(3, 11))
    changed = replace(VIEW, slots_free=0)
    found.answered(ONE[0], changed, 30)
    assert found.views(31) == [changed]


def test_one_whose_process_is_gone_is_shown_as_it_was() -> None:
    """It is being started again, and its slots live."""
    found = spoken()
    found.answered(ONE[0], None, 3)
    assert found.views(4) == [VIEW]


def test_one_that_is_killed_or_has_left_is_not_shown() -> None:
    killed, left = spoken(), spoken()
    assert looks(killed, 3, 14) == [13]
    assert killed.views(13) == []
    left.look([], 3)
    assert left.views(3) == []


def test_who_owes_an_answer_is_not_asked_again_and_only_fresh_questions_are_waited_for() -> None:
    found, both = spoken(), [*ONE, "taskmanager-2"]
    found.look(both, 3)
    found.answered("taskmanager-2", VIEW, 3)
    assert found.ask_now(4) == ["taskmanager-2"]
    assert found.ask_now(4) == []
    assert found.awaits(since_s=3)
    found.answered("taskmanager-2", VIEW, 4)
    assert not found.awaits(since_s=3), "the other one was asked at 2, and is not waited for"
    assert looks(found, 5, 14) == [13], "questions of others do not put off its end"


def test_an_answer_to_whoever_asked_counts_as_a_sign_of_life() -> None:
    found = watch()
    found.look(ONE, 0)
    found.answered(ONE[0], VIEW, 0)
    assert found.ask_now(1) == ONE
    assert looks(found, 2, 14) == [12]
