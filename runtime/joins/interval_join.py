"""Interval join: of two keyed streams every left record with every right one whose time lies in an interval around its
own, `left + lower <= right <= left + upper` (both in it, ms).

Each side keeps, per key, the records that can still meet others, in the order of time: one value per key. A batch is
joined with what the other side keeps, and then kept itself, so what comes out does not depend on how the streams are
cut. Records older than the watermark are late: counted, and given to their side's late output.

A record is *decided* once every later partner would be late: at its time + reach, where reach is `upper + 1` for the
left side and `1 - lower` for the right one, and at least 1. Then it can go:

    timers "event"      (key, side): something of it can go; registered with the first record that a key keeps, and
                        again while there are others; a record may so stay for a second reach
    timers "undecided"  (key, side) at the time when a record is decided; only of sides that are given out without a
                        partner (how), and of records that had none when they came

Of a side that is kept by `how`, a record whose undecided timer finds it without a partner is given out with None in
the partner's place. Its time is that of the timer: the watermark has passed the record's own, and results must not be
late for whoever comes next. Results of pairs carry the later of the two times.

All timers fire with the last watermark of a bounded input, so nothing is left then.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, cast

import numpy as np

from ...state.backend import Timers
from ...state.descriptors import ValueStateDescriptor
from ...state.errors import RecordTypeError
from ...state.rows.handles import CachedValueState
from ..batch import NO_TIMESTAMP, Batch
from ..elements import MIN_WATERMARK, Watermark
from ..functions import OutputTag, RuntimeContext, close_function, open_function
from ..keys import KeySelector
from ..operators.co_process import KeysOfTwoInputs
from ..operators.keyed import ROWS_AT_ONCE, TIMERS_AT_ONCE, KeyedOperator
from ..operators.operator import Firing, OperatorContext, RestoredState
from ..operators.running import state_type
from ..operators.user_code import Collector, raise_user_error, shown
from ..records.record_types import RecordType
from ..windows.windows import MAX_TIMESTAMP
from .functions import LEFT, RIGHT, JoinContext, gives_what_may_change, kept_sides
from .pair_calls import PairCall

Entry = tuple[int, Any, bool]
"""Time, record, and, of a side that is given out without partners, whether it had one."""
_NAMES = ("left", "right")
_AT = itemgetter(0)


class IntervalJoinOperator(KeysOfTwoInputs, KeyedOperator):
    """Runs a ProcessJoinFunction, a JoinFunction, or a callable like one of their methods."""

    def __init__(
        self,
        selectors: tuple[KeySelector, KeySelector],
        call: PairCall,
        types: tuple[RecordType, RecordType],
        output_type: RecordType,
        *,
        lower_ms: int,
        upper_ms: int,
        how: str = "inner",
        late_tags: tuple[str | None, str | None] = (None, None),
        side_tags: frozenset[str] = frozenset(),
    ) -> None:
        """types: of the two sides, so that their state is typed. PipelineError for what is no way to join."""
        super().__init__(selectors[0], output_type, side_tags | {tag for tag in late_tags if tag is not None})
        self.selectors = selectors
        self.call = call
        self.types = types
        self.kept = kept_sides(how)
        self.late_tags = late_tags
        self._offsets = ((lower_ms, upper_ms), (-upper_ms, -lower_ms))
        """From a record's time to those of its partners, by its side."""
        self._reach = (max(1, upper_ms + 1), max(1, 1 - lower_ms))
        self._tagged = bool(side_tags)
        self._apart = gives_what_may_change(call.function, types)

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._late = context.metrics.counter("records_late_total")
        self._expiry, self._undecided = self.backend.timers("event"), self.backend.timers("undecided")
        self._states = [self._state_of(side) for side in (LEFT, RIGHT)]
        self._at_hand = AtHand(self)
        self._decided_at = MIN_WATERMARK
        """All timers up to here have fired. After a restore nobody knows: a barrier may have come amid a firing."""
        try:
            open_function(self.call.function, RuntimeContext(context, self.backend))
        except Exception as error:
            raise_user_error(context, error, "in open()")
        self._join = self.call.bound(self._at_hand)

    def _state_of(self, side: int) -> CachedValueState[Any]:
        record = state_type(self.types[side])
        kind = None if record is None else tuple[tuple[int, record, bool], ...]  # type: ignore[valid-type]
        descriptor: ValueStateDescriptor[Any] = ValueStateDescriptor(_NAMES[side], kind)
        return cast(CachedValueState[Any], self.backend.value_state(descriptor))

    # records

    def process_batch(self, batch: Batch, input_index: int) -> None:
        batch = self._in_time(batch, input_index)
        if not len(batch):
            return
        keys, rows, times = self.keys(batch, input_index), batch.rows(), batch.timestamp_list()
        met = self._meet(input_index, keys, rows, times)
        self._keep(input_index, keys, rows, times, met)

    def _in_time(self, batch: Batch, side: int) -> Batch:
        if not len(batch):
            return batch
        times = batch.timestamps()
        if (times == NO_TIMESTAMP).any():
            record = shown(batch.keep([int(times.argmin())]).rows()[0])
            raise RecordTypeError(
                f"operator '{self.context.operator_name}': an interval join needs timestamps, and the record {record} "
                f"of the {_NAMES[side]} side has none; give the source a WatermarkStrategy with a timestamp assigner, "
                "or call assign_timestamps_and_watermarks(...)"
            )
        if (times > MAX_TIMESTAMP - self._reach[side]).any():
            raise RecordTypeError(
                f"operator '{self.context.operator_name}': a record of the {_NAMES[side]} side is at the end of all "
                "time, as results of count windows and global windows are, and no interval reaches beyond that; call "
                "assign_timestamps_and_watermarks(...) before this join"
            )
        late = times < self.current_watermark
        if not late.any():
            return batch
        positions, tag = np.flatnonzero(late).tolist(), self.late_tags[side]
        self._late.inc(len(positions))
        if tag is not None:
            self.output.emit_side(tag, batch.keep(positions))
        return batch.keep(np.flatnonzero(~late).tolist())

    def _meet(self, side: int, keys: Sequence[Any], rows: Sequence[Any], times: Sequence[int]) -> list[bool]:
        """Give out the pairs of these records; which of them have a partner."""
        collector = self._at_hand.collector = self._new_collector()
        set_key, join = self.backend.set_current_key, self._join
        lower, upper = self._offsets[side]
        found: dict[Any, list[tuple[int, int]]] | None = {} if self.kept[1 - side] else None
        met = []
        row: Any = None
        try:
            for key, row, at, kept in zip(keys, rows, times, self._states[1 - side].values_of(keys), strict=True):
                first, last = _between(kept, at + lower, at + upper) if kept else (0, 0)
                met.append(first < last)
                if first < last:
                    set_key(key)
                    join(collector, side, row, at, kept[first:last], self._apart)
                    if found is not None:
                        found.setdefault(key, []).append((first, last))
                    if len(collector.rows) >= ROWS_AT_ONCE:
                        collector.emit()
        except Exception as error:
            raise_user_error(self.context, error, f"on the record {shown(row)} of the {_NAMES[side]} side")
        collector.emit()
        self._mark(1 - side, found or {})
        return met

    def _mark(self, side: int, found: dict[Any, list[tuple[int, int]]]) -> None:
        """Records of these positions had a partner."""
        state = self._states[side]
        for (key, places), kept in zip(found.items(), state.values_of(list(found)), strict=True):
            new = {i for first, last in places for i in range(first, last) if not kept[i][2]}
            if new:
                self.backend.set_current_key(key)
                state.update(tuple([(e[0], e[1], True) if i in new else e for i, e in enumerate(kept)]))

    def _keep(
        self, side: int, keys: Sequence[Any], rows: Sequence[Any], times: Sequence[int], met: Sequence[bool]
    ) -> None:
        reach = self._reach[side]
        oldest = self._decided_at - reach + 1
        new: dict[Any, list[Entry]] = {}
        for key, entry in zip(keys, zip(times, rows, met, strict=True), strict=True):
            own = new.get(key)
            if own is None:
                new[key] = [entry]
            else:
                own.append(entry)
        begun: list[Any] = []

        def step(kept: tuple[Entry, ...] | None, key: Any) -> tuple[Entry, ...]:
            own = new[key]
            if len(own) > 1:
                own.sort(key=_AT)
            if kept is None:
                begun.append(key)
                return tuple(own)
            if kept[0][0] < oldest:
                kept = kept[bisect_left(kept, oldest, key=_AT) :]
            if not kept or kept[-1][0] <= own[0][0]:
                return (*kept, *own)
            return tuple(sorted((*kept, *own), key=_AT))

        self._states[side].fold(list(new), list(new), step)
        register = self._expiry.register_for
        for key in begun:
            register(key, new[key][-1][0] + reach, side)
        if self.kept[side]:
            for key, at, has_partner in zip(keys, times, met, strict=True):
                if not has_partner:
                    self._undecided.register_for(key, at + reach, side)

    # time

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        collector = self._firing = self._new_collector()
        while due := _due(self._undecided, watermark.timestamp, TIMERS_AT_ONCE):
            self._at_hand.collector = collector
            for timestamp, key, side in due:
                self._decide(collector, timestamp, key, side)
            if collector.held >= ROWS_AT_ONCE:
                collector.emit()
            self.backend.between_batches()
            yield
        collector.emit()
        self._decided_at = watermark.timestamp
        while due := _due(self._expiry, watermark.timestamp, ROWS_AT_ONCE):
            for side in (LEFT, RIGHT):
                self._let_go(side, [key for _, key, of in due if of == side])
            self.backend.between_batches()
            yield

    def _decide(self, collector: Collector, timestamp: int, key: Any, side: int) -> None:
        """A key's records of that time that have had no partner will have none."""
        at = timestamp - self._reach[side]
        (kept,) = self._states[side].values_of((key,))
        self.backend.set_current_key(key)
        first, last = _between(kept, at, at)
        for _at, row, had_partner in kept[first:last]:
            if not had_partner:
                try:
                    self._join(collector, side, row, at, ((timestamp, None, False),), self._apart)
                except Exception as error:
                    doing = f"on the record {shown(row)} of the {_NAMES[side]} side, which has no partner"
                    raise_user_error(self.context, error, doing)

    def _let_go(self, side: int, keys: Sequence[Any]) -> None:
        """What these keep and need no more."""
        reach = self._reach[side]
        gone = self.current_watermark - reach
        left: list[tuple[Any, int]] = []

        def step(kept: tuple[Entry, ...] | None, key: Any) -> tuple[Entry, ...] | None:
            if kept is None or kept[-1][0] <= gone:
                return None
            left.append((key, kept[-1][0]))
            return kept[bisect_right(kept, gone, key=_AT) :]

        self._states[side].fold(keys, keys, step)
        for key, last in left:
            self._expiry.register_for(key, last + reach, side)

    def _new_collector(self) -> Collector:
        return Collector(self.output_type, self.output, self._tagged)

    def close(self) -> None:
        try:
            close_function(self.call.function)
        finally:
            super().close()


def _due(timers: Timers, up_to: int, most: int) -> list[tuple[int, Any, int]]:
    """The next timers, which are no timers any more."""
    return list(islice(iter(lambda: timers.pop_due(up_to), None), most))


def _between(kept: Sequence[Entry], start: int, end: int) -> tuple[int, int]:
    """Where those from `start` to `end` are, which is in it: the first, and behind the last."""
    first = 0 if kept[0][0] >= start else bisect_left(kept, start, key=_AT)
    last = len(kept) if kept[-1][0] <= end else bisect_right(kept, end, key=_AT)
    return first, last


class AtHand(JoinContext):
    """The pair at hand: one object for all calls."""

    collector: Collector

    def __init__(self, operator: IntervalJoinOperator) -> None:
        self._operator = operator
        self.times: tuple[int | None, int | None] = (None, None)
        self.at = 0

    def left_timestamp(self) -> int | None:
        return self.times[0]

    def right_timestamp(self) -> int | None:
        return self.times[1]

    def timestamp(self) -> int:
        return self.at

    def current_watermark(self) -> int:
        return self._operator.current_watermark

    def output(self, tag: OutputTag[Any], value: Any) -> None:
        self.collector.side(tag, value, self.at, apart=True)
