"""What a format is: how files of it become batches and batches become files.

A format reads *ranges of bytes* of a file. Cutting a file into ranges needs no look into it, and every record belongs
to exactly one range: for lines, to the one its first byte lies in; for Parquet, a row group to the one its first
byte lies in. A reader's position is exact after every chunk it gives, and two integers: enough to go on from there
without reading the front again.

A format may have to look at a file to know its record type (`bind`); that happens once, when the pipeline is built,
so that all files and all subtasks agree.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from ...runtime.batch import Batch
from ...runtime.hints import shown
from ...runtime.records.record_types import RecordType
from ...state.errors import PipelineError

COLUMN_ROWS = 16_384
"""Rows that columnar formats decode at once: below, the fixed costs of a call show."""

Position = tuple[int, int]


@dataclass(frozen=True)
class MalformedRecord:
    """A piece of input that is no record: what a side output for malformed records gets."""

    path: str
    line: int
    """From 1, headers included."""
    offset: int
    """Of its first byte in the (uncompressed) file."""
    reason: str
    raw: bytes

    def __str__(self) -> str:
        text = self.raw[:200].decode("utf-8", "replace").rstrip("\r\n")
        return f"{self.path}, line {self.line}: {self.reason}: {text!r}"


@dataclass(frozen=True, slots=True)
class Chunk:
    batch: Batch
    malformed: list[MalformedRecord]


@dataclass(frozen=True, slots=True)
class FileRange:
    """Where to read: bytes start .. end of a file that had `size` bytes when it was discovered."""

    path: str
    start: int
    end: int
    size: int
    open: Callable[[], pa.NativeFile]
    """A new stream of the (uncompressed) file."""
    compressed: bool = False
    """Then start and end mean nothing: it is read as a whole, and positions count uncompressed bytes."""


class FormatReader(ABC):
    """Reads one range of one file."""

    position: Position
    """Behind the last chunk."""

    @abstractmethod
    def read(self, max_rows: int) -> Chunk | None:
        """The next at most max_rows records; None at the end of the range."""

    @abstractmethod
    def close(self) -> None: ...


class FormatWriter(ABC):
    """Writes one file. It does not close it."""

    @abstractmethod
    def write(self, batch: Batch) -> None: ...

    def finish(self) -> None:
        """Write what is still held back."""

    def discard(self) -> None:
        """Called instead of finish when the file is given up; it is still open."""

    @property
    def buffered_bytes(self) -> int:
        return 0


class Format(ABC):
    """As the user writes it down: picklable, no open files."""

    extension: str
    splittable: bool = True
    """Files can be read in ranges."""
    batch_rows: int = 1
    """At least so many rows are read at once."""

    @property
    @abstractmethod
    def record_type(self) -> RecordType:
        """Of the records read. Once bound."""

    def bind(self, example: FileRange | None) -> Format:
        """This format with its record type known, from an example file where that is needed."""
        return self

    @abstractmethod
    def open(self, part: FileRange, position: Position | None) -> FormatReader: ...

    @abstractmethod
    def create_writer(self, file: IO[bytes], record_type: RecordType) -> FormatWriter: ...

    def check_writable(self, record_type: RecordType) -> None:
        """Raise PipelineError if records of this type cannot be written."""


def check_named_columns(format_name: str, record_type: RecordType) -> pa.Schema:
    if record_type.schema is None:
        raise PipelineError(
            f"{format_name} needs records with known fields, but these are opaque"
            f" ({getattr(record_type, 'reason', 'no type')}); annotate the function before the sink"
        )
    return record_type.schema


def example_needed(format_name: str) -> PipelineError:
    return PipelineError(
        f"{format_name} without a type takes its columns from a file, and there is none yet: give it a type or columns"
    )


def check_format(path: Any, format: Any, connector: str) -> None:
    """PipelineError for what is no path, and no format: the two are easily exchanged."""
    if not isinstance(path, (str, os.PathLike)):
        raise PipelineError(f"{connector} takes a path first, a str or a Path, not {shown(path)}; then a format")
    if isinstance(format, type) and issubclass(format, Format):
        raise PipelineError(f"{connector} takes a format, and not its class; write {format.__name__}()")
    if not isinstance(format, Format):
        raise PipelineError(f"{connector} takes a format after the path, like Json(), not {shown(format)}")
