"""Operators about the row kinds themselves: give them to records, take them away, make upserts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...state.descriptors import ValueStateDescriptor
from ...state.errors import RecordTypeError
from ...state.serialization.serializers import serializer_for
from ...state.ttl_config import StateTtlConfig
from ..batch import Batch
from ..changelog import CHANGELOGS, EVERYTHING, ChangelogMode, RowKind, alike, changes
from ..keys import KeySelector
from ..records.record_types import RecordType
from .keyed import KeyedOperator
from .operator import Operator, OperatorContext, RestoredState
from .running import state_type
from .user_code import call_each, raise_user_error, shown, taken_apart

_INSERT, _AFTER, _DELETE = int(RowKind.INSERT), int(RowKind.UPDATE_AFTER), int(RowKind.DELETE)
_ADDS = frozenset(int(kind) for kind in RowKind if kind.adds)


class OnlyInsertsOperator(Operator):
    """Drops every record that is not +I."""

    accepted_modes = EVERYTHING

    def __init__(self, output_type: RecordType) -> None:
        self.output_type = output_type

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return ChangelogMode.INSERT_ONLY

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if batch.row_kinds is None:
            self.output.emit(batch)
            return
        kept = np.flatnonzero(batch.row_kinds == RowKind.INSERT)
        if len(kept):
            insertions = batch.take(kept)
            insertions.row_kinds = None
            self.output.emit(insertions)


class WithRowKindsOperator(Operator):
    """Makes (kind, record) of every record: insertions, which everything takes."""

    accepted_modes = EVERYTHING

    def __init__(self, output_type: RecordType) -> None:
        """output_type: of the pairs."""
        self.output_type = output_type

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return ChangelogMode.INSERT_ONLY

    def process_batch(self, batch: Batch, input_index: int) -> None:
        pairs = batch.with_rows(self.output_type, list(map(tuple, changes(batch.rows(), batch.row_kinds))))
        pairs.row_kinds = None
        self.output.emit(pairs)


class AsChangelogOperator(Operator):
    """Gives every record the kind that a function says."""

    def __init__(self, kind_of: Callable[[Any], Any], mode: ChangelogMode, output_type: RecordType) -> None:
        self.kind_of = kind_of
        self.mode = mode
        self.output_type = output_type

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return self.mode

    def process_batch(self, batch: Batch, input_index: int) -> None:
        rows = batch.rows()
        kinds = call_each(self.context, self.kind_of, rows)
        for row, kind in zip(rows, kinds, strict=True):
            if not isinstance(kind, RowKind) or (kind is RowKind.UPDATE_BEFORE and self.mode is ChangelogMode.UPSERT):
                wanted = "a RowKind" if self.mode is ChangelogMode.ALL else "a RowKind but UPDATE_BEFORE"
                raise RecordTypeError(f"operator '{self.context.operator_name}': the kind of a record is {wanted}, "
                                      f"not {kind!r} (on the record {shown(row)})")  # fmt: skip
        changed = batch.with_timestamps(batch.timestamps())
        changed.row_kinds = np.array(kinds, np.int8)
        self.output.emit(changed)


class AsUpsertsOperator(Operator):
    """Insertions, and upserts, are upserts as they are."""

    accepted_modes = frozenset({ChangelogMode.INSERT_ONLY, ChangelogMode.UPSERT})

    def __init__(self, output_type: RecordType) -> None:
        self.output_type = output_type

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return ChangelogMode.UPSERT

    def process_batch(self, batch: Batch, input_index: int) -> None:
        self.output.emit(batch)


Records = tuple[Any, ...]
"""Those of a key that were given and not taken back, in the order in which they came: usually one."""


class ToUpsertOperator(KeyedOperator):
    """The newest record of every key, for sinks that overwrite by key (Flink's SinkUpsertMaterializer).

    An update that comes by two ways, as those of a join do whose key it changes, may come with its halves in either
    order: +U of the new record and then -U of the old one, by which a sink would delete what it has just written. So
    the records of every key are kept, and one that is taken back means something only if it is the newest: then the one
    before it counts again (+U), and if there is none, the key is gone (-D). Nothing is said of a record that is taken
    back where the next of its key comes in the same batch.

    What is taken back and not known, for its TTL is over, deletes its key if nothing else is known of that."""

    accepted_modes = CHANGELOGS

    def __init__(self, selector: KeySelector, output_type: RecordType, ttl: StateTtlConfig | None = None) -> None:
        super().__init__(selector, output_type)
        self.ttl = ttl

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return ChangelogMode.UPSERT

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        kind: Any = state_type(self.output_type)
        records: Any = None if kind is None else tuple[kind, ...]
        descriptor: ValueStateDescriptor[Any] = ValueStateDescriptor("records", records, ttl=self.ttl)
        self._state = self.backend.value_state(descriptor)
        self._written = serializer_for(kind).encode

    def process_batch(self, batch: Batch, input_index: int) -> None:
        rows, times = batch.rows(), batch.timestamp_list()
        kinds = [_INSERT] * len(rows) if batch.row_kinds is None else batch.row_kinds.tolist()
        kept = self.output_type.copy_rows(rows)
        places: dict[Any, list[int]] = {}
        for position, key in enumerate(self.keys(batch)):
            places.setdefault(key, []).append(position)
        given: dict[int, tuple[Any, int]] = {}

        def step(before: Records | None, own: list[int]) -> Records | None:
            records = list(before or ())
            last_addition = max([position for position in own if kinds[position] in _ADDS], default=-1)
            for position in own:
                if kinds[position] in _ADDS:
                    records.append(kept[position])
                    given[position] = rows[position], kinds[position]
                elif self._take_back(records, kept[position]) and position > last_addition:
                    before_it = taken_apart(records[-1], self.output_type) if records else None
                    given[position] = (before_it, _AFTER) if records else (rows[position], _DELETE)
            return tuple(records) or None

        try:
            self._state.fold(list(places), list(places.values()), step)
        except Exception as error:
            raise_user_error(self.context, error, f"in a batch that begins with {shown(rows[0])}")
        self._give_out(given, times)

    def _take_back(self, records: list[Any], record: Any) -> bool:
        """Whether it was the newest."""
        position = self._position(records, record)
        if position is None:
            return not records
        del records[position]
        return position == len(records)

    def _position(self, records: list[Any], record: Any) -> int | None:
        """Of the last that equals it. One with a NaN or an array does not, and is written as it is all the same."""
        for at in range(len(records) - 1, -1, -1):
            if alike(records[at], record):
                return at
        written = self._written(record) if records else b""
        return next((at for at in range(len(records) - 1, -1, -1) if self._written(records[at]) == written), None)

    def _give_out(self, given: dict[int, tuple[Any, int]], times: list[int]) -> None:
        if not given:
            return
        positions = sorted(given)
        upserts = Batch.of_rows(self.output_type, [given[at][0] for at in positions], [times[at] for at in positions])
        kinds = np.array([given[at][1] for at in positions], np.int8)
        upserts.row_kinds = kinds if kinds.any() else None
        self.output.emit(upserts)
