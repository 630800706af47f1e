"""One record per key: the first, or the last one (Flink's deduplication).

    keep first, by arrival       given out at once; the key is remembered, and its other records are dropped
    keep first, by event time    the earliest, given out when the watermark has come to it, for then it stays the
                                 earliest; of equal times the one that came first
    keep last, by arrival        a changelog: +I, and with every further record -U of the one before and +U
    keep last, by event time     likewise; a record that is earlier than what is kept is dropped
    keep last, in batch mode     at the end +I of the record that is left of each key, nothing else

A late record is a record like others: a key whose only record is late is not lost. With keep first it is given out
with the next watermark.

With a TTL a key that is forgotten begins anew: `ttl` counts from its first record (keep first) or from its newest (keep
last), by the clock. Without one a last record that equals the one before changes nothing, so nothing is given out.

What stays after the end of the input, as in Flink: the keys that were seen, or the last records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...state.backend import VOID_NAMESPACE
from ...state.descriptors import ValueStateDescriptor
from ...state.ttl_config import StateTtlConfig
from ..batch import Batch
from ..changelog import ChangelogMode, RowKind, alike
from ..elements import MAX_WATERMARK
from ..keys import KeySelector
from ..records.record_types import RecordType
from .keyed import KeyedOperator
from .operator import Operator, OperatorContext, RestoredState
from .running import RunningReduceOperator, state_type
from .timed import TimedOperator, times_of
from .user_code import Collector, raise_user_error, shown

_INSERT, _BEFORE, _AFTER = int(RowKind.INSERT), int(RowKind.UPDATE_BEFORE), int(RowKind.UPDATE_AFTER)

Timed = tuple[int, Any]
"""A record and its time."""


class _Seen:
    """The keys that have given out their first record."""

    def __init__(self, operator: KeyedOperator, ttl: StateTtlConfig | None) -> None:
        self._backend = operator.backend
        descriptor: ValueStateDescriptor[bool] = ValueStateDescriptor("seen", bool, ttl=ttl)
        self._state = self._backend.value_state(descriptor)
        self._expires = ttl is not None

    def first_positions(self, keys: list[Any]) -> list[int]:
        """Of every key that was not seen the first place; it counts as seen from now on."""
        if self._expires:  # a fold would begin the TTL of every key anew
            return [position for key, position in first_of_each(keys).items() if self._is_new(key)]
        positions: list[int] = []

        def step(seen: bool | None, position: int) -> bool:
            if seen is None:
                positions.append(position)
            return True

        self._state.fold(keys, range(len(keys)), step)
        return positions

    def _is_new(self, key: Any) -> bool:
        if self.has(key):
            return False
        self._state.update(True)
        return True

    def has(self, key: Any) -> bool:
        """Makes it the current key."""
        self._backend.set_current_key(key)
        return self._state.value() is not None

    def add_current(self) -> None:
        self._state.update(True)


def first_of_each(keys: list[Any]) -> dict[Any, int]:
    positions: dict[Any, int] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, position)
    return positions


class KeepFirstOperator(KeyedOperator):
    """By arrival."""

    def __init__(self, selector: KeySelector, output_type: RecordType, ttl: StateTtlConfig | None) -> None:
        super().__init__(selector, output_type)
        self.ttl = ttl

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._seen = _Seen(self, self.ttl)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        positions = self._seen.first_positions(self.keys(batch))
        if len(positions) == len(batch):
            self.output.emit(batch)
        elif positions:
            self.output.emit(batch.keep(positions))


class KeepEarliestOperator(TimedOperator):
    """By event time."""

    def __init__(self, selector: KeySelector, output_type: RecordType, ttl: StateTtlConfig | None) -> None:
        super().__init__(selector, output_type)
        self.ttl = ttl

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._seen = _Seen(self, self.ttl)
        descriptor: ValueStateDescriptor[Timed] = ValueStateDescriptor("earliest", _timed_type(self.output_type))
        self._earliest = self.backend.value_state(descriptor)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        keys, times = self.keys(batch), times_of(self, batch, "deduplication by event time")
        new = {key for key in dict.fromkeys(keys) if not self._seen.has(key)}
        positions = [position for position, key in enumerate(keys) if key in new]
        rows = self.output_type.copy_rows(batch.rows()) if positions else []

        def step(earliest: Timed | None, position: int) -> Timed:
            at = times[position]
            if earliest is not None and earliest[0] <= at:
                return earliest
            self.timers.register_for(keys[position], at, 0)
            return at, rows[position]

        self._earliest.fold([keys[position] for position in positions], positions, step)

    def give_out(self, key: Any, timestamp: int, results: Collector) -> None:
        earliest = self._earliest.value()
        if earliest is not None and earliest[0] <= timestamp:
            results.rows.append(earliest[1])
            results.timestamps.append(earliest[0])
            self._earliest.clear()
            self._seen.add_current()


class KeepLastOperator(KeyedOperator):
    """By arrival or by event time: a changelog."""

    def __init__(
        self, selector: KeySelector, output_type: RecordType, ttl: StateTtlConfig | None, *, by_event_time: bool
    ) -> None:
        super().__init__(selector, output_type)
        self.ttl = ttl
        self.by_event_time = by_event_time

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return ChangelogMode.ALL

    def in_batch_mode(self) -> Operator:
        last = LastOfAllOperator(self.selector, None, self.output_type)
        last.by_event_time = self.by_event_time
        return last.flagged_for_batch_mode()

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        kind = _timed_type(self.output_type)
        descriptor: ValueStateDescriptor[Timed] = ValueStateDescriptor("last", kind, ttl=self.ttl)
        self._last = self.backend.value_state(descriptor)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        keys, rows, stamps = self.keys(batch), batch.rows(), batch.timestamp_list()
        times = times_of(self, batch, "deduplication by event time") if self.by_event_time else [0] * len(rows)
        kept = self.output_type.copy_rows(rows)
        given: list[Any] = []
        kinds: list[int] = []
        timestamps: list[int] = []
        always = self.ttl is not None

        def step(last: Timed | None, position: int) -> Timed:
            at, row = times[position], rows[position]
            if last is None:
                given.append(row)
                kinds.append(_INSERT)
                timestamps.append(stamps[position])
            elif at < last[0]:
                return last
            elif not always and alike(last[1], row):
                return at, last[1]  # that was given out: 1 equals True, and is another record
            else:
                given.extend((last[1], row))
                kinds.extend((_BEFORE, _AFTER))
                timestamps.extend((stamps[position], stamps[position]))
            return at, kept[position]

        try:
            self._fold(keys, step)
        except Exception as error:
            raise_user_error(self.context, error, f"in a batch that begins with {shown(rows[0])}")
        if given:
            changes = Batch.of_rows(self.output_type, given, timestamps)
            changes.row_kinds = np.array(kinds, np.int8)
            self.output.emit(changes)

    def _fold(self, keys: list[Any], step: Callable[[Timed | None, int], Timed]) -> None:
        if self.ttl is None or not self.by_event_time:
            self._last.fold(keys, range(len(keys)), step)
            return
        for position, key in enumerate(keys):  # the TTL goes on of what an earlier record leaves as it is
            self.backend.set_current_key(key)
            last = self._last.value()
            newest = step(last, position)
            if newest is not last:
                self._last.update(newest)


class LastOfAllOperator(RunningReduceOperator):
    """Keep last in batch mode: insertions, of the record that is left of each key. (Which a TTL does not change.)"""

    by_event_time: bool

    def process_batch(self, batch: Batch, input_index: int) -> None:
        keys = self.keys(batch)
        if not self.by_event_time:
            self._state.fold(keys, batch.rows(), lambda _, row: row)
            self._give_out(batch, keys, [])
            return
        times = times_of(self, batch, "deduplication by event time")
        newer: list[int] = []

        def step(newest: int | None, position: int) -> int:
            if newest is None:
                self._ends.register_for(keys[position], MAX_WATERMARK, VOID_NAMESPACE)
            elif times[position] < newest:
                return newest
            newer.append(position)
            return times[position]

        self._last_times.fold(keys, range(len(keys)), step)
        rows = batch.rows()
        self._state.fold([keys[at] for at in newer], [rows[at] for at in newer], lambda _, row: row)


def _timed_type(record_type: RecordType) -> Any:
    """Of state that holds a record and its time."""
    kind: Any = state_type(record_type)
    return None if kind is None else tuple[int, kind]
