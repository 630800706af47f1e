"""Results handed back to the program that runs the job: `execute_and_collect()`.

The sink's committables carry the records themselves, so a record reaches the program exactly once, when the
checkpoint it belongs to is complete. Who runs the committer decides where it goes:

- a job in this process: to the Collector of the sink, which knows what it was given before. A program that was killed
  and runs again gets the records of checkpoints that were not confirmed before; earlier ones were handed to the
  killed process.
- on a cluster, in the process of the job's master: to the store that this process keeps (`keep_collected`), under the
  sink's name, from where clients fetch it. The name is unique in the job, and the same when the same script submits
  it again.
"""

from __future__ import annotations

import itertools
import pickle
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ..runtime.batch import Batch
from ..runtime.changelog import EVERYTHING, ChangelogMode, changes
from ..runtime.connector import Committer, Sink, SinkWriter, WriterContext
from ..state.errors import PipelineError
from ..state.ids import CheckpointId
from ..state.serialization.pickling import dumps

COLLECT = "collect"
"""Kind of the operators that collect; each has its collector's name."""

_collectors: dict[str, Collector] = {}
_numbers = itertools.count()
_store: CollectedStore | None = None


class CollectedStore(Protocol):
    """Keeps collected records for clients that fetch them."""

    def add(self, collector: str, committable: str, rows: list[Any]) -> None:
        """May block, may be called from several threads; the same committable again does nothing."""
        ...


def keep_collected(store: CollectedStore | None) -> None:
    """From now on committers of this process hand records to `store`; None: to the collectors of this process."""
    global _store
    _store = store


class Collector:
    """Where the records of one CollectSink arrive. Iterating waits for records until `finish` is called."""

    def __init__(self, name: str = "collect") -> None:
        """`name`: unique in the job."""
        self.name = name
        self.key = f"{name}#{next(_numbers)}"
        """Unique in this process."""
        self._seen: set[str] = set()
        self._rows: deque[Any] = deque()
        self._finished = False
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()
        _collectors[self.key] = self

    def sink(self) -> CollectSink:
        return CollectSink(self.name, self.key)

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
    """Exactly-once to whoever called execute_and_collect. Records of a changelog come as `Change(kind, record)`."""

    accepted_modes = EVERYTHING

    def __init__(self, collector: str, key: str) -> None:
        """`collector`: the name clients fetch by; `key`: of the Collector, if the job runs in its process."""
        self.collector = collector
        self.key = key

    def create_writer(self, context: WriterContext) -> SinkWriter:
        return _CollectWriter(context)

    def create_committer(self) -> Committer:
        return _CollectCommitter(self.collector, self.key)


@dataclass(frozen=True, slots=True)
class _Collected:
    id: str
    rows: list[Any]


class _CollectWriter(SinkWriter):
    def __init__(self, context: WriterContext) -> None:
        self._context = context
        self._rows: list[Any] = []

    def write(self, batch: Batch) -> None:
        plain = self._context.changelog_mode is ChangelogMode.INSERT_ONLY
        self._rows.extend(batch.rows() if plain else changes(batch.rows(), batch.row_kinds))

    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        if not self._rows:
            return []
        collected = _Collected(self._context.new_name(), self._rows)
        self._rows = []
        return [dumps(collected)]


class _CollectCommitter(Committer):
    def __init__(self, name: str, key: str) -> None:
        self._name = name
        self._key = key

    def commit(self, committables: Sequence[bytes]) -> None:
        add = self._collector().add if _store is None else partial(_store.add, self._name)
        for committable in committables:
            collected: _Collected = pickle.loads(committable)
            add(collected.id, collected.rows)

    def _collector(self) -> Collector:
        collector = _collectors.get(self._key)
        if collector is None:
            raise PipelineError(f"records are collected for {self._name!r}, which does not exist in this process")
        return collector
