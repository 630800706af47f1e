"""Several masters, one log, a store that fails and lies: whatever happens, the log is one line of truth.

Programs of the masters are interleaved op by op, and each op meets a fault of the store: not done; done but answered
with a timeout; done long after the timeout; "already exists" for one's own write, or with nothing stored. Masters
crash, give up, come back. A reader of its own checks after every step; and seeded bugs prove that it would notice.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from penstock.state.errors import (
    DeposedError,
    ObjectAlreadyExists,
    ObjectNotFound,
    ObjectStoreError,
    ObjectStoreUnavailable,
    ProtocolError,
)
from penstock.state.ids import Attempt, CheckpointId, Generation, JobId
from penstock.state.store import job_log
from penstock.state.store.job_log import (
    Appended,
    AttemptStarted,
    CheckpointCompleted,
    Finished,
    JobLog,
    LeaderElected,
    LogEntry,
    LogRecord,
    LogState,
    SubsumedUpTo,
)
from penstock.state.store.objects import Get, Pause, Program, Put, StoreOp, create_once

JOB = JobId("job")
WRONG = r"is believed|another log|The job's log is illegal|was replaced|are gaps|twice"
WHO = st.integers(0, 2)


class Fault(enum.Enum):
    NONE = "done"
    NOT_DONE = "not done, times out"
    DONE_UNHEARD = "done, times out"
    DONE_LATER = "times out, is done some time later"
    MET_ITSELF = "done, and answered as if it had been there"
    LIED = "not done, and answered as if it had been there"


FAULTS = st.sampled_from([Fault.NONE, Fault.NONE, Fault.NONE, *Fault])


class World:
    """The objects, the writes that are still on their way, and what an omniscient reader knows."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.late: list[Put] = []
        self.names = itertools.count(1)

    def new_name(self) -> str:
        return f"w{next(self.names)}"

    def execute(self, op: StoreOp, fault: Fault = Fault.NONE) -> Any:
        if isinstance(op, Pause):
            return None
        if isinstance(op, Get):
            if fault is not Fault.NONE:
                raise ObjectStoreUnavailable(fault.value)
            if op.name not in self.objects:
                raise ObjectNotFound(op.name)
            return self.objects[op.name]
        assert isinstance(op, Put)
        assert op.create_only, "the log knows no other puts"
        if fault in (Fault.NONE, Fault.DONE_UNHEARD, Fault.MET_ITSELF):
            exists = op.name in self.objects
            self.objects.setdefault(op.name, op.data)
            if fault is Fault.MET_ITSELF or (exists and fault is Fault.NONE):
                raise ObjectAlreadyExists(op.name)
        elif fault is Fault.DONE_LATER:
            self.late.append(op)
        elif fault is Fault.LIED:
            raise ObjectAlreadyExists(op.name)
        if fault is not Fault.NONE:
            raise ObjectStoreUnavailable(fault.value)
        return None

    def land(self, index: int) -> None:
        put = self.late.pop(index)
        self.objects.setdefault(put.name, put.data)

    def entries(self) -> list[LogEntry]:
        """Read without faults, from the first to the last, by somebody who never writes."""
        reader = JobLog(JOB, lambda: "reader")
        program: Iterator[StoreOp] = reader.read()
        entries: list[LogEntry] = drive(program, self)
        assert len(entries) == len(self.objects), f"there are gaps: {sorted(self.objects)}"
        return entries


def drive(program: Any, world: World) -> Any:
    """To its end, without a fault."""
    answer, error = None, None
    while True:
        try:
            op = program.send(answer) if error is None else program.throw(error)
        except StopIteration as stop:
            return stop.value
        answer, error = None, None
        try:
            answer = world.execute(op)
        except ObjectStoreError as failure:
            error = failure


def check_history(entries: list[LogEntry]) -> None:
    """The rules once more, apart from the code that keeps them."""
    leader, generation, attempt, running, completed, ended = "", 0, 0, False, set(), False
    for entry in entries:
        assert not ended, f"{entry} stands after the end"
        match entry.record:
            case LeaderElected():
                assert entry.record.generation == generation + 1, "a generation is skipped or repeated"
                leader, generation, running = entry.writer, generation + 1, False
                continue
            case AttemptStarted():
                assert entry.record.attempt == attempt + 1, "an attempt is skipped or repeated"
                attempt, running = attempt + 1, True
            case CheckpointCompleted():
                assert (entry.record.attempt, running) == (attempt, True), "an old attempt completes a checkpoint"
                assert entry.record.checkpoint_id not in completed, "a checkpoint is completed twice"
                completed.add(entry.record.checkpoint_id)
            case Finished():
                ended = True
        assert entry.writer == leader, f"{entry} is not by the leader, {leader}"


