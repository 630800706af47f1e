"""Elements as bytes: what a socket carries, and what the edge mode of the testing kit does on every edge.

A batch of a known type is one Arrow IPC stream: the record columns, and behind them the columns that travel with
every record (timestamp, key group, row kind) where it has them. Opaque records are pickle 5 of the whole row list in
one binary cell. The record type goes with the frame; keys do not, the receiver derives them anew.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from ..runtime.batch import Batch
from ..runtime.elements import Element
from ..runtime.record_types import RecordType

_TIMESTAMP, _KEY_GROUP, _ROW_KIND = "__timestamp", "__key_group", "__row_kind"
_TYPE, _ROWS = b"penstock.record_type", b"penstock.pickled_rows"


def encode(element: Element) -> bytes:
    """Any element; `decode` gives an equal one. RecordTypeError if a record is not of its declared type."""
    if isinstance(element, Batch):
        return b"B" + _encode_batch(element)
    return b"C" + pickle.dumps(element, protocol=5)


def decode(data: bytes) -> Element:
    if data[:1] == b"B":
        return _decode_batch(memoryview(data)[1:])
    element: Element = pickle.loads(memoryview(data)[1:])
    return element


def transcoded(batch: Batch) -> Batch:
    """The batch as the other end of an edge would see it."""
    return _decode_batch(memoryview(_encode_batch(batch)))


@lru_cache(maxsize=256)
def _described(record_type: RecordType) -> bytes:
    return pickle.dumps(record_type, protocol=5)


@lru_cache(maxsize=256)
def _record_type(description: bytes) -> RecordType:
    """Of a channel's frames it is always the same one, and it is dear to make: it compiles its conversions."""
    record_type: RecordType = pickle.loads(description)
    return record_type


def _encode_batch(batch: Batch) -> bytes:
    arrays: list[pa.Array] = []
    names: list[str] = []
    metadata = {_TYPE: _described(batch.record_type)}
    if batch.record_type.opaque:
        metadata[_ROWS] = pickle.dumps(batch.rows(), protocol=5)
    else:
        columns = batch.columns()
        arrays, names = list(columns.columns), list(columns.schema.names)
    if batch.has_timestamps:
        arrays.append(pa.array(batch.timestamps()))
        names.append(_TIMESTAMP)
    if batch.key_groups is not None:
        arrays.append(pa.array(batch.key_groups))
        names.append(_KEY_GROUP)
    if batch.row_kinds is not None:
        arrays.append(pa.array(batch.row_kinds))
        names.append(_ROW_KIND)
    record_batch = pa.RecordBatch.from_arrays(arrays, names=names)
    record_batch = record_batch.replace_schema_metadata({**metadata, b"penstock.length": str(len(batch)).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record_batch.schema) as writer:
        writer.write_batch(record_batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _decode_batch(data: memoryview) -> Batch:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        metadata: dict[bytes, bytes] = reader.schema.metadata
        received = reader.read_next_batch()
    record_type = _record_type(metadata[_TYPE])
    extra: dict[str, Any] = {
        name: received.column(name).to_numpy()
        for name in (_TIMESTAMP, _KEY_GROUP, _ROW_KIND)
        if name in received.schema.names
    }
    timestamps = extra.get(_TIMESTAMP)
    if _ROWS in metadata:
        batch = Batch.of_rows(record_type, pickle.loads(metadata[_ROWS]), timestamps)
    else:
        width = received.num_columns - len(extra)
        columns = received.select(list(range(width))).replace_schema_metadata(None)
        if record_type.schema is not None and record_type.schema.metadata is not None:
            columns = columns.replace_schema_metadata(record_type.schema.metadata)
        batch = Batch.of_columns(record_type, columns, timestamps)
    if _KEY_GROUP in extra:
        batch.key_groups = extra[_KEY_GROUP].astype(np.uint16)
    batch.row_kinds = extra.get(_ROW_KIND)
    return batch
