"""A batch as window operators take it apart: parallel lists of keys, rows and timestamps, and what windows go by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...state.errors import RecordTypeError
from ..batch import NO_TIMESTAMP, Batch, Int64Array
from ..operators.user_code import shown
from .windows import MAX_TIMESTAMP

Positions = npt.NDArray[np.intp]


class Incoming:
    """Elements in order."""

    __slots__ = ("keys", "own_timestamps", "rows", "times")

    def __init__(self, keys: list[Any], rows: list[Any], own_timestamps: Int64Array, times: Int64Array) -> None:
        self.keys = keys
        self.rows = rows
        self.own_timestamps = own_timestamps
        """The elements' own; NO_TIMESTAMP where one has none."""
        self.times = times
        """The same, or the clock's for windows of processing time."""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, positions: Positions) -> Incoming:
        """The elements at these positions, which are in order."""
        if len(positions) == len(self.rows):
            return self
        chosen = positions.tolist()
        keys, rows = self.keys, self.rows
        return Incoming(
            [keys[i] for i in chosen],
            [rows[i] for i in chosen],
            self.own_timestamps[positions],
            self.times[positions],
        )

    def one(self, position: int) -> Incoming:
        at = slice(position, position + 1)
        return Incoming(self.keys[at], self.rows[at], self.own_timestamps[at], self.times[at])


def by_start(starts: Sequence[Int64Array]) -> Iterator[tuple[int, Positions]]:
    """(start, positions of its elements in order), in the order of time. `starts`: one array for every window that an
    element has."""
    flat = starts[0] if len(starts) == 1 else np.stack(starts, axis=1).ravel()
    first = int(flat[0])
    if len(starts) == 1 and (flat == first).all():
        yield first, np.arange(len(flat))
        return
    order = np.argsort(flat, kind="stable")
    borders = np.flatnonzero(np.diff(flat[order])) + 1
    for own in np.split(order, borders):
        yield int(flat[own[0]]), own if len(starts) == 1 else own // len(starts)


def event_times(batch: Batch, operator_name: str, end_of_time: bool = False) -> Int64Array:
    """The records' timestamps. RecordTypeError when one has none; or the last of all, unless `end_of_time`."""
    times = batch.timestamps()
    if times.min(initial=0) == NO_TIMESTAMP:
        record = shown(batch.keep([int(times.argmin())]).rows()[0])
        raise RecordTypeError(
            f"operator '{operator_name}': event-time windows need timestamps, and the record {record} has none; give "
            "the source a WatermarkStrategy with a timestamp assigner, or call assign_timestamps_and_watermarks(...)"
        )
    if not end_of_time and times.max(initial=0) == MAX_TIMESTAMP:
        raise at_the_end_of_time(batch, operator_name)
    return times


def at_the_end_of_time(batch: Batch, operator_name: str) -> RecordTypeError:
    """What is raised when a record has the last of all timestamps: its window would end after that."""
    position = int(np.flatnonzero(batch.timestamps() == MAX_TIMESTAMP)[0])
    return RecordTypeError(
        f"operator '{operator_name}': the record {shown(batch.keep([position]).rows()[0])} has the last of all "
        "timestamps, as results of count windows and global windows have, and no event-time window can hold it; call "
        "assign_timestamps_and_watermarks(...) before this window"
    )
