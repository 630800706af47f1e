"""The job master against slots that obey (or do not), a real store in memory, and time that is set by hand.

Nothing runs by itself: work, slots' answers and timers wait in queues until a test lets them go, so every race can be
written down as the order in which they are let go.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import pytest

from penstock.connectors.collections import SequenceSource
from penstock.jobmanager import events
from penstock.jobmanager.events import JobState
from penstock.jobmanager.job_master import JobMaster
from penstock.jobmanager.job_states import TERMINAL_STATES, TRANSITIONS
from penstock.jobmanager.options import CheckpointOptions, JobMasterOptions
from penstock.jobmanager.restarts import FixedDelay
from penstock.runtime.connector import Committer, Sink, SinkWriter, WriterContext
from penstock.runtime.graph.job_graph import ChainedOperator, Edge, JobGraph, Vertex
from penstock.runtime.graph.partitioning import Rebalance
from penstock.state.errors import DeposedError, JobFailedError, MalformedRecordError, ObjectStoreUnavailable
from penstock.state.ids import CheckpointId, JobId, OperatorId, SlotId, VertexId
from penstock.state.job_log import CheckpointCompleted, Finished, JobLog, LeaderElected
from penstock.state.objects import ObjectStore, Pause, StoreOp, run_program
from penstock.state.obstore_objects import ObstoreObjects
from penstock.state.snapshots import OperatorSnapshot, SubtaskSnapshot
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SubtaskId

JOB = JobId("job")
SOURCE, SINK = VertexId("source"), VertexId("sink")
ALL = [SubtaskId(SOURCE, 0), SubtaskId(SOURCE, 1), SubtaskId(SINK, 0), SubtaskId(SINK, 1)]

trace: list[str] = []
"""What sinks did, in order: cleared by every World."""


class TracingCommitter(Committer):
    def commit(self, committables: Sequence[bytes]) -> None:
        trace.extend(f"commit {each.decode()}" for each in committables)


class TracingSink(Sink):
    def create_writer(self, context: WriterContext) -> SinkWriter:
        raise NotImplementedError

    def create_committer(self) -> Committer:
        return TracingCommitter()

    def cleanup(self, job_id: str, live: frozenset[str]) -> None:
        trace.append("cleanup")


def job_graph() -> JobGraph:
    read = ChainedOperator(OperatorId("read"), "read", None, "source", b"", None, is_source=True)
    write = ChainedOperator(OperatorId("write"), "write", None, "sink", b"", None, is_sink=True)
    return JobGraph(
        "numbers",
        (Vertex(SOURCE, "read", (read,), 2, 128), Vertex(SINK, "write", (write,), 2, 128)),
        (Edge(SOURCE, 0, None, SINK, 0, Rebalance()),),
        {read.id: cloudpickle.dumps(SequenceSource(1, 100))},
        {write.id: cloudpickle.dumps(TracingSink())},
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
    def __init__(self, store: ObjectStore | None = None, **options: Any) -> None:
        trace.clear()
        options.setdefault("restarts", FixedDelay(3, 1_000))
        options.setdefault("checkpoints", CheckpointOptions(interval_ms=1_000))
        self.objects: ObjectStore = store or ObstoreObjects("memory://")
        names = map(str, itertools.count(World.names))
        World.names += 1_000_000
        self.master = JobMaster(
            job_graph(), job_id=JOB, options=JobMasterOptions(**options), new_name=lambda: next(names)
        )
        self.now = 0
        self.work: deque[events.RunProgram | events.RunBlocking] = deque()
        self.answers: deque[tuple[SlotId, m.FromSlot]] = deque()
        self.timers: list[tuple[int, events.Tag]] = []
        self.sent: list[tuple[SlotId, m.ToSlot]] = []
        self.deployed: dict[SlotId, dict[SubtaskId, m.Deploy]] = {}
        self.wanted_slots = 0
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
        while self.wanted_slots:
            self.wanted_slots -= 1
            self.tell(events.SlotOffered(SlotId(f"slot-{next(self.slot_numbers)}")))
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
                case events.AcquireSlots(count):
                    self.wanted_slots += count
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
                for subtask in tasks:
                    self.say(slot, m.Running(message.attempt, subtask))
            case m.Cancel():
                for subtask in tasks:
                    self.say(slot, m.Canceled(message.attempt, subtask))
                tasks.clear()
            case m.FinishTasks():
                for subtask in tasks:
                    self.say(slot, m.Finished(message.attempt, subtask))
                tasks.clear()
            case m.TriggerCheckpoint():
                for subtask in tasks:
                    if subtask.vertex == SOURCE:
                        self.say(slot, m.BarrierInjected(message.attempt, subtask, message.checkpoint_id))
                    self.say(slot, self.acknowledgement(subtask, message.attempt, message.checkpoint_id))

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

    # looking

    @property
    def state(self) -> JobState:
        return self.master.state

    @property
    def attempt(self) -> Any:
        return self.master.status().attempt

    def slot_of(self, subtask: SubtaskId) -> SlotId:
        return next(slot for slot, tasks in self.deployed.items() if subtask in tasks)

    def fail_task(self, subtask: SubtaskId, cause: Exception | None = None) -> None:
        slot = self.slot_of(subtask)
        self.deployed[slot].pop(subtask)
        cause = cause or ValueError("boom")
        message = m.Failed(self.attempt, subtask, "map", str(cause), "traceback", cloudpickle.dumps(cause))
        self.tell(events.SlotMessage(slot, message))
        self.settle()

    def lose(self, slot: SlotId) -> None:
        self.deployed.pop(slot, None)
        self.tell(events.SlotLost(slot, "died"))
        self.settle()

    def drain(self) -> None:
        for subtask in ALL:
            self.tell(events.SlotMessage(self.slot_of(subtask), m.Drained(self.attempt, subtask)))
        self.settle()

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for _, message in self.sent)

    def log(self) -> list[Any]:
        log = JobLog(JOB, lambda: "reader")
        return [entry.record for entry in run_program(log.read(), self.objects)]

    def completions(self) -> list[int]:
        return [record.checkpoint_id for record in self.log() if isinstance(record, CheckpointCompleted)]


def test_a_bounded_job_from_its_start_to_its_end() -> None:
    world = World().run()
    assert (world.count(m.Deploy), world.count(m.Start)) == (4, 2)
    world.drain()
    assert world.ended == events.EndJob(JobState.FINISHED)
    assert trace == ["commit 1.0", "commit 1.1"]
    assert world.log()[-1] == Finished("FINISHED")
    assert world.count(m.FinishTasks) == 2


def test_without_checkpoints_output_is_committed_once_at_the_end() -> None:
    world = World(checkpoints=None).run()
    world.pass_time(100_000)
    assert world.count(m.TriggerCheckpoint) == 0
    world.drain()
    assert world.ended == events.EndJob(JobState.FINISHED)
    assert trace == ["commit 1.0", "commit 1.1"]
    assert world.completions() == []


def test_no_commit_and_no_notification_before_the_completion_is_logged() -> None:
    world = World().run()
    world.held = {"log"}
    world.pass_time(1_000)
    assert (trace, world.count(m.CheckpointCompleted)) == ([], 0)
    world.held = set()
    world.settle()
    assert trace == ["commit 1.0", "commit 1.1"]
    assert world.count(m.CheckpointCompleted) == 2
    assert world.master.status().checkpoints.last_completed == 1


def test_subsumed_checkpoints_are_logged_before_they_are_deleted() -> None:
    world = World().run()
    world.pass_time(1_000)
    world.held = {"delete"}
    world.pass_time(1_000)
    (deletion,) = world.work
    assert deletion.tag == ("delete",)
    assert [type(record).__name__ for record in world.log()][-2:] == ["CheckpointCompleted", "SubsumedUpTo"]


def test_finish_tasks_waits_for_every_commit() -> None:
    world = World().run()
    world.held = {"commit"}
    world.drain()
    assert (world.state, world.count(m.FinishTasks)) == (JobState.FINISHING, 0)
    world.held = set()
    world.settle()
    assert world.ended == events.EndJob(JobState.FINISHED)


@pytest.mark.parametrize("lost", ["slot-1", "slot-2"])
def test_whatever_happens_to_slots_once_everything_is_safe_the_job_finishes(lost: str) -> None:
    world = World().run()
    world.held = {"commit"}
    world.drain()
    world.lose(SlotId(lost))
    world.held = set()
    world.settle()
    assert world.ended == events.EndJob(JobState.FINISHED)
    assert world.attempt == 1


def test_a_failed_task_ends_the_attempt_and_the_next_one_restores() -> None:
    world = World().run()
    world.pass_time(1_000)
    world.fail_task(ALL[2])
    assert world.state is JobState.RESTARTING
    assert world.count(m.Cancel) == 2
    world.sent.clear()
    world.pass_time(1_000)
    assert (world.state, world.attempt) == (JobState.RUNNING, 2)
    deploys = [message for _, message in world.sent if isinstance(message, m.Deploy)]
    assert [d.reusable_checkpoint for d in deploys] == [1] * 4
    assert deploys[0].restore[0].snapshots[0].watermark == 1
    assert trace == ["commit 1.0", "commit 1.1", "cleanup"]
    status = world.master.status()
    assert (status.restarts, status.last_failure, status.checkpoints.restored) == (1, "boom", 1)


def test_a_lost_slot_is_replaced_and_the_survivor_is_used_again() -> None:
    world = World().run()
    world.lose(SlotId("slot-1"))
    assert world.state is JobState.RESTARTING
    world.pass_time(1_000)
    assert (world.state, world.wanted_slots) == (JobState.STARTING, 1)
    world.start_slots()
    assert world.state is JobState.RUNNING
    assert sorted(slot for slot, tasks in world.deployed.items() if tasks) == ["slot-2", "slot-3"]


def test_slots_that_do_not_obey_are_discarded() -> None:
    world = World(cancel_timeout_ms=5_000).run()
    world.mute = {m.Canceled}
    world.fail_task(ALL[0])
    world.pass_time(4_999)
    assert world.state is JobState.RESTARTING
    world.pass_time(1)
    assert sorted(world.discarded) == ["slot-1", "slot-2"]
    world.mute = set()
    world.start_slots()
    assert (world.state, world.attempt) == (JobState.RUNNING, 2)


@pytest.mark.parametrize("mute", [m.Initialized, m.Running, m.Canceled])
def test_further_failures_while_starting_or_cancelling_change_nothing(mute: type) -> None:
    world = World(cancel_timeout_ms=500)
    world.mute = {mute}
    world.settle()
    world.start_slots()
    world.fail_task(ALL[1])
    assert world.state is JobState.RESTARTING
    for slot in ("slot-1", "slot-2"):
        world.lose(SlotId(slot))
    world.tell(events.SlotLost(SlotId("slot-1"), "again"))
    assert (world.state, world.master.status().restarts) == (JobState.RESTARTING, 1)
    world.mute = set()
    world.pass_time(1_000)
    world.start_slots()
    assert (world.state, world.attempt) == (JobState.RUNNING, 2)


@pytest.mark.parametrize("kind", ["restore", "cleanup"])
def test_a_failure_while_restoring_is_a_failed_attempt(kind: str) -> None:
    world = World().run()
    world.pass_time(1_000)
    world.held = {kind}
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    world.fail_held(kind, ObjectStoreUnavailable("no"))
    assert world.state is JobState.RESTARTING
    world.held = set()
    world.pass_time(1_000)
    assert (world.state, world.attempt) == (JobState.RUNNING, 3)


def test_messages_of_an_attempt_that_is_over_are_dropped() -> None:
    world = World().run()
    late = world.acknowledgement(ALL[0], world.attempt, CheckpointId(1))
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    slot = world.slot_of(ALL[0])
    for message in (
        late,
        m.Failed(late.attempt, ALL[0], "map", "late", ""),
        m.Drained(late.attempt, ALL[0]),
        m.SplitRequest(late.attempt, ALL[0], OperatorId("read")),
    ):
        world.tell(events.SlotMessage(slot, message))
    assert (world.state, world.attempt) == (JobState.RUNNING, 2)


def test_a_completion_on_its_way_into_the_log_is_what_is_restored() -> None:
    world = World().run()
    world.held = {"log"}
    world.pass_time(1_000)
    world.fail_task(ALL[0])
    world.pass_time(5_000)
    assert world.state is JobState.RESTARTING  # nothing may be chosen before the log is known
    world.held = set()
    world.settle()
    world.pass_time(0)
    assert (world.state, world.master.status().checkpoints.restored) == (JobState.RUNNING, 1)
    assert world.count(m.CheckpointCompleted) == 0
    assert trace == ["commit 1.0", "commit 1.1", "cleanup"]


def test_an_append_of_unknown_outcome_is_tried_until_the_log_says_what_it_was() -> None:
    world = World().run()
    world.held = {"log"}
    world.pass_time(1_000)
    honest, world.objects = world.objects, Mute(world.objects)
    world.held = set()
    world.settle()
    world.objects = honest
    assert (world.completions(), trace) == ([1], [])  # written, but nobody heard of it
    world.pass_time(1_000)
    assert world.completions()[:1] == [1]
    assert world.completions().count(1) == 1
    assert trace[:2] == ["commit 1.0", "commit 1.1"]


def test_metadata_of_a_failed_attempt_is_never_logged() -> None:
    world = World().run()
    world.held = {"metadata"}
    world.pass_time(1_000)
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    world.held = set()
    world.settle()
    assert (world.state, world.completions(), trace) == (JobState.RUNNING, [], ["cleanup"])


def test_writers_start_only_after_commits_of_the_restored_checkpoint() -> None:
    world = World().run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.fail_task(ALL[0])
    world.sent.clear()
    world.pass_time(1_000)
    assert (world.state, world.count(m.Deploy), trace) == (JobState.STARTING, 0, [])
    world.held = set()
    world.settle()
    assert (world.state, trace) == (JobState.RUNNING, ["commit 1.0", "commit 1.1", "cleanup"])


def test_a_master_that_takes_over_commits_what_its_predecessor_did_not() -> None:
    first = World(lease_ms=30_000).run()
    first.held = {"commit"}
    first.pass_time(2_000)
    assert first.completions() == [1, 2]
    second = World(first.objects)
    second.settle()
    second.pass_time(40_000)
    second.start_slots()
    assert (second.state, second.attempt) == (JobState.RUNNING, 2)
    assert trace == ["commit 1.0", "commit 1.1", "commit 2.0", "commit 2.1", "cleanup"]
    assert second.master.status().checkpoints.restored == 2


def test_a_deposed_master_stops_and_writes_nothing() -> None:
    world = World().run()
    log = JobLog(JOB, lambda: "other")
    run_program(log.read(), world.objects)
    run_program(log.append(LeaderElected(log.state.generation + 1)), world.objects)  # type: ignore[arg-type]
    before = len(world.log())
    world.sent.clear()
    world.pass_time(1_000)
    assert world.ended is not None
    assert (world.state, type(world.ended.failure)) == (JobState.DEPOSED, DeposedError)
    assert (len(world.log()), world.completions(), trace) == (before, [], [])
    assert world.count(m.Cancel) == 2


def test_failures_that_come_again_fail_the_job_at_once() -> None:
    world = World().run()
    world.fail_task(ALL[0], MalformedRecordError("line 3 of a.json"))
    assert world.ended is not None
    assert (world.ended.state, str(world.ended.failure)) == (JobState.FAILED, "line 3 of a.json")
    assert isinstance(world.ended.failure, JobFailedError)
    assert isinstance(world.ended.failure.__cause__, MalformedRecordError)
    assert world.log()[-1].state == "FAILED"


def test_the_restart_strategy_gives_up_and_the_last_checkpoint_stays() -> None:
    world = World(restarts=FixedDelay(1, 10)).run()
    world.pass_time(1_000)
    world.fail_task(ALL[0])
    world.pass_time(10)
    world.fail_task(ALL[0])
    assert world.log()[-1] == Finished("FAILED", retained=True)


def test_a_commit_that_never_works_fails_the_job_by_the_sinks_name() -> None:
    world = World(commit_attempts=2).run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.fail_held("commit", OSError("read-only"))
    world.pass_time(500)
    world.fail_held("commit", OSError("read-only"))
    world.settle()
    assert world.ended is not None
    assert "sink write: committing failed 2 times" in str(world.ended.failure)


def test_cancel_first_commits_what_is_logged() -> None:
    world = World().run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.tell(events.CancelRequested())
    world.settle()
    assert (world.state, world.count(m.Cancel)) == (JobState.CANCELING, 0)
    world.held = set()
    world.settle()
    assert (world.ended, trace) == (events.EndJob(JobState.CANCELED), ["commit 1.0", "commit 1.1"])
    assert world.log()[-1] == Finished("CANCELED", retained=True)


def test_cancel_waits_for_commits_only_so_long() -> None:
    world = World(stop_timeout_ms=10_000).run()
    world.held = {"commit"}
    world.pass_time(1_000)
    world.tell(events.CancelRequested())
    world.pass_time(10_000)
    assert world.ended == events.EndJob(JobState.CANCELED)


def test_stop_takes_a_last_checkpoint_and_the_job_can_be_continued() -> None:
    world = World().run()
    world.tell(events.StopRequested())
    world.settle()
    assert world.ended == events.EndJob(JobState.SUSPENDED)
    assert (world.completions(), trace) == ([1], ["commit 1.0", "commit 1.1"])
    assert not any(isinstance(record, Finished) for record in world.log())
    again = World(world.objects)
    again.run()
    assert again.master.status().checkpoints.restored == 1


def test_stop_does_not_wait_for_a_checkpoint_that_cannot_come() -> None:
    world = World().run()
    world.mute = {m.Acknowledge}
    world.tell(events.StopRequested())
    world.settle()
    assert world.state is JobState.SUSPENDING
    world.fail_task(ALL[0])
    assert world.ended == events.EndJob(JobState.SUSPENDED)


@pytest.mark.parametrize(
    ("request_", "end"),
    [(events.CancelRequested(), JobState.CANCELED), (events.StopRequested(), JobState.SUSPENDED)],
)
@pytest.mark.parametrize("when", ["waiting for slots", "deploying", "waiting to restart"])
def test_requests_are_heeded_whatever_the_job_is_doing(request_: events.Event, end: JobState, when: str) -> None:
    world = World()
    world.settle()
    if when != "waiting for slots":
        world.mute = {m.Initialized} if when == "deploying" else set()
        world.start_slots()
    if when == "waiting to restart":
        world.fail_task(ALL[0])
    world.tell(request_)
    world.settle()
    assert world.ended == events.EndJob(end)


def test_slots_that_do_not_come_in_time_are_a_failure_with_its_reason() -> None:
    world = World(slot_timeout_ms=5_000, restarts=FixedDelay(0))
    world.settle()
    world.tell(events.SlotOffered(SlotId("slot-1")))
    world.pass_time(5_000)
    assert world.ended is not None
    assert str(world.ended.failure) == "1 of 2 slots were there after 5 s"


def test_declined_checkpoints_fail_the_attempt_when_not_tolerated() -> None:
    world = World(checkpoints=CheckpointOptions(interval_ms=1_000, tolerable_failures=0)).run()
    world.mute = {m.Acknowledge}
    world.pass_time(1_000)
    slot = world.slot_of(ALL[2])
    world.tell(events.SlotMessage(slot, m.Decline(world.attempt, ALL[2], CheckpointId(1), "disk full")))
    assert world.state is JobState.RESTARTING
    assert "declined by sink[0]: disk full" in str(world.master.status().last_failure)


def test_splits_are_handed_out_only_outside_of_barriers() -> None:
    world = World().run()
    world.mute = {m.BarrierInjected, m.Acknowledge}
    world.pass_time(1_000)
    slot = world.slot_of(ALL[0])
    world.tell(events.SlotMessage(slot, m.SplitRequest(world.attempt, ALL[0], OperatorId("read"))))
    assert world.count(m.AssignSplits) == 0
    for subtask in ALL[:2]:
        message = m.BarrierInjected(world.attempt, subtask, CheckpointId(1))
        world.tell(events.SlotMessage(world.slot_of(subtask), message))
    assert world.count(m.AssignSplits) == 1


def test_every_terminal_state_is_final() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == TERMINAL_STATES


def test_the_same_events_give_the_same_commands() -> None:
    def shape(command: events.Command) -> Any:
        return command.tag if isinstance(command, events.RunProgram | events.RunBlocking) else command

    def played() -> list[Any]:
        seen: list[Any] = []
        World.names = 0
        world = World()
        carry_out: Callable[[list[events.Command]], None] = world.carry_out

        def watched(commands: list[events.Command]) -> None:
            seen.extend(map(shape, commands))
            carry_out(commands)

        world.carry_out = watched  # type: ignore[method-assign]
        world.run()
        world.pass_time(3_000)
        world.lose(SlotId("slot-2"))
        world.pass_time(1_000)
        world.start_slots()
        world.drain()
        assert world.ended == events.EndJob(JobState.FINISHED)
        return seen

    assert played() == played()
