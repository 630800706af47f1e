"""The file source: any file, any split size, any batch size, stopped and restored anywhere: exactly the records."""

from __future__ import annotations

import bz2
import gzip
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.connectors.files import FileSource
from penstock.connectors.files.filesystem import InputFileError, find_files
from penstock.connectors.files.source import FileSplit
from penstock.connectors.formats import Csv, Json, MalformedRecord, Parquet, Raw, Text
from penstock.runtime.clock import Clock, SystemClock
from penstock.runtime.connector import (
    NeedsSplit,
    NotReady,
    ReaderContext,
    ReaderEnd,
    SourceReader,
    SplitBatch,
    SplitFinished,
)
from penstock.runtime.functions import OutputTag
from penstock.runtime.metrics import MetricGroup
from penstock.state.errors import MalformedRecordError, PipelineError


@dataclass
class Item:
    id: int
    name: str
    price: float | None = None


@dataclass
class SetClock:
    ms: int = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ns(self) -> int:
        return self.ms * 1_000_000


def open_reader(
    source: FileSource, clock: Clock | None = None, metrics: MetricGroup | None = None
) -> SourceReader[FileSplit]:
    return source.create_reader(
        ReaderContext(0, 1, clock or SystemClock(), metrics if metrics is not None else MetricGroup(), lambda: None)
    )


def read(source: FileSource, max_rows: int = 100, stops: set[int] | None = None) -> list[SplitBatch]:
    """Everything a bounded source gives; after the numbered polls all state goes through a checkpoint."""
    enumerator = source.create_enumerator(None)
    enumerator.discovered(enumerator.discover())
    reader = open_reader(source)
    given_out: list[SplitBatch] = []
    for poll in range(100_000):
        result = reader.poll(max_rows)
        if isinstance(result, SplitBatch):
            given_out.append(result)
        elif isinstance(result, NeedsSplit):
            splits = enumerator.next_splits(0, 1)
            reader.no_more_splits() if splits is None else reader.add_splits(splits)
        elif isinstance(result, ReaderEnd):
            return given_out
        else:
            assert isinstance(result, SplitFinished)
        if poll in (stops or ()):
            state = enumerator.snapshot()
            left = [source.encode_split(split) for split in reader.snapshot()]
            reader.close()
            source = pickle.loads(pickle.dumps(source))
            enumerator = source.create_enumerator(state)
            enumerator.discovered(enumerator.discover())
            enumerator.add_back([source.decode_split(split) for split in left])
            reader = open_reader(source)
    raise AssertionError("the source never ends")


def rows_of(batches: list[SplitBatch]) -> list[Any]:
    return [row for batch in batches for row in batch.batch.rows()]


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


LINES = st.lists(st.text("abcé\"', 1", max_size=12), max_size=30)
STOPS = st.sets(st.integers(0, 40), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans(), st.integers(1, 60), st.integers(1, 7), STOPS
)
def test_lines_are_read_exactly_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], newline: bytes, last: bool, bom: bool, size: int,
    max_rows: int, stops: set[int],
) -> None:  # fmt: skip
    data = newline.join(line.encode() for line in lines) + (newline if lines and last else b"")
    file = tmp_path_factory.mktemp("lines") / "file.txt"
    file.write_bytes((b"\xef\xbb\xbf" if bom else b"") + data)
    expected = lines if last or not lines or lines[-1] else lines[:-1]
    batches = read(FileSource(file, Text(), split_size=size), max_rows, stops)
    assert rows_of(batches) == expected
    assert all(0 < len(batch.batch) <= max_rows for batch in batches)


@settings(max_examples=60, deadline=None)
@given(LINES, st.integers(1, 7), STOPS, st.sampled_from([gzip.compress, bz2.compress]))
def test_compressed_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], max_rows: int, stops: set[int], compress: Any
) -> None:
    suffix = "gz" if compress is gzip.compress else "bz2"
    file = tmp_path_factory.mktemp("lines") / f"file.txt.{suffix}"
    file.write_bytes(compress("".join(f"{line}\n" for line in lines).encode()))
    assert rows_of(read(FileSource(file, Text(), split_size=10), max_rows, stops)) == lines


