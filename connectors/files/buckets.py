"""Buckets: into which directory below the target a record goes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np

from ...runtime.batch import NO_TIMESTAMP, Batch
from ...state.errors import PipelineError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIRECTIVE_MS = {"Y": 86_400_000, "m": 86_400_000, "d": 86_400_000, "j": 86_400_000, "H": 3_600_000, "M": 60_000}
"""How long the text of a strftime directive stays the same; 1 s for the rest, 1 ms for %f."""


class Bucketing(ABC):
    """Cuts batches by directory. Picklable."""

    @abstractmethod
    def split(self, batch: Batch) -> Iterator[tuple[str, Batch]]:
        """(relative directory, its records in order) for every directory of the batch."""


class OneBucket(Bucketing):
    """Everything goes into the target itself."""

    def split(self, batch: Batch) -> Iterator[tuple[str, Batch]]:
        yield "", batch


@dataclass(frozen=True)
class TimeBuckets(Bucketing):
    """A strftime pattern over the event time, in UTC. It is formatted once per distinct time unit, not per record."""

    pattern: str

    def split(self, batch: Batch) -> Iterator[tuple[str, Batch]]:
        timestamps = batch.timestamps()
        if len(timestamps) and int(timestamps.min()) == NO_TIMESTAMP:
            raise PipelineError(
                f"partition_by={self.pattern!r} needs the event time, but a record has no timestamp:"
                " assign timestamps before the sink"
            )
        unit_ms = self._unit_ms()
        units, positions = np.unique(timestamps // unit_ms, return_inverse=True)
        numbers: dict[str, int] = {}
        of_unit = [numbers.setdefault(self._name(unit * unit_ms), len(numbers)) for unit in units.tolist()]
        if len(numbers) == 1:
            yield next(iter(numbers)), batch
            return
        buckets = np.array(of_unit)[positions]
        for name, number in numbers.items():
            yield name, batch.take(np.flatnonzero(buckets == number))

    def _unit_ms(self) -> int:
        directives = re.findall(r"%[-]?(.)", self.pattern)
        return min((1 if d == "f" else _DIRECTIVE_MS.get(d, 1000) for d in directives if d != "%"), default=86_400_000)

    def _name(self, timestamp_ms: int) -> str:
        return (_EPOCH + timedelta(milliseconds=timestamp_ms)).strftime(self.pattern)


@dataclass(frozen=True)
class ColumnBuckets(Bucketing):
    """`column=value`, as Hive and its readers name directories."""

    column: str

    def split(self, batch: Batch) -> Iterator[tuple[str, Batch]]:
        column = self.column
        if batch.has_columns or not batch.record_type.opaque:
            values = batch.columns().column(column).to_pylist()
        else:
            values = [row[column] if isinstance(row, dict) else getattr(row, column) for row in batch.rows()]
        yield from _grouped(batch, [f"{column}={_text(value)}" for value in values])


@dataclass(frozen=True)
class FunctionBuckets(Bucketing):
    """What a function says of each record."""

    function: Callable[[Any], str]

    def split(self, batch: Batch) -> Iterator[tuple[str, Batch]]:
        yield from _grouped(batch, [_checked(self.function(row)) for row in batch.rows()])


def bucketing_of(partition_by: str | Callable[[Any], str] | None) -> Bucketing:
    if partition_by is None:
        return OneBucket()
    if not isinstance(partition_by, str):
        return FunctionBuckets(partition_by)
    if "%" in partition_by:
        _checked(TimeBuckets(partition_by)._name(0))
        return TimeBuckets(partition_by)
    return ColumnBuckets(partition_by)


def _grouped(batch: Batch, names: list[str]) -> Iterator[tuple[str, Batch]]:
    positions: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        positions.setdefault(name, []).append(i)
    if len(positions) == 1:
        yield names[0], batch
        return
    for name, own in positions.items():
        yield name, batch.take(np.array(own))


def _text(value: Any) -> str:
    return "__HIVE_DEFAULT_PARTITION__" if value is None else quote(str(value), safe=" ,;:+@~$()!-._")


def _checked(name: Any) -> str:
    """A relative path below the target whose parts are not hidden."""
    if not isinstance(name, str) or any(not part or part[0] in "_." for part in name.split("/")):
        raise PipelineError(f"partition_by gives {name!r}: it must be a relative path, no part starting with _ or .")
    return name
