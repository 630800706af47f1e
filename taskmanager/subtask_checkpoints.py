"""Checkpoints of one subtask, from the barrier to the acknowledgement.

    barrier aligned, or due to overtake data   operators freeze their state, the barrier goes on             (`take`)
    state is written and uploaded              a program on a helper thread                       (snapshotting.py)
    in-flight data is whole                    the barrier has come on all channels, and waits in none behind data
    in-flight data is uploaded                 a second program, if there is any
    acknowledged

Both must be over, in whichever order. An aligned barrier that may overtake data one day is watched until it has left
the outputs. Whatever a checkpoint is still waiting for when it is aborted is forgotten, and what it has uploaded is
deleted (discarded.py).

A database that has failed fails the task: every later checkpoint would fail, too, and when the input has ended nobody
else would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ..runtime.clock import Clock
from ..runtime.elements import Savepoint
from ..state.errors import BrokenStateError
from ..state.ids import Attempt, CheckpointId
from ..state.snapshots import SubtaskSnapshot
from ..state.store.objects import Program
from ..state.store.packing import SubtaskUploads
from . import messages
from .chain import OperatorChain
from .discarded import DiscardedUploads
from .exchange.gate import Aligned, InputGate
from .exchange.writers import Writers
from .executor import Work
from .in_flight import InFlight
from .snapshotting import Arrival, noting, subtask_snapshot
from .source_input import SourceInput

Answer = Callable[[Any, Exception | None], None]


class SubtaskCheckpoints:
    """Those under way at one subtask. All calls but `attempt_of` on the slot's thread."""

    def __init__(
        self,
        attempt: Attempt,
        subtask: messages.SubtaskId,
        chain: OperatorChain,
        source: InputGate | SourceInput,
        writers: Writers,
        uploads: SubtaskUploads,
        clock: Clock,
        send: Callable[[messages.FromSlot], None],
        submit: Callable[[Program[Any], Answer], Work],
        fail: Callable[[Exception], None],
    ) -> None:
        self._attempt = attempt
        self._subtask = subtask
        self._chain = chain
        self._input = source
        self._writers = writers
        self._uploads = uploads
        self._clock = clock
        self._send = send
        self._submit = submit
        self._fail = fail
        self._aborted: set[CheckpointId] = set()
        """Snapshots that may still be on their way and that nobody waits for."""
        self._attempts: dict[CheckpointId, Attempt] = {}
        """Of checkpoints whose barrier was here, and that have not ended as far as we know."""
        self._savepoints: dict[CheckpointId, Savepoint] = {}
        """Those among them that are savepoints."""
        self._work: dict[CheckpointId, Work] = {}
        """What is being written and uploaded."""
        self._written: dict[CheckpointId, SubtaskSnapshot] = {}
        """State is written, and in-flight data is not whole."""
        self._uploaded = DiscardedUploads(submit)
        self.in_flight: dict[CheckpointId, InFlight] = {}
        """May still become more."""

    def is_aborted(self, checkpoint: CheckpointId) -> bool:
        return checkpoint in self._aborted

    def take(self, aligned: Aligned, recovering: Callable[[InFlight], None]) -> None:
        """The synchronous part. `recovering`: adds what the subtask has not sent again since it was restored."""
        barrier, in_flight = aligned.barrier, aligned.in_flight
        checkpoint = barrier.checkpoint_id
        self._attempts[checkpoint] = barrier.attempt
        if barrier.savepoint is not None:
            self._savepoints[checkpoint] = barrier.savepoint
        began_ns = self._clock.monotonic_ns()
        start_delay_ms = max(0.0, self._clock.now_ms() - barrier.triggered_at_ms - aligned.align_ms)
        self._chain.prepare_barrier(checkpoint)
        if in_flight is not None:
            recovering(in_flight)
            self._writers.overtake(barrier, in_flight)
        else:
            self._writers.control(barrier)
            if barrier.unaligned_after_ms is not None:
                in_flight = InFlight(barrier)
        if in_flight is not None:
            self.in_flight[checkpoint] = in_flight
        programs = self._chain.snapshot(barrier)
        sync_ms = (self._clock.monotonic_ns() - began_ns) / 1e6
        if isinstance(self._input, SourceInput):
            self._send(messages.BarrierInjected(self._attempt, self._subtask, checkpoint))
        arrival = Arrival(aligned.align_ms, sync_ms, start_delay_ms, aligned.processed_bytes)
        program = subtask_snapshot(self._subtask, checkpoint, programs, self._uploads, arrival, self._clock)
        noted = noting(program, self._uploaded.noted(checkpoint))
        self._work[checkpoint] = self._submit(noted, partial(self._state_written, checkpoint))

    def look_after(self) -> None:
        """Barriers that may by now overtake output do so; what is whole is written down."""
        for checkpoint, in_flight in list(self.in_flight.items()):
            gone = self._writers.overtake_due(in_flight, self._clock.now_ms())
            if in_flight.void:  # given up: only one at a time may overtake, and a younger one is under way
                self._give_up(checkpoint)
            elif gone and checkpoint in self._written and not self._input.collects(in_flight):
                snapshot = self._written[checkpoint]
                self._end(checkpoint)
                if in_flight.failure is not None:
                    self._whole(checkpoint, snapshot, in_flight.failure)
                    continue
                program = _with_in_flight(snapshot, in_flight, self._uploads)
                noted = noting(program, self._uploaded.noted(checkpoint))
                self._work[checkpoint] = self._submit(noted, partial(self._whole, checkpoint))

    def next_due_ms(self) -> int | None:
        """When `look_after` may have something to do by time alone (ms since the epoch)."""
        now_ms = self._clock.now_ms()
        due = (in_flight.barrier.due_ms() for in_flight in self.in_flight.values())
        return min((at_ms for at_ms in due if at_ms is not None and at_ms > now_ms), default=None)

    def attempt_of(self, checkpoint: CheckpointId) -> Attempt:
        """What names the files of this checkpoint: its own attempt, which may be newer than the task's. Called on
        helper threads, too."""
        return self._attempts.get(checkpoint, self._attempt)

    def savepoint_of(self, checkpoint: CheckpointId) -> Savepoint | None:
        """None: it is an ordinary checkpoint. Called on helper threads, too."""
        return self._savepoints.get(checkpoint)

    def completed(self, checkpoint: CheckpointId) -> None:
        self._attempts = {each: attempt for each, attempt in self._attempts.items() if each > checkpoint}
        self._savepoints = {each: savepoint for each, savepoint in self._savepoints.items() if each > checkpoint}
        self._aborted = {aborted for aborted in self._aborted if aborted > checkpoint or aborted in self._work}
        self._uploaded.keep(checkpoint)

    def aborted(self, checkpoint: CheckpointId) -> None:
        """What of it is not uploaded yet need not be: younger ones wait for the same threads."""
        self._attempts.pop(checkpoint, None)
        self._savepoints.pop(checkpoint, None)
        self._input.abort(checkpoint)
        self._give_up(checkpoint)

    def _give_up(self, checkpoint: CheckpointId) -> None:
        self._aborted.add(checkpoint)
        self._end(checkpoint)
        if checkpoint in self._work:
            self._work[checkpoint].cancel()  # and its answer discards
        else:
            self._uploaded.discard(checkpoint)

    # answers of the programs

    def _state_written(self, checkpoint: CheckpointId, snapshot: SubtaskSnapshot, error: Exception | None) -> None:
        if error is None and checkpoint in self.in_flight:
            self._work.pop(checkpoint, None)
            self._written[checkpoint] = snapshot
            self.look_after()
        else:
            self._whole(checkpoint, snapshot, error)

    def _whole(self, checkpoint: CheckpointId, snapshot: SubtaskSnapshot, error: Exception | None) -> None:
        self._work.pop(checkpoint, None)
        self._end(checkpoint)
        if isinstance(error, BrokenStateError):
            self._fail(error)
            return
        if checkpoint in self._aborted:
            self._uploaded.discard(checkpoint)
            return
        if error is None:
            if checkpoint in self._savepoints:
                self._uploaded.keep(checkpoint)
            self._send(messages.Acknowledge(self._attempt, self._subtask, checkpoint, snapshot))
        else:
            self._uploaded.discard(checkpoint)
            reason = f"{type(error).__name__}: {error}"
            self._send(messages.Decline(self._attempt, self._subtask, checkpoint, reason))

    def _end(self, checkpoint: CheckpointId) -> None:
        self.in_flight.pop(checkpoint, None)
        self._written.pop(checkpoint, None)


def _with_in_flight(
    snapshot: SubtaskSnapshot, in_flight: InFlight, uploads: SubtaskUploads
) -> Program[SubtaskSnapshot]:
    """The snapshot with what was under way, uploaded."""
    checkpoint = in_flight.barrier.checkpoint_id
    size = in_flight.nbytes
    try:
        handles = yield from in_flight.persist(uploads.of(checkpoint))
        yield from uploads.finish(checkpoint)
    finally:
        uploads.forget(checkpoint)
    return replace(
        snapshot,
        in_flight=handles,
        in_flight_bytes=size,
        unaligned=in_flight.unaligned,
        uploaded_bytes=snapshot.uploaded_bytes + size,
        state_bytes=snapshot.state_bytes + size,
    )
