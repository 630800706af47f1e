"""Reading lines: blocks of whole lines for line formats, exact byte positions, malformed lines found one by one.

A range starts at the first line whose first byte lies in it, and ends with the last such line, which may reach
beyond its end. Where a range starts within a line is found by looking from the byte before its start: if that is
a newline, a line starts exactly there.

A block is decoded as a whole, which is fast. If that fails it is halved until the bad lines stand alone: so the good
lines around them are kept, and formats need no code of their own for it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...runtime.batch import Batch
from ...state.errors import MalformedRecordError, RecordTypeError
from .base import Chunk, FileRange, Format, FormatReader, MalformedRecord, Position

BlockDecoder = Callable[[bytes, int], Batch]
"""(whole lines, their number) -> their records. Raises one of DECODE_ERRORS if any of them is malformed."""

DECODE_ERRORS = (ValueError, msgspec.MsgspecError, RecordTypeError)

_CHUNK_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 26
"""A longer line is surely not text with lines; it would have to be held in memory as a whole."""
_BOM = b"\xef\xbb\xbf"

Ends = npt.NDArray[np.int64]


class LineFormat(Format):
    """A format with one record a line: all it does itself is decode blocks of whole lines."""

    has_header: bool = False
    quote: bytes | None = None
    """Newlines between two of these do not end a record (such files are read as one range)."""

    @abstractmethod
    def block_decoder(self, path: str, header: bytes | None) -> BlockDecoder:
        """For one file. header: its first line, if has_header."""

    def open(self, part: FileRange, position: Position | None) -> FormatReader:
        return LineReader(self, part, position)


class LineReader(FormatReader):
    """Finds the lines of a range and has them decoded."""

    def __init__(self, line_format: LineFormat, part: FileRange, position: Position | None) -> None:
        self._format = line_format
        self._part = part
        self._counted = (0, 0)
        self._buffer = b""
        self._base = 0
        self._ends: Ends = np.empty(0, np.int64)
        self._next = 0
        self._at_end = False
        header, data_start = read_header(line_format, part)
        self._decode = line_format.block_decoder(part.path, header)
        starts_within = position is None and part.start > data_start and not part.compressed
        if position is not None:
            self._base = position[0]
        else:
            self._base = part.start - 1 if starts_within else data_start
        self._file = part.open()
        _skip_to(self._file, self._base, part)
        if starts_within:
            self._fill()
            self._next = min(1, len(self._ends))

    @property
    def _offset(self) -> int:
        return self._base + (int(self._ends[self._next - 1]) if self._next else 0)

    @property
    def position(self) -> Position:  # type: ignore[override]
        return self._offset, 0

    def read(self, max_rows: int) -> Chunk | None:
        if self._next >= len(self._ends):
            self._fill()
        first = self._next
        if first >= len(self._ends) or self._is_behind(self._offset):
            return None
        last = min(first + max_rows, len(self._ends))
        if not self._part.compressed and self._is_behind(self._base + int(self._ends[last - 1])):
            # Only lines that start before the end of the range: line i + 1 starts where line i ends.
            last = int(np.searchsorted(self._ends, self._part.end - self._base)) + 1
            last = min(last, first + max_rows)
        start = int(self._ends[first - 1]) if first else 0
        ends = (self._ends[first:last] - start).tolist()
        block = self._buffer[start : start + ends[-1]]
        batches: list[Batch] = []
        malformed: list[MalformedRecord] = []
        self._parse(block, 0, ends, self._base + start, batches, malformed)
        self._next = last
        return Chunk(Batch.concat(batches) if batches else Batch.of_rows(self._format.record_type, []), malformed)

    def close(self) -> None:
        self._file.close()

    def _is_behind(self, offset: int) -> bool:
        return not self._part.compressed and offset >= self._part.end

    def _parse(
        self,
        block: bytes,
        start: int,
        ends: list[int],
        offset: int,
        batches: list[Batch],
        malformed: list[MalformedRecord],
    ) -> None:
        """Decodes block[start:ends[-1]], whose lines end at `ends`; the block's first byte is the file's `offset`."""
        lines = block[start : ends[-1]]
        try:
            batches.append(self._decode(lines, len(ends)))
        except DECODE_ERRORS as error:
            if len(ends) == 1:
                line = self._line_at(offset + start)
                malformed.append(MalformedRecord(self._part.path, line, offset + start, _reason(error), lines))
                return
            middle = len(ends) // 2
            self._parse(block, start, ends[:middle], offset, batches, malformed)
            self._parse(block, ends[middle - 1], ends[middle:], offset, batches, malformed)

    def _fill(self) -> None:
        """Replaces the lines that were read by the next ones; at least one, unless the file is at its end."""
        done = int(self._ends[self._next - 1]) if self._next else 0
        tail = self._buffer[done:]
        self._base += done
        self._next, self._ends = 0, np.empty(0, np.int64)
        while not len(self._ends) and not self._at_end:
            data = self._read(max(_CHUNK_BYTES, len(tail)))
            self._at_end = not data
            tail += data
            self._ends = record_ends(tail, self._format.quote)
            if len(tail) > _MAX_LINE_BYTES and not len(self._ends):
                line = self._line_at(self._base)
                raise MalformedRecordError(f"{self._part.path}, line {line}: the line is longer than 64 MiB")
        if self._at_end and len(tail) > (self._ends[-1] if len(self._ends) else 0):
            self._ends = np.append(self._ends, len(tail))
        self._buffer = tail

    def _read(self, size: int) -> bytes:
        """Never beyond the size the file had when it was discovered: what is appended later is another version."""
        part = self._part
        if part.compressed:
            return self._file.read(size)  # type: ignore[no-any-return]
        position = self._file.tell()
        data: bytes = self._file.read(min(size, part.size - position)) if position < part.size else b""
        if not data and position < part.size:
            raise shrunk(part, position)
        return data

    def _line_at(self, offset: int) -> int:
        """Counted only for messages: a split in the middle of a file does not know its lines' numbers."""
        counted, lines = self._counted
        if counted > offset:
            counted, lines = 0, 0
        with self._part.open() as file:
            _skip_to(file, counted, self._part)
            while counted < offset:
                data = file.read(min(_CHUNK_BYTES, offset - counted))
                if not data:
                    break
                counted += len(data)
                lines += data.count(b"\n")
        self._counted = (counted, lines)
        return lines + 1


