"""The object store, and programs over it.

Everything that reads or writes the store (the job log, checkpoints, uploads of state) is a *program*: a generator
that yields one `StoreOp` at a time and is sent its result, or has the store's error thrown into it. A program does
no I/O itself. `run_program` drives one against a real store, on a helper thread; the simulator drives many of them
op by op, in an order of its seed, and makes ops slow, fail, or succeed and still answer an error.

Names are relative to the configured checkpoint directory, '/' separated.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Put:
    """Write an object. create_only: ObjectAlreadyExists if there is one of that name (atomic). Result: None."""

    name: str
    data: bytes
    create_only: bool = True


@dataclass(frozen=True, slots=True)
class PutFile:
    """Upload a local file under a new name. Result: None."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Get:
    """Result: the object's bytes. ObjectNotFound."""

    name: str


@dataclass(frozen=True, slots=True)
class GetFile:
    """Download into a local file (parent directories are made). Result: None. ObjectNotFound."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class List:
    """Names of all objects that start with the prefix, sorted. Result: list[str]."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete objects; missing ones are fine. Result: None."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before a retry. Result: None."""

    duration_ms: int


StoreOp = Put | PutFile | Get | GetFile | List | Delete | Pause
Program = Generator[StoreOp, Any, T]


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
            answer = store.execute(op)
        except Exception as failure:  # the program decides which failures it can handle
            error = failure
