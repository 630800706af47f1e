"""A world for the job master: slots that obey (or do not), a real store in memory, and time that is set by hand.

Nothing runs by itself: work, slots' answers and timers wait in queues until a test lets them go, so every race can be
written down as the order in which they are let go.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import cloudpickle
import pytest

from penstock.connectors.collections import SequenceSource
from penstock.jobmanager import events
from penstock.jobmanager.events import JobState
from penstock.jobmanager.job_master import JobMaster
from penstock.jobmanager.options import CheckpointOptions, JobMasterOptions, RestoreRequest
from penstock.jobmanager.restarts import FixedDelay
from penstock.runtime.connector import Committer, Sink, SinkWriter, WriterContext
from penstock.runtime.graph.job_graph import ChainedOperator, Edge, JobGraph, Vertex
from penstock.runtime.graph.partitioning import Forward, Partitioning, Rebalance
from penstock.runtime.resources import Resources
from penstock.state.errors import ObjectStoreUnavailable
from penstock.state.ids import Attempt, CheckpointId, JobId, OperatorId, SlotId, VertexId
from penstock.state.snapshots import OperatorSnapshot, SubtaskSnapshot
from penstock.state.store.job_log import CheckpointCompleted, JobLog
from penstock.state.store.objects import ObjectStore, Pause, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SubtaskId

JOB = JobId("job")
SOURCE, SINK = VertexId("source"), VertexId("sink")
ALL = [SubtaskId(SOURCE, 0), SubtaskId(SOURCE, 1), SubtaskId(SINK, 0), SubtaskId(SINK, 1)]

committed: list[str] = []
"""What sinks did, in order: cleared by every World."""


class TracingCommitter(Committer):
    def commit(self, committables: Sequence[bytes]) -> None:
        committed.extend(f"commit {each.decode()}" for each in committables)


class TracingSink(Sink):
    def create_writer(self, context: WriterContext) -> SinkWriter:
        raise NotImplementedError

    def create_committer(self) -> Committer:
        return TracingCommitter()

    def cleanup(self, job_id: str, attempt: Attempt) -> None:
        committed.append("cleanup")


class CommittingNothing(TracingSink):
    def create_committer(self) -> None:  # type: ignore[override]
        return None


def job_graph(partitioning: Partitioning, sink: Sink) -> JobGraph:
    read = ChainedOperator(OperatorId("read"), "read", None, "source", b"", None, is_source=True)
    write = ChainedOperator(OperatorId("write"), "write", None, "sink", b"", None, is_sink=True)
    return JobGraph(
        "numbers",
        (Vertex(SOURCE, "read", (read,), 2, 128), Vertex(SINK, "write", (write,), 2, 128)),
        (Edge(SOURCE, 0, None, SINK, 0, partitioning),),
        {read.id: cloudpickle.dumps(SequenceSource(1, 100))},
        {write.id: cloudpickle.dumps(sink)},
    )


class Mute:
    """A store that does what it is told and never says so."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects

    def execute(self, op: StoreOp) -> Any:
        if not isinstance(op, Pause):
            self.objects.execute(op)
            raise ObjectStoreUnavailable("timeout")


