"""Lines as they are: `Text` as str, `Raw` as bytes. The line's end (LF or CRLF) is not part of the record."""

from __future__ import annotations

from typing import IO, Any

from ...runtime.batch import Batch
from ...runtime.records.record_types import RecordType, record_type_of
from ...state.errors import PipelineError, RecordTypeError
from .base import FormatWriter
from .lines import BlockDecoder, LineFormat


class Text(LineFormat):
    """UTF-8 lines. Writing takes any record that is a str, and str() of others."""

    extension = "txt"
    record_type: RecordType = record_type_of(str)

    def block_decoder(self, path: str, header: bytes | None) -> BlockDecoder:
        return self._decode

    def _decode(self, block: bytes, lines: int) -> Batch:
        rows = block.removesuffix(b"\n").decode("utf-8").split("\n")
        if b"\r" in block:
            rows = [row.removesuffix("\r") for row in rows]
        return Batch.of_rows(self.record_type, rows)

    def create_writer(self, file: IO[bytes], record_type: RecordType) -> FormatWriter:
        return _TextWriter(file)


class Raw(LineFormat):
    """Lines as bytes, not decoded."""

    extension = "bin"
    record_type: RecordType = record_type_of(bytes)

    def block_decoder(self, path: str, header: bytes | None) -> BlockDecoder:
        return self._decode

    def _decode(self, block: bytes, lines: int) -> Batch:
        rows = block.removesuffix(b"\n").split(b"\n")
        return Batch.of_rows(self.record_type, [row.removesuffix(b"\r") for row in rows] if b"\r" in block else rows)

    def create_writer(self, file: IO[bytes], record_type: RecordType) -> FormatWriter:
        return _RawWriter(file)

    def check_writable(self, record_type: RecordType) -> None:
        if not record_type.opaque and record_type != self.record_type:
            raise PipelineError(f"Raw writes bytes, but the records are {record_type}")


class _TextWriter(FormatWriter):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, batch: Batch) -> None:
        rows = batch.rows()
        text = "\n".join(map(str, rows)) + "\n" if rows else ""
        _check_lines(text.count("\n"), rows)
        self._file.write(text.encode("utf-8"))


class _RawWriter(FormatWriter):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, batch: Batch) -> None:
        rows = batch.rows()
        if set(map(type, rows)) - {bytes}:
            wrong = next(row for row in rows if type(row) is not bytes)
            raise RecordTypeError(f"Raw writes bytes, but a record is a {type(wrong).__name__}")
        data = b"\n".join(rows) + b"\n" if rows else b""
        _check_lines(data.count(b"\n"), rows)
        self._file.write(data)


def _check_lines(lines: int, rows: list[Any]) -> None:
    if lines != len(rows):
        raise RecordTypeError("a record holds a line break, so its line could not be read back; use Json or Parquet")
