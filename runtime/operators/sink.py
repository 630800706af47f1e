"""The sink operator: records to the connector's writer; committables into the checkpoint (PROTOCOLS 16).

Committables go into every checkpoint until one with them is known to be complete: the checkpoint they were prepared
for may be aborted, and a younger one then stands for their records (jobmanager/checkpoint_coordinator.py).

Without checkpoints the barrier at the end of the input takes the last committables along (Barrier.persist).
"""

from __future__ import annotations

from ...state.ids import CheckpointId
from ...state.snapshots import OperatorSnapshot
from ...state.store.objects import Program
from ..batch import Batch
from ..changelog import ChangelogMode
from ..connector import Sink, SinkWriter, WriterContext
from ..records.record_types import RecordType
from .operator import Firing, Operator, OperatorContext, RestoredState, immediate


class SinkOperator(Operator):
    """Runs a sink's writer."""

    def __init__(self, sink: Sink, output_type: RecordType, mode: ChangelogMode = ChangelogMode.INSERT_ONLY) -> None:
        """output_type, mode: of the records that are written."""
        self.sink = sink
        self.output_type = output_type
        self.mode = mode
        self.accepted_modes = sink.accepted_modes
        self._writer: SinkWriter | None = None
        self._prepared: dict[CheckpointId, tuple[bytes, ...]] = {}
        """Committables by the checkpoint they were prepared for, of those not known to be complete."""

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._writer = self.sink.create_writer(
            WriterContext(
                job_id=context.job_id,
                operator_id=context.operator_id,
                subtask=context.subtask,
                parallelism=context.parallelism,
                attempt=context.attempt,
                clock=context.clock,
                metrics=context.metrics,
                new_name=context.new_name,
                changelog_mode=self.mode,
            )
        )
        context.operator_state.initialize(self._writer)

    def way_out(self, mode: ChangelogMode) -> str:
        ways = ["only_inserts() drops all but insertions", "with_row_kinds() writes the kinds as part of the records"]
        if ChangelogMode.UPSERT in self.accepted_modes:
            ways.insert(0, "to_upsert(key) gives the newest record of every key")
        return ", ".join(ways)

    @property
    def writer(self) -> SinkWriter:
        assert self._writer is not None
        return self._writer

    def process_batch(self, batch: Batch, input_index: int) -> None:
        self.writer.write(batch)

    def between_batches(self) -> None:
        self.writer.between_batches()

    def next_processing_timer(self) -> int | None:
        return self.writer.next_timer()

    def advance_processing_time(self, now_ms: int) -> Firing:
        self.writer.between_batches()
        yield from ()

    def prepare_barrier(self, checkpoint_id: CheckpointId) -> None:
        """Before a writer's snapshot_state: that is about what will not be committed with this checkpoint."""
        self._prepared[checkpoint_id] = tuple(self.writer.prepare_commit(checkpoint_id))

    def snapshot(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        committables = tuple(each for prepared in self._prepared.values() for each in prepared)
        return immediate(OperatorSnapshot(self.context.operator_id, committables=committables))

    def checkpoint_completed(self, checkpoint_id: CheckpointId) -> None:
        self._prepared = {id_: prepared for id_, prepared in self._prepared.items() if id_ > checkpoint_id}

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