ITEMS = st.builds(
    Item,
    st.integers(-(2**63), 2**63 - 1),
    st.text("ab,;\"' ß"),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(ITEMS, max_size=20), st.integers(1, 200), st.integers(1, 9), STOPS, st.sampled_from([Json, Csv, Parquet])
)
def test_typed_records_of_every_format(
    tmp_path_factory: pytest.TempPathFactory, items: list[Item], size: int, max_rows: int, stops: set[int], kind: Any
) -> None:
    file = tmp_path_factory.mktemp("typed") / "file"
    items = [Item(i.id, i.name, i.price) for i in items]
    if kind is Parquet:
        columns = {name: [getattr(i, name) for i in items] for name in ("name", "id", "price")}
        schema = pa.schema([("name", pa.large_string()), ("id", pa.int64()), ("price", pa.float64())])
        pq.write_table(pa.table(columns, schema), file, row_group_size=3)
    elif kind is Json:
        import msgspec

        file.write_bytes(b"\n\n".join(map(msgspec.json.encode, items)))
    else:
        quoted = [
            f'{"" if i.price is None else repr(i.price)},"{i.name.replace(chr(34), chr(34) * 2)}",{i.id}' for i in items
        ]
        file.write_text("\r\n".join(["price,name,id", *quoted]), newline="")
    source = FileSource(file, kind(Item), split_size=size)
    source.format.batch_rows = max_rows
    assert rows_of(read(source, max_rows, stops)) == items


def test_directories_globs_and_hidden_files(directory: Path) -> None:
    (directory / "b" / "_hidden").mkdir(parents=True)
    for name in (
        "b/2.txt",
        "a.txt",
        "b/1.txt",
        "_no.txt",
        ".no.txt",
        "b/_hidden/no.txt",
        "b/_part.json.pending",
        "c.csv",
    ):
        (directory / name).write_text(f"{name}\n")
    (directory / "empty.txt").touch()
    assert rows_of(read(FileSource(directory, Text()))) == ["a.txt", "b/1.txt", "b/2.txt", "c.csv"]
    assert rows_of(read(FileSource(directory / "**/*.txt", Text()))) == ["a.txt", "b/1.txt", "b/2.txt"]
    assert rows_of(read(FileSource(directory / "_no.txt", Raw()))) == [b"_no.txt"]
    assert [file.size for file in find_files(str(directory / "b"))] == [8, 8]


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
def test_malformed_lines(directory: Path, form: Any, data: bytes, good: list[int], bad: list[int]) -> None:
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


def test_malformed_lines_are_counted(directory: Path) -> None:
    (directory / "file").write_bytes(MALFORMED_JSON)
    source = FileSource(directory, Json(Item), on_malformed="drop")
    metrics = MetricGroup()
    reader = open_reader(source, metrics=metrics)
    reader.add_splits(source.cut(find_files(source.path)[0]))
    reader.poll(100)
    assert metrics.values()["records_malformed_total"] == 5


def test_the_reason_names_column_and_value(directory: Path) -> None:
    (directory / "file").write_bytes(MALFORMED_CSV)
    with pytest.raises(
        MalformedRecordError, match=r"column 'id': conversion error to int64: invalid value 'x': 'x,b,1'"
    ):
        read(FileSource(directory, Csv(Item)))


def test_types_of_untyped_csv_come_from_the_first_file_and_hold_for_all(directory: Path) -> None:
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


def test_csv_options(directory: Path) -> None:
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


def test_parquet_columns_and_types(directory: Path) -> None:
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


@pytest.mark.parametrize("form", [Json(Item), Csv(Item), Parquet(Item), Text(), Csv(header=False, columns={"a": int})])
def test_empty_and_missing_files(directory: Path, form: Any) -> None:
    (directory / "empty").touch()
    source = FileSource(directory, form)
    source.validate()
    assert rows_of(read(source)) == []
    with pytest.raises(PipelineError, match=r"there is no file .*/missing, nor any that matches"):
        FileSource(directory / "missing", form).validate()
    with pytest.raises(PipelineError, match=r"there is no file .*/\*\.x"):
        FileSource(directory / "*.x", form).validate()
    FileSource(directory / "later", form, watch="1s").validate()


def test_a_format_without_type_needs_a_file(directory: Path) -> None:
    for form in (Csv(), Parquet()):
        with pytest.raises(PipelineError, match="give it a type or columns"):
            FileSource(directory, form, watch="1s")


def test_only_header(directory: Path) -> None:
    (directory / "file.csv").write_text("id,name,price")
    assert rows_of(read(FileSource(directory, Csv(Item), split_size=4))) == []
    assert rows_of(read(FileSource(directory, Csv()))) == []


def test_wrong_options_are_refused(directory: Path) -> None:
    for wrong in ({"on_malformed": "ignore"}, {"rate_limit": 0}):
        with pytest.raises(PipelineError):
            FileSource(directory, Text(), **wrong)  # type: ignore[arg-type]
    for form in (
        lambda: Csv(int),
        lambda: Csv(Item, columns=["a"]),
        lambda: Parquet(list[int]),
        lambda: Csv(columns={"a": list[int]}),
    ):
        with pytest.raises(PipelineError):
            form()


