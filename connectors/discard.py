"""A sink that drops its records: for benchmarks, and for pipelines whose side outputs are what matters."""

from __future__ import annotations

from ..runtime.batch import Batch
from ..runtime.changelog import EVERYTHING
from ..runtime.connector import Sink, SinkWriter, WriterContext
from ..state.ids import CheckpointId


class DiscardingSink(Sink):
    """Takes everything, keeps nothing (Flink's DiscardingSink)."""

    accepted_modes = EVERYTHING

    def create_writer(self, context: WriterContext) -> SinkWriter:
        return _DiscardingWriter()


class _DiscardingWriter(SinkWriter):
    def write(self, batch: Batch) -> None:
        return

    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        return []
