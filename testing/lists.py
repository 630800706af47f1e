"""A source over a list and a sink into one, for tests of pipelines.

`ListSource` reads its values as often as the job restarts, and fails where the test says so: every `FAIL` among the
values makes the reader raise `InjectedFailure` when it gets there, once in the life of the process; the next attempt
reads past it. So `ListSource([1, 2, FAIL, 3])` gives 1, 2, then a failure, and after the restart, from the last
checkpoint on, everything up to 3.

`ListSink("name")` is exactly-once: results become visible when their checkpoint is committed, or at the end of a job
without checkpoints. `ListSink.results("name")` is what is visible so far, over all attempts and jobs since
`ListSink.clear("name")`. Both are for one process: the local runner and the simulator.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..connectors.collections import RangeReader, RangeSource, RangeSplit, infer_record_type
from ..runtime.batch import Batch
from ..runtime.changelog import EVERYTHING, ChangelogMode, changes
from ..runtime.connector import (
    Committer,
    NotReady,
    PollResult,
    ReaderContext,
    Sink,
    SinkWriter,
    SourceReader,
    SplitBatch,
    WriterContext,
)
from ..runtime.records.record_types import record_type_of
from ..state.errors import PenstockError
from ..state.ids import CheckpointId
from ..state.serialization.pickling import dumps


class InjectedFailure(PenstockError):
    """A failure that a test asked for."""


class Fail:
    """The type of FAIL; unpickles to the one mark."""

    def __reduce__(self) -> str:
        return "FAIL"

    def __repr__(self) -> str:
        return "FAIL"


FAIL = Fail()
"""Among the values of a ListSource: raise here, the first time."""

_numbers = itertools.count()
_failed: set[tuple[int, int]] = set()
"""(source, position) of the marks that have raised in this process."""


class ListSource(RangeSource):
    """The values in `splits` consecutive parts, handed out one by one to the subtasks that ask.

    timestamps: callable(value) -> event time in ms; without it the watermark strategy's assigner gives them.
    batch_rows: most rows a reader gives at once. pause_ms: how long it has nothing after each batch.
    record_type: annotation or record type; without one that of the values, if they are all of one type, else opaque.
    """

    in_process = True

    def __init__(
        self,
        values: Iterable[Any],
        *,
        splits: int = 1,
        timestamps: Callable[[Any], int] | None = None,
        batch_rows: int = 1_000,
        pause_ms: int = 0,
        record_type: Any = None,
    ) -> None:
        self.values = list(values)
        self.start, self.end = 0, len(self.values)
        self.splits = max(1, splits)
        self.timestamps = timestamps
        self.batch_rows = batch_rows
        self.pause_ms = pause_ms
        self.number = next(_numbers)
        """Shared by all copies: whose marks have raised."""
        real = [value for value in self.values if not isinstance(value, Fail)]
        self.record_type = infer_record_type(real) if record_type is None else record_type_of(record_type)

    def cut(self, parallelism: int) -> list[RangeSplit]:
        bounds = [len(self.values) * i // self.splits for i in range(self.splits + 1)]
        return [RangeSplit(str(i), bounds[i], bounds[i + 1]) for i in range(self.splits)]

    def create_reader(self, context: ReaderContext) -> SourceReader[RangeSplit]:
        return _ListReader(self, context)

    def read(self, start: int, end: int) -> Batch:
        """Copies: a function may change its records, and after a failure they are read again."""
        rows = [value for value in self.values[start:end] if not isinstance(value, Fail)]
        timestamps = None if self.timestamps is None else [self.timestamps(row) for row in rows]
        return Batch.of_rows(self.record_type, self.record_type.copy_rows(rows), timestamps)

    def pass_marks(self, start: int, end: int) -> int:
        """Where to stop reading: before the next mark that has not raised. Raises if that is the first position."""
        for position in range(start, end):
            if isinstance(self.values[position], Fail) and (self.number, position) not in _failed:
                if position > start:
                    return position
                _failed.add((self.number, position))
                raise InjectedFailure(f"the mark at position {position} of the list")
        return end


class _ListReader(RangeReader):
    def __init__(self, source: ListSource, context: ReaderContext) -> None:
        super().__init__(source)
        self._list = source
        self._clock = context.clock
        self._pause_until_ms = 0

    def poll(self, max_rows: int) -> PollResult:
        now_ms = self._clock.now_ms()
        if now_ms < self._pause_until_ms:
            return NotReady(self._pause_until_ms)
        most = min(max_rows, self._list.batch_rows)
        if self._splits and self._splits[0].start < self._splits[0].end and self._splits[0].id not in self._paused:
            split = self._splits[0]
            most = self._list.pass_marks(split.start, min(split.start + most, split.end)) - split.start
        result = super().poll(most)
        if isinstance(result, SplitBatch):
            self._pause_until_ms = now_ms + self._list.pause_ms
        return result


class ListSink(Sink):
    """Everything into the list of that name; records of a changelog as `Change(kind, record)`."""

    in_process = True
    accepted_modes = EVERYTHING

    def __init__(self, name: str) -> None:
        self.name = name

    @staticmethod
    def results(name: str) -> list[Any]:
        """What has been committed, in the order of the commits."""
        return [row for rows in _results.get(name, {}).values() for row in rows]

    @staticmethod
    def clear(name: str | None = None) -> None:
        """Without a name: those of all names."""
        for known in list(_results) if name is None else [name]:
            _results.pop(known, None)

    def create_writer(self, context: WriterContext) -> SinkWriter:
        return _ListWriter(context)

    def create_committer(self) -> Committer:
        return _ListCommitter(self.name)


_results: dict[str, dict[str, list[Any]]] = {}
"""Name of the sink -> id of the committable -> its rows."""


class _ListWriter(SinkWriter):
    def __init__(self, context: WriterContext) -> None:
        self._new_name = context.new_name
        self._plain = context.changelog_mode is ChangelogMode.INSERT_ONLY
        self._rows: list[Any] = []

    def write(self, batch: Batch) -> None:
        self._rows.extend(batch.rows() if self._plain else changes(batch.rows(), batch.row_kinds))

    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        if not self._rows:
            return []
        rows, self._rows = self._rows, []
        return [dumps((self._new_name(), rows))]


class _ListCommitter(Committer):
    def __init__(self, name: str) -> None:
        self._name = name

    def commit(self, committables: Sequence[bytes]) -> None:
        visible = _results.setdefault(self._name, {})
        for committable in committables:
            id_, rows = pickle.loads(committable)
            visible.setdefault(id_, rows)
