"""Files as a source: splits are ranges of bytes of files, positions are exact.

    FileSource("events/", Json(Event))                     everything there is, then the end
    FileSource("events/*.csv", Csv(), watch="10s")         also files that appear later, forever

The enumerator lists the files (in the order of their paths) and cuts them into ranges of at most `split_size` bytes;
readers ask for one range at a time. A watched directory is listed again and again; a path that was seen once is never
read again, so files must be complete when they appear (written elsewhere and renamed, as FileSink does) and must not
change: what is appended later is not read, a file that shrinks fails the job. Compressed files (by extension: .gz,
.bz2, .zst, .lz4) are one range each.

What is no record: `on_malformed="fail"` (default) fails the job with file and line, "drop" leaves it out and counts it
(`records_malformed_total`), an OutputTag sends it as a MalformedRecord to that side output.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa

from ...runtime.batch import Batch
from ...runtime.connector import (
    NeedsSplit,
    NotReady,
    PollResult,
    ReaderContext,
    ReaderEnd,
    Source,
    SourceReader,
    SplitBatch,
    SplitEnumerator,
    SplitFinished,
)
from ...runtime.functions import OutputTag
from ...runtime.hints import with_options
from ...runtime.records.record_types import RecordType, record_type_of
from ...runtime.units import parse_duration_ms, parse_size_bytes
from ...state.errors import MalformedRecordError, PipelineError
from ..formats.base import Chunk, FileRange, Format, FormatReader, MalformedRecord, Position, check_format
from .filesystem import FoundFile, InputFileError, compression_of, find_files, open_input, whole_file

_RATE_WINDOW_MS = 100
"""A limited reader gives at most what this time allows at once, so that records come evenly."""


@dataclass(frozen=True, slots=True)
class FileSplit:
    """The records that start in bytes start .. end of a file, behind the position."""

    id: str
    path: str
    start: int
    end: int
    size: int
    """Of the whole file, when it was discovered."""
    position: Position | None = None


class FileSource(Source[FileSplit]):
    """path: a file, a directory (with everything below it) or a glob. rate_limit: records a second and subtask."""

    gives_timestamps = False

    @with_options
    def __init__(
        self,
        path: str | os.PathLike[str],
        format: Format,
        *,
        watch: str | timedelta | None = None,
        rate_limit: float | None = None,
        on_malformed: str | OutputTag[Any] = "fail",
        split_size: str | int = "64MiB",
    ) -> None:
        check_format(path, format, "FileSource")
        if rate_limit is not None and not rate_limit > 0:
            raise PipelineError(f"rate_limit is records a second, more than 0, not {rate_limit}")
        if isinstance(on_malformed, str) and on_malformed not in ("fail", "drop"):
            raise PipelineError(f"on_malformed is 'fail', 'drop' or an OutputTag, not {on_malformed!r}")
        if isinstance(on_malformed, OutputTag) and on_malformed.type not in (None, MalformedRecord):
            raise PipelineError(
                f"the side output {on_malformed.name!r} gets MalformedRecords: OutputTag(name, MalformedRecord)"
            )
        self.path = os.path.abspath(path)
        self.watch_ms = None if watch is None else max(1, parse_duration_ms(watch))
        self.bounded = watch is None
        self.rate_limit = rate_limit
        self.on_malformed = on_malformed if isinstance(on_malformed, str) else "side output"
        self.malformed_tag = None if isinstance(on_malformed, str) else on_malformed.name
        self.malformed_type = record_type_of(None if isinstance(on_malformed, str) else on_malformed.type)
        self.split_bytes = max(1, parse_size_bytes(split_size))
        files = find_files(self.path)
        self.format = format.bind(whole_file(files[0]) if files else None)
        self.record_type: RecordType = self.format.record_type

    def validate(self) -> None:
        files = find_files(self.path)
        may_come = not self.bounded and os.path.isdir(os.path.dirname(self.path))
        if not files and not os.path.exists(self.path) and not may_come:
            raise PipelineError(f"there is no file {self.path}, nor any that matches it as a pattern")
        for file in files:
            try:
                open(file.path, "rb").close()
            except OSError as error:
                raise PipelineError(f"{file.path} cannot be read: {error.strerror}") from error

    @property
    def side_tags(self) -> frozenset[str]:
        return frozenset() if self.malformed_tag is None else frozenset([self.malformed_tag])

    def create_enumerator(self, restored: bytes | None) -> SplitEnumerator[FileSplit]:
        return FileEnumerator(self, restored)

    def create_reader(self, context: ReaderContext) -> SourceReader[FileSplit]:
        return FileReader(self, context)

    def split_id(self, split: FileSplit) -> str:
        return split.id

    def encode_split(self, split: FileSplit) -> bytes:
        return msgspec.json.encode(split)

    def decode_split(self, state: bytes) -> FileSplit:
        return msgspec.json.decode(state, type=FileSplit)

    def cut(self, file: FoundFile) -> list[FileSplit]:
        whole = not self.format.splittable or compression_of(file.path) is not None
        step = file.size if whole else self.split_bytes
        return [
            FileSplit(f"{file.path}:{start}", file.path, start, min(start + step, file.size), file.size)
            for start in range(0, file.size, step)
        ]


@dataclass
class _EnumeratorState:
    waiting: list[FileSplit]
    seen: list[str]
    """Paths that were cut into splits before; only kept while watching."""
    discovered: bool


class FileEnumerator(SplitEnumerator[FileSplit]):
    """Which ranges are not assigned yet, and which paths were seen."""

    def __init__(self, source: FileSource, restored: bytes | None) -> None:
        self._source = source
        self.discovery_interval_ms = source.watch_ms
        state = _EnumeratorState([], [], False)
        if restored is not None:
            state = msgspec.json.decode(restored, type=_EnumeratorState)
        self._waiting = deque(state.waiting)
        self._seen = dict.fromkeys(state.seen)
        self._discovered = state.discovered

    def discover(self) -> list[FoundFile]:
        return find_files(self._source.path)

    def discovered(self, found: Any) -> None:
        """A bounded source reads what was there when it began, also after a restore."""
        if self._discovered and self._source.bounded:
            return
        self._discovered = True
        for file in found:
            if file.path not in self._seen:
                self._waiting.extend(self._source.cut(file))
                if not self._source.bounded:
                    self._seen[file.path] = None

    def next_splits(self, subtask: int, parallelism: int) -> list[FileSplit] | None:
        if self._waiting:
            return [self._waiting.popleft()]
        return None if self._source.bounded and self._discovered else []

    def snapshot(self) -> bytes:
        return msgspec.json.encode(_EnumeratorState(list(self._waiting), list(self._seen), self._discovered))


class FileReader(SourceReader[FileSplit]):
    """Reads one range at a time, in the order they were assigned."""

    def __init__(self, source: FileSource, context: ReaderContext) -> None:
        self._source = source
        self._clock = context.clock
        self._malformed = context.metrics.counter("records_malformed_total")
        self._splits: deque[FileSplit] = deque()
        self._reader: FormatReader | None = None
        self._last = False
        self._due_ms = 0.0
        """When the rate limit allows the next record."""

    def add_splits(self, splits: Sequence[FileSplit]) -> None:
        self._splits.extend(splits)

    def no_more_splits(self) -> None:
        self._last = True

    def poll(self, max_rows: int) -> PollResult:
        if not self._splits:
            return ReaderEnd() if self._last else NeedsSplit()
        rows = self._allowed_rows(max_rows)
        if not rows:
            return NotReady(math.ceil(self._due_ms))
        split = self._splits[0]
        try:
            if self._reader is None:
                self._reader = self._source.format.open(_range_of(split), split.position)
            chunk = self._reader.read(rows)
        except (OSError, pa.ArrowException) as error:
            raise InputFileError(f"{split.path} cannot be read: {error}") from error
        if chunk is None:
            self.close()
            self._splits.popleft()
            return SplitFinished(split.id)
        self._splits[0] = replace(split, position=self._reader.position)
        if self._source.rate_limit is not None:
            self._due_ms += (len(chunk.batch) + len(chunk.malformed)) * 1000 / self._source.rate_limit
        return SplitBatch(split.id, chunk.batch, self._side(chunk) if chunk.malformed else None)

    def snapshot(self) -> list[FileSplit]:
        return list(self._splits)

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _allowed_rows(self, max_rows: int) -> int:
        limit = self._source.rate_limit
        if limit is None:
            return max(max_rows, self._source.format.batch_rows)
        now = self._clock.now_ms()
        rows = max(1, min(max_rows, int(limit * _RATE_WINDOW_MS / 1000)))
        if now < self._due_ms <= now + max(_RATE_WINDOW_MS, 1000 / limit) + 1:
            return 0
        if self._due_ms < now - _RATE_WINDOW_MS or self._due_ms > now:
            self._due_ms = now  # a pause is not caught up with, and a clock that was set back not waited for
        return rows

    def _side(self, chunk: Chunk) -> tuple[str, Batch] | None:
        if self._source.on_malformed == "fail":
            raise MalformedRecordError(str(chunk.malformed[0]))
        self._malformed.inc(len(chunk.malformed))
        if self._source.malformed_tag is None:
            return None
        return self._source.malformed_tag, Batch.of_rows(self._source.malformed_type, list(chunk.malformed))


def _range_of(split: FileSplit) -> FileRange:
    compressed = compression_of(split.path) is not None
    reopen = partial(open_input, split.path, split.size)
    return FileRange(split.path, split.start, split.end, split.size, reopen, compressed)
