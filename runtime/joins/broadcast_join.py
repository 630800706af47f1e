"""Broadcast join: a stream meets the latest row per key of a small one, which every subtask has all of.

Input 0 is the stream, input 1 the small one: its rows are broadcast state, by key, the latest one each. A record is
joined when it comes, with what is there by then: nothing waits for the small side, and nothing that comes there later
changes a result. Its timestamp is that of its results. The watermark is the minimum of both sides, so the small side
holds it back unless it is idle or has ended.
"""

from __future__ import annotations

from typing import Any

from ...state.descriptors import MapStateDescriptor
from ...state.errors import KeyTypeError, StateError
from ..batch import Batch
from ..functions import RuntimeContext, callable_of, close_function, open_function
from ..keys import KeySelector
from ..operators.co_process import KeysOfTwoInputs
from ..operators.operator import OperatorContext, RestoredState
from ..operators.running import state_type
from ..operators.user_code import Collector, raise_user_error, shown
from ..records.record_types import RecordType
from .functions import gives_what_may_change, kept_sides, several


class BroadcastJoinOperator(KeysOfTwoInputs):
    """Runs a JoinFunction or FlatJoinFunction, or a callable(record, row)."""

    stateful = True

    def __init__(
        self,
        selectors: tuple[KeySelector, KeySelector],
        function: Any,
        flat: bool,
        types: tuple[RecordType, RecordType],
        output_type: RecordType,
        *,
        how: str = "inner",
        side_tags: frozenset[str] = frozenset(),
    ) -> None:
        """flat: the function gives any number of results. types: of the two sides. how: inner or left."""
        self.selectors = selectors
        self.function = function
        self.flat = flat
        self.output_type = output_type
        self.side_tags = side_tags
        self.keeps_left, _ = kept_sides(how)
        self._row_type = state_type(types[1])
        self._apart = gives_what_may_change(function, types[1:])

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        kind = self.selectors[1].key_type.kind
        descriptor: MapStateDescriptor[Any, Any] = MapStateDescriptor("rows", kind, self._row_type)
        self._rows = context.operator_state.store.get_broadcast_state(descriptor)
        self._join = callable_of(self.function, "join")
        try:
            open_function(self.function, RuntimeContext(context))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    def process_batch(self, batch: Batch, input_index: int) -> None:
        keys, rows = self.keys(batch, input_index), batch.rows()
        if input_index == 1:
            self._put(keys, rows)
        else:
            self._look_up(keys, rows, batch.timestamp_list())

    def _put(self, keys: list[Any], rows: list[Any]) -> None:
        try:
            self._rows.put_all(dict(zip(keys, rows, strict=True)))
        except (KeyTypeError, StateError) as error:
            raise type(error)(f"operator '{self.context.operator_name}': {error}") from error

    def _look_up(self, keys: list[Any], rows: list[Any], times: list[int]) -> None:
        collector = Collector(self.output_type, self.output, bool(self.side_tags))
        get, join, flat, keeps_left, apart = self._rows.get, self._join, self.flat, self.keeps_left, self._apart
        row: Any = None
        try:
            for key, row, at in zip(keys, rows, times, strict=True):
                found = get(key)
                if found is not None or keeps_left:
                    produced = join(row, found)
                    collector.take(several(produced) if flat else (produced,), at, apart=apart)
        except Exception as error:
            raise_user_error(self.context, error, f"on the record {shown(row)}")
        collector.emit()

    def close(self) -> None:
        close_function(self.function)
