"""What an asynchronous operator holds back, and in which order it may go out again. Pure. (Flink's StreamElementQueue.)

Records are in *segments*, one behind the other; behind each, what came after it of watermark and status. The results
of a segment's records go out as they come, those of the next one not before all of this one are out, and then its
watermark: no result is ever behind a watermark that came after its record, or before one that came before it.

    unordered   a segment is what came between two watermarks (or statuses)
    ordered     every record is a segment of its own

Watermarks and statuses with no record between them are merged: the newest of each remains, so that their number is
bounded by that of the records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from ..elements import Watermark, WatermarkStatus

Mark = Watermark | WatermarkStatus


class Entry:
    """A record, and the results of its call once they are there."""

    __slots__ = ("attempt", "deadline_ns", "error", "number", "record", "results", "segment", "timestamp")

    def __init__(self, number: int, record: Any, timestamp: int, segment: _Segment) -> None:
        self.number = number
        self.record = record
        self.timestamp = timestamp
        self.segment = segment
        self.results: list[Any] | None = None
        self.attempt = 0
        """Calls so far."""
        self.deadline_ns = 0
        """Of all calls for it together; from the first one on."""
        self.error: Exception | None = None
        """Of its last call."""


class _Segment:
    __slots__ = ("done", "marks", "open")

    def __init__(self) -> None:
        self.open = 0
        self.done: list[Entry] = []
        """In the order in which they were completed, not taken yet."""
        self.marks: list[Mark] = []


class ResultQueue:
    """Entries in order of arrival, with the marks between them."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._segments: deque[_Segment] = deque()
        self._entries: dict[int, Entry] = {}
        self._next = 0

    def __len__(self) -> int:
        """Records whose results have not been taken."""
        return len(self._entries)

    @property
    def is_empty(self) -> bool:
        """No record, and no mark either."""
        return not self._segments

    @property
    def ready(self) -> bool:
        """`take` gives something."""
        return bool(self._segments) and (bool(self._segments[0].done) or not self._segments[0].open)

    def entries(self) -> Iterable[Entry]:
        """All whose results have not been taken, in order of arrival."""
        return self._entries.values()

    def add(self, record: Any, timestamp: int) -> Entry:
        if self._ordered or not self._segments or self._segments[-1].marks:
            self._segments.append(_Segment())
        segment = self._segments[-1]
        segment.open += 1
        entry = self._entries[self._next] = Entry(self._next, record, timestamp, segment)
        self._next += 1
        return entry

    def mark(self, mark: Mark) -> None:
        if not self._segments:
            self._segments.append(_Segment())
        last = self._segments[-1]
        last.marks = _merged([*last.marks, mark])

    def complete(self, entry: Entry, results: list[Any]) -> None:
        entry.results = results
        entry.segment.open -= 1
        entry.segment.done.append(entry)

    def take(self, most: int) -> tuple[list[Entry], list[Mark]]:
        """What may go out now: entries (about as many as `most`), and the marks behind them, which end it."""
        taken: list[Entry] = []
        while self._segments and len(taken) < most:
            head = self._segments[0]
            taken += head.done
            for entry in head.done:
                del self._entries[entry.number]
            head.done = []
            if head.open:
                break
            self._segments.popleft()
            if head.marks:
                return taken, head.marks
        return taken, []


def _merged(marks: list[Mark]) -> list[Mark]:
    """The newest watermark and the newest status; who is active says so before, who is idle afterwards."""
    watermarks = [mark for mark in marks if isinstance(mark, Watermark)][-1:]
    statuses = [mark for mark in marks if isinstance(mark, WatermarkStatus)][-1:]
    return [*watermarks, *statuses] if statuses and statuses[0].idle else [*statuses, *watermarks]
