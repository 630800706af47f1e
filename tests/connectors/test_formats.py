"""Formats: options, types, malformed input, and that each reads what it writes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.connectors.files import FileSource
from penstock.connectors.files.filesystem import find_files
from penstock.connectors.formats import Csv, Json, MalformedRecord, Parquet
from penstock.runtime.batch import Batch
from penstock.runtime.connector import SplitBatch
from penstock.runtime.functions import OutputTag
from penstock.runtime.metrics import MetricGroup
from penstock.runtime.records.record_types import OPAQUE, RecordType, record_type_of
from penstock.state.errors import MalformedRecordError, PipelineError


@dataclass
class Item:
    id: int
    name: str
    price: float | None = None


def rows_of(batches: list[SplitBatch]) -> list[Any]:
    return [row for batch in batches for row in batch.batch.rows()]


MALFORMED_JSON = (
    b'{"id":1,"name":"a"}\n{"id":"x","name":"b"}\n{"id":3,\n"name":"c"}\n{"id":4,"name":"d"} {}\n'
    b'{"id":5,"name":"e"}\n\xff\n'
)
MALFORMED_CSV = b'id,name,price\n1,a,\nx,b,1\n3,c\n4,"d,1\n5,e,1.5\n6,\xff,1\n,g,1\n8,h\ri,1\n'


@pytest.mark.parametrize(
    ("form", "data", "good", "bad"),
    [(Json(Item), MALFORMED_JSON, [1, 5], [2, 3, 4, 5, 7]), (Csv(Item), MALFORMED_CSV, [1, 5], [3, 4, 5, 7, 8, 9])],
    ids=["json", "csv"],
)
def test_malformed_lines(read: Any, directory: Path, form: Any, data: bytes, good: list[int], bad: list[int]) -> None:
    file = directory / "file"
    file.write_bytes(data)
    for size in (7, 1000):
        failing = FileSource(file, form, split_size=size)
        with pytest.raises(MalformedRecordError, match=f"file, line {bad[0]}: "):
            read(failing)
        dropping = FileSource(file, form, split_size=size, on_malformed="drop")
        assert [row.id for row in rows_of(read(dropping))] == good
        tag: OutputTag[MalformedRecord] = OutputTag("bad", MalformedRecord)
        redirecting = FileSource(file, form, split_size=size, on_malformed=tag)
        assert redirecting.side_tags == {"bad"}
        sides = [batch.side for batch in read(redirecting) if batch.side is not None]
        records = [record for name, side in sides for record in side.rows() if name == "bad"]
        assert [record.line for record in records] == bad
        for record in records:
            assert data[record.offset :].startswith(record.raw)
            assert record.raw.endswith(b"\n")
            assert record.reason
        assert all(side.columns().num_rows for _, side in sides)


def test_malformed_lines_are_counted(reader_of: Any, directory: Path) -> None:
    (directory / "file").write_bytes(MALFORMED_JSON)
    source = FileSource(directory, Json(Item), on_malformed="drop")
    metrics = MetricGroup()
    reader = reader_of(source, metrics=metrics)
    reader.add_splits(source.cut(find_files(source.path)[0]))
    reader.poll(100)
    assert metrics.values()["records_malformed_total"] == 5


def test_the_reason_names_column_and_value(read: Any, directory: Path) -> None:
    (directory / "file").write_bytes(MALFORMED_CSV)
    with pytest.raises(
        MalformedRecordError, match=r"column 'id': conversion error to int64: invalid value 'x': 'x,b,1'"
    ):
        read(FileSource(directory, Csv(Item)))


def test_types_of_untyped_csv_come_from_the_first_file_and_hold_for_all(read: Any, directory: Path) -> None:
    (directory / "1.csv").write_text("id,when,name,empty\n1,2013-01-01T05:00:00Z,NA,\nNA,,x,\n")
    (directory / "2.csv").write_text("name,id,more,when,empty\n7,8,9,,text\n")
    source = FileSource(directory, Csv())
    assert str(source.record_type.schema.field("id").type) == "int64"  # type: ignore[union-attr]
    rows = rows_of(read(source))
    assert [(row["id"], row["name"], row["empty"]) for row in rows] == [
        (1, "NA", ""),
        (None, "x", ""),
        (8, "7", "text"),
    ]
    (directory / "3.csv").write_text("id,when,name,empty\nx,,,\n")
    with pytest.raises(MalformedRecordError, match=r"3.csv, line 2: column 'id'"):
        read(FileSource(directory, Csv()))
    picked = FileSource(directory / "1.csv", Csv(columns=["name", "id"]))
    assert rows_of(read(picked)) == [{"name": "NA", "id": 1}, {"name": "x", "id": None}]
    (directory / "4.csv").write_text("id,name\n1,x\n")
    with pytest.raises(MalformedRecordError, match=r"4.csv, line 1: the header has no column 'when'"):
        read(FileSource(directory, Csv(columns={"when": str}), on_malformed="drop"))


def test_a_csv_time_without_a_zone(read: Any, directory: Path) -> None:
    @dataclass
    class Timed:
        when: datetime

    (directory / "1.csv").write_text("when\n2024-01-01T00:00:00\n")
    with pytest.raises(MalformedRecordError, match="column 'when': '2024-01-01T00:00:00' has no time zone"):
        read(FileSource(directory, Csv(Timed)))


def test_csv_options(read: Any, directory: Path) -> None:
    file = directory / "file.csv"
    file.write_text('1;"a\n""b"\n2;-\n')
    source = FileSource(file, Csv(Item2, header=False, delimiter=";", multiline=True, nulls=["-"]), split_size=3)
    assert rows_of(read(source, 1, {1, 2})) == [Item2(1, 'a\n"b'), Item2(2, None)]
    assert rows_of(read(FileSource(file, Csv(header=False, delimiter=";", multiline=True)))) == [
        {"f0": 1, "f1": 'a\n"b'},
        {"f0": 2, "f1": "-"},
    ]
    with pytest.raises(MalformedRecordError, match="line 1: a quote is not closed on its line"):
        read(FileSource(file, Csv(Item2, header=False, delimiter=";")))
    file.write_text('1;5" pipe\n')
    assert rows_of(read(FileSource(file, Csv(Item2, header=False, delimiter=";", quote=None)))) == [Item2(1, '5" pipe')]


@dataclass
class Item2:
    id: int
    name: str | None


def test_parquet_columns_and_types(read: Any, directory: Path) -> None:
    file = directory / "file.parquet"
    pq.write_table(pa.table({"id": pa.array([1, None], pa.int32()), "name": ["a", "b"], "x": [1.5, 2.5]}), file)
    assert rows_of(read(FileSource(file, Parquet(columns=["x", "id"])))) == [
        {"x": 1.5, "id": 1},
        {"x": 2.5, "id": None},
    ]
    assert all(batch.batch.has_columns for batch in read(FileSource(file, Parquet())))
    with pytest.raises(PipelineError, match=r"file.parquet has no column 'y', only \['id', 'name', 'x'\]"):
        FileSource(file, Parquet(columns=["y"]))
    with pytest.raises(PipelineError, match=r"has no column 'price'"):
        FileSource(file, Parquet(Item))
    with pytest.raises(PipelineError, match=r"column 'x' of .* is double, which does not fit int64"):
        FileSource(file, Parquet(pa.schema([("x", pa.int64())])))
    with pytest.raises(MalformedRecordError, match=r"column 'id' of .* has nulls"):
        read(FileSource(file, Parquet(pa.schema([pa.field("id", pa.int64(), False)]))))
    (directory / "broken.parquet").write_bytes(file.read_bytes()[:-9])
    with pytest.raises(PipelineError, match=r"broken.parquet is no Parquet file"):
        FileSource(directory, Parquet())
    with pytest.raises(MalformedRecordError, match="no complete Parquet file"):
        read(FileSource(file, Parquet())) and read(_as_if_found(directory, file))


def _as_if_found(directory: Path, file: Path) -> FileSource:
    """A broken file beside the one that the format was bound to."""
    source = FileSource(file, Parquet())
    source.path = str(directory / "broken.parquet")
    return source


@dataclass
class Rich:
    id: UUID
    text: str
    when: datetime
    ratio: float
    count: int | None


RICH = [
    Rich(uuid5(UUID(int=0), str(i)), text, datetime(2013, 1, 1, i, 0, 0, 5, tzinfo=UTC), i / 7, None if i % 2 else i)
    for i, text in enumerate(["", ' "quoted", ', "ünï", "line", "NA", "nan", "-"])
]


@pytest.mark.parametrize("form", [Json(Rich), Csv(Rich), Csv(Rich, delimiter=";"), Parquet(Rich)])
def test_every_format_reads_what_it_writes(read: Any, tmp_path: Path, form: Any) -> None:
    record_type = record_type_of(Rich)
    form.check_writable(record_type)
    with (tmp_path / "file").open("wb") as file:
        writer = form.create_writer(file, record_type)
        for row in RICH:
            writer.write(Batch.of_rows(record_type, [row]))
        writer.finish()
    assert rows_of(read(FileSource(tmp_path, form))) == RICH


def test_parquet_groups_hold_many_batches(tmp_path: Path) -> None:
    record_type = record_type_of(int)
    with (tmp_path / "file").open("wb") as file:
        writer = Parquet().create_writer(file, record_type)
        for i in range(0, 100, 5):
            writer.write(Batch.of_rows(record_type, list(range(i, i + 5))))
        assert writer.buffered_bytes >= 800
        writer.finish()
    written = pq.ParquetFile(tmp_path / "file")
    assert written.num_row_groups == 1
    assert written.read().column("value").to_pylist() == list(range(100))


class Named(NamedTuple):
    """msgspec by itself would make arrays of these."""

    id: int
    kind: str = "x"


@pytest.mark.parametrize("record_type", [record_type_of(Named), OPAQUE])
def test_named_tuples_are_json_objects(record_type: RecordType) -> None:
    file = io.BytesIO()
    Json().create_writer(file, record_type).write(Batch.of_rows(record_type, [Named(1), Named(2, "y")]))
    assert file.getvalue() == b'{"id":1,"kind":"x"}\n{"id":2,"kind":"y"}\n'
    decode = Json(Named).block_decoder("", None)
    assert decode(b'{"id":1}\n{"kind":"y","id":2}', 2).rows() == [Named(1), Named(2, "y")]


def test_json_reads_times_as_utc_and_schemas_with_nulls() -> None:
    decode = Json(Rich).block_decoder("", None)
    line = (
        b'{"id":"00000000-0000-0000-0000-000000000001","text":"","when":"2013-01-01T01:00:00%s","ratio":1,"count":null}'
    )
    (row,) = decode(line % b"+02:00", 1).rows()
    assert row.when == datetime(2012, 12, 31, 23, tzinfo=UTC)
    assert row.when.tzinfo is UTC
    assert type(row.ratio) is float
    decode(line % b"Z", 1).columns()
    with pytest.raises(ValueError, match="'when' has a time without a zone"):
        decode(line % b"", 1)
    schema = pa.schema([("a", pa.int64()), pa.field("b", pa.string(), nullable=False)])
    decode = Json(schema).block_decoder("", None)
    batch = decode(b'{"b":"x","more":1}', 1)
    assert batch.rows() == [{"a": None, "b": "x"}]
    assert batch.columns().schema == schema
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"a":1}', 1)
    with pytest.raises(PipelineError, match="Json cannot read"):
        Json(set[object] | dict[int, object] | list[int])
