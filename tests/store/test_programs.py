"""Retries and create-only puts, against a store whose every answer is written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from penstock.state.errors import (
    ObjectAlreadyExists,
    ObjectNotFound,
    ObjectStoreDenied,
    ObjectStoreError,
    ObjectStoreUnavailable,
)
from penstock.state.store.objects import (
    Get,
    Pause,
    Program,
    Put,
    RetryBudget,
    StoreOp,
    create_once,
    run_program,
    with_retries,
)

BUDGET = RetryBudget(tries=3, first_pause_ms=100, max_pause_ms=150)
LOST, EXISTS = ObjectStoreUnavailable("?"), ObjectAlreadyExists()
MISSING, DENIED = ObjectNotFound(), ObjectStoreDenied()


class Scripted:
    """Gives the answers in their order, and remembers what was asked. A pause takes no answer."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = list(answers)
        self.asked: list[StoreOp] = []

    def execute(self, op: StoreOp) -> Any:
        self.asked.append(op)
        if isinstance(op, Pause):
            return None
        answer = self.answers.pop(0)
        if isinstance(answer, ObjectStoreError):
            raise answer
        return answer


def ask(program: Program[Any], *answers: Any) -> tuple[Any, list[StoreOp]]:
    store = Scripted(answers)
    try:
        result: Any = run_program(program, store)
    except ObjectStoreError as error:
        result = error
    assert store.answers == [], "every answer is asked for"
    return result, store.asked


def test_unavailable_is_tried_again_after_growing_pauses() -> None:
    result, asked = ask(with_retries(Get("a"), BUDGET), LOST, LOST, b"x")
    assert result == b"x"
    assert asked == [Get("a"), Pause(100), Get("a"), Pause(150), Get("a")]


def test_the_budget_ends() -> None:
    result, asked = ask(with_retries(Get("a"), BUDGET), LOST, LOST, LOST)
    assert result is LOST
    assert asked[-1] == Get("a"), "no pause after the last try"


@pytest.mark.parametrize("final", [DENIED, MISSING])
def test_final_errors_are_not_tried_again(final: ObjectStoreError) -> None:
    assert ask(with_retries(Get("a"), BUDGET), final) == (final, [Get("a")])
    assert ask(with_retries(Get("a"), BUDGET), LOST, final)[0] is final


def test_pauses_double_up_to_a_limit() -> None:
    budget = RetryBudget(first_pause_ms=100, max_pause_ms=1_000)
    assert [budget.pause_ms(n) for n in range(1, 7)] == [100, 200, 400, 800, 1_000, 1_000]


PUT = Put("a", b"mine", create_only=True)


@pytest.mark.parametrize(
    ("answers", "result", "asked"),
    [
        pytest.param([None], b"mine", [PUT], id="won at once"),
        pytest.param([EXISTS, b"other"], b"other", [PUT, Get("a")], id="lost"),
        pytest.param([EXISTS, b"mine"], b"mine", [PUT, Get("a")], id="met itself"),
        pytest.param([LOST, b"mine"], b"mine", [PUT, Get("a")], id="timeout after success"),
        pytest.param([LOST, b"other"], b"other", [PUT, Get("a")], id="timeout, and another was faster"),
        pytest.param([LOST, MISSING, None], b"mine", [PUT, Get("a"), Pause(100), PUT], id="not done, tried again"),
        pytest.param(
            [EXISTS, MISSING, None], b"mine", [PUT, Get("a"), Pause(100), PUT], id="said to exist, nothing stored"
        ),
        pytest.param(
            [LOST, LOST, EXISTS, b"mine"], b"mine", [PUT, Get("a"), Pause(100), PUT, Get("a")], id="read failed too"
        ),
        pytest.param(
            [LOST, MISSING, EXISTS, b"other"],
            b"other",
            [PUT, Get("a"), Pause(100), PUT, Get("a")],
            id="another between two tries",
        ),
    ],
)
def test_who_created_it(answers: list[Any], result: bytes, asked: list[StoreOp]) -> None:
    assert ask(create_once("a", b"mine", BUDGET), *answers) == (result, asked)


def test_an_unknown_outcome_says_so() -> None:
    error, asked = ask(create_once("a", b"mine", BUDGET), LOST, LOST, LOST, MISSING, EXISTS, MISSING)
    assert isinstance(error, ObjectStoreUnavailable)
    assert "unknown whether a was written" in str(error)
    assert len([op for op in asked if op == PUT]) == 3


@pytest.mark.parametrize("answers", [[DENIED], [LOST, DENIED]])
def test_a_refusal_is_final(answers: list[Any]) -> None:
    assert ask(create_once("a", b"mine", BUDGET), *answers)[0] is DENIED


def test_a_program_sees_errors_and_results_of_its_ops() -> None:
    def program() -> Program[list[object]]:
        seen: list[object] = []
        try:
            yield Get("a")
        except ObjectNotFound as error:
            seen.append(error)
        seen.append((yield Get("b")))
        return seen

    assert ask(program(), MISSING, b"b")[0] == [MISSING, b"b"]
