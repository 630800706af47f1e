"""Reading a source as the engine does, with checkpoints and restores on the way."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.connectors.files import FileSource
from penstock.connectors.files.source import FileSplit
from penstock.runtime.clock import Clock, SystemClock
from penstock.runtime.connector import (
    NeedsSplit,
    ReaderContext,
    ReaderEnd,
    SourceReader,
    SplitBatch,
    SplitFinished,
)
from penstock.runtime.metrics import MetricGroup


@dataclass
class SetClock:
    """A clock that stands still until it is set."""

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


def read_source(source: FileSource, max_rows: int = 100, stops: set[int] | None = None) -> list[SplitBatch]:
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
            reader = open_reader(source)
            reader.add_splits([source.decode_split(split) for split in left])
    raise AssertionError("the source never ends")


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def read() -> Callable[..., list[SplitBatch]]:
    return read_source


@pytest.fixture(scope="session")
def set_clock() -> type[SetClock]:
    return SetClock


@pytest.fixture(scope="session")
def reader_of() -> Callable[..., SourceReader[FileSplit]]:
    return open_reader
