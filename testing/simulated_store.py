"""The simulator's object store, and the executor that drives programs over it op by op in virtual time.

The content is a dict; an op takes effect at one moment and is answered at a later one. In between the process that
issued it may die or hang: the effect happens all the same. What goes wrong is drawn per op (`StoreTrouble`):

| kind           | effect                | answer                                                                    |
|----------------|-----------------------|---------------------------------------------------------------------------|
| unavailable    | none                  | ObjectStoreUnavailable                                                    |
| lost answer    | happens               | ObjectStoreUnavailable: a timeout after success                           |
| late effect    | after the answer      | ObjectStoreUnavailable: the request was still on its way                  |
| met itself     | happens               | ObjectAlreadyExists: the client's own retry found its first try           |
| phantom        | none                  | ObjectAlreadyExists, though nothing is stored (some stores, under load)   |
| slow           | happens, seconds later | the result                                                               |
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..state.errors import ObjectAlreadyExists, ObjectNotFound, ObjectStoreUnavailable
from ..state.store.objects import (
    Delete,
    Get,
    GetFile,
    GetPart,
    GetRange,
    List,
    ListDetails,
    Pause,
    Program,
    Put,
    PutFile,
    StoredObject,
    StoreOp,
    Together,
)
from ..taskmanager.executor import Done, WorkCancelledError
from .virtual_time import MS, Process, VirtualTime


class StoreTrouble(enum.Enum):
    UNAVAILABLE = "unavailable"
    LOST_ANSWER = "lost answer"
    LATE_EFFECT = "late effect"
    MET_ITSELF = "met itself"
    PHANTOM = "phantom"
    SLOW = "slow"


CREATE_ONLY = frozenset({StoreTrouble.MET_ITSELF, StoreTrouble.PHANTOM})
WRITES = frozenset({StoreTrouble.LOST_ANSWER, StoreTrouble.LATE_EFFECT})

Observer = Callable[[StoreOp, bool], None]
"""Told of every write (op, whether it took effect) at the moment it happens."""


@dataclass
class StoreWeather:
    """How likely each kind of trouble is for one op, now; the fault schedule changes it."""

    odds: dict[StoreTrouble, float] = field(default_factory=dict)

    def draw(self, op: StoreOp, chance: float) -> StoreTrouble | None:
        """`chance`: uniform in [0, 1). None: the op goes well."""
        for trouble, odds in self.odds.items():
            if chance < odds:
                create_only = isinstance(op, Put) and op.create_only
                write = isinstance(op, Put | PutFile | Delete)
                fits = create_only if trouble in CREATE_ONLY else write if trouble in WRITES else True
                return trouble if fits else None
            chance -= odds
        return None


class SimulatedStore:
    """All objects of the simulated world."""

    def __init__(self, time: VirtualTime) -> None:
        self.objects: dict[str, bytes] = {}
        self.weather = StoreWeather()
        self.observers: list[Observer] = []
        self._time = time

    def issue(self, process: Process, op: StoreOp | Together, answered: Done) -> None:
        """The answer comes as an event of the process."""
        if isinstance(op, Together):
            self._issue_all(process, op.ops, answered)
            return
        time = self._time
        if isinstance(op, Pause):
            time.after(op.duration_ms * MS, process, "pause over", lambda: answered(None, None))
            return
        trouble = self.weather.draw(op, time.random.random())
        there_ns, back_ns = time.between(MS // 5, 20 * MS), time.between(MS // 5, 10 * MS)
        if trouble is StoreTrouble.SLOW:
            there_ns += time.between(500 * MS, 4_000 * MS)
        label = f"{type(op).__name__} {_named(op)}"
        content = op.path.read_bytes() if isinstance(op, PutFile) else b""

        def happen() -> None:
            if trouble in (StoreTrouble.UNAVAILABLE, StoreTrouble.PHANTOM, StoreTrouble.LATE_EFFECT):
                result, error = _refused(trouble, label)
            else:
                result, error = self._effect(op, content)
                if trouble in (StoreTrouble.LOST_ANSWER, StoreTrouble.MET_ITSELF) and error is None:
                    result, error = _refused(trouble, label)
            if trouble is StoreTrouble.LATE_EFFECT:
                later_ns = time.between(MS, 3_000 * MS)
                time.after(later_ns, None, f"late {label}", lambda: _drop(self._effect(op, content)))
            answer = f"answer {label}{f' {type(error).__name__}' if error else ''}"
            time.after(back_ns, process, answer, lambda: self._answer(op, result, error, answered))

        time.after(there_ns, None, f"{label}{f' ({trouble.value})' if trouble else ''}", happen)

    def _issue_all(self, process: Process, ops: tuple[StoreOp, ...], answered: Done) -> None:
        """Each has its own way and its own trouble."""
        answers: dict[int, Any] = {}

        def one(number: int, result: Any, error: Exception | None) -> None:
            answers[number] = result if error is None else error
            if len(answers) == len(ops):
                answered([answers[each] for each in range(len(ops))], None)

        for number, op in enumerate(ops):
            self.issue(process, op, partial(one, number))

    def _answer(self, op: StoreOp, result: Any, error: Exception | None, answered: Done) -> None:
        if isinstance(op, GetPart) and error is None:
            with op.path.open("r+b" if op.path.exists() else "wb") as file:
                file.seek(op.offset)
                file.write(result[op.offset : op.offset + op.length])
            result = len(result)
        if isinstance(op, GetFile) and error is None:
            op.path.parent.mkdir(parents=True, exist_ok=True)
            op.path.write_bytes(result)
            result = None
        answered(result, error)

    def _effect(self, op: StoreOp, content: bytes) -> tuple[Any, Exception | None]:
        match op:
            case Put(name, data, create_only):
                if create_only and name in self.objects:
                    self._observed(op, False)
                    return None, ObjectAlreadyExists(f"{name} exists")
                self.objects[name] = data
                self._observed(op, True)
            case PutFile(name, _):
                self.objects[name] = content
                self._observed(op, True)
            case Get(name) | GetFile(name, _) | GetPart(name, _, _, _):
                if name not in self.objects:
                    return None, ObjectNotFound(f"{name} does not exist")
                return self.objects[name], None
            case GetRange(name, offset, length):
                if name not in self.objects:
                    return None, ObjectNotFound(f"{name} does not exist")
                return self.objects[name][offset : offset + length], None
            case List(prefix):
                return sorted(name for name in self.objects if name.startswith(prefix)), None
            case ListDetails(prefix):
                found = ((name, data) for name, data in sorted(self.objects.items()) if name.startswith(prefix))
                return [StoredObject(name, len(data), 0) for name, data in found], None
            case Delete(names):
                for name in names:
                    self.objects.pop(name, None)
                self._observed(op, True)
        return None, None

    def _observed(self, op: StoreOp, effective: bool) -> None:
        for observer in self.observers:
            observer(op, effective)


def _drop(_: object) -> None:
    """The result of an op whose answer was given before."""


def _refused(trouble: StoreTrouble, label: str) -> tuple[None, Exception | None]:
    if trouble in CREATE_ONLY:
        return None, ObjectAlreadyExists(f"{label}: exists")
    return None, ObjectStoreUnavailable(f"{label}: no answer")


def _named(op: StoreOp) -> str:
    match op:
        case List(prefix) | ListDetails(prefix):
            return prefix
        case Delete(names):
            return f"{len(names)} objects, {names[0] if names else 'none'}"
        case Pause(duration_ms):
            return f"{duration_ms} ms"
        case _:
            return op.name


class SimulatedWork:
    """A program under way in one process."""

    def __init__(self, executor: SimulatedExecutor, program: Program[Any], done: Done) -> None:
        self._executor = executor
        self._program = program
        self._done = done
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def go_on(self, result: Any, error: Exception | None) -> None:
        """The answer to its last op, or the beginning."""
        executor = self._executor
        try:
            if self._cancelled:
                self._program.close()
                raise WorkCancelledError("cancelled")
            op = self._program.send(result) if error is None else self._program.throw(error)
        except StopIteration as stop:
            executor.finished(self, self._done, stop.value, None)
        except Exception as failure:
            executor.finished(self, self._done, None, failure)
        else:
            executor.store.issue(executor.process, op, self.go_on)


class SimulatedExecutor:
    """Helper threads of one process. `after_mail` runs when an answer was handed over (the slot takes a step).

    Programs of a killed process are kept, not finished: nothing of them may run, not even what they do at exit."""

    def __init__(
        self, time: VirtualTime, store: SimulatedStore, process: Process, after_mail: Callable[[], None]
    ) -> None:
        self.store = store
        self.process = process
        self._time = time
        self._after_mail = after_mail
        self._running: dict[int, SimulatedWork] = {}

    def submit(self, program: Program[Any], done: Done) -> SimulatedWork:
        work = SimulatedWork(self, program, done)
        self._running[id(work)] = work
        self._time.after(self._time.between(0, MS), self.process, "program begins", lambda: work.go_on(None, None))
        return work

    def finished(self, work: SimulatedWork, done: Done, result: Any, error: Exception | None) -> None:
        del self._running[id(work)]
        done(result, error)
        self._after_mail()