class World:
    def __init__(
        self, store: ObjectStore | None = None, *, strands: bool = False, job: JobId = JOB, restore: str = "",
        commits: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        """`strands`: source[i] and sink[i] are a region. `restore`: a checkpoint of another job. `commits`:
        the sink has a committer."""
        committed.clear()
        options.setdefault("restarts", FixedDelay(3, 1_000))
        options.setdefault("checkpoints", CheckpointOptions(interval_ms=1_000))
        self.objects: ObjectStore = store or ObstoreObjects("memory://")
        names = map(str, itertools.count(World.names))
        World.names += 1_000_000
        self.master = JobMaster(
            job_graph(Forward() if strands else Rebalance(), TracingSink() if commits else CommittingNothing()),
            job_id=job,
            options=JobMasterOptions(**options),
            new_name=lambda: next(names),
            restore=RestoreRequest(restore) if restore else None,
        )
        self.now = 0
        self.work: deque[events.RunProgram | events.RunBlocking] = deque()
        self.answers: deque[tuple[SlotId, m.FromSlot]] = deque()
        self.timers: list[tuple[int, events.Tag]] = []
        self.sent: list[tuple[SlotId, m.ToSlot]] = []
        self.deployed: dict[SlotId, dict[SubtaskId, m.Deploy]] = {}
        self.started: set[tuple[SubtaskId, int]] = set()
        self.wanted: list[Resources] = []
        self.discarded: list[SlotId] = []
        self.ended: events.EndJob | None = None
        self.held: set[str] = set()
        """First items of the tags of work that is not done yet."""
        self.mute: set[type] = set()
        """Answers that slots do not give."""
        self.slot_numbers = itertools.count(1)
        self.carry_out(self.master.start(0))

    names = 0

    # driving

    def tell(self, event: events.Event) -> None:
        self.carry_out(self.master.handle(event, self.now))

    def settle(self) -> None:
        """Let go everything that is not held, until nothing is left."""
        while True:
            ready = next((each for each in self.work if each.tag[0] not in self.held), None)
            if ready is not None:
                self.work.remove(ready)
                self.tell(self.done(ready))
            elif self.answers:
                slot, message = self.answers.popleft()
                self.tell(events.SlotMessage(slot, message))
            else:
                return

    def pass_time(self, ms: int) -> None:
        until = self.now + ms
        while self.timers and min(self.timers)[0] <= until:
            timer = min(self.timers)
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            self.tell(events.TimerFired(timer[1]))
            self.settle()
        self.now = until

    def start_slots(self) -> None:
        while self.wanted:
            resources = self.wanted.pop(0)
            self.tell(events.SlotOffered(SlotId(f"slot-{next(self.slot_numbers)}"), resources=resources))
        self.settle()

    def run(self) -> World:
        self.settle()
        self.start_slots()
        assert self.state is JobState.RUNNING
        return self

    def done(self, command: events.RunProgram | events.RunBlocking) -> events.Event:
        try:
            if isinstance(command, events.RunProgram):
                return events.WorkDone(command.tag, run_program(command.program, self.objects))
            return events.WorkDone(command.tag, command.call())
        except Exception as error:
            return events.WorkFailed(command.tag, error)

    def fail_held(self, kind: str, error: Exception) -> None:
        command = next(each for each in self.work if each.tag[0] == kind)
        self.work.remove(command)
        self.tell(events.WorkFailed(command.tag, error))

    # commands

    def carry_out(self, commands: list[events.Command]) -> None:
        for command in commands:
            match command:
                case events.SendToSlot(slot, message):
                    self.sent.append((slot, message))
                    self.obey(slot, message)
                case events.RunProgram() | events.RunBlocking():
                    self.work.append(command)
                case events.SetTimer(at_ms, tag):
                    self.timers.append((at_ms, tag))
                case events.AcquireSlots(slots):
                    self.wanted += slots
                case events.DiscardSlot(slot):
                    self.discarded.append(slot)
                case events.ReleaseSlots():
                    pass
                case events.EndJob():
                    assert self.ended is None
                    self.ended = command

    def obey(self, slot: SlotId, message: m.ToSlot) -> None:
        tasks = self.deployed.setdefault(slot, {})
        match message:
            case m.Deploy():
                subtask = SubtaskId(message.vertex.id, message.index)
                tasks[subtask] = message
                self.say(slot, m.Initialized(message.attempt, subtask))
            case m.Start():
                for subtask, deploy in tasks.items():
                    if (subtask, deploy.attempt) not in self.started:
                        self.started.add((subtask, deploy.attempt))
                        self.say(slot, m.Running(deploy.attempt, subtask))
            case m.Cancel(subtasks=subtasks):
                for subtask in [each for each in tasks if not subtasks or each in subtasks]:
                    self.say(slot, m.Canceled(tasks.pop(subtask).attempt, subtask))
            case m.FinishTasks():
                for subtask, deploy in tasks.items():
                    self.say(slot, m.Finished(deploy.attempt, subtask))
                tasks.clear()
            case m.TriggerCheckpoint():
                for subtask, deploy in tasks.items():
                    if subtask.vertex == SOURCE:
                        self.say(slot, m.BarrierInjected(deploy.attempt, subtask, message.checkpoint_id))
                    self.say(slot, self.acknowledgement(subtask, deploy.attempt, message.checkpoint_id))

    def acknowledgement(self, subtask: SubtaskId, attempt: Any, checkpoint_id: CheckpointId) -> m.Acknowledge:
        committable = f"{checkpoint_id}.{subtask.index}".encode()
        operator = (
            OperatorSnapshot(OperatorId("read"), watermark=checkpoint_id)
            if subtask.vertex == SOURCE
            else OperatorSnapshot(OperatorId("write"), committables=(committable,))
        )
        snapshot = SubtaskSnapshot(subtask.vertex, subtask.index, (operator,))
        return m.Acknowledge(attempt, subtask, checkpoint_id, snapshot)

    def say(self, slot: SlotId, message: m.FromSlot) -> None:
        if type(message) not in self.mute:
            self.answers.append((slot, message))

    def mute_store(self) -> None:
        self.objects = Mute(self.objects)

    # looking

    @property
    def state(self) -> JobState:
        return self.master.state

    @property
    def attempt(self) -> Any:
        return self.master.status().attempt

    def slot_of(self, subtask: SubtaskId) -> SlotId:
        return next(slot for slot, tasks in self.deployed.items() if subtask in tasks)

    def attempt_of(self, subtask: SubtaskId) -> Any:
        """The one it was deployed with."""
        return self.deployed[self.slot_of(subtask)][subtask].attempt

    def hear(self, kind: Any, subtask: SubtaskId, *fields: Any) -> None:
        """A message of the running subtask."""
        self.tell(events.SlotMessage(self.slot_of(subtask), kind(self.attempt_of(subtask), subtask, *fields)))

    def fail_task(self, subtask: SubtaskId, cause: Exception | None = None) -> None:
        slot = self.slot_of(subtask)
        attempt = self.deployed[slot].pop(subtask).attempt
        cause = cause or ValueError("boom")
        message = m.Failed(attempt, subtask, "map", str(cause), "traceback", cloudpickle.dumps(cause))
        self.tell(events.SlotMessage(slot, message))
        self.settle()

    def lose(self, slot: SlotId) -> None:
        self.deployed.pop(slot, None)
        self.tell(events.SlotLost(slot, "died"))
        self.settle()

    def drain(self) -> None:
        for subtask in ALL:
            self.hear(m.Drained, subtask)
        self.settle()

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for _, message in self.sent)

    def log(self) -> list[Any]:
        log = JobLog(JOB, lambda: "reader")
        return [entry.record for entry in run_program(log.read(), self.objects)]

    def completions(self) -> list[int]:
        return [record.checkpoint_id for record in self.log() if isinstance(record, CheckpointCompleted)]


@pytest.fixture
def new_world() -> type[World]:
    return World


@pytest.fixture
def trace() -> list[str]:
    return committed
