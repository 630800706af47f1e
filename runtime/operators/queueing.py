"""Operators that hold back what stands in a queue of results: watermarks and statuses queue up behind the records."""

from __future__ import annotations

from ..elements import Watermark, WatermarkStatus
from .operator import Firing, WaitingOperator
from .result_queue import ResultQueue


class QueueingOperator(WaitingOperator):
    """Who derives from it makes the queue when it is opened, and gives out what is ready."""

    _queue: ResultQueue

    def process_watermark(self, watermark: Watermark) -> Firing:
        self._queue.mark(watermark)
        yield from ()

    def process_status(self, status: WatermarkStatus) -> None:
        self._queue.mark(status)

    @property
    def unfinished(self) -> bool:
        return not self._queue.is_empty
