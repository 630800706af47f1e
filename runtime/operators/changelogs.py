"""Operators about the row kinds themselves: give them to records, take them away, make upserts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...state.errors import RecordTypeError
from ..batch import Batch
from ..changelog import EVERYTHING, ChangelogMode, RowKind, changes
from ..keys import KeySelector
from ..record_types import RecordType
from .operator import Operator
from .user_code import call_each, keys_by, shown

_BEFORE, _DELETE = int(RowKind.UPDATE_BEFORE), int(RowKind.DELETE)
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


class ToUpsertOperator(Operator):
    """Drops -U, by which a sink that overwrites by key would delete what it is about to overwrite.

    The key may be one that an update changes: of the old key nothing comes then, and it must go. So a -U is dropped if
    its key comes again in the batch, and is a -D otherwise. Where a batch ends between the two there is a -D too many,
    which the next record makes good."""

    accepted_modes = EVERYTHING

    def __init__(self, selector: KeySelector, output_type: RecordType) -> None:
        self.selector = selector
        self.output_type = output_type

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return ChangelogMode.UPSERT

    def process_batch(self, batch: Batch, input_index: int) -> None:
        if batch.row_kinds is None:
            self.output.emit(batch)
            return
        keys, kinds = keys_by(self.selector, batch, self.context), batch.row_kinds.tolist()
        positions: list[int] = []
        given: set[Any] = set()
        for position in range(len(kinds) - 1, -1, -1):
            if kinds[position] in _ADDS:
                given.add(keys[position])
            elif kinds[position] == _BEFORE and keys[position] in given:
                continue
            positions.append(position)
        positions.reverse()
        upserts = batch.keep(positions)
        upserts.row_kinds = np.array([_DELETE if kinds[i] == _BEFORE else kinds[i] for i in positions], np.int8)
        self.output.emit(upserts)
