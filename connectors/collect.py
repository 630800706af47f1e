"""Results handed back to the program that runs the job: `execute_and_collect()`.

The sink's committables carry the records themselves, so a record reaches the program exactly once, when the
checkpoint it belongs to is complete: the committer gives it to the collector of that name in this process, which
knows what it was given before. A program that was killed and runs again gets the records of checkpoints that were
not confirmed before; earlier ones were handed to the killed process.
"""

from __future__ import annotations

import itertools
import pickle
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..runtime.batch import Batch
from ..runtime.connector import Committer, Sink, SinkWriter, WriterContext
from ..state.errors import PipelineError
from ..state.ids import CheckpointId
from ..state.pickling import dumps

_collectors: dict[str, Collector] = {}
_numbers = itertools.count()


class Collector:
    """Where the records of one CollectSink arrive. Iterating waits for records until `finish` is called."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name if name is not None else f"collect-{next(_numbers)}"
        self._seen: set[str] = set()
        self._rows: deque[Any] = deque()
        self._finished = False
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()
        _collectors[self.name] = self

    def sink(self) -> CollectSink:
        return CollectSink(self.name)

    def add(self, committable: str, rows: list[Any]) -> None:
        """Takes the records of a committable; a second time it does nothing."""
        with self._changed:
            if committable not in self._seen and not self._closed:
                self._seen.add(committable)
                self._rows.extend(rows)
                self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """No records will follow; iterating raises the error after the last one."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def take(self) -> list[Any]:
        """What has arrived and was not taken yet, without waiting."""
        with self._changed:
            rows = list(self._rows)
            self._rows.clear()
            return rows

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._finished)
                if not self._rows:
                    break
                row = self._rows.popleft()
            yield row
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Nobody is interested any more: what still arrives is dropped."""
        with self._changed:
            self._closed = True
            self._rows.clear()


class CollectSink(Sink):
    """Exactly-once into the Collector of that name in this process."""

    def __init__(self, collector: str) -> None:
        self.collector = collector

    def create_writer(self, context: WriterContext) -> SinkWriter:
        return _CollectWriter(context)

    def create_committer(self) -> Committer:
        return _CollectCommitter(self.collector)


@dataclass(frozen=True, slots=True)
class _Collected:
    id: str
    rows: list[Any]


class _CollectWriter(SinkWriter):
    def __init__(self, context: WriterContext) -> None:
        self._context = context
        self._rows: list[Any] = []

    def write(self, batch: Batch) -> None:
        self._rows.extend(batch.rows())

    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        if not self._rows:
            return []
        collected = _Collected(self._context.new_name(), self._rows)
        self._rows = []
        return [dumps(collected)]


class _CollectCommitter(Committer):
    def __init__(self, collector: str) -> None:
        self._collector = collector

    def commit(self, committables: Sequence[bytes]) -> None:
        collector = _collectors.get(self._collector)
        if collector is None:
            raise PipelineError(f"records are collected for {self._collector!r}, which does not exist in this process")
        for committable in committables:
            collected: _Collected = pickle.loads(committable)
            collector.add(collected.id, collected.rows)
