"""Temporal join: every left record meets the version of the right side that was valid at its time (Flink's
TemporalRowTimeJoinOperator).

The right side is a table by key that changes: each of its records is a *version*, valid from its own time until the
next one of its key. A left record meets the newest version that is not younger than itself; which one that is is known
when the watermark has come to its time, and then its result is given out, with its time. Of equal times the version
that came last counts.

A right side that is a changelog ends a version with -D, and with -U, for an update may change the key; else its +U is
the next version, of the same time. The two may come in either order, by different ways: so -U says nothing of a time
that has a version, nor -D of another record. (That of upserts ends any, for it may hold no more than the key.)

    left map     time -> records that wait, in the order they came
    right map    time -> [version], or [] where one ended; what no left record can ask for any more is removed: all
                 that is older than the newest one at or before the watermark, and that one, too, if it is an end
    timers       at the time of every waiting record, and of every version, to give out and to clean up

Left records that are not newer than the watermark are late: counted, and given to the late output. A right record may
be late: it counts for the left records that are still to be joined, unless a newer version is known that has begun
already; then nobody can ask for it, and it is counted as late. (A late version of a key whose version was ended brings
it back: of an end that is over nothing is kept.)

What a batch needs of both sides is asked for at once, and known when its timers fire.

All timers fire with the last watermark of a bounded input. What stays then is the last version of every key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from ...state.backend import VOID_NAMESPACE
from ...state.descriptors import MapStateDescriptor
from ...state.rows.map_state import CachedMapState
from ..batch import Batch
from ..changelog import EVERYTHING, INSERTIONS, ChangelogMode, RowKind, alike
from ..elements import MAX_WATERMARK
from ..functions import RuntimeContext, callable_of, close_function, open_function
from ..keys import KeySelector
from ..operators.co_process import KeysOfTwoInputs
from ..operators.operator import OperatorContext, RestoredState
from ..operators.running import state_type
from ..operators.timed import TimedOperator, times_of
from ..operators.user_code import Collector, raise_user_error, shown
from ..records.record_types import RecordType
from .functions import LEFT, RIGHT, gives_what_may_change

_BEFORE = int(RowKind.UPDATE_BEFORE)
_ADDS = frozenset(int(kind) for kind in RowKind if kind.adds)
_MOST_DONE = 100_000
"""Keys of one watermark that are remembered to be done. Those that are forgotten are looked at once more, in vain."""

_ByTime = CachedMapState[int, list[Any]]


class TemporalJoinOperator(KeysOfTwoInputs, TimedOperator):
    """Runs a JoinFunction, or a callable like its method; without one, results are (left, right)."""

    def __init__(
        self,
        selectors: tuple[KeySelector, KeySelector],
        function: Any,
        types: tuple[RecordType, RecordType],
        output_type: RecordType,
        *,
        keeps_left: bool = False,
        late_tag: str | None = None,
        upserts: bool = False,
    ) -> None:
        """types: of the two sides. keeps_left: a record without a version is given out with None. upserts: what the
        right side is."""
        super().__init__(selectors[0], output_type, frozenset() if late_tag is None else frozenset({late_tag}))
        self.selectors = selectors
        self.function = function
        self.types = types
        self.keeps_left = keeps_left
        self.late_tag = late_tag
        self.upserts = upserts
        self._apart = gives_what_may_change(function, types)

    def accepts(self, input_index: int) -> frozenset[ChangelogMode]:
        return INSERTIONS if input_index == LEFT else EVERYTHING

    def result_mode(self, inputs: Any) -> ChangelogMode:
        return ChangelogMode.INSERT_ONLY

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        left, right = [_list_of(kind) for kind in self.types]
        self._waiting = self._by_time("waiting", left)
        self._versions = self._by_time("versions", right)
        self._done: set[Any] = set()
        """Keys that were looked after at the watermark `_done_at`."""
        self._done_at = self.current_watermark
        self._late = context.metrics.counter("records_late_total")
        self._join = _pair if self.function is None else callable_of(self.function, "join")
        try:
            open_function(self.function, RuntimeContext(context, self.backend))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    def _by_time(self, name: str, values: Any) -> _ByTime:
        return cast(_ByTime, self.backend.map_state(MapStateDescriptor(name, int, values)))

    # records

    def process_batch(self, batch: Batch, input_index: int) -> None:
        times = times_of(self, batch, "a temporal join")
        keys = self.keys(batch, input_index)
        self._waiting.know(keys)
        self._versions.know(keys)
        if input_index == RIGHT:
            self._add_versions(batch, keys, times)
            return
        late = [position for position, at in enumerate(times) if at <= self.current_watermark]
        set_key, waiting, register = self.backend.set_current_key, self._waiting, self.timers.register_for
        for key, row, at in zip(keys, self.types[LEFT].copy_rows(batch.rows()), times, strict=True):
            if at <= self.current_watermark:
                continue
            set_key(key)
            records = waiting.get(at)
            if records is None:
                waiting.put(at, [row])
                register(key, at, VOID_NAMESPACE)
            else:
                records.append(row)
        if late:
            self._late.inc(len(late))
            if self.late_tag is not None:
                self.output.emit_side(self.late_tag, batch.keep(late))

    def _add_versions(self, batch: Batch, keys: list[Any], times: list[int]) -> None:
        kinds = [0] * len(batch) if batch.row_kinds is None else batch.row_kinds.tolist()
        rows = self.types[RIGHT].copy_rows(batch.rows())
        for key, row, at, kind in zip(keys, rows, times, kinds, strict=True):
            self.backend.set_current_key(key)
            if at <= self.current_watermark and self._begun_after(at):
                self._late.inc(kind != _BEFORE)
                continue
            if kind in _ADDS:
                self._versions.put(at, [row])
            elif not self._versions.contains(at) or (kind != _BEFORE and self._ends(at, row)):
                self._versions.put(at, [])
            self.timers.register_for(key, at, VOID_NAMESPACE)

    def _ends(self, at: int, row: Any) -> bool:
        """Whether a deletion of that time means the version of that time."""
        version = self._versions.get(at)
        return self.upserts or not version or alike(version[0], row)

    def _begun_after(self, at: int) -> bool:
        """Whether a newer version than one of that time has begun."""
        return next(self._versions.keys(at + 1, self._end()), None) is not None

    def _end(self) -> int | None:
        """Behind everything that has begun; None: that is all."""
        return None if self.current_watermark == MAX_WATERMARK else self.current_watermark + 1

    # time

    def give_out(self, key: Any, timestamp: int, results: Collector) -> None:
        """Everything that is due of the key, not only of that time: its other timers find nothing then. Nothing that
        waits is older, for timers fire in the order of time."""
        if self._done_at != self.current_watermark or len(self._done) >= _MOST_DONE:
            self._done, self._done_at = set(), self.current_watermark
        if key in self._done:
            return
        self._done.add(key)
        end = self._end()
        due = list(self._waiting.items(timestamp, end))
        versions = list(self._versions.items(None, end))
        if due:
            self._give_out_all(due, versions, results)
        for at, _records in due:
            self._waiting.remove(at)
        for at in _not_needed(versions):
            self._versions.remove(at)

    def _give_out_all(
        self, due: list[tuple[int, list[Any]]], versions: list[tuple[int, list[Any]]], results: Collector
    ) -> None:
        row: Any = None
        try:
            for at, records, version in _with_versions(due, versions):
                if not version and not self.keeps_left:
                    continue
                partner = version[0] if version else None
                for row in records:
                    results.take((self._join(row, partner),), at, apart=self._apart)
        except Exception as error:
            raise_user_error(self.context, error, f"on the record {shown(row)}")

    def close(self) -> None:
        try:
            close_function(self.function)
        finally:
            super().close()


def _with_versions(
    due: list[tuple[int, list[Any]]], versions: list[tuple[int, list[Any]]]
) -> Iterator[tuple[int, list[Any], list[Any]]]:
    """(time, records, the version of that time or before), for both in the order of time."""
    position, valid = 0, []
    for at, records in due:
        while position < len(versions) and versions[position][0] <= at:
            valid = versions[position][1]
            position += 1
        yield at, records, valid


def _not_needed(versions: list[tuple[int, list[Any]]]) -> list[int]:
    """Of those that have begun: all but the last, and the last if it is an end."""
    times = [at for at, _ in versions]
    return times if versions and not versions[-1][1] else times[:-1]


def _pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left, right


def _list_of(record_type: RecordType) -> Any:
    kind: Any = state_type(record_type)
    return None if kind is None else list[kind]
