"""Sources that need nothing outside: a collection of Python values, a sequence of numbers.

Both read *ranges*: a split is a range of positions of which the front is already read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from ..runtime.batch import Batch
from ..runtime.connector import (
    NeedsSplit,
    NotReady,
    PollResult,
    ReaderContext,
    ReaderEnd,
    Source,
    SourceReader,
    SplitBatch,
    SplitEnumerator,
    SplitFinished,
)
from ..runtime.records.record_types import OPAQUE, OpaqueType, RecordType, record_type_of
from ..state.errors import PipelineError, RecordTypeError


@dataclass(frozen=True, slots=True)
class RangeSplit:
    """Positions start .. end (exclusive) are still to be read."""

    id: str
    start: int
    end: int


class RangeSource(Source[RangeSplit]):
    """A bounded source over the positions start .. end (exclusive)."""

    bounded = True
    start: int
    end: int

    @abstractmethod
    def read(self, start: int, end: int) -> Batch: ...

    def cut(self, parallelism: int) -> list[RangeSplit]:
        """The splits when `parallelism` readers ask for them."""
        return [RangeSplit("0", self.start, self.end)]

    def create_enumerator(self, restored: bytes | None) -> SplitEnumerator[RangeSplit]:
        return RangeEnumerator(self, restored)

    def create_reader(self, context: ReaderContext) -> SourceReader[RangeSplit]:
        return RangeReader(self)

    def split_id(self, split: RangeSplit) -> str:
        return split.id

    def encode_split(self, split: RangeSplit) -> bytes:
        return msgspec.json.encode(split)

    def decode_split(self, state: bytes) -> RangeSplit:
        return msgspec.json.decode(state, type=RangeSplit)


class RangeEnumerator(SplitEnumerator[RangeSplit]):
    """Cuts the range when the first reader asks: only then is the parallelism known."""

    def __init__(self, source: RangeSource, restored: bytes | None) -> None:
        self._source = source
        self._waiting: list[RangeSplit] | None = None
        if restored is not None:
            self._waiting = msgspec.json.decode(restored, type=list[RangeSplit] | None)

    def discover(self) -> None: ...

    def discovered(self, found: Any) -> None: ...

    def next_splits(self, subtask: int, parallelism: int) -> list[RangeSplit] | None:
        if self._waiting is None:
            self._waiting = self._source.cut(parallelism)
        return [self._waiting.pop(0)] if self._waiting else None

    def snapshot(self) -> bytes:
        return msgspec.json.encode(self._waiting)


class RangeReader(SourceReader[RangeSplit]):
    """Reads its ranges one after the other, those that pause after the others."""

    pauses_splits = True

    def __init__(self, source: RangeSource) -> None:
        self._source = source
        self._splits: deque[RangeSplit] = deque()
        self._paused: frozenset[str] = frozenset()
        self._last = False

    def add_splits(self, splits: Sequence[RangeSplit]) -> None:
        self._put_first([*self._splits, *splits])

    def no_more_splits(self) -> None:
        self._last = True

    def pause_splits(self, split_ids: frozenset[str]) -> None:
        self._paused = split_ids
        self._put_first(self._splits)

    def _put_first(self, splits: Iterable[RangeSplit]) -> None:
        """Those that do not pause, which must be read whatever the others wait for."""
        self._splits = deque(sorted(splits, key=lambda split: split.id in self._paused))

    def poll(self, max_rows: int) -> PollResult:
        if not self._splits:
            return ReaderEnd() if self._last else NeedsSplit()
        split = self._splits[0]
        if split.id in self._paused:
            return NotReady()
        if split.start >= split.end:
            self._splits.popleft()
            return SplitFinished(split.id)
        end = min(split.start + max_rows, split.end)
        batch = self._source.read(split.start, end)
        self._splits[0] = replace(split, start=end)
        return SplitBatch(split.id, batch)

    def lag_records(self) -> int:
        return sum(split.end - split.start for split in self._splits)

    def snapshot(self) -> list[RangeSplit]:
        return list(self._splits)


class CollectionSource(RangeSource):
    """The values in their order, read by one subtask.

    record_type: annotation or record type; without one, that of the values if they are all of one type, else opaque.
    """

    gives_timestamps = False

    def __init__(self, values: Iterable[Any], record_type: Any = None) -> None:
        self.values = list(values)
        self.start, self.end = 0, len(self.values)
        if record_type is None:
            self.record_type = infer_record_type(self.values)
        else:
            self.record_type = record_type_of(record_type)
            if not self.record_type.opaque:
                self.record_type.to_columns(self.values)

    def read(self, start: int, end: int) -> Batch:
        """Copies: a function may change its records, and after a failure they are read again."""
        return Batch.of_rows(self.record_type, self.record_type.copy_rows(self.values[start:end]))


def infer_record_type(values: Sequence[Any]) -> RecordType:
    """The type of these values, from the first one, if all of them are exactly of it."""
    if not values:
        return OPAQUE
    kinds = set(map(type, values))
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        return OpaqueType(f"the values are of several types: {names}")
    first = values[0]
    annotation: Any = type(first)
    if annotation is tuple:
        annotation = tuple.__class_getitem__(tuple(map(type, first)))
    record_type = record_type_of(annotation)
    try:
        if not record_type.opaque:
            record_type.to_columns(list(values))
    except RecordTypeError as error:
        return OpaqueType(str(error))
    return record_type


class SequenceSource(RangeSource):
    """The integers start .. end, both included (as Flink's number sequence), as a column `value`."""

    gives_timestamps = False
    record_type = record_type_of(int)

    def __init__(self, start: int, end: int) -> None:
        if start < -(2**63) or end >= 2**63 - 1:
            raise PipelineError(f"a number sequence must lie within 64 bits, not {start} .. {end}")
        self.start, self.end = start, max(start, end + 1)

    def cut(self, parallelism: int) -> list[RangeSplit]:
        count = self.end - self.start
        bounds = [self.start + count * i // parallelism for i in range(parallelism + 1)]
        return [RangeSplit(str(i), bounds[i], bounds[i + 1]) for i in range(parallelism)]

    def read(self, start: int, end: int) -> Batch:
        numbers = pa.array(np.arange(start, end, dtype=np.int64))
        return Batch.of_columns(self.record_type, pa.RecordBatch.from_arrays([numbers], schema=self.record_type.schema))
