"""Batches of one channel, encoded and decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import RecordTypeError
from penstock.taskmanager.exchange.frames import BatchDecoder, BatchEncoder, decode_control, transcoded
from penstock.taskmanager.exchange.wire import WireError


class Channel:
    """Both halves; counts schemas."""

    def __init__(self) -> None:
        self.encoder = BatchEncoder()
        self.decoder: BatchDecoder | None = None
        self.schemas = 0
        self.body_bytes = 0

    def carry(self, batch: Batch, credit: int = 7) -> Batch:
        schema, flags, parts = self.encoder.encode(batch, credit)
        if schema is not None:
            self.schemas += 1
            self.decoder = BatchDecoder(pa.py_buffer(schema))
        assert self.decoder is not None
        body = b"".join(map(memoryview, parts))
        self.body_bytes = len(body)
        got, cost = self.decoder.decode(flags, pa.py_buffer(body))
        assert cost == credit
        return got


@dataclass
class Click:
    user: str
    price: float


def clicks(count: int, times: bool = True) -> Batch:
    rows = [Click(f"u{i}", i / 2) for i in range(count)]
    return Batch.of_rows(record_type_of(Click), rows, list(range(count)) if times else None)


def test_the_schema_goes_once_and_again_when_it_changes() -> None:
    channel = Channel()
    for count in (3, 50, 10_000):
        got = channel.carry(clicks(count))
        assert got.rows() == clicks(count).rows()
        assert got.timestamp_list() == list(range(count))
    assert channel.schemas == 1
    assert not channel.carry(clicks(2, times=False)).has_timestamps
    assert channel.schemas == 2
    assert channel.carry(Batch.of_rows(record_type_of(int), [1, 2])).rows() == [1, 2]
    assert channel.schemas == 3


def test_key_groups_travel_with_whose_they_are_and_keys_do_not() -> None:
    batch = clicks(4)
    batch.keys, batch.key_groups, batch.keyed_by = (
        list("abcd"),
        np.arange(4, dtype=np.uint16),
        ("columns ('user',)", 128),
    )
    batch.row_kinds = np.array([0, 1, 2, 3], np.int8)
    got = transcoded(batch)
    assert got.keys is None
    assert got.keyed_by == batch.keyed_by
    assert got.key_groups is not None
    assert got.row_kinds is not None
    assert (got.key_groups.dtype, got.key_groups.tolist()) == (np.uint16, [0, 1, 2, 3])
    assert (got.row_kinds.dtype, got.row_kinds.tolist()) == (np.int8, [0, 1, 2, 3])


def test_opaque_rows_travel_as_they_are_with_their_extra_columns() -> None:
    class OfThisScript:
        def __eq__(self, other: object) -> bool:
            return type(other) is type(self)

    rows = [1, "x", None, {"a": [1]}, OfThisScript()]
    batch = Batch.of_rows(OPAQUE, rows, [5, 6, 7, 8, 9])
    channel = Channel()
    for _ in range(2):
        got = channel.carry(batch)
        assert got.rows() == rows
        assert got.timestamp_list() == [5, 6, 7, 8, 9]
    assert channel.schemas == 1
    assert channel.carry(Batch.of_rows(OPAQUE, [1, 2])).rows() == [1, 2]


def dictionary_batch(values: list[str], words: list[str]) -> Batch:
    array = pa.DictionaryArray.from_arrays(pa.array([words.index(v) for v in values], pa.int32()), pa.array(words))
    nested = pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), array)
    columns = pa.RecordBatch.from_arrays([array, nested], names=["a", "b"])
    return Batch.of_columns(record_type_of(columns.schema), columns)


def test_dictionaries_go_once_and_again_when_they_change() -> None:
    words = [f"a rather long word number {i}" for i in range(2_000)]
    channel = Channel()
    sizes = []
    for batch in (dictionary_batch(words[:3], words), dictionary_batch(words[7:9], words)):
        assert channel.carry(batch).columns().equals(batch.columns())
        sizes.append(channel.body_bytes)
    assert sizes[1] < sizes[0] / 2
    for other in (dictionary_batch(["x", "y"], ["x", "y"]), dictionary_batch(words[:2], words)):
        assert channel.carry(other).columns().equals(other.columns())
    assert channel.schemas == 1


def test_slices_carry_only_their_own_rows_and_views_do_not_keep_the_parent() -> None:
    columns = pa.RecordBatch.from_pydict({"n": np.arange(200_000), "s": [str(i) for i in range(200_000)]})
    batch = Batch.of_columns(record_type_of(columns.schema), columns)
    channel = Channel()
    piece = batch.slice(100_001, 20_000)
    assert channel.carry(piece).columns().equals(piece.columns())
    assert channel.body_bytes < 500_000
    _, _, parts = channel.encoder.encode(piece, 1)
    assert [pa.py_buffer(part).size > 100_000 for part in parts] == [False, True], "one copy of what is its own"
    _, _, parts = channel.encoder.encode(batch, 1)
    assert sum(isinstance(part, pa.Buffer) for part in parts) >= 3


def test_columns_are_views_of_what_was_received() -> None:
    columns = pa.RecordBatch.from_pydict({"n": np.arange(50_000)})
    encoder = BatchEncoder()
    schema, flags, parts = encoder.encode(Batch.of_columns(record_type_of(columns.schema), columns), 1)
    assert schema is not None
    body = pa.py_buffer(b"".join(map(memoryview, parts)))
    got, _ = BatchDecoder(pa.py_buffer(schema)).decode(flags, body)
    address = got.columns().column(0).buffers()[1].address
    assert body.address <= address < body.address + body.size


def test_a_record_of_another_type_is_an_error_and_the_channel_goes_on() -> None:
    channel = Channel()
    with pytest.raises(RecordTypeError):
        channel.carry(Batch.of_rows(record_type_of(int), [1, "2"]))
    assert channel.carry(Batch.of_rows(record_type_of(int), [1, 2])).rows() == [1, 2]


def test_an_empty_dataclass_is_carried() -> None:
    @dataclass
    class Empty:
        pass

    assert transcoded(Batch.of_rows(record_type_of(Empty), [Empty()] * 3)).rows() == [Empty()] * 3


def test_nonsense_is_an_error_of_the_connection() -> None:
    schema, flags, parts = BatchEncoder().encode(clicks(3), 1)
    assert schema is not None
    body = b"".join(map(memoryview, parts))
    for broken in (b"", body[:10], body[:-9], body[:16] + bytes(len(body) - 16)):
        with pytest.raises(WireError, match="cannot be read"):
            BatchDecoder(pa.py_buffer(schema)).decode(flags, pa.py_buffer(broken))
    with pytest.raises(WireError, match="schema"):
        BatchDecoder(pa.py_buffer(b"nonsense"))
    with pytest.raises(WireError, match="element"):
        decode_control(pa.py_buffer(b"nonsense"))
