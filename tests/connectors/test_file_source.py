"""The file source: any file, any split size, any batch size, stopped and restored anywhere: exactly the records."""

from __future__ import annotations

import bz2
import gzip
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
from penstock.connectors.formats import Csv, Json, Parquet, Raw, Text
from penstock.runtime.connector import (
    NotReady,
    ReaderEnd,
    SplitBatch,
)
from penstock.runtime.functions import OutputTag
from penstock.state.errors import PipelineError


@dataclass
class Item:
    id: int
    name: str
    price: float | None = None


def rows_of(batches: list[SplitBatch]) -> list[Any]:
    return [row for batch in batches for row in batch.batch.rows()]


LINES = st.lists(st.text("abcé\"', 1", max_size=12), max_size=30)
STOPS = st.sets(st.integers(0, 40), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans(), st.integers(1, 60), st.integers(1, 7), STOPS
)
def test_lines_are_read_exactly_once_in_order(
    read: Any, tmp_path_factory: pytest.TempPathFactory, lines: list[str], newline: bytes, last: bool, bom: bool,
    size: int, max_rows: int, stops: set[int],
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
    read: Any, tmp_path_factory: pytest.TempPathFactory, lines: list[str], max_rows: int, stops: set[int], compress: Any
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
    read: Any,
    tmp_path_factory: pytest.TempPathFactory,
    items: list[Item],
    size: int,
    max_rows: int,
    stops: set[int],
    kind: Any,
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


def test_directories_globs_and_hidden_files(read: Any, directory: Path) -> None:
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


@pytest.mark.parametrize("form", [Json(Item), Csv(Item), Parquet(Item), Text(), Csv(header=False, columns={"a": int})])
def test_empty_and_missing_files(read: Any, directory: Path, form: Any) -> None:
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


def test_only_header(read: Any, directory: Path) -> None:
    (directory / "file.csv").write_text("id,name,price")
    assert rows_of(read(FileSource(directory, Csv(Item), split_size=4))) == []
    assert rows_of(read(FileSource(directory, Csv()))) == []


def test_damaged_compressed_files_are_named(read: Any, directory: Path) -> None:
    (directory / "a.txt.gz").write_bytes(gzip.compress(b"x\n" * 1000)[:30])
    with pytest.raises(InputFileError, match=r"a\.txt\.gz cannot be read"):
        read(FileSource(directory, Text()))
    (directory / "a.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(InputFileError, match=r"a\.txt\.gz cannot be read"):
        read(FileSource(directory, Text()))


def test_wrong_options_are_refused(directory: Path) -> None:
    for wrong in ({"on_malformed": "ignore"}, {"rate_limit": 0}, {"on_malformed": OutputTag("bad", str)}):
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


def test_files_that_change_while_they_are_read(reader_of: Any, directory: Path) -> None:
    file = directory / "file"
    file.write_text("a\nb\n" * 10)
    source = FileSource(file, Text(), split_size=10)
    enumerator = source.create_enumerator(None)
    enumerator.discovered(enumerator.discover())
    splits = [enumerator.next_splits(0, 1)[0] for _ in range(4)]  # type: ignore[index]
    with file.open("a") as more:
        more.write("c\n")
    reader = reader_of(source)
    reader.add_splits(splits)
    reader.no_more_splits()
    lines: list[str] = []
    while not isinstance(result := reader.poll(100), ReaderEnd):
        lines += result.batch.rows() if isinstance(result, SplitBatch) else []
    assert lines == ["a", "b"] * 10
    file.write_text("a\n")
    reader = reader_of(source)
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
def test_the_rate_limit(reader_of: Any, set_clock: Any, directory: Path, limit: float, first: int) -> None:
    (directory / "a").write_text("x\n" * 60_000)
    source = FileSource(directory, Text(), rate_limit=limit)
    clock = set_clock(1_000)
    reader = reader_of(source, clock)
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


def test_long_lines_cross_chunks(read: Any, directory: Path) -> None:
    lines = ["x" * 3_000_000, "y" * 10, "z" * 1_500_000, ""]
    (directory / "a").write_text("".join(f"{line}\n" for line in lines))
    assert rows_of(read(FileSource(directory, Text(), split_size=1_000_000), 1, {0, 2, 5, 6})) == lines
