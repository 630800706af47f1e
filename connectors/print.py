"""Prints records, one a line: `3> record` with several subtasks, `name> record` or `name:3> record` with a name.

Records of a changelog stand behind their kind: `+U(record)`.
"""

from __future__ import annotations

import sys
from typing import TextIO

from ..runtime.batch import Batch
from ..runtime.changelog import EVERYTHING, ChangelogMode, changes
from ..runtime.connector import Sink, SinkWriter, WriterContext
from ..state.ids import CheckpointId


class PrintSink(Sink):
    """At-least-once: after a failure, records since the last checkpoint are printed again."""

    delivery = "at-least-once"
    accepted_modes = EVERYTHING

    def __init__(self, name: str = "", *, stderr: bool = False) -> None:
        self.name = name
        self.stderr = stderr

    def create_writer(self, context: WriterContext) -> SinkWriter:
        subtask = str(context.subtask + 1) if context.parallelism > 1 else ""
        prefix = ":".join(part for part in (self.name, subtask) if part)
        plain = context.changelog_mode is ChangelogMode.INSERT_ONLY
        return _PrintWriter(f"{prefix}> " if prefix else "", self.stderr, plain=plain)


class _PrintWriter(SinkWriter):
    def __init__(self, prefix: str, stderr: bool, *, plain: bool) -> None:
        self._prefix = prefix
        self._stderr = stderr
        self._plain = plain

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self._stderr else sys.stdout

    def write(self, batch: Batch) -> None:
        prefix = self._prefix
        rows = batch.rows() if self._plain else changes(batch.rows(), batch.row_kinds)
        self._stream.write("".join([f"{prefix}{row}\n" for row in rows]))

    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        self._stream.flush()
        return []

    def close(self) -> None:
        self._stream.flush()