def record_ends(data: bytes, quote: bytes | None) -> Ends:
    """Behind which bytes a line ends. The data starts where a line starts."""
    array = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(array == 10)
    if quote is not None and quote in data:
        quotes = np.flatnonzero(array == quote[0])
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return newlines.astype(np.int64) + 1


def read_header(line_format: LineFormat, part: FileRange) -> tuple[bytes | None, int]:
    """The header line, if the format has one, and where the data starts: behind a byte order mark and the header."""
    with part.open() as file:
        head: bytes = file.read(_CHUNK_BYTES if line_format.has_header else len(_BOM))
        start = len(_BOM) if head.startswith(_BOM) else 0
        if not line_format.has_header:
            return None, start
        ends = record_ends(head[start:], line_format.quote)
        end = start + int(ends[0]) if len(ends) else len(head)
        return head[start:end], end


def _skip_to(file: pa.NativeFile, offset: int, part: FileRange) -> None:
    if not part.compressed:
        file.seek(offset)
        return
    left = offset
    while left > 0:
        data = file.read(min(left, _CHUNK_BYTES))
        if not data:
            raise shrunk(part, offset - left)
        left -= len(data)


def shrunk(part: FileRange, found: int) -> MalformedRecordError:
    return MalformedRecordError(
        f"{part.path} has shrunk while it was read: it ends at byte {found}; files must not change once they are there"
    )


def _reason(error: BaseException) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__
