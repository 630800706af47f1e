"""Running reduce and aggregates: for every record the result of its key so far.

The state is touched in one tight loop (ValueState.fold). A result that is handed on belongs to the next function; so
where results can be changed in place, a copy of the state goes out (PROTOCOLS 24).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from ...state.descriptors import ValueStateDescriptor
from ..batch import Batch
from ..fields import field_getter, field_replacer
from ..functions import RuntimeContext, callable_of, close_function, open_function
from ..keys import KeySelector
from ..record_types import RecordType, RowType, ScalarType
from .keyed import KeyedOperator
from .operator import OperatorContext, RestoredState
from .user_code import raise_user_error, shown

Reduce = Callable[[Any, Any], Any]

_IMMUTABLE = (str, bytes, int, float, complex, bool, type(None), date, datetime, Decimal, UUID, Enum)


class RunningReduceOperator(KeyedOperator):
    def __init__(self, selector: KeySelector, function: Any, output_type: RecordType) -> None:
        super().__init__(selector, output_type)
        self.function = function

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        descriptor: ValueStateDescriptor[Any] = ValueStateDescriptor("running", state_type(self.output_type))
        self._state = self.backend.value_state(descriptor)
        try:
            open_function(self.function, RuntimeContext(context, self.backend))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    def reducer(self, record: Any) -> Reduce:
        """The function that combines two records, for records like this one."""
        return callable_of(self.function, "reduce")

    def process_batch(self, batch: Batch, input_index: int) -> None:
        keys, rows = self.keys(batch), batch.rows()
        if not rows:
            return
        try:
            results = self._fold(keys, rows, self.reducer(rows[0]))
        except Exception as error:
            raise_user_error(self.context, error, f"in a batch that begins with {shown(rows[0])}")
        self.output.emit(batch.with_rows(self.output_type, results))

    def _fold(self, keys: list[Any], rows: list[Any], reduce: Reduce) -> list[Any]:
        first = rows[:1]
        if _immutable(rows[0]) or self.output_type.copy_rows(first) is first:
            return self._state.fold(
                keys, rows, lambda value, record: record if value is None else reduce(value, record)
            )
        copies: list[Any] = []
        copy_rows = self.output_type.copy_rows

        def step(value: Any, record: Any) -> Any:
            value = record if value is None else reduce(value, record)
            copies.extend(copy_rows([value]))
            return value

        self._state.fold(keys, rows, step)
        return copies

    def close(self) -> None:
        try:
            close_function(self.function)
        finally:
            super().close()


def _immutable(record: Any) -> bool:
    if isinstance(record, tuple):
        return all(map(_immutable, record))
    return isinstance(record, _IMMUTABLE)


def state_type(record_type: RecordType) -> Any:
    """The annotation for state that holds records of this type; None (any object, pickled) if it has none."""
    if isinstance(record_type, RowType):
        kind = record_type.struct.python
    elif isinstance(record_type, ScalarType) and not record_type.value.nullable:
        kind = record_type.value.python
    else:
        return None
    return None if kind in (dict, tuple, list, set) else kind


class RunningAggregateOperator(RunningReduceOperator):
    """sum, min, max: the key's first record, with the field's aggregate in it; min_by, max_by: the record that has
    the extreme (of several the first); count: an int. As in Flink."""

    def __init__(self, selector: KeySelector, kind: str, field: str | int, output_type: RecordType) -> None:
        super().__init__(selector, None, output_type)
        self.kind = kind
        self.field = field
        self._record_kind: type | None = None
        self._reducer: Reduce = operator.add

    def reducer(self, record: Any) -> Reduce:
        if type(record) is not self._record_kind:
            self._reducer = _reducer(self.kind, record, self.field)
            self._record_kind = type(record)
        return self._reducer

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if self.kind != "count":
            return super().process_batch(batch, input_index)
        keys = self.keys(batch)
        counts = self._state.fold(keys, keys, lambda count, _: 1 if count is None else count + 1)
        self.output.emit(batch.with_rows(self.output_type, counts))
        return None


def _reducer(kind: str, record: Any, field: str | int) -> Reduce:
    get = field_getter(record, field)
    scalar = get(record) is record
    if kind in ("min_by", "max_by") or (scalar and kind != "sum"):
        better = operator.lt if kind.startswith("min") else operator.gt
        return lambda old, new: new if better(get(new), get(old)) else old
    if scalar:
        return operator.add
    replaced = field_replacer(record, field)
    if kind == "sum":
        return lambda old, new: replaced(old, get(old) + get(new))
    better = operator.lt if kind == "min" else operator.gt
    return lambda old, new: replaced(old, get(new)) if better(get(new), get(old)) else old


__all__ = ["RunningAggregateOperator", "RunningReduceOperator", "state_type"]
