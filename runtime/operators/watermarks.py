"""Timestamps and watermarks in the middle of a pipeline. Watermarks of upstream end here.

Silence. While the subtask is blocked nobody asks for its timers: one that comes late says nothing of the input, which
may be waiting. That goes first, and only if nothing comes is it silent.
"""

from __future__ import annotations

from typing import Self

from ...state.ids import CheckpointId
from ...state.snapshots import OperatorSnapshot
from ...state.store.objects import Program
from ..batch import Batch
from ..changelog import EVERYTHING
from ..elements import MAX_WATERMARK, MIN_WATERMARK, Watermark, WatermarkStatus
from ..event_time.watermarks import WatermarkStrategy
from ..records.record_types import RecordType
from .event_time import EventTime
from .operator import Firing, Operator, OperatorContext, RestoredState, immediate

_LATE_MS = 100
_LATE_SHARE = 8
"""A timer is late by more than this, and more than this part of the idleness."""


class WatermarksOperator(Operator):
    """One generator for all that the subtask receives."""

    stateful = True
    own_watermarks = True
    accepted_modes = EVERYTHING

    def __init__(self, strategy: WatermarkStrategy, output_type: RecordType) -> None:
        self.strategy = strategy
        self.output_type = output_type
        if strategy.future_guard is not None and strategy.future_guard.tag is not None:
            self.side_tags = frozenset({strategy.future_guard.tag.name})

    def in_batch_mode(self) -> Self:
        operator = self.flagged_for_batch_mode()
        operator.strategy = self.strategy.without_watermarks()
        return operator

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        """Of several old subtasks' generators the one furthest behind goes on (PROTOCOLS 12)."""
        super().open(context, restored)
        self._event_time = EventTime(self.strategy, context)
        old = [self._event_time.generator(state) for state in restored.operator_states]
        self._generator = min(old, key=lambda each: each.watermark) if old else self._event_time.generator()
        self._watermark, self._idle = self._generator.watermark, self._generator.idle
        self._silent = False
        self._active_ms = context.clock.now_ms()
        if self._watermark > MIN_WATERMARK:
            self.output.emit_watermark(Watermark(self._watermark))
        if self._idle:
            self.output.emit_status(WatermarkStatus(idle=True))

    def process_batch(self, batch: Batch, input_index: int) -> None:
        timed = self._event_time.timed(batch)
        if not len(timed):
            return
        self._active_ms = self.context.clock.now_ms()
        self._silent = False
        self._mark_idle(self._generator.idle)
        given = 0
        for rows, watermark, idle in self._event_time.marks(self._generator, timed):
            if watermark > self._watermark or idle != self._idle:
                self.output.emit(timed.slice(given, rows - given))
                given = rows
                self._advance(watermark, idle)
        self.output.emit(timed.slice(given, len(timed) - given))

    def _advance(self, watermark: int, idle: bool) -> None:
        if not idle:
            self._mark_idle(False)
        if watermark > self._watermark:
            self._watermark = watermark
            self._emit(Watermark(watermark))
        self._mark_idle(idle)

    def _mark_idle(self, idle: bool) -> None:
        if idle != self._idle:
            self._idle = idle
            self._emit(WatermarkStatus(idle))

    def _emit(self, element: Watermark | WatermarkStatus) -> None:
        """What a user's generator says takes effect before the next record, also within a slice."""
        if self.strategy.generator_supplier is not None:
            self.output.emit_at_once(element)
        elif isinstance(element, Watermark):
            self.output.emit_watermark(element)
        else:
            self.output.emit_status(element)

    def next_processing_timer(self) -> int | None:
        idle_ms = None
        if self.strategy.idleness_ms is not None and not self._silent:
            idle_ms = self._active_ms + self.strategy.idleness_ms
        due_ms = None if self._silent else self._event_time.due_ms
        return min((at_ms for at_ms in (idle_ms, due_ms) if at_ms is not None), default=None)

    def advance_processing_time(self, now_ms: int) -> Firing:
        if self._is_silent(now_ms):
            self._silent = True
            self._mark_idle(True)
        elif self._event_time.is_due(now_ms):
            self._event_time.ask(self._generator)
            self._advance(self._generator.watermark, self._generator.idle)
        yield from ()

    def _is_silent(self, now_ms: int) -> bool:
        idleness_ms = self.strategy.idleness_ms
        if idleness_ms is None:
            return False
        late_ms, share_ms = now_ms - self._active_ms - idleness_ms, idleness_ms // _LATE_SHARE
        if late_ms > max(share_ms, _LATE_MS):
            self._active_ms = now_ms + share_ms - idleness_ms
            return False
        return late_ms >= 0

    def process_watermark(self, watermark: Watermark) -> Firing:
        """The chain forwards the end of event time, which is everybody's, and no other one of upstream."""
        if watermark.timestamp == MAX_WATERMARK:
            self._watermark = MAX_WATERMARK
        yield from ()

    def end_input(self) -> Firing:
        if self._watermark < MAX_WATERMARK:
            self.output.emit_watermark(Watermark(MAX_WATERMARK))
        yield from ()

    def snapshot(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        return immediate(
            OperatorSnapshot(
                self.context.operator_id,
                operator_state=self._event_time.snapshot(self._generator),
                watermark=self._watermark,
                idle=self._idle,
            )
        )
