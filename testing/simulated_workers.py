"""Workers of a pool of models in virtual time: they load, answer one batch after the other, and have their troubles.

What an operator is told may be wrong in every way in which that of processes on other machines may be: somebody who was
said to have ended answers all the same, an answer comes twice, or never. A slot that dies takes its workers with it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from random import Random

import pyarrow as pa

from ..runtime.model_workers import (
    CallEnded,
    LoadedModel,
    ModelSpec,
    NoRoomError,
    Told,
    WorkerEnded,
    WorkerEvent,
    WorkerReady,
)
from .lists import InjectedFailure
from .virtual_time import MS, Call, Process, VirtualTime


class Trouble(enum.Enum):
    DIES = "a worker dies, with all that it has"
    IS_GIVEN_UP = "a worker is said to have ended, and answers all the same"
    ANSWERS_TWICE = "an answer comes twice"
    IS_SILENT = "an answer is lost"
    RAISES = "the model raises"
    HAS_NO_ROOM = "no node has room for a worker"


ODDS = {
    Trouble.DIES: 0.04,
    Trouble.IS_GIVEN_UP: 0.04,
    Trouble.ANSWERS_TWICE: 0.1,
    Trouble.IS_SILENT: 0.005,
    Trouble.RAISES: 0.005,
}
"""Of each batch. What makes the operator fail is rare, and no pool is so slow that no checkpoint is in time."""
NO_ROOM = 0.1
"""How likely a worker that is started finds none."""


def draw_troubles(random: Random) -> frozenset[Trouble]:
    """Not all of them, so that each is seen without the noise of the others."""
    return frozenset(trouble for trouble in Trouble if random.random() < 0.5)


class SimulatedWorkers:
    """Of one operator of one subtask. `receive`: runs what has arrived at the slot, which then takes a step."""

    def __init__(
        self,
        time: VirtualTime,
        process: Process,
        receive: Callable[[Call], None],
        troubles: frozenset[Trouble],
        spec: ModelSpec,
        told: Told,
    ) -> None:
        self._time = time
        self._process = process
        self._receive = receive
        self._troubles = troubles
        self._spec = spec
        self._told = told
        self._models: dict[int, LoadedModel] = {}
        """Of workers that really live."""
        self._busy_until_ns: dict[int, int] = {}
        self._closed = False

    def start(self, worker: int) -> None:
        if Trouble.HAS_NO_ROOM in self._troubles and self._time.random.random() < NO_ROOM:
            self._tell(WorkerEnded(worker, "it cannot be started", NoRoomError("all nodes are too small")), 5)
            return
        self._models[worker] = LoadedModel(self._spec)
        self._tell(WorkerReady(worker), 300)

    def call(self, worker: int, number: int, columns: pa.RecordBatch) -> None:
        now_ns = self._time.moment_ns
        longest_ms = self._time.random.choice((1, 10, 60))
        begins_ns = max(now_ns, self._busy_until_ns.get(worker, 0))
        ends_ns = self._busy_until_ns[worker] = begins_ns + self._time.between(0, longest_ms * MS)
        self._time.after(ends_ns - now_ns, self._process, "model", lambda: self._run(worker, number, columns))

    def close(self) -> None:
        self._closed = True

    def _run(self, worker: int, number: int, columns: pa.RecordBatch) -> None:
        model, trouble = self._models.get(worker), self._trouble()
        if model is None or trouble is Trouble.IS_SILENT:
            return
        if trouble is Trouble.DIES:
            del self._models[worker]
            self._tell(WorkerEnded(worker, "it was killed"), 500)
        elif trouble is Trouble.RAISES:
            self._tell(CallEnded(worker, number, error=InjectedFailure("by the model")), 5)
        else:
            if trouble is Trouble.IS_GIVEN_UP:
                self._tell(WorkerEnded(worker, "it cannot be reached"), 0)
            answer = CallEnded(worker, number, model(columns))
            self._tell(answer, 500 if trouble is Trouble.IS_GIVEN_UP else 5)
            if trouble is Trouble.ANSWERS_TWICE:
                self._tell(answer, 500)

    def _trouble(self) -> Trouble | None:
        roll = self._time.random.random()
        for trouble, odds in ODDS.items():
            if roll < odds:
                return trouble if trouble in self._troubles else None
            roll -= odds
        return None

    def _tell(self, event: WorkerEvent, longest_ms: int) -> None:
        """What two workers say may come in any order, and so may what one says twice."""
        delay_ns = self._time.between(0, longest_ms * MS)
        self._time.after(delay_ns, self._process, type(event).__name__, lambda: self._hear(event))

    def _hear(self, event: WorkerEvent) -> None:
        if not self._closed:
            self._receive(lambda: self._told(event))