def test_files_that_change_while_they_are_read(directory: Path) -> None:
    file = directory / "file"
    file.write_text("a\nb\n" * 10)
    source = FileSource(file, Text(), split_size=10)
    enumerator = source.create_enumerator(None)
    enumerator.discovered(enumerator.discover())
    splits = [enumerator.next_splits(0, 1)[0] for _ in range(4)]  # type: ignore[index]
    with file.open("a") as more:
        more.write("c\n")
    reader = open_reader(source)
    reader.add_splits(splits)
    reader.no_more_splits()
    lines: list[str] = []
    while not isinstance(result := reader.poll(100), ReaderEnd):
        lines += result.batch.rows() if isinstance(result, SplitBatch) else []
    assert lines == ["a", "b"] * 10
    file.write_text("a\n")
    reader = open_reader(source)
    reader.add_splits(splits)
    with pytest.raises(InputFileError, match=r"file has shrunk from 40 to 2 bytes"):
        reader.poll(100)
    file.unlink()
    with pytest.raises(InputFileError, match="file has disappeared"):
        reader.poll(100)


def test_watching_reads_each_path_once(directory: Path) -> None:
    source = FileSource(directory, Text(), watch="10s")
    assert not source.bounded
    enumerator = source.create_enumerator(None)
    assert enumerator.discovery_interval_ms == 10_000
    assert enumerator.next_splits(0, 1) == []
    for names in (["b", "a"], ["0"]):
        for name in names:
            (directory / name).write_text("x\n")
        (directory / "a").write_text("x\ny\n")
        enumerator.discovered(enumerator.discover())
        enumerator = source.create_enumerator(enumerator.snapshot())
    paths = []
    while splits := enumerator.next_splits(0, 1):
        paths.append(Path(splits[0].path).name)
    assert paths == ["a", "b", "0"]
    assert splits == []


def test_a_bounded_source_reads_what_was_there_when_it_began(directory: Path) -> None:
    (directory / "a").write_text("x\n")
    source = FileSource(directory, Text())
    enumerator = source.create_enumerator(None)
    assert enumerator.next_splits(0, 1) == []
    enumerator.discovered(enumerator.discover())
    (directory / "b").write_text("x\n")
    enumerator = source.create_enumerator(enumerator.snapshot())
    enumerator.discovered(enumerator.discover())
    assert [split.path for split in enumerator.next_splits(0, 1) or []] == [str(directory / "a")]
    assert enumerator.next_splits(0, 1) is None


@pytest.mark.parametrize(("limit", "first"), [(100, 10), (5000, 70), (2, 1)])
def test_the_rate_limit(directory: Path, limit: float, first: int) -> None:
    (directory / "a").write_text("x\n" * 60_000)
    source = FileSource(directory, Text(), rate_limit=limit)
    clock = SetClock(1_000)
    reader = open_reader(source, clock)
    reader.add_splits(source.cut(find_files(source.path)[0]))
    counts = []
    while clock.ms < 11_000:
        result = reader.poll(70)
        if isinstance(result, NotReady):
            assert result.retry_at_ms is not None
            assert result.retry_at_ms > clock.ms
            clock.ms = result.retry_at_ms
        else:
            assert isinstance(result, SplitBatch)
            counts.append(len(result.batch))
    assert counts[0] == first
    assert sum(counts) >= limit * 10 * 0.98
    assert sum(counts) <= limit * 10 * 1.02 + 1
    clock.ms = 500  # set back: goes on at once instead of waiting for the old time
    assert isinstance(reader.poll(70), SplitBatch)


def test_unreadable_files_are_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "a").write_text("x\n")
    source = FileSource(directory, Text())

    def deny(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "a directory")

    monkeypatch.setattr("builtins.open", deny)  # permissions do not stop the administrator, who may run the tests
    with pytest.raises(PipelineError, match="a cannot be read: Permission denied"):
        source.validate()
    monkeypatch.setattr("os.scandir", deny)
    with pytest.raises(InputFileError, match=r"directory .* cannot be read: Permission denied"):
        source.create_enumerator(None).discover()


def test_long_lines_cross_chunks(directory: Path) -> None:
    lines = ["x" * 3_000_000, "y" * 10, "z" * 1_500_000, ""]
    (directory / "a").write_text("".join(f"{line}\n" for line in lines))
    assert rows_of(read(FileSource(directory, Text(), split_size=1_000_000), 1, {0, 2, 5, 6})) == lines
