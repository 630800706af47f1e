"""Files as an exactly-once sink, in two phases (PROTOCOLS 16, 17).

A writer writes *parts* under hidden names in the directory they belong to:

    <target>/<bucket>/_part-<job>-<subtask>-<attempt>-<number>-<unique>.<extension>.pending

Parts are closed when they are large or old enough, and all of them at every checkpoint: they are made durable, and
their names are the committables. Once the checkpoint is logged the committer renames each to its final name, which is
the same without the leading underscore and `.pending`; this can be done twice. Names are unique per attempt, so a part
never meets another one's name. Pending parts of attempts that died belong to no checkpoint: they are removed after a
restore, when everything that was logged is committed. Readers never see a pending part, because of the underscore.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import msgspec

from ...runtime.batch import Batch
from ...runtime.connector import Committer, Sink, SinkWriter, WriterContext
from ...runtime.hints import with_options
from ...runtime.records.record_types import RecordType
from ...runtime.units import parse_duration_ms, parse_size_bytes
from ...state.errors import PipelineError
from ...state.ids import Attempt, CheckpointId
from ..formats.base import Format, FormatWriter, check_format
from .buckets import ColumnBuckets, bucketing_of
from .filesystem import create_output, make_directory_durable, make_durable, publish

MAX_OPEN_PARTS = 64
"""Per subtask: each costs a file descriptor and buffers. Beyond, the part not written to for longest is closed."""


@dataclass(frozen=True)
class PendingPart:
    """A committable."""

    directory: str
    name: str
    """The final one."""
    rows: int
    bytes: int

    @property
    def pending_path(self) -> Path:
        return Path(self.directory, f"_{self.name}.pending")

    @property
    def final_path(self) -> Path:
        return Path(self.directory, self.name)


class FileSink(Sink):
    """path: directory of the files. partition_by: a strftime pattern over the event time ("day=%Y-%m-%d/hour=%H", UTC),
    a column's name, or a function from record to relative directory. Parts are rolled at the first limit they reach."""

    @with_options
    def __init__(
        self,
        path: str | os.PathLike[str],
        format: Format,
        *,
        partition_by: str | Callable[[Any], str] | None = None,
        roll_size: str | int = "128MiB",
        roll_rows: int | None = None,
        roll_interval: str | timedelta = "15min",
    ) -> None:
        check_format(path, format, "FileSink")
        self.path = os.path.abspath(path)
        self.format = format
        self.bucketing = bucketing_of(partition_by)
        self.roll_bytes = max(1, parse_size_bytes(roll_size))
        self.roll_rows = roll_rows
        self.roll_ms = max(1, parse_duration_ms(roll_interval))
        if roll_rows is not None and roll_rows < 1:
            raise PipelineError(f"roll_rows must be at least 1, not {roll_rows}")

    def validate(self, input_type: RecordType) -> None:
        self.format.check_writable(input_type)
        schema = input_type.schema
        if (
            isinstance(self.bucketing, ColumnBuckets)
            and schema is not None
            and self.bucketing.column not in schema.names
        ):
            raise PipelineError(f"partition_by names no column: {self.bucketing.column!r} is not in {schema.names}")
        try:
            os.makedirs(self.path, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path, prefix="_"):
                pass
        except OSError as error:
            raise PipelineError(f"files cannot be written to {self.path}: {error.strerror}") from error

    def create_writer(self, context: WriterContext) -> SinkWriter:
        return FileWriter(self, context)

    def create_committer(self) -> Committer:
        return FileCommitter()

    def cleanup(self, job_id: str, attempt: Attempt) -> None:
        for pending in sorted(Path(self.path).rglob(f"_part-{_job_mark(job_id)}-*.pending")):
            if int(pending.name.split("-")[3]) < attempt:
                pending.unlink(missing_ok=True)


def _job_mark(job_id: str) -> str:
    """Enough of a job's id to tell its files from those of others."""
    return "".join(filter(str.isalnum, job_id))[:16]


