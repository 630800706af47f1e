"""Running users' functions over a batch: their errors, what they produce, and where it goes.

A function is called once per record and never a second time. Its error becomes a UserCodeError that names operator,
subtask and record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from enum import Enum
from itertools import compress
from types import GeneratorType
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

import numpy as np

from ...state.errors import KeyTypeError, RecordTypeError, UserCodeError
from ...state.serialization.serializers import ATOMIC_TYPES
from ..batch import Batch
from ..event_time.watermarks import WatermarkStrategy
from ..functions import CallError, OutputTag, called_on_each
from ..hints import nearest
from ..hints import shown as shown
from ..keys import KeySelector
from ..records.record_types import OPAQUE, RecordType, record_type_of
from .operator import OperatorContext, Output

TAKEN_APART = frozenset({list, tuple, GeneratorType})
"""What functions usually give; anything else is looked at closer."""
_NO_RESULTS = frozenset({str, bytes, dict})
"""Iterables that nobody means to be taken apart."""
_IMMUTABLE = (str, bytes, int, float, complex, type(None), date, Decimal, UUID, Enum, OutputTag)


def raise_user_error(context: OperatorContext, error: Exception, doing: str) -> NoReturn:
    """`doing`: 'on the record ...', 'in the timer at ...'. The user's error is the cause, so it is printed first."""
    if isinstance(error, UserCodeError):
        raise error
    raise UserCodeError(
        f"operator '{context.operator_name}', subtask {context.subtask}: "
        f"{type(error).__name__}: {error}{_nearest_attribute(error)} ({doing})",
        operator=context.operator_name,
        subtask=context.subtask,
    ) from error


def _nearest_attribute(error: Exception) -> str:
    """As tracebacks say it."""
    if not isinstance(error, AttributeError) or not isinstance(error.name, str) or error.obj is None:
        return ""
    try:
        return nearest(error.name, dir(error.obj))
    except Exception:  # a user's __dir__
        return ""


def call_each(context: OperatorContext, function: Callable[[Any], Any], rows: list[Any]) -> list[Any]:
    """function(row) of every row, once."""
    try:
        return called_on_each(function, rows)
    except CallError as error:
        raise_user_error(context, error.cause, error.doing)


def is_immutable(value: Any) -> bool:
    """For sure: of what is not known it is False."""
    if isinstance(value, tuple):
        return ATOMIC_TYPES.issuperset(map(type, value)) or all(map(is_immutable, value))
    return isinstance(value, _IMMUTABLE)


def check_produced(produced: Any) -> None:
    """A function that yields or returns an iterable gave this: RecordTypeError if it can only be a mistake."""
    if type(produced) in _NO_RESULTS:
        raise RecordTypeError(
            f"the function returned a {type(produced).__name__}, which would be taken apart; yield it or return a list"
        )
    if not isinstance(produced, Iterable):
        raise RecordTypeError(
            f"the function returned a {type(produced).__name__}; yield results, or return a list or None"
        )


class Collector:
    """Results of a function, their timestamps, and what goes to side outputs, until they are emitted as batches."""

    def __init__(self, output_type: RecordType, output: Output, tagged: bool) -> None:
        """tagged: side outputs are declared, so `yield tag, value` is looked for."""
        self.rows: list[Any] = []
        self.timestamps: list[int] = []
        self.kinds: list[int] | None = None
        """Of the rows, where they are a changelog: who adds rows to such a collector adds their kinds, too."""
        self._output_type = output_type
        self._output = output
        self._tagged = tagged
        self._sides: dict[str, _Side] = {}

    @property
    def held(self) -> int:
        """Results and side outputs that wait to be emitted."""
        return len(self.rows) + sum(len(side.values) for side in self._sides.values())

    def take(self, produced: Any, timestamp: int, *, apart: bool = False) -> None:
        """Everything a function produced for one record or timer; a generator is drained here.

        apart: what it gives may be, or hold, objects of its state, which go on changing: each is taken as it is when
        it is given, and belongs to the next function (PROTOCOLS 24)."""
        if type(produced) not in TAKEN_APART:
            check_produced(produced)
        rows = self.rows
        before = len(rows)
        rows.extend(map(self._copy, produced) if apart else produced)
        count = len(rows) - before
        if count == 1:
            self.timestamps.append(timestamp)
        elif count:
            self.timestamps.extend([timestamp] * count)

    def _copy(self, row: Any) -> Any:
        return taken_apart(row, self._output_type)

    def side(self, tag: OutputTag[Any], value: Any, timestamp: int, *, apart: bool = False, kind: int = 0) -> None:
        if not isinstance(tag, OutputTag):
            raise RecordTypeError(f"output() takes an OutputTag first, not {shown(tag)}")
        if tag.name not in self._sides:
            self._sides[tag.name] = _Side(OPAQUE if tag.type is None else record_type_of(tag.type), [], [], [])
        side = self._sides[tag.name]
        side.values.append(taken_apart(value, side.record_type) if apart else value)
        side.timestamps.append(timestamp)
        side.kinds.append(kind)

    def emit(self) -> None:
        if self._tagged and tuple in set(map(type, self.rows)):
            self._move_tagged()
        if self.rows:
            batch = Batch.of_rows(self._output_type, self.rows, self.timestamps)
            if self.kinds is not None:
                batch.row_kinds, self.kinds = np.array(self.kinds, np.int8), []
            self.rows, self.timestamps = [], []
            self._output.emit(batch)
        if self._sides:
            sides, self._sides = self._sides, {}
            for tag, side in sides.items():
                batch = Batch.of_rows(side.record_type, side.values, side.timestamps)
                if any(side.kinds):
                    batch.row_kinds = np.array(side.kinds, np.int8)
                self._output.emit_side(tag, batch)

    def _move_tagged(self) -> None:
        tagged = [type(row) is tuple and len(row) == 2 and isinstance(row[0], OutputTag) for row in self.rows]
        kinds = self.kinds or [0] * len(tagged)
        for row, timestamp, kind in compress(zip(self.rows, self.timestamps, kinds, strict=True), tagged):
            self.side(row[0], row[1], timestamp, kind=kind)
        main = [not each for each in tagged]
        self.rows, self.timestamps = list(compress(self.rows, main)), list(compress(self.timestamps, main))
        self.kinds = None if self.kinds is None else list(compress(self.kinds, main))


class _Side(NamedTuple):
    """What waits for a side output."""

    record_type: RecordType
    values: list[Any]
    timestamps: list[int]
    kinds: list[int]


def taken_apart(value: Any, record_type: RecordType) -> Any:
    """A copy, where it can change."""
    if is_immutable(value):
        return value
    try:
        return record_type.copy_rows([value])[0]
    except Exception:  # what cannot be copied is no part of state, for that is written out
        return value


def assigned_by(strategy: WatermarkStrategy, batch: Batch, context: OperatorContext) -> Batch:
    """The batch with the strategy's timestamps."""
    try:
        return strategy.assign(batch)
    except RecordTypeError as error:
        raise RecordTypeError(f"operator '{context.operator_name}': {error}") from error
    except CallError as error:
        raise_user_error(context, error.cause, error.doing)


def keys_by(selector: KeySelector, batch: Batch, context: OperatorContext) -> list[Any]:
    """The batch's keys, with the user's errors named."""
    try:
        return selector.keys(batch)
    except (KeyTypeError, RecordTypeError) as error:
        raise type(error)(f"operator '{context.operator_name}': {error}") from error
    except CallError as error:
        raise_user_error(context, error.cause, error.doing)
