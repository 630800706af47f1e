"""What operators after a key_by have in common: keys, a state backend, timers of both kinds, snapshots."""

from __future__ import annotations

from typing import Any

from ...state.backend import KeyedStateBackend
from ...state.ids import CheckpointId
from ...state.rows.cell_reads import CellRead, CellRows
from ...state.snapshots import OperatorSnapshot
from ...state.statistics import StateStatistics
from ...state.store.objects import Program
from ..batch import Batch
from ..elements import MAX_WATERMARK, MIN_WATERMARK, Watermark
from ..keys import KeySelector
from ..records.record_types import RecordType
from .operator import Operator, OperatorContext, RestoredState
from .user_code import Collector, keys_by

TIMERS_AT_ONCE = 64
"""So many timers fire before the operator lets itself be interrupted (PROTOCOLS 19)."""
ROWS_AT_ONCE = 1_024
"""So many results of timers make a batch: a barrier waits for the last of them, so they may be held back as long."""


class KeyedOperator(Operator):
    """Base of the operators behind a key_by. `selector`: the same that partitions the input."""

    stateful = True

    def __init__(self, selector: KeySelector, output_type: RecordType, side_tags: frozenset[str] = frozenset()) -> None:
        self.selector = selector
        self.output_type = output_type
        self.side_tags = side_tags
        self.current_watermark = MIN_WATERMARK
        self._backend: KeyedStateBackend | None = None
        self._firing: Collector | None = None
        """What holds the results of timers that are firing."""

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self.current_watermark = restored.watermark
        self._idle = restored.idle
        self._backend = context.keyed_backend()
        self._backend.declare_keys(self.selector.key_type.kind)

    @property
    def backend(self) -> KeyedStateBackend:
        assert self._backend is not None
        return self._backend

    def keys(self, batch: Batch, input_index: int = 0) -> list[Any]:
        return keys_by(self.selector, batch, self.context)

    @property
    def changes_in_place(self) -> bool:
        """What functions hand on may be objects of their state, which go on changing."""
        return self.backend.changes_in_place or self.context.operator_state.changes_in_place

    def is_last(self, watermark: Watermark) -> bool:
        """In batch mode: what is final is given out now, before the watermark is forwarded."""
        return self.batch_mode and watermark.timestamp == MAX_WATERMARK

    @property
    def clock_is_over(self) -> bool:
        """The timers of the clock have fired at the end of the input, or are about to: no further ones are taken."""
        return self.batch_mode and self.current_watermark == MAX_WATERMARK

    def next_processing_timer(self) -> int | None:
        return self._or_sweep(None)

    def _or_sweep(self, timer_ms: int | None) -> int | None:
        """The earlier of a timer and of when the backend goes on removing expired state, though nothing arrives."""
        sweep_ms = self.backend.next_sweep_ms()
        if timer_ms is None or sweep_ms is None:
            return sweep_ms if timer_ms is None else timer_ms
        return min(timer_ms, sweep_ms)

    def between_batches(self) -> None:
        self.backend.between_batches()

    def prepare_barrier(self, checkpoint_id: CheckpointId) -> None:
        """An unaligned barrier may come amid a firing: timers whose results are held are no longer in the state."""
        if self._firing is not None:
            self._firing.emit()

    def snapshot(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        return self._snapshot(self.backend.snapshot(checkpoint_id), self.current_watermark)

    def savepoint(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        return self._snapshot(self.backend.savepoint(checkpoint_id), self.current_watermark)

    def _snapshot(self, frozen: Program[Any], watermark: int) -> Program[OperatorSnapshot]:
        handles = yield from frozen
        return OperatorSnapshot(self.context.operator_id, keyed=handles, watermark=watermark, idle=self._idle)

    def state_statistics(self) -> StateStatistics:
        return self.backend.statistics()

    def read_state(self, asked: CellRead) -> CellRows:
        return self.backend.read(asked)

    def checkpoint_completed(self, checkpoint_id: CheckpointId) -> None:
        self.backend.checkpoint_completed(checkpoint_id)

    def checkpoint_aborted(self, checkpoint_id: CheckpointId) -> None:
        self.backend.checkpoint_aborted(checkpoint_id)

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
