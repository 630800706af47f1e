"""Timestamps and watermarks in the middle of a pipeline. Watermarks of upstream end here."""

from __future__ import annotations

from ...state.ids import CheckpointId
from ...state.objects import Program
from ...state.snapshots import OperatorSnapshot
from ..batch import Batch
from ..elements import MAX_WATERMARK, MIN_WATERMARK, Watermark, WatermarkStatus
from ..record_types import RecordType
from ..watermarks import WatermarkStrategy
from .operator import Firing, Operator, OperatorContext, RestoredState, immediate
from .user_code import assigned_by


class WatermarksOperator(Operator):
    """One generator for all that the subtask receives."""

    stateful = True
    own_watermarks = True

    def __init__(self, strategy: WatermarkStrategy, output_type: RecordType) -> None:
        self.strategy = strategy
        self.output_type = output_type

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        """Of several old subtasks' generators the one furthest behind goes on (PROTOCOLS 12)."""
        super().open(context, restored)
        old = [self.strategy.create_generator(state) for state in restored.operator_states]
        self._generator = min(old, key=lambda each: each.watermark) if old else self.strategy.create_generator()
        self._watermark = MIN_WATERMARK
        self._idle = False
        self._active_ms = context.clock.now_ms()
        self._advance()

    def process_batch(self, batch: Batch, input_index: int) -> None:
        timed = assigned_by(self.strategy, batch, self.context)
        self._generator.on_batch(timed)
        self._active_ms = self.context.clock.now_ms()
        if self._idle:
            self._idle = False
            self.output.emit_status(WatermarkStatus(idle=False))
        self.output.emit(timed)
        self._advance()

    def _advance(self) -> None:
        if self._generator.watermark > self._watermark:
            self._watermark = self._generator.watermark
            self.output.emit_watermark(Watermark(self._watermark))

    def next_processing_timer(self) -> int | None:
        if self.strategy.idleness_ms is None or self._idle:
            return None
        return self._active_ms + self.strategy.idleness_ms

    def advance_processing_time(self, now_ms: int) -> Firing:
        due_ms = self.next_processing_timer()
        if due_ms is not None and due_ms <= now_ms:
            self._idle = True
            self.output.emit_status(WatermarkStatus(idle=True))
        yield from ()

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
                operator_state=self._generator.snapshot(),
                watermark=self._watermark,
                idle=self._idle,
            )
        )
