"""A task slot: one thread that owns some subtasks of one job. Sans-I/O; three drivers step it (DESIGN 4).

The driver calls, always on the slot's thread: `deliver` (a control message), `receive` and `granted` (from the
transport), mail posted through SlotServices.post, and `step`. Between steps it waits until something arrives or
`next_wakeup_ns` comes.

Fencing (PROTOCOLS 5): the slot remembers the highest (generation, attempt) it was spoken to with and refuses lower
ones. The first order of a higher generation ends everything older. Within a generation tasks of several attempts live
side by side, because regions restart alone: a deployment ends older tasks of its own subtask and no others. Frames of
another attempt than their task's are dropped.

A lost connection fails the tasks that have a channel to that peer, because frames may be lost; but it is a symptom,
and the master may be about to cancel them for its cause, so they fail a little later (PROTOCOLS 18).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

from ..runtime import logs
from ..runtime.elements import Barrier
from ..state.errors import ConnectionLostError
from ..state.ids import Attempt, CheckpointId, SlotId
from . import messages
from .deployment import SlotServices, deploy_task
from .exchange.gate import InputGate
from .exchange.transport import Frame
from .failures import failed
from .messages import ChannelId
from .reporting import restore_report
from .snapshotting import dropping
from .source_input import SourceInput
from .state_reads import read_state
from .task import Task, log_context
from .task_state import TaskState

REPORT_NS = 1_000_000_000
LOST_CONNECTION_NS = 100_000_000
"""What a lost connection waits for its cause: the death of a slot is known within some tens of milliseconds."""


class Slot:
    """Subtasks of one job on one thread."""

    def __init__(self, slot_id: SlotId, services: SlotServices) -> None:
        self.id = slot_id
        self._services = services
        self._fence = (0, 0)
        self.tasks: list[Task] = []
        """Downstream first, sources last: what is on its way is finished before more is taken in (PROTOCOLS 23)."""
        self._inputs: dict[ChannelId, Task] = {}
        self._outputs: dict[ChannelId, Task] = {}
        self._next_report_ns = 0
        self._doomed: list[tuple[int, str, Task]] = []
        """Tasks that lost a connection, and when they fail of it."""

    # control

    def deliver(self, message: messages.ToSlot) -> None:
        fence = (message.generation, message.attempt)
        if fence < self._fence:
            return
        if message.generation > self._fence[0]:
            self._end(lambda task: task.deploy.generation < message.generation)
        self._fence = fence
        match message:
            case messages.Deploy():
                self._deploy(message)
            case messages.Start():
                for task in self._each():
                    task.start()
            case messages.Cancel(subtasks=subtasks):
                self._end(lambda task: not subtasks or task.id in subtasks)
            case messages.TriggerCheckpoint():
                barrier = Barrier(
                    message.checkpoint_id, message.triggered_at_ms, message.exactly_once, message.persist,
                    message.attempt, message.unaligned_after_ms, message.savepoint,
                )  # fmt: skip
                for task in self._each():
                    task.trigger(barrier)
            case messages.AbortCheckpoint(checkpoint_id=checkpoint):
                for task in self._each():
                    task.aborted(checkpoint)
            case messages.CheckpointCompleted(checkpoint_id=checkpoint):
                for task in self._each():
                    task.completed(checkpoint)
                self._drop_copies(checkpoint)
            case messages.AssignSplits() | messages.AlignWatermark():
                self._tell_source(message)
            case messages.FinishTasks():
                for task in self._each():
                    task.finish()
            case messages.ReadState():
                read_state(message, self.tasks, self._services.send)
        self._forget_closed()

    def _each(self) -> Iterator[Task]:
        """The tasks there are now, one after the other. What is logged meanwhile is theirs, by users' code too."""
        for task in list(self.tasks):
            logs.set_context(task.log_context)
            yield task
        logs.set_context(None)

    def _deploy(self, message: messages.Deploy) -> None:
        subtask = messages.SubtaskId(message.vertex.id, message.index)
        self._end(lambda task: task.id == subtask)
        try:
            with logs.use_context(log_context(message)):
                task = deploy_task(message, self.id, self._services)
        except Exception as error:  # an operator that cannot be unpickled
            self._services.send(failed(message.attempt, subtask, message.vertex.name, error))
            return
        self.tasks.append(task)
        self.tasks.sort(key=lambda task: (-task.deploy.topological_index, task.deploy.index))
        if isinstance(task.input, InputGate):
            self._inputs.update({channel.id: task for channel in task.input.channels})
        self._outputs.update({channel.id: task for channel in task.writers.channels})

    def _drop_copies(self, completed: CheckpointId) -> None:
        """Deleting large files takes long: on a helper thread."""
        copies = self._services.copies
        if copies is not None:
            self._services.executor.submit(dropping(copies, completed), lambda _result, _error: None)

    def _tell_source(self, message: messages.AssignSplits | messages.AlignWatermark) -> None:
        for task in self._each():
            if task.id == message.subtask and isinstance(task.input, SourceInput):
                task.tell_source(message)

    def _end(self, concerned: Callable[[Task], bool]) -> None:
        for task in self._each():
            if concerned(task):
                task.cancel()

    # network

    def receive(self, frame: Frame) -> None:
        task = self._inputs.get(frame.channel)
        if task is not None and task.attempt == frame.attempt and isinstance(task.input, InputGate):
            task.input.receive(frame)

    def granted(self, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        task = self._outputs.get(channel)
        if task is not None and task.attempt == attempt:
            task.writers.granted(channel, nbytes)

    def disconnected(self, peer: SlotId, newest: Attempt | None, reason: str = "") -> None:
        at_ns = self._services.clock.monotonic_ns() + LOST_CONNECTION_NS
        lost = f"the connection of slot {self.id} to slot {peer} was lost" + (f": {reason}" if reason else "")
        for task in self.tasks:
            if peer in task.peers and (newest is None or task.attempt <= newest):
                self._doomed.append((at_ns, lost, task))

    def _fail_doomed(self) -> None:
        if not self._doomed:
            return
        now_ns = self._services.clock.monotonic_ns()
        due = [doomed for doomed in self._doomed if doomed[0] <= now_ns]
        self._doomed = [doomed for doomed in self._doomed if doomed[0] > now_ns]
        for _, lost, task in due:
            logs.set_context(task.log_context)
            task.fail(ConnectionLostError(lost))

    # running

    def step(self) -> bool:
        """One step of every task. True if any of them did something."""
        self._fail_doomed()
        progressed = False
        for task in self._each():
            progressed |= task.step()
        now_ns = self._services.clock.monotonic_ns()
        if now_ns >= self._next_report_ns:
            self._next_report_ns = now_ns + REPORT_NS
            self.report()
        self._forget_closed()
        return progressed

    def report(self) -> None:
        for task in self.tasks:
            if task.active:
                task.tell()
            elif _restores(task):
                at_ns = self._services.clock.monotonic_ns()
                self._services.send(restore_report(task.deploy, task.downloads.so_far, at_ns))

    def next_wakeup_ns(self) -> int | None:
        due_ns = [at for task in self.tasks if (at := task.next_wakeup_ns()) is not None]
        if any(task.active or _restores(task) for task in self.tasks):  # a report is due, also if nothing comes
            due_ns.append(self._next_report_ns)
        due_ns += [at_ns for at_ns, _, _ in self._doomed]
        return min(due_ns, default=None)

    def _forget_closed(self) -> None:
        """Tasks that ended, and with the last one of an attempt its files."""
        closed = [task for task in self.tasks if task.state is TaskState.CLOSED]
        if not closed:
            return
        self.tasks = [task for task in self.tasks if task.state is not TaskState.CLOSED]
        self._inputs = {channel: task for channel, task in self._inputs.items() if task not in closed}
        self._outputs = {channel: task for channel, task in self._outputs.items() if task not in closed}
        for task in closed:
            shutil.rmtree(task.directory, ignore_errors=True)


def _restores(task: Task) -> bool:
    """Files of its state come, or are there, and it has not begun."""
    return task.state in (TaskState.INITIALIZING, TaskState.READY) and task.downloads.so_far.total > 0
