"""The object store, and programs over it.

Everything that reads or writes the store (the job log, checkpoints, uploads of state) is a *program*: a generator
that yields one `StoreOp` at a time and is sent its result, or has the store's error thrown into it. Several ops that
need not wait for each other go as one step, `Together`. A program does no I/O itself. `run_program` drives one against
a real store, on a helper thread; the simulator drives many of them op by op, in an order of its seed, and makes ops
slow, fail, or succeed and still answer an error.

Names are relative to the configured checkpoint directory, '/' separated.

What can fail, and what a program does about it:

- ObjectStoreUnavailable: the store failed or did not answer, and the op may have been done. Try again after a pause
  (`with_retries`), a bounded number of times; pauses double and have no jitter, so that a simulated run replays.
- ObjectStoreDenied, ObjectNotFound: final, trying again gives the same.
- ObjectAlreadyExists of a create-only put: ambiguous, since the put may have met its own earlier try, and some stores
  answer so with nothing stored. `create_once` reads back what stands there. It tells its own object from another
  writer's by the bytes, so these must be the writer's alone: they contain a nonce, or the name does (PROTOCOLS 3).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import ObjectAlreadyExists, ObjectNotFound, ObjectStoreUnavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Put:
    """Write an object. Result: None.

    create_only: ObjectAlreadyExists if there is one of that name (atomic), and it is durable before the put returns.
    Otherwise it is overwritten, and a crash of the machine may lose it: only for hints, like a leader's beat."""

    name: str
    data: bytes
    create_only: bool = True


@dataclass(frozen=True, slots=True)
class PutFile:
    """Upload a local file under a name that contains a unique part; a second try overwrites the first. Durable
    before it returns. Result: None."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Get:
    """Result: the object's bytes. ObjectNotFound."""

    name: str


@dataclass(frozen=True, slots=True)
class GetRange:
    """Result: the object's bytes from `offset`, at most `length`; fewer where it ends before. ObjectNotFound."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class GetFile:
    """Download into a local file (parent directories are made). Result: None. ObjectNotFound."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class GetPart:
    """Download a range into a local file, at the same offset; the file is made if it is not there, its directory is.
    Less is written where the object ends before. Result: the size of the object, in bytes. ObjectNotFound."""

    name: str
    offset: int
    length: int
    path: Path


@dataclass(frozen=True, slots=True)
class List:
    """Names of all objects that start with the prefix, sorted. Result: list[str]."""

    prefix: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing shows it."""

    name: str
    size_bytes: int
    modified_at_ms: int
    """By the store's clock."""


@dataclass(frozen=True, slots=True)
class ListDetails:
    """Like List, with sizes and times. Result: list[StoredObject], sorted by name."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete objects; missing ones are fine. Result: None."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before a retry. Result: None."""

    duration_ms: int


StoreOp = Put | PutFile | Get | GetRange | GetFile | GetPart | List | ListDetails | Delete | Pause


@dataclass(frozen=True, slots=True)
class Together:
    """Do these ops at the same time, a few at once, in any order. Result: a list of what each gave, in their order: its
    result, or the error that it raised. It is the driver that spreads them; a store knows single ops only."""

    ops: tuple[StoreOp, ...]


Program = Generator[StoreOp | Together, Any, T]


class ObjectStore(Protocol):
    """What carries out store operations: a real store, or the simulator's."""

    def execute(self, op: StoreOp) -> Any:
        """Do one op, blocking. Raises ObjectStoreError subclasses only."""
        ...


def run_program(program: Program[T], store: ObjectStore) -> T:
    """Drive a program to its end against a store. Raises what the program raises."""
    answer: Any = None
    error: Exception | None = None
    while True:
        try:
            op = program.send(answer) if error is None else program.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer, error = None, None
        try:
            answer = carry_out(op, store)
        except Exception as failure:  # the program decides which failures it can handle
            error = failure


OPS_AT_ONCE = 8
"""Of all steps of several ops in a process: enough to fill a line, and what they hold in memory is bounded."""
_room = threading.BoundedSemaphore(OPS_AT_ONCE)


def carry_out(op: StoreOp | Together, store: ObjectStore, stopped: Callable[[], bool] = lambda: False) -> Any:
    """One step of a program, blocking. `stopped`: ops of the step that are not begun yet are left out, because nobody
    waits for the answer any more."""
    if not isinstance(op, Together):
        return store.execute(op)
    answers: list[Any] = [ObjectStoreUnavailable("its helper thread has ended, or was stopped")] * len(op.ops)
    left = deque(enumerate(op.ops))

    def work() -> None:
        while left and not stopped():
            try:
                number, one = left.popleft()
            except IndexError:  # another thread has taken the last one
                return
            with _room:
                try:
                    answers[number] = store.execute(one)
                except Exception as failure:
                    answers[number] = failure

    helpers = [threading.Thread(target=work, daemon=True) for _ in range(min(len(op.ops), OPS_AT_ONCE) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    return answers


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How long a store may be unavailable before a program gives up."""

    tries: int = 6
    first_pause_ms: int = 100
    max_pause_ms: int = 5_000

    def pause_ms(self, failures: int) -> int:
        """After the n-th failure in a row."""
        return min(self.first_pause_ms << (failures - 1), self.max_pause_ms)


DEFAULT_BUDGET = RetryBudget()
"""Six tries over 3 s: rides out a dropped connection, and is shorter than any checkpoint timeout."""


def with_retries(op: StoreOp, budget: RetryBudget = DEFAULT_BUDGET) -> Program[Any]:
    """Do one op that may be done twice (all but a create-only put), trying again while the store is unavailable."""
    failures = 0
    while True:
        try:
            return (yield op)
        except ObjectStoreUnavailable:
            failures += 1
            if failures >= budget.tries:
                raise
        yield Pause(budget.pause_ms(failures))


def all_with_retries(ops: Sequence[StoreOp], budget: RetryBudget = DEFAULT_BUDGET) -> Program[list[Any]]:
    """Do ops together, each of which may be done twice, and again those for which the store was unavailable. Answers
    results in order, with errors that are final in their places. ObjectStoreUnavailable: the budget is spent."""
    results: list[Any] = [None] * len(ops)
    left, failures = list(range(len(ops))), 0
    while True:
        answers = yield Together(tuple(ops[number] for number in left))
        for number, answer in zip(left, answers, strict=True):
            results[number] = answer
        left = [number for number in left if isinstance(results[number], ObjectStoreUnavailable)]
        if not left:
            return results
        failures += 1
        if failures >= budget.tries:
            raise results[left[0]]
        yield Pause(budget.pause_ms(failures))


def create_once(name: str, data: bytes, budget: RetryBudget = DEFAULT_BUDGET) -> Program[bytes]:
    """Write a create-only object, and return the bytes that stand under the name: `data` if we won, else another's.

    ObjectStoreUnavailable: the budget is spent and it is unknown whether the object is, or will be, there."""
    failures = 0
    while True:
        try:
            yield Put(name, data, create_only=True)
            return data
        except (ObjectAlreadyExists, ObjectStoreUnavailable) as error:
            doubt = error
        try:
            standing: bytes = yield Get(name)
            return standing
        except ObjectNotFound:
            pass
        except ObjectStoreUnavailable as error:
            doubt = error
        failures += 1
        if failures >= budget.tries:
            raise ObjectStoreUnavailable(f"It is unknown whether {name} was written: {doubt}") from doubt
        yield Pause(budget.pause_ms(failures))
