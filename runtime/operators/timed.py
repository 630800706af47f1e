"""Keyed operators that hold records back until event time has come to them: a timer per key and time, which says only
that there is something to do."""

from __future__ import annotations

from typing import Any

from ...state.errors import RecordTypeError
from ..batch import NO_TIMESTAMP, Batch
from ..elements import Watermark
from .keyed import ROWS_AT_ONCE, TIMERS_AT_ONCE, KeyedOperator
from .operator import Firing, OperatorContext, RestoredState
from .user_code import Collector, shown


class TimedOperator(KeyedOperator):
    """Calls `give_out` for every timer that is due. Results are held back until there are enough for a batch."""

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self.timers = self.backend.timers("event")

    def give_out(self, key: Any, timestamp: int, results: Collector) -> None:
        """The timer of the current key at that time has come. Rows are added to the results, each with a timestamp."""
        raise NotImplementedError

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        results = self._firing = Collector(self.output_type, self.output, tagged=False)
        fired = 0
        while (due := self.timers.pop_due(watermark.timestamp)) is not None:
            timestamp, key, _ = due
            self.backend.set_current_key(key)
            self.give_out(key, timestamp, results)
            fired += 1
            if fired % TIMERS_AT_ONCE == 0:
                if results.held >= ROWS_AT_ONCE:
                    results.emit()
                self.backend.between_batches()
                yield
        results.emit()


def times_of(operator: KeyedOperator, batch: Batch, what: str) -> list[int]:
    """Of all records. RecordTypeError for one that has none. what: needs them."""
    times = batch.timestamp_list()
    if NO_TIMESTAMP in times:
        raise RecordTypeError(
            f"operator '{operator.context.operator_name}': {what} needs timestamps, and the record "
            f"{shown(batch.rows()[times.index(NO_TIMESTAMP)])} has none; call assign_timestamps_and_watermarks(…)"
        )
    return times