@dataclass
class Master:
    """As a real one: one program of its log at a time; an append of unknown outcome is tried again, or given up."""

    log: JobLog
    program: Program[Any] | None = None
    op: StoreOp | None = None
    intent: LogRecord | None = None
    unknown: LogRecord | None = None
    believes: list[LogEntry] = field(default_factory=list)
    deposed: bool = False

    def begin(self, program: Program[Any], intent: LogRecord | None = None) -> None:
        self.program, self.intent = program, intent
        self._advance(None, None)

    def step(self, world: World, fault: Fault) -> None:
        assert self.op is not None
        try:
            answer, error = world.execute(self.op, fault), None
        except ObjectStoreError as failure:
            answer, error = None, failure
        self._advance(answer, error)

    def _advance(self, answer: Any, error: Exception | None) -> None:
        assert self.program is not None
        try:
            self.op = self.program.send(answer) if error is None else self.program.throw(error)
            return
        except StopIteration as stop:
            if isinstance(stop.value, LogEntry):
                self.believes.append(stop.value)
        except ObjectStoreUnavailable:
            self.unknown = self.intent
        except DeposedError:
            self.deposed = True
        self.program = self.op = self.intent = None


def campaign(log: JobLog) -> Program[LogEntry | None]:
    yield from log.read()
    if log.leads or log.state.finished is not None:
        return None
    answer = yield from log.append(LeaderElected(Generation(log.state.generation + 1)))
    return answer.entry if isinstance(answer, Appended) else None


