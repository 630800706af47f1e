"""Questions for keyed state: each goes to the subtask that owns the key, and is answered once, whatever happens."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.jobmanager import events
from penstock.jobmanager.gateway import RefusedError, StateAnswer, StateQuestion, UnavailableError, UnknownError
from penstock.jobmanager.state_queries import MOST_OPEN, TIMEOUT_MS
from penstock.runtime.elements import MIN_WATERMARK
from penstock.state.errors import KeyTypeError, PenstockError
from penstock.state.ids import OperatorId, VertexId
from penstock.state.key_encoding import encode_key
from penstock.state.key_groups import key_group
from penstock.state.rows.cell_reads import CellRead, CellRows
from penstock.state.statistics import NamedState, StateStatistics
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SubtaskId
from penstock.taskmanager.views import SubtaskDetails

NewWorld = Any
"""The class World of conftest.py."""
WRITE = OperatorId("write")
SINKS = [SubtaskId(VertexId("sink"), index) for index in range(2)]
FOUND = CellRows("value", ((b"", b"\x07"),), ("int",))


class Asked:
    """A world, whose sink keeps state by key, and what it was asked."""

    def __init__(self, world: Any, keys: tuple[Any, ...] = ("str",), reporters: tuple[int, ...] = (0, 1)) -> None:
        self.world = world.run()
        self.answers: dict[int, StateAnswer | PenstockError] = {}
        carry_out = world.carry_out

        def heard(commands: list[events.Command]) -> None:
            for command in commands:
                if isinstance(command, events.AnswerState):
                    assert command.number not in self.answers, "one answer for each"
                    self.answers[command.number] = command.answer
            carry_out(commands)

        world.carry_out = heard
        self.report(keys, reporters)

    def report(self, keys: tuple[Any, ...], reporters: tuple[int, ...] = (0, 1)) -> None:
        states = {"total": NamedState(1, 1, kind="value"), "pages": NamedState(1, 1, kind="map", keys=("date",))}
        self.world.now += 1
        for index in reporters:
            details = SubtaskDetails(states={WRITE: StateStatistics(keys=keys, states=states)})
            self.world.hear(
                m.TaskReport, SINKS[index], *[0] * 4, MIN_WATERMARK, *[0.0] * 3, {}, 0, details
            )  # fmt: skip

    def ask(self, number: int, key: str = "alice", operator: str = "write", **more: Any) -> Any:
        """What is answered at once."""
        self.world.tell(events.StateRequested(number, StateQuestion(operator, "total", key, **more)))
        return self.answers.get(number)

    @property
    def orders(self) -> list[m.ReadState]:
        return [message for _slot, message in self.world.sent if isinstance(message, m.ReadState)]

    def answer(self, order: m.ReadState, found: CellRows | str = FOUND, unknown: bool = False) -> None:
        slot = self.world.slot_of(order.subtask)
        message = m.StateRead(self.world.attempt_of(order.subtask), order.subtask, order.number, found, unknown)
        self.world.tell(events.SlotMessage(slot, message))


def owner(key: Any) -> SubtaskId:
    return SINKS[key_group(key, 128) * 2 // 128]


def test_the_owner_of_the_key_is_asked_and_answers(new_world: NewWorld) -> None:
    asked = Asked(new_world())
    for number, key in enumerate(("alice", "bob", "carol", "dave")):
        assert asked.ask(number, key) is None
        order = asked.orders[-1]
        assert (order.subtask, order.operator_id, order.read) == (
            owner(key), WRITE, CellRead("total", encode_key(key)),
        )  # fmt: skip
        assert asked.world.sent[-1][0] == asked.world.slot_of(owner(key))
        asked.answer(order)
        assert asked.answers[number] == StateAnswer(WRITE, owner(key).index, FOUND)
    assert {order.subtask for order in asked.orders} == set(SINKS)


def test_keys_and_map_keys_are_read_as_what_the_reports_say(new_world: NewWorld) -> None:
    asked = Asked(new_world(), keys=("int",))
    asked.world.tell(events.StateRequested(1, StateQuestion("write", "pages", "17", "2024-01-02", 60_000)))
    (order,) = asked.orders
    assert (order.subtask, order.read.key, order.read.namespace) == (owner(17), encode_key(17), 60_000)
    assert order.read.entry is not None
    assert order.read.entry[:1] == b"\x2c", "a date"


def test_a_key_of_another_type_is_refused(new_world: NewWorld) -> None:
    asked = Asked(new_world(), keys=("int",))
    refused = asked.ask(1, "alice")
    assert isinstance(refused, KeyTypeError)
    assert "of type int" in str(refused)
    assert asked.orders == []


def test_where_no_key_is_known_yet_all_must_have_reported(new_world: NewWorld) -> None:
    asked = Asked(new_world(), keys=(), reporters=(0,))
    assert isinstance(asked.ask(1), UnavailableError)
    asked.report((), (1,))
    assert asked.ask(2) is None
    asked.answer(asked.orders[-1], CellRows("value", (), ()))
    assert isinstance(asked.answers[2], StateAnswer)


def test_one_report_is_enough_to_know_the_type(new_world: NewWorld) -> None:
    assert Asked(new_world(), reporters=(1,)).ask(1) is None


def test_operators_that_are_not_there(new_world: NewWorld) -> None:
    asked = Asked(new_world())
    unknown = asked.ask(1, operator="Write")
    assert isinstance(unknown, UnknownError)
    assert str(unknown) == "the job has no operator 'Write'; those with state by key: 'write'"


def test_what_the_slot_refuses(new_world: NewWorld) -> None:
    asked = Asked(new_world())
    for number, unknown, kind in ((1, True, UnknownError), (2, False, RefusedError)):
        asked.ask(number)
        asked.answer(asked.orders[-1], "no such state", unknown)
        error = asked.answers[number]
        assert (type(error), str(error)) == (kind, "no such state")


def test_a_slot_that_says_nothing_is_not_waited_for(new_world: NewWorld) -> None:
    asked = Asked(new_world())
    asked.ask(1)
    asked.world.pass_time(TIMEOUT_MS - 1)
    assert asked.answers == {}
    asked.world.pass_time(1)
    assert isinstance(asked.answers[1], UnavailableError)
    asked.answer(asked.orders[-1])  # too late
    assert isinstance(asked.answers[1], UnavailableError)


@pytest.mark.parametrize("loses", ["the slot", "another subtask", "the job"])
def test_a_restart_is_an_answer_and_what_comes_after_it_is_dropped(new_world: NewWorld, loses: str) -> None:
    asked = Asked(new_world())
    world = asked.world
    asked.ask(1)
    order = asked.orders[-1]
    slot, attempt = world.slot_of(order.subtask), world.attempt_of(order.subtask)
    if loses == "the slot":
        world.lose(slot)
    elif loses == "another subtask":
        world.fail_task(next(each for each in SINKS if each != order.subtask))
    else:
        world.tell(events.CancelRequested())
        world.settle()
    error = asked.answers[1]
    assert isinstance(error, UnavailableError)
    assert "was stopped before it answered; try again" in str(error)
    world.tell(events.SlotMessage(slot, m.StateRead(attempt, order.subtask, 1, FOUND)))
    assert asked.answers[1] is error


def test_while_it_restarts_nobody_is_asked_and_afterwards_again(new_world: NewWorld) -> None:
    asked = Asked(new_world())
    asked.world.fail_task(SINKS[0])
    while asked.world.state.value == "RESTARTING":
        error = asked.ask(len(asked.answers))
        assert isinstance(error, UnavailableError)
        asked.world.pass_time(500)
    asked.world.settle()
    assert isinstance(asked.ask(100), UnavailableError), "the new attempt has not reported"
    asked.report(("str",))
    assert asked.ask(101) is None


def test_so_many_may_wait(new_world: NewWorld) -> None:
    asked = Asked(new_world())
    assert [asked.ask(number) for number in range(MOST_OPEN)] == [None] * MOST_OPEN
    assert isinstance(asked.ask(100), UnavailableError)
    asked.answer(asked.orders[3])
    assert asked.ask(101) is None
