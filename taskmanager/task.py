"""A subtask: one attempt of one parallel instance of a vertex. Sans-I/O: stepped by its slot, with mail in between.

    INITIALIZING  state is fetched on a helper thread, then the operators are opened
    READY         Initialized was answered; elements are received, nothing is consumed until Start
    RUNNING       slices of input go through the chain
    DRAINED       all input has ended and all output is sent; barriers are still answered (PROTOCOLS 10)
    CLOSING       finished, cancelled or failed; waits for its own work on helper threads, then closes its operators
    CLOSED        the outcome has been told to the master

A step does one thing after the other until its time is up, in this order: what was under way in the restored
checkpoint, what operators that wait for answers have to do, work under way (firing timers), due processing-time timers,
the rest of the batch being processed, the next event of the input. While such an operator is full the chain gets
nothing; the input has ended for it, and a drained job's last barrier goes on, when it holds nothing back any more. So
an aligned barrier is handled only between batches, when nothing is half done. One that may
overtake data is handled between any two of these, also while the task is backpressured: the rest of the batch goes into
the checkpoint, and what a watermark has not fired yet fires when it comes again. Only the end of the input is not
interrupted. A step never blocks: when an output channel has no credit left the task stops consuming and is
backpressured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime import logs
from ..runtime.batch import Batch
from ..runtime.clock import Clock
from ..runtime.elements import Barrier, EndOfInput, LatencyMarker, Watermark, WatermarkStatus
from ..runtime.operators.operator import Firing, RestoredState
from ..state.ids import Attempt, CheckpointId, OperatorId, SlotId
from ..state.store.downloads import Downloads
from ..state.store.local_files import as_local
from ..state.store.objects import Program
from ..state.store.packing import SubtaskUploads
from . import messages
from .chain import OperatorChain
from .exchange.gate import Aligned, AllEnded, Data, GateEvent, InputGate, is_last
from .exchange.input_counts import InputCounts
from .exchange.writers import Writers
from .executor import Done, Executor
from .failures import failed
from .recovery import Recovery
from .reporting import operator_counters, restored_watermark, subtask_details
from .slices import SliceSizer
from .snapshotting import RestoredSubtask
from .source_input import SourceInput
from .subtask_checkpoints import SubtaskCheckpoints
from .task_state import Occupation, TaskState, TimeSpent
from .works import Works

STEP_NS = 10_000_000
"""A task gives the slot's thread back after this long, so that mail and other tasks get their turn (PROTOCOLS 19)."""


