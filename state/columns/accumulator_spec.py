"""What a vectorised aggregation folds, as data: apart from accumulators.py, which loads compiled code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import AggregateError

Word = Literal["int64", "float64"]


@dataclass(frozen=True, slots=True)
class AccumulatorSpec:
    """What is folded: `count` of rows (column None) or of non-null values; `sum`, `min`, `max` or `moments`
    (moments.py) of a column."""

    kind: Literal["count", "sum", "min", "max", "moments"]
    column: str | None
    word: Word

    @property
    def name(self) -> str:
        """Under this name it is in snapshots."""
        return f"{self.kind}:{self.column or '*'}:{self.word}"


def overflow_error(column: str) -> AggregateError:
    return AggregateError(
        f"the sum of column {column!r} does not fit 64 bits; convert the column to float before the aggregation"
    )