class _OpenPart:
    def __init__(self, sink: FileSink, part: PendingPart, record_type: RecordType, opened_at_ms: int) -> None:
        self.part = part
        self.opened_at_ms = opened_at_ms
        self.rows = 0
        self.file: IO[bytes] = create_output(part.pending_path)
        self.writer: FormatWriter = sink.format.create_writer(self.file, record_type)

    def write(self, batch: Batch) -> None:
        self.writer.write(batch)
        self.rows += len(batch)

    @property
    def bytes(self) -> int:
        return self.file.tell() + self.writer.buffered_bytes

    def finish(self) -> PendingPart:
        self.writer.finish()
        make_durable(self.file)
        size = self.file.tell()
        self.file.close()
        return PendingPart(self.part.directory, self.part.name, self.rows, size)

    def discard(self) -> None:
        self.writer.discard()
        self.file.close()
        self.part.pending_path.unlink(missing_ok=True)


class FileWriter(SinkWriter):
    """One subtask: its open parts, and the closed ones that no checkpoint has yet."""

    def __init__(self, sink: FileSink, context: WriterContext) -> None:
        self._sink = sink
        self._context = context
        self._open: OrderedDict[str, _OpenPart] = OrderedDict()
        """Bucket -> its part; the one written to last is last."""
        self._finished: list[PendingPart] = []
        self._parts = 0

    def write(self, batch: Batch) -> None:
        for bucket, records in self._sink.bucketing.split(batch):
            self._write(bucket, records)

    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        for bucket in list(self._open):
            self._finish(bucket)
        parts, self._finished = self._finished, []
        root = Path(self._sink.path)
        for directory in dict.fromkeys(part.directory for part in parts):
            make_directory_durable(Path(directory), root)
        return [msgspec.json.encode(part) for part in parts]

    def between_batches(self) -> None:
        now = self._context.clock.now_ms()
        for bucket, part in list(self._open.items()):
            if now >= part.opened_at_ms + self._sink.roll_ms:
                self._finish(bucket)

    def next_timer(self) -> int | None:
        return min((part.opened_at_ms + self._sink.roll_ms for part in self._open.values()), default=None)

    def close(self) -> None:
        """Parts that were not handed out belong to no checkpoint."""
        for part in self._open.values():
            part.discard()
        for finished in self._finished:
            finished.pending_path.unlink(missing_ok=True)
        self._open, self._finished = OrderedDict(), []

    def _write(self, bucket: str, records: Batch) -> None:
        limit = self._sink.roll_rows
        done = 0
        while done < len(records):
            part = self._part_of(bucket, records.record_type)
            count = len(records) - done if limit is None else min(limit - part.rows, len(records) - done)
            part.write(records.slice(done, count))
            done += count
            if part.rows == limit or part.bytes >= self._sink.roll_bytes:
                self._finish(bucket)

    def _part_of(self, bucket: str, record_type: RecordType) -> _OpenPart:
        part = self._open.get(bucket)
        if part is not None:
            self._open.move_to_end(bucket)
            return part
        if len(self._open) >= MAX_OPEN_PARTS:
            self._finish(next(iter(self._open)))
        context = self._context
        name = f"part-{_job_mark(context.job_id)}-{context.subtask:04d}-{context.attempt:04d}-{self._parts:06d}"
        name = f"{name}-{context.new_name()}.{self._sink.format.extension}"
        self._parts += 1
        pending = PendingPart(os.path.join(self._sink.path, bucket) if bucket else self._sink.path, name, 0, 0)
        part = self._open[bucket] = _OpenPart(self._sink, pending, record_type, context.clock.now_ms())
        return part

    def _finish(self, bucket: str) -> None:
        self._finished.append(self._open.pop(bucket).finish())


class FileCommitter(Committer):
    """Renames parts to their final names."""

    def commit(self, committables: Sequence[bytes]) -> None:
        parts = [msgspec.json.decode(committable, type=PendingPart) for committable in committables]
        for part in parts:
            publish(part.pending_path, part.final_path)
        for directory in dict.fromkeys(part.directory for part in parts):
            make_directory_durable(Path(directory), Path(directory))
