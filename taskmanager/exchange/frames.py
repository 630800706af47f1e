"""Elements as bytes: what a socket carries, and what the edge mode of the testing kit does on every edge.

Batches of one channel look alike, so how they look is sent once, and again when it changes: the SCHEMA frame holds
the record type, whose keys the key groups are, and the Arrow schema of the records' columns. A BATCH frame is

    credit u64 | rows u32 | length of the Arrow messages u32 | messages | timestamps | key groups | row kinds | pickle

What travels with every record is a plain array (i64, u16, i8, little endian) where a batch has it; flags say which. A
small batch is one Arrow message, copied together. The buffers of a large one are sent from where they are; and where
columns have dictionaries one stream writer per channel makes the messages, so that dictionaries, too, go once and again
when they change. What the receiver makes are views of the buffer the frame was received into. Opaque records are one
pickle of the whole row list instead of columns. Keys do not travel, the receiver derives them anew; key groups do, with
whose they are.

Both halves belong to one channel and one attempt: a later attempt starts with new ones.
"""

from __future__ import annotations

import pickle
import struct
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...runtime.batch import Batch
from ...runtime.elements import Element
from ...runtime.records.record_types import RecordType
from ...state.errors import ProtocolError
from ...state.serialization import pickling
from .wire import Bytes, WireError

_PREFIX = struct.Struct("<QII")
_TIMESTAMPS, _KEY_GROUPS, _ROW_KINDS, _PICKLED, _DICTIONARIES = 1, 2, 4, 8, 16
"""Flags of a batch. The first three: the column is there. Pickled: the rows are. Dictionaries: some columns have one,
so that there may be more than one message."""
_JOINED_BYTES = 256 * 1024
"""Batches up to this size are one part: handing many small parts to the kernel is dearer than copying them."""


_TIMESTAMP, _KEY_GROUP, _ROW_KIND = np.dtype("<i8"), np.dtype("<u2"), np.dtype("i1")


def encode_control(element: Element) -> bytes:
    return pickle.dumps(element, protocol=5)


