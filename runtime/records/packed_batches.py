"""Batches of columns as bytes: on the way to another process, and in checkpoints. An Arrow stream holds what the batch
holds and no more, where pickling a slice would take all of the memory that it lies in."""

from __future__ import annotations

import pyarrow as pa


def packed(columns: pa.RecordBatch) -> pa.Buffer:
    """As an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as stream:
        stream.write_batch(columns)
    return sink.getvalue()


def packed_table(table: pa.Table) -> pa.Buffer:
    """As an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def unpacked_table(data: pa.Buffer | bytes) -> pa.Table:
    """What `packed` or `packed_table` wrote."""
    with pa.ipc.open_stream(data) as stream:
        return stream.read_all()


def unpacked(data: pa.Buffer | bytes) -> pa.RecordBatch:
    """The one batch that `packed` wrote."""
    with pa.ipc.open_stream(data) as stream:
        return stream.read_next_batch()
