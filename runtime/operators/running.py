"""Running reduce and aggregates: for every record the result of its key so far.

The state is touched in one tight loop (ValueState.fold). A result that is handed on belongs to the next function; so
where results can be changed in place, a copy of the state goes out (PROTOCOLS 24).

In batch mode only the last result of every key is given out, with the timestamp of the key's last record: when the last
watermark comes, in the order in which keys came first (after a restore, or with more keys than fit the memory for
timers: by key group and key). A key that has a result to give has a timer at the end of time; with the result its state
goes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from ...state.backend import VOID_NAMESPACE, ValueState
from ...state.descriptors import ValueStateDescriptor
from ..batch import Batch
from ..elements import MAX_WATERMARK, Watermark
from ..functions import RuntimeContext, callable_of, close_function, open_function
from ..keys import KeySelector
from ..records.fields import field_getter, field_replacer
from ..records.record_types import RecordType, RowType, ScalarType
from .keyed import ROWS_AT_ONCE, KeyedOperator
from .operator import Firing, OperatorContext, RestoredState
from .user_code import is_immutable, raise_user_error, shown

Step = Callable[[Any, Any], Any]
"""(value of the key, None at first; record) -> new value."""


class RunningReduceOperator(KeyedOperator):
    """Gives out, for every record, the combination of all of its key so far: a ReduceFunction's, or a callable's."""

    def __init__(self, selector: KeySelector, function: Any, output_type: RecordType) -> None:
        super().__init__(selector, output_type)
        self.function = function

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        descriptor: ValueStateDescriptor[Any] = ValueStateDescriptor("running", state_type(self.output_type))
        self._state = self.backend.value_state(descriptor)
        if self.batch_mode:
            last: ValueStateDescriptor[int] = ValueStateDescriptor("last-timestamp", int)
            self._last_times = self.backend.value_state(last)
            self._ends = self.backend.timers("last")
        try:
            open_function(self.function, RuntimeContext(context, self.backend))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    def step_for(self, record: Any) -> Step:
        """How the state of a key takes in one more record, for records like this one."""
        reduce = callable_of(self.function, "reduce")
        return lambda value, record: record if value is None else reduce(value, record)

    def process_batch(self, batch: Batch, input_index: int) -> None:
        keys, rows = self.keys(batch), batch.rows()
        if not rows:
            return
        try:
            results = self._fold(keys, rows, self.step_for(rows[0]))
        except Exception as error:
            raise_user_error(self.context, error, f"in a batch that begins with {shown(rows[0])}")
        self._give_out(batch, keys, results)

    def _give_out(self, batch: Batch, keys: list[Any], results: list[Any]) -> None:
        if not self.batch_mode:
            self.output.emit(batch.with_rows(self.output_type, results))
            return
        last: dict[Any, int] = dict(zip(keys, batch.timestamp_list(), strict=True))
        new: list[Any] = []

        def step(known: int | None, key: Any) -> int:
            if known is None:
                new.append(key)
            return last[key]

        self._last_times.fold(list(last), list(last), step)
        for key in new:
            self._ends.register_for(key, MAX_WATERMARK, VOID_NAMESPACE)

    def process_watermark(self, watermark: Watermark) -> Firing:
        self.current_watermark = watermark.timestamp
        while self.is_last(watermark):
            due = list(islice(iter(lambda: self._ends.pop_due(MAX_WATERMARK), None), ROWS_AT_ONCE))
            if not due:
                return
            keys = [key for _, key, _ in due]
            results = Batch.of_rows(self.output_type, _taken(self._state, keys), _taken(self._last_times, keys))
            self.output.emit(results)
            self.backend.between_batches()
            yield

    def _fold(self, keys: list[Any], rows: list[Any], step: Step) -> list[Any]:
        if self.batch_mode or self._immutable(rows):
            return self._state.fold(keys, rows, step)
        copies: list[Any] = []
        copy_rows = self.output_type.copy_rows

        def step_and_copy(value: Any, record: Any) -> Any:
            value = step(value, record)
            copies.extend(copy_rows([value]))
            return value

        self._state.fold(keys, rows, step_and_copy)
        return copies

    def _immutable(self, rows: list[Any]) -> bool:
        first = rows[:1]
        return self.output_type.copy_rows(first) is first or all(map(is_immutable, rows))

    def close(self) -> None:
        try:
            close_function(self.function)
        finally:
            super().close()


def _taken(state: ValueState[Any], keys: list[Any]) -> list[Any]:
    """The values of these keys, which are in the state no more."""
    values: list[Any] = []
    state.fold(keys, keys, lambda value, _: values.append(value))
    return values


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
        self._step: Step = operator.add

    def step_for(self, record: Any) -> Step:
        if type(record) is not self._record_kind:
            self._step = _step(self.kind, record, self.field)
            self._record_kind = type(record)
        return self._step

    def _immutable(self, rows: list[Any]) -> bool:
        """Nothing is changed in place here, and the records of a stream are alike."""
        return is_immutable(rows[0]) or super()._immutable(rows[:1])

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if self.kind != "count":
            return super().process_batch(batch, input_index)
        keys = self.keys(batch)
        counts = self._state.fold(keys, keys, lambda count, _: 1 if count is None else count + 1)
        self._give_out(batch, keys, counts)
        return None


def _step(kind: str, record: Any, field: str | int) -> Step:
    get = field_getter(record, field)
    scalar = get(record) is record
    if kind == "sum" and scalar:
        return lambda old, new: new if old is None else old + new
    if kind == "sum" and type(record) is tuple and isinstance(field, int):
        return _sum_in_tuple(field % len(record))
    if kind == "sum" and hasattr(type(record), "_fields"):
        names = type(record)._fields
        return _sum_in_named_tuple(type(record), names.index(field) if isinstance(field, str) else field % len(names))
    better = operator.lt if kind.startswith("min") else operator.gt
    if kind in ("min_by", "max_by") or scalar:
        return lambda old, new: new if old is None or better(get(new), get(old)) else old
    replaced = field_replacer(record, field)
    if kind == "sum":
        return lambda old, new: new if old is None else replaced(old, get(old) + get(new))
    return lambda old, new: (
        new if old is None else replaced(old, get(new)) if better(get(new), get(old)) else old
    )  # fmt: skip


def _sum_in_tuple(at: int) -> Step:
    """The commonest running sum, without a call per field. Tuples of one stream may differ in length."""
    after = at + 1
    return lambda old, new: new if old is None else (*old[:at], old[at] + new[at], *old[after:])


def _sum_in_named_tuple(record_type: type, at: int) -> Step:
    """The same, in one expression: twice as fast as slices and `_replace`."""
    names: tuple[str, ...] = record_type._fields  # type: ignore[attr-defined]
    items = ", ".join(f"old[{i}] + new[{i}]" if i == at else f"old[{i}]" for i in range(len(names)))
    source = f"lambda old, new: new if old is None else make(({items},))"
    return eval(source, {"make": partial(tuple.__new__, record_type)})  # type: ignore[no-any-return]


__all__ = ["RunningAggregateOperator", "RunningReduceOperator", "state_type"]