def decode_control(body: pa.Buffer) -> Element:
    """WireError when it is none."""
    try:
        element = pickle.loads(body)
    except Exception as error:
        raise WireError(f"an element cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(element, Element):
        raise WireError(f"a {type(element).__name__} came instead of an element")
    return element


def transcoded(batch: Batch) -> Batch:
    """The batch as the other end of an edge would see it. RecordTypeError if a record is not of its declared type."""
    schema, flags, parts = BatchEncoder().encode(batch, 0)
    assert schema is not None
    return BatchDecoder(pa.py_buffer(schema)).decode(flags, pa.py_buffer(b"".join(map(memoryview, parts))))[0]


class BatchEncoder:
    """The sender's half of one channel."""

    def __init__(self) -> None:
        self._record_type: RecordType | None = None
        self._columns: pa.Schema | None = None
        self._keyed_by: tuple[str, int] | None = None
        self._flags = -1
        self._schema = pa.schema([])
        self._message = b""
        """The schema as Arrow's message."""
        self._messages = _Messages()
        self._writer: Any = None
        self._by_value = False
        """Rows could not be pickled by reference: their classes are a script's own."""

    def encode(self, batch: Batch, credit: int) -> tuple[bytes | None, int, list[Bytes]]:
        """The body of a SCHEMA frame that must go first, or None; flags; the body of the BATCH frame, in parts.

        RecordTypeError if a record is not of its declared type; what pickling an opaque record raises.
        """
        columns = None if batch.record_type.opaque else batch.columns()
        if columns is not None and columns.num_columns == 0:
            columns = None
        extra, flags = _extra(batch)
        described = self._describe(batch, columns, flags if columns is not None else flags | _PICKLED)
        if columns is None:
            prefix = _PREFIX.pack(credit, len(batch), 0)
            return described, self._flags, [b"".join((prefix, *extra)), self._pickled(batch.rows())]
        messages = self._serialized(columns, batch.nbytes)
        length = sum(map(len, messages))
        return described, self._flags, [_PREFIX.pack(credit, len(batch), length), *messages, *extra]

    def _describe(self, batch: Batch, columns: pa.RecordBatch | None, flags: int) -> bytes | None:
        """Adopt how this batch looks; the SCHEMA frame's body if that is new."""
        schema = None if columns is None else columns.schema
        keyed_by = batch.keyed_by if flags & _KEY_GROUPS else None
        same_columns = schema is self._columns or (
            schema is not None and self._columns is not None and schema.equals(self._columns, check_metadata=True)
        )
        if (
            same_columns
            and flags == self._flags & ~_DICTIONARIES
            and keyed_by == self._keyed_by
            and (batch.record_type is self._record_type or batch.record_type == self._record_type)
        ):
            return None
        self._record_type, self._columns, self._keyed_by = batch.record_type, schema, keyed_by
        self._schema = pa.schema([]) if schema is None else schema
        self._flags = flags | (_DICTIONARIES if any(_has_dictionary(field.type) for field in self._schema) else 0)
        self._messages = _Messages()
        self._writer = None
        self._message = self._schema.serialize().to_pybytes()
        return pickle.dumps((_described(batch.record_type), keyed_by, self._message), protocol=5)

    def _serialized(self, columns: pa.RecordBatch, nbytes: int) -> list[Bytes]:
        # a slice is copied: what waits to be sent must not keep the whole alive
        joined = nbytes <= _JOINED_BYTES or columns.get_total_buffer_size() > 2 * nbytes
        if joined and not self._flags & _DICTIONARIES:
            return [columns.serialize()]
        begins = self._writer is None
        if begins:
            self._writer = pa.ipc.new_stream(pa.PythonFile(self._messages, "w"), self._schema)
        self._writer.write_batch(columns)
        parts = self._messages.take()
        if begins:  # with the schema, which has gone in a frame of its own
            parts = _without(parts, self._message)
        return [b"".join(map(memoryview, parts))] if joined else parts

    def _pickled(self, rows: list[Any]) -> bytes:
        if not self._by_value:
            try:
                return pickle.dumps(rows, protocol=5)
            except (pickle.PicklingError, AttributeError, TypeError):
                self._by_value = True
        return pickling.dumps(rows)


def _without(parts: list[Bytes], first: bytes) -> list[Bytes]:
    """What follows the message that a stream begins with."""
    begun, count = b"", 0
    while len(begun) < len(first):
        begun += memoryview(parts[count])
        count += 1
    if begun != first:
        raise ProtocolError("an Arrow stream does not begin with its schema's message")
    return parts[count:]


class _Messages:
    """The file the stream writer writes to: it collects what it is given, without a copy."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[Bytes] = []

    def take(self) -> list[Bytes]:
        parts, self._parts = self._parts, []
        return parts

    def write(self, part: Bytes) -> int:
        self._parts.append(part)
        return len(part)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


class BatchDecoder:
    """The receiver's half of one channel, made of a SCHEMA frame's body."""

    def __init__(self, description: pa.Buffer) -> None:
        """WireError when it describes nothing."""
        try:
            described, self._keyed_by, message = pickle.loads(description)
            self._record_type = _record_type(described)
            self._schema: pa.Schema = pa.ipc.read_schema(pa.py_buffer(message))
        except Exception as error:
            raise WireError(f"the schema of a channel cannot be read: {type(error).__name__}: {error}") from error
        self._stream: _MessageStream | None = None
        self._message = message
        self._reader: Any = None

    def decode(self, flags: int, body: pa.Buffer) -> tuple[Batch, int]:
        """The batch, a view of the body, and the credit it costs. WireError when it is not one of this schema."""
        try:
            credit, count, length = _PREFIX.unpack_from(body)
            position = _PREFIX.size + length
            if position > body.size:
                raise ValueError(f"{length} bytes of columns are announced, {body.size - _PREFIX.size} came")
            columns = self._read(flags, body.slice(_PREFIX.size, length)) if length else None
            timestamps = key_groups = row_kinds = None
            if flags & _TIMESTAMPS:
                timestamps = np.frombuffer(body, _TIMESTAMP, count, position)
                position += timestamps.nbytes
            if flags & _KEY_GROUPS:
                key_groups = np.frombuffer(body, _KEY_GROUP, count, position)
                position += key_groups.nbytes
            if flags & _ROW_KINDS:
                row_kinds = np.frombuffer(body, _ROW_KIND, count, position)
                position += row_kinds.nbytes
            rows = pickle.loads(body.slice(position)) if flags & _PICKLED else None
            if count != (columns.num_rows if rows is None and columns is not None else len(rows or ())):
                raise ValueError(f"it is not of {count} rows, as it says")
            return self._batch(columns, rows, timestamps, key_groups, row_kinds), credit
        except Exception as error:
            raise WireError(f"a batch cannot be read: {type(error).__name__}: {error}") from error

    def _read(self, flags: int, messages: pa.Buffer) -> pa.RecordBatch:
        if not flags & _DICTIONARIES:
            return pa.ipc.read_record_batch(messages, self._schema)
        if self._stream is None:
            self._stream = _MessageStream(pa.py_buffer(self._message))
            self._reader = pa.ipc.open_stream(pa.PythonFile(self._stream, "r"))
        self._stream.feed(messages)
        return self._reader.read_next_batch()

    def _batch(
        self,
        columns: pa.RecordBatch | None,
        rows: list[Any] | None,
        timestamps: npt.NDArray[np.int64] | None,
        key_groups: npt.NDArray[np.uint16] | None,
        row_kinds: npt.NDArray[np.int8] | None,
    ) -> Batch:
        if rows is not None:
            batch = Batch.of_rows(self._record_type, rows, timestamps)
        else:
            assert columns is not None
            batch = Batch.of_columns(self._record_type, columns, timestamps)
        if key_groups is not None:
            batch.key_groups, batch.keyed_by = key_groups, self._keyed_by
        batch.row_kinds = row_kinds
        return batch


class _MessageStream:
    """The file a stream reader reads from: it is given the messages of one batch, then the next one's."""

    closed = False

    def __init__(self, first: pa.Buffer) -> None:
        self._current = first
        self._position = 0

    def feed(self, messages: pa.Buffer) -> None:
        if self._position < self._current.size:
            raise ValueError("more messages came than a batch has")
        self._current, self._position = messages, 0

    def read(self, nbytes: int = -1) -> pa.Buffer:
        rest = self._current.size - self._position
        piece = self._current.slice(self._position, rest if nbytes < 0 else min(nbytes, rest))
        self._position += piece.size
        return piece

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _extra(batch: Batch) -> tuple[list[Bytes], int]:
    """What travels with every record, in the order of the flags."""
    parts: list[Bytes] = []
    flags = 0
    if batch.has_timestamps:
        parts.append(_bytes_of(batch.timestamps(), _TIMESTAMP))
        flags = _TIMESTAMPS
    if batch.key_groups is not None:
        parts.append(_bytes_of(batch.key_groups, _KEY_GROUP))
        flags |= _KEY_GROUPS
    if batch.row_kinds is not None:
        parts.append(_bytes_of(batch.row_kinds, _ROW_KIND))
        flags |= _ROW_KINDS
    return parts, flags


def _bytes_of(array: npt.NDArray[Any], kind: np.dtype[Any]) -> Bytes:
    if array.dtype != kind:
        array = array.astype(kind)
    if array.nbytes <= _JOINED_BYTES:
        return array.tobytes()
    return memoryview(np.ascontiguousarray(array).data).cast("B")


def _has_dictionary(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_dictionary(kind.storage_type)
    return pa.types.is_dictionary(kind) or any(_has_dictionary(kind.field(i).type) for i in range(kind.num_fields))


@lru_cache(maxsize=256)
def _described(record_type: RecordType) -> bytes:
    return pickling.dumps(record_type)


@lru_cache(maxsize=256)
def _record_type(description: bytes) -> RecordType:
    """Of a channel's frames it is always the same one, and it is dear to make: it compiles its conversions."""
    record_type: RecordType = pickling.loads(description)
    return record_type