class Task:
    """Built by deployment.py, stepped by its slot."""

    def __init__(
        self,
        deploy: messages.Deploy,
        chain: OperatorChain,
        source: InputGate | SourceInput,
        writers: Writers,
        open_chain: Callable[[dict[OperatorId, RestoredState]], None],
        clock: Clock,
        executor: Executor,
        send: Callable[[messages.FromSlot], None],
        directory: Path,
        peers: frozenset[SlotId],
        uploads: SubtaskUploads,
        downloads: Downloads,
    ) -> None:
        self.deploy = deploy
        self.downloads = downloads
        self.directory = directory
        self.peers = peers
        """Slots it has channels to or from."""
        self.id = messages.SubtaskId(deploy.vertex.id, deploy.index)
        self.attempt = deploy.attempt
        self.log_context = log_context(deploy)
        self.state = TaskState.INITIALIZING
        self.chain = chain
        self.input = source
        self.writers = writers
        self.read = InputCounts(deploy.vertex.max_parallelism)
        self._latency_ms: int | None = None
        """Of the newest latency marker."""
        self._open_chain = open_chain
        self._clock = clock
        self._send = send
        self._uploads = uploads
        self._batch: Batch | None = None
        self._position = 0
        self._input_index = 0
        self._slices = SliceSizer(chain.columnar)
        if isinstance(source, SourceInput):
            source.pass_rows = lambda: self._slices.rows
        self._time = TimeSpent(clock)
        self._works = Works(executor, self.log_context, self._work_ended)
        self._recovery = Recovery(chain, source, writers, ends=deploy.in_flight_ends)
        self._ending = False
        self._held: list[GateEvent] = []
        """What waits until operators hold nothing back any more."""
        self.checkpoints = SubtaskCheckpoints(
            self.attempt, self.id, chain, source, writers, uploads, clock, send, self._works.submit, self.fail
        )
        self._outcome: messages.FromSlot | None = None
        self.watermark = restored_watermark(deploy)

    # life

    def initialize(self, restore: Program[RestoredSubtask]) -> None:
        self._works.submit(restore, self._restored)

    def _restored(self, restored: RestoredSubtask | None, error: Exception | None) -> None:
        if error is not None or restored is None:
            failure = error or RuntimeError("nothing restored")
            self.fail(as_local(failure, "its state cannot be fetched", self.directory))
            return
        try:
            self._open_chain(restored.operators)
            self._recovery.add(restored.in_flight)
        except Exception as failure:
            self.fail(failure)
            return
        self.state = TaskState.READY
        self._send(messages.Initialized(self.attempt, self.id))

    def start(self) -> None:
        if self.state is TaskState.READY:
            self.state = TaskState.RUNNING
            self._time.begin()
            self._send(messages.Running(self.attempt, self.id))
            self._recovery.start()

    def finish(self) -> None:
        self.tell()
        self._close_with(messages.Finished(self.attempt, self.id))

    def cancel(self) -> None:
        self._close_with(messages.Canceled(self.attempt, self.id))

    def fail(self, error: Exception) -> None:
        self._close_with(failed(self.attempt, self.id, self.chain.failed_operator or self.deploy.vertex.name, error))

    def _close_with(self, outcome: messages.FromSlot) -> None:
        if self.state in (TaskState.CLOSING, TaskState.CLOSED):
            return
        self.state = TaskState.CLOSING
        self._outcome = outcome
        self._works.cancel()
        self._close_when_quiet()

    def _close_when_quiet(self) -> None:
        if self.state is not TaskState.CLOSING or self._works or self._outcome is None:
            return
        errors = self.chain.close()
        if errors and isinstance(self._outcome, messages.Finished):
            self._outcome = failed(self.attempt, self.id, self.deploy.vertex.name, errors[0])
        self.state = TaskState.CLOSED
        self._send(self._outcome)

    @property
    def active(self) -> bool:
        return self.state in (TaskState.RUNNING, TaskState.DRAINED)

    def tell_source(self, message: messages.AssignSplits | messages.AlignWatermark) -> None:
        def tell() -> None:
            assert isinstance(self.input, SourceInput)
            if isinstance(message, messages.AssignSplits):
                self.input.operator.add_splits(message.splits, message.last)
            else:
                self.input.operator.align(message.lowest)
            self.input.wake()

        self._mail(tell)

    # one step

    def step(self) -> bool:
        """Work for at most about STEP_NS. True if anything was done."""
        if not self.active:
            return False
        began_ns = self._time.account()
        try:
            progressed = self._overtake()
            progressed |= self._work(began_ns)
            progressed |= self._overtake()
        except Exception as error:
            self.fail(error)
            return True
        self._time.at = Occupation.BUSY
        if progressed:
            self._time.account()
        if self.writers.blocked:
            self._time.at = Occupation.BACKPRESSURED
        elif not self.chain.full:  # who is full is busy: others wait for it
            self._time.at = Occupation.IDLE
        return progressed

    def _work(self, began_ns: int) -> bool:
        self.writers.flush_due(began_ns)
        progressed = False
        while not self.writers.blocked and self._advance():
            progressed = True
            if self.input.due_ms() is not None:
                self._overtake()
            if self._clock.monotonic_ns() - began_ns >= STEP_NS:
                break
        return progressed

    def _advance(self) -> bool:
        """The next thing in the order of the module's docstring."""
        if self._recovery:
            self._recovery.send()
            return True
        chain = self.chain
        if chain.go_on():
            return True
        if chain.full and (chain.work or self._batch is not None):
            return False
        if chain.work:
            chain.take_step(chain.work)
            return True
        now_ms = self._clock.now_ms()
        timer_ms = self._next_timer_ms()
        if timer_ms is not None and timer_ms <= now_ms:
            chain.work.append(chain.processing_time(now_ms))
            return True
        if self._batch is not None:
            self._process_slice(self._batch)
            return True
        if self._held and not chain.unfinished:
            self._handle(self._held.pop(0))
            return True
        event = chain.guarded(0, self.input.poll) if isinstance(self.input, SourceInput) else self.input.poll()
        if event is None:
            return False
        self._handle_in_time(event)
        return True

    def _handle_in_time(self, event: GateEvent) -> None:
        """At once, or when nothing is held back any more."""
        if self.chain.unfinished and is_last(event):
            self._held.append(event)
        else:
            self._handle(event)

    def _process_slice(self, batch: Batch) -> None:
        began_ns = self._clock.monotonic_ns()
        piece = batch.slice(self._position, self._slices.rows)
        self._position += len(piece)
        if self._position >= len(batch):
            self._batch = None
        if isinstance(self.input, SourceInput):
            self.chain.outputs[0].emit(piece)
        else:
            self.chain.process(0, piece, self._input_index)
        self.chain.between_batches()
        self._slices.took(len(piece), self._clock.monotonic_ns() - began_ns)

    def _handle(self, event: GateEvent) -> None:
        head_is_source = isinstance(self.input, SourceInput)
        match event:
            case Data(batch, input_index):
                self._batch, self._position, self._input_index = batch, 0, input_index
                self.read.add(batch)
            case Watermark(timestamp):
                self.watermark = timestamp
                chain = self.chain
                chain.work.append(chain.watermark_below(0, event) if head_is_source else chain.watermark(0, event))
            case WatermarkStatus():
                chain = self.chain
                chain.work.append(chain.status_below(0, event) if head_is_source else chain.status(0, event))
            case LatencyMarker(created_at_ms):
                if not head_is_source:
                    self._latency_ms = max(0, self._clock.now_ms() - created_at_ms)
                self.chain.latency_marker(event)
            case Aligned():
                self.checkpoints.take(event, self._recovery.write_down)
            case AllEnded():
                self.chain.work.append(self._end())

    def _end(self) -> Firing:
        self._ending = True
        yield from self.chain.end_input()
        self._ending = False
        if not self.chain.ended:
            self._held.insert(0, AllEnded())
            return
        self.writers.control(EndOfInput())
        self.state = TaskState.DRAINED
        self.tell()
        self._send(messages.Drained(self.attempt, self.id))

    # checkpoints

    def trigger(self, barrier: Barrier) -> None:
        """Of a source: the barrier goes out as soon as no batch is half processed."""
        if isinstance(self.input, SourceInput) and not self.checkpoints.is_aborted(barrier.checkpoint_id):
            self.input.inject(barrier)

    def _overtake(self) -> bool:
        """A barrier that need not wait any longer, for other channels or behind data, does not."""
        if self.checkpoints.in_flight:
            self.checkpoints.look_after()
        if self.input.due_ms() is None or self._ending:
            return self._take_at_rest()
        barrier = self.input.overtaking(self._clock.now_ms())
        if barrier is None:
            return self._take_at_rest()
        rest = None if self._batch is None else self._batch.slice(self._position, len(self._batch))
        self.checkpoints.take(self.input.overtake(barrier, rest), self._recovery.write_down)
        return True

    def _take_at_rest(self) -> bool:
        """A barrier costs no credit: a backpressured source with nothing at hand need not wait for it. What operators
        hold back goes into the checkpoint, except where the barrier is the last one."""
        at_rest = self._batch is None and not self.chain.at_work and not self._recovery
        if not (at_rest and self.writers.blocked and isinstance(self.input, SourceInput)):
            return False
        aligned = self.input.barrier_at_rest()
        if aligned is not None:
            self._handle_in_time(aligned)
        return aligned is not None

    def attempt_of(self, checkpoint: CheckpointId) -> Attempt:
        """What names the files of this checkpoint. Called on helper threads, too."""
        return self.checkpoints.attempt_of(checkpoint)

    def completed(self, checkpoint: CheckpointId) -> None:
        self.checkpoints.completed(checkpoint)
        self._mail(lambda: self.chain.completed(checkpoint))

    def aborted(self, checkpoint: CheckpointId) -> None:
        self.checkpoints.aborted(checkpoint)
        self._mail(lambda: self.chain.aborted(checkpoint))

    def _mail(self, call: Callable[[], None]) -> None:
        """Mail that runs operators' code: their errors are the task's."""
        if self.state not in (TaskState.READY, TaskState.RUNNING, TaskState.DRAINED):
            return
        try:
            call()
        except Exception as error:
            self.fail(error)

    # waiting

    def next_wakeup_ns(self) -> int | None:
        """When step must be called again although nothing arrives (monotonic ns); None: never."""
        if not self.active:
            return None
        due_ns = [self.writers.next_flush_ns()]
        now_ms, now_ns = self._clock.now_ms(), self._clock.monotonic_ns()
        overtakes_ms = self.input.due_ms()  # in the past: it waits for something else than time
        timers_ms = [self.checkpoints.next_due_ms(), None if (overtakes_ms or 0) <= now_ms else overtakes_ms]
        if not self.writers.blocked:
            due_ns.append(self.chain.next_due_ns())
        if not self.writers.blocked and not self.chain.full:
            timers_ms.append(self._next_timer_ms())
            if isinstance(self.input, SourceInput):
                timers_ms.append(self.input.retry_at_ms)
        due_ns += [now_ns + max(0, at - now_ms) * 1_000_000 for at in timers_ms if at is not None]
        return min((at for at in due_ns if at is not None), default=None)

    def _next_timer_ms(self) -> int | None:
        """After the end of input no timer fires: its results could not be sent any more (as in Flink)."""
        return self.chain.next_processing_timer() if self.state is TaskState.RUNNING else None

    def tell(self) -> None:
        """The master, how it stands: with users' gauges and readers."""
        self._mail(lambda: self._send(self._report()))

    def _report(self) -> messages.TaskReport:
        at_ns = self._time.account() if self.active else self._clock.monotonic_ns()
        busy, idle, blocked = map(self._time.ms, (Occupation.BUSY, Occupation.IDLE, Occupation.BACKPRESSURED))
        restored = self.downloads.so_far
        details = subtask_details(self.chain, self.input, self.writers, self.read, self._latency_ms, restored)
        return messages.TaskReport(
            self.attempt, self.id, self.read.records, self.writers.records_out, self.read.bytes, self.writers.bytes_out,
            self.watermark, busy, idle, blocked, operator_counters(self.chain), at_ns, details,
        )  # fmt: skip

    # helper threads

    def _work_ended(self, done: Done, result: Any, error: Exception | None) -> None:
        if self.state is TaskState.CLOSING:
            self._close_when_quiet()
        elif self.state is not TaskState.CLOSED:
            done(result, error)


def log_context(deploy: messages.Deploy) -> logs.TaskContext:
    """What stands on log lines of this subtask."""
    return logs.TaskContext(deploy.job_id, deploy.vertex.name, deploy.index, deploy.attempt)
