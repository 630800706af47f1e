"""Workers that hold a model each, beside the slot's thread: what an operator asks of them, and how they answer.

A worker is an actor of Ray, with resources and a process of its own, or where there is no Ray a thread. The operator
numbers them, and never uses a number twice. It starts one, is told when its model is loaded, gives it batches, which it
works off one after the other, and closes them all; or a worker ends by itself, with all that it had. Threads and actors
are in taskmanager/; tests drive workers by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import pyarrow as pa

from ..state.errors import PenstockError, ProtocolError
from .resources import NO_RESOURCES, Resources


class NoRoomError(PenstockError):
    """No node could give a worker what it asks for, however idle it were."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What every worker of a pool is."""

    operator: str
    """Name of the operator: for messages, and in the names of logs."""
    model: Any
    """Called without arguments it gives the model, which is then called with one batch after the other."""
    face: str
    resources: Resources = NO_RESOURCES
    """Of each worker."""


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """Its model is loaded."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """With all that it had. `error`: another one would fare no better."""

    worker: int
    reason: str
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A batch is done."""

    worker: int
    number: int
    produced: pa.Table | None = None
    error: Exception | None = None


WorkerEvent = WorkerReady | WorkerEnded | CallEnded
Told = Callable[[WorkerEvent], None]
"""Called on the slot's thread, between two steps. Nothing in it may fail."""


class Workers(Protocol):
    """Of one operator of one subtask. Its methods return at once; they end with the process that called them."""

    def start(self, worker: int) -> None:
        """Answered by WorkerReady or WorkerEnded."""
        ...

    def call(self, worker: int, number: int, columns: pa.RecordBatch) -> None:
        """Answered by CallEnded or WorkerEnded. After those that it was given before."""
        ...

    def close(self) -> None:
        """End all, whatever they do; nothing is told from now on. Waits at most a moment."""
        ...


class MakeWorkers(Protocol):
    """What an operator finds in its context."""

    def __call__(self, spec: ModelSpec, told: Told) -> Workers: ...


def no_workers(spec: ModelSpec, told: Told) -> NoReturn:
    """Of contexts in which operators are only opened."""
    raise ProtocolError("an operator that is only opened has no workers")


class LoadedModel:
    """A model where it is called: in a worker."""

    def __init__(self, spec: ModelSpec) -> None:
        """Raises what the model's own __init__ raises."""
        self._spec = spec
        self._model = spec.model()

    def __call__(self, columns: pa.RecordBatch) -> pa.Table | None:
        """Raises what the model raises; RecordTypeError: it gave no batch."""
        from .records.batch_faces import as_table, given

        produced = self._model(given(columns, self._spec.face))
        return None if produced is None else as_table(produced, self._spec.operator)