class Masters(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.checkpoints = itertools.count(1)
        self.masters = [Master(JobLog(JOB, self.world.new_name)) for _ in range(3)]
        self.dead: list[Master] = []
        self.seen: dict[str, bytes] = {}
        self.entries: list[LogEntry] = []
        self.decisions = itertools.count(1)

    def _lead(self, master: Master, record: LogRecord) -> None:
        master.unknown = None
        master.begin(master.log.append_as_leader(record), record)

    @rule(who=WHO, choice=st.integers(0, 9), fault=FAULTS)
    def moves(self, who: int, choice: int, fault: Fault) -> None:
        """A master's program takes its next step; one that has none begins one."""
        master = self.masters[who]
        if master.program is not None:
            master.step(self.world, fault)
        elif isinstance(master.unknown, CheckpointCompleted) and choice < 3:
            master.unknown = None  # given up: the log will tell
        elif master.unknown is not None and not master.deposed:
            self._lead(master, master.unknown)
        elif master.deposed or master.log.state.finished is not None:
            self._replace(who)
        elif master.log.leads:
            self._lead(master, self._next_record(master, choice))
        else:
            master.begin(campaign(master.log))

    def _next_record(self, master: Master, choice: int) -> LogRecord:
        state = master.log.state
        if state.attempt_generation != state.generation or choice == 5:
            return AttemptStarted(Attempt(state.attempt + 1))
        if len(state.completed) > 1 and choice < 4:
            return SubsumedUpTo(state.completed[-2].checkpoint_id)
        if next(self.decisions) % 40 == 0:
            return Finished("FINISHED")
        return CheckpointCompleted(state.attempt, CheckpointId(next(self.checkpoints)), f"by {master.log.writer}")

    @rule(who=WHO, steps=st.integers(2, 12), choice=st.integers(0, 9))
    def runs_undisturbed(self, who: int, steps: int, choice: int) -> None:
        for step in range(steps):
            self.moves(who, (choice + step) % 10, Fault.NONE)

    @rule(who=WHO, fault=st.sampled_from([Fault.NOT_DONE, Fault.DONE_LATER, Fault.DONE_LATER]))
    def gets_no_answer(self, who: int, fault: Fault) -> None:
        """Until the program gives up; what it wrote may come to be there."""
        while self.masters[who].program is not None:
            self.moves(who, 9, fault)

    @rule(who=WHO, when=st.integers(0, 3))
    def dies(self, who: int, when: int) -> None:
        if when == 0:
            self._replace(who)

    def _replace(self, who: int) -> None:
        self.dead.append(self.masters[who])
        self.masters[who] = Master(JobLog(JOB, self.world.new_name))

    @rule(which=st.integers(0, 5))
    def a_late_write_lands(self, which: int) -> None:
        if self.world.late:
            self.world.land(which % len(self.world.late))

    # what must hold

    @invariant()
    def holds(self) -> None:
        if self.world.objects != self.seen:
            for name, data in self.seen.items():
                assert self.world.objects[name] == data, f"{name} was replaced"
            self.entries, self.seen = self.world.entries(), dict(self.world.objects)
            check_history(self.entries)
        for master in self.masters:
            self._believes_the_truth(master)

    def _believes_the_truth(self, master: Master) -> None:
        """What it believes to have written stands and is its own, and it knows everything up to what it read last."""
        for entry in master.believes:
            assert entry in self.entries[entry.seq - 1 : entry.seq], f"{entry} is believed, but it does not stand there"
            assert entry.writer == master.log.writer
        state = LogState()
        for entry in self.entries[: master.log.state.seq]:
            state = state.apply(entry)
        assert master.log.state == state, "a master knows another log"

    def teardown(self) -> None:
        """The store recovers: every program ends, every unknown outcome is resolved, somebody can lead."""
        for master in self.masters:
            while master.program is not None:
                master.step(self.world, Fault.NONE)
            if master.unknown is not None:
                record = master.unknown
                master.begin(master.log.append_as_leader(record), record)
                while master.program is not None:
                    master.step(self.world, Fault.NONE)
                stands = any(e.record == record and e.writer == master.log.writer for e in self.world.entries())
                assert stands or master.deposed
        while self.world.late:
            self.world.land(0)
        last = Master(JobLog(JOB, self.world.new_name))
        last.begin(campaign(last.log))
        while last.program is not None:
            last.step(self.world, Fault.NONE)
        assert last.log.leads or last.log.state.finished is not None
        self.holds()
        for master in self.dead:
            self._believes_the_truth(master)


def check(examples: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    run_state_machine_as_test(
        Masters,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_log_is_one_line_of_truth() -> None:
    check(examples=100)


def timeout_means_done(name: str, data: bytes) -> Program[bytes]:
    try:
        yield Put(name, data)
    except ObjectStoreUnavailable:
        return data
    except ObjectAlreadyExists:
        return (yield from create_once(name, data))
    return data


def exists_means_mine(name: str, data: bytes) -> Program[bytes]:
    try:
        return (yield from create_once(name, data)) and data
    except ObjectAlreadyExists:
        return data


class WithoutNonces:
    """Two writers' equal records are equal bytes."""

    def __init__(self) -> None:
        self._seal = job_log.seal

    def __call__(self, kind: str, version: int, nonce: str, document: Any) -> bytes:
        return self._seal(kind, version, "", LogEntry(document.seq, "somebody", document.record))


@pytest.mark.parametrize("bug", [timeout_means_done, exists_means_mine])
def test_a_wrong_reading_of_the_answer_is_caught(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "create_once", bug)
    with pytest.raises((AssertionError, ProtocolError), match=WRONG):
        check(examples=100, phases=(Phase.generate,))


def test_equal_bytes_of_two_writers_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "seal", WithoutNonces())
    with pytest.raises((AssertionError, ProtocolError), match=WRONG):
        check(examples=100, phases=(Phase.generate,))


def append_without_looking(log: JobLog, record: LogRecord) -> Program[LogEntry]:
    """At the next free number, as if only the number counted."""
    while True:
        answer = yield from log.append(record)
        if isinstance(answer, Appended):
            return answer.entry


def test_a_master_that_ignores_a_takeover_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobLog, "append_as_leader", append_without_looking)
    monkeypatch.setattr(LogState, "_why_illegal", lambda self, entry: None)
    with pytest.raises(AssertionError, match=r"not by the leader|old attempt|repeated|twice|after the end"):
        check(examples=100, phases=(Phase.generate,))
