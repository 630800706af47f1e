"""Collection and sequence sources, print and collect sinks."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.connectors.collect import Collector
from penstock.connectors.collections import CollectionSource, RangeSource, SequenceSource
from penstock.connectors.print import PrintSink
from penstock.runtime.batch import Batch
from penstock.runtime.clock import SystemClock
from penstock.runtime.connector import (
    NeedsSplit,
    ReaderContext,
    ReaderEnd,
    SourceReader,
    SplitBatch,
    SplitFinished,
    WriterContext,
)
from penstock.runtime.metrics import MetricGroup
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.state.errors import PipelineError, RecordTypeError
from penstock.state.ids import Attempt, CheckpointId


@dataclass
class Point:
    x: int


def reader_context(subtask: int = 0, parallelism: int = 1) -> ReaderContext:
    return ReaderContext(subtask, parallelism, SystemClock(), MetricGroup(), lambda: None)


def writer_context(subtask: int = 0, parallelism: int = 1) -> WriterContext:
    names = iter(range(10**6))
    return WriterContext(
        "job",
        "sink",
        subtask,
        parallelism,
        Attempt(1),
        SystemClock(),
        MetricGroup(),
        lambda: f"{subtask}-{next(names)}",
    )


def read_all(source: RangeSource, parallelism: int, batch_size: int, stops: set[int]) -> list[Any]:
    """All records, with a snapshot and restore of everything after each of the numbered polls."""
    enumerator = source.create_enumerator(None)
    readers: list[SourceReader[Any]] = [
        source.create_reader(reader_context(i, parallelism)) for i in range(parallelism)
    ]
    rows: list[Any] = []
    open_readers = set(range(parallelism))
    polls = 0
    while open_readers:
        for i in sorted(open_readers):
            result = readers[i].poll(batch_size)
            if isinstance(result, SplitBatch):
                assert 0 < len(result.batch) <= batch_size
                rows += result.batch.rows()
            elif isinstance(result, NeedsSplit):
                splits = enumerator.next_splits(i, parallelism)
                readers[i].no_more_splits() if splits is None else readers[i].add_splits(splits)
            elif isinstance(result, ReaderEnd):
                open_readers.discard(i)
            else:
                assert isinstance(result, SplitFinished)
            polls += 1
            if polls in stops:
                source = pickle.loads(pickle.dumps(source))
                left = [[source.encode_split(s) for s in reader.snapshot()] for reader in readers]
                enumerator = source.create_enumerator(enumerator.snapshot())
                parallelism = max(1, parallelism - 1)
                readers = [source.create_reader(reader_context(k, parallelism)) for k in range(parallelism)]
                splits = [source.decode_split(split) for splits in left for split in splits]
                for k, reader in enumerate(readers):
                    reader.add_splits(splits[k::parallelism])
                open_readers = set(range(parallelism))
                break
    return rows


@settings(max_examples=60, deadline=None)
@given(st.integers(-5, 5), st.integers(-6, 60), st.integers(1, 4), st.integers(1, 9), st.sets(st.integers(1, 30)))
def test_a_sequence_gives_every_number_once(start: int, end: int, parallelism: int, size: int, stops: set[int]) -> None:
    rows = read_all(SequenceSource(start, end), parallelism, size, stops)
    assert sorted(rows) == list(range(start, end + 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text() | st.integers()), st.integers(1, 3), st.integers(1, 9), st.sets(st.integers(1, 30)))
def test_a_collection_keeps_its_order(values: list[Any], parallelism: int, size: int, stops: set[int]) -> None:
    assert read_all(CollectionSource(values), parallelism, size, stops) == values


@pytest.mark.parametrize(
    ("values", "annotation"),
    [
        ([1, 2], int),
        ([Point(1)], Point),
        ([(1, "a"), (2, "b")], tuple[int, str]),
        ([1, 2.0], object),
        ([1, True], object),
        ([2**70], object),
        ([Point("a")], object),  # type: ignore[arg-type]
        ([{"a": 1}], object),
        ([], object),
    ],
)
def test_the_type_of_a_collection(values: list[Any], annotation: Any) -> None:
    assert CollectionSource(values).record_type == record_type_of(annotation)


def test_a_declared_type_must_fit() -> None:
    assert CollectionSource([1, None], int | None).record_type == record_type_of(int | None)
    assert CollectionSource([1], Any).record_type == OPAQUE
    with pytest.raises(RecordTypeError, match="declared int, but a record has a str"):
        CollectionSource([1, "a"], int)
    with pytest.raises(PipelineError, match="64 bits"):
        SequenceSource(0, 2**63)


def test_a_changed_record_does_not_change_the_collection() -> None:
    source = CollectionSource([Point(1)])
    source.read(0, 1).rows()[0].x = 5
    assert source.read(0, 1).rows() == [Point(1)]


def test_a_sequence_is_columns() -> None:
    assert SequenceSource(3, 5).read(3, 6).has_columns


@pytest.mark.parametrize(
    ("name", "subtask", "parallelism", "prefix"),
    [("", 0, 1, ""), ("", 1, 2, "2> "), ("late", 0, 1, "late> "), ("late", 1, 2, "late:2> ")],
)
def test_print(name: str, subtask: int, parallelism: int, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    writer = PrintSink(name).create_writer(writer_context(subtask, parallelism))
    writer.write(Batch.of_rows(OPAQUE, ["a", Point(1)]))
    assert writer.prepare_commit(CheckpointId(1)) == []
    assert capsys.readouterr().out == f"{prefix}a\n{prefix}Point(x=1)\n"


def test_collected_records_arrive_once_and_only_when_committed() -> None:
    collector = Collector()
    sink = pickle.loads(pickle.dumps(collector.sink()))
    writer, committer = sink.create_writer(writer_context()), sink.create_committer()
    writer.write(Batch.of_rows(OPAQUE, [1, 2]))
    first = writer.prepare_commit(CheckpointId(1))
    assert collector.take() == []
    committer.commit(first)
    committer.commit(first)
    assert writer.prepare_commit(CheckpointId(2)) == []
    writer.write(Batch.of_rows(OPAQUE, [1]))
    committer.commit(writer.prepare_commit(CheckpointId(3)))
    collector.finish()
    assert list(collector) == [1, 2, 1]


def test_the_failure_of_a_job_comes_after_its_records() -> None:
    collector = Collector()
    collector.add("a", [1])
    collector.finish(ValueError("boom"))
    rows = iter(collector)
    assert next(rows) == 1
    with pytest.raises(ValueError, match="boom"):
        next(rows)


def test_records_for_a_collector_of_another_process_are_not_dropped_silently() -> None:
    sink = Collector().sink()
    sink.key = "elsewhere"
    with pytest.raises(PipelineError, match="'collect', which does not exist in this process"):
        sink.create_committer().commit([])
