"""Keys: how a record's key is found, and what may be one.

A key is normalised once, at key_by (PROTOCOLS 25): numpy scalars become Python's, -0.0 becomes 0.0, aware datetimes
become UTC, Decimals lose trailing zeros; NaN, naive datetimes and types that are no keys are refused. The keys of a
stream have one type (for tuples: one type per position): the annotation's, else the first record's; another one is
an error, because 1, 1.0 and True would otherwise meet in one dict entry.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import date
from enum import Enum
from typing import Any
from uuid import UUID

from ..state.errors import KeyTypeError, RecordTypeError
from ..state.key_groups import columns_key_groups, key_groups_of
from .batch import Batch, KeyGroupArray
from .functions import callable_of, called_on_each
from .hints import shown
from .key_types import KeyType
from .records.fields import fields_getter
from .records.record_types import RecordType, RowType, SchemaType


class KeySelector(ABC):
    """Finds the keys of a batch. Picklable; one instance per operator and partitioner (it remembers the key type).

    What it finds is remembered in the batch under the selector's token, which pickled copies share, so that the
    partitioner and the operator behind it find keys once; another key_by's keys on the same batch are not taken.
    """

    token: str
    key_type: KeyType

    def keys(self, batch: Batch) -> list[Any]:
        """Normalised keys, one per row; remembered in batch.keys. KeyTypeError, RecordTypeError; CallError of what
        users' functions raise."""
        if batch.keys is None or not self._owns(batch):
            found = self._find(batch)
            try:
                keys = self.key_type.normalise(found)
            except KeyTypeError as error:
                raise self._refused(found, batch.rows(), error) from None
            self._claim(batch)
            batch.keys = keys
        return batch.keys

    def _refused(self, found: list[Any], rows: list[Any], error: KeyTypeError) -> KeyTypeError:
        """The error with the first record whose key is none."""
        for key, row in zip(found, rows, strict=True):
            try:
                self.key_type.normalise([key])
            except KeyTypeError as own:
                return KeyTypeError(f"{own} (the key {shown(key)} of the record {shown(row)})")
        return error

    def key_groups(self, batch: Batch, max_parallelism: int) -> KeyGroupArray:
        """uint16 key group of every row; remembered in batch.key_groups. Works on the face the batch has: columnar
        keys are hashed over the Arrow buffers, and give the same groups as the same keys as Python objects."""
        if batch.key_groups is None or batch.keyed_by != (self.token, max_parallelism):
            groups = self._find_groups(batch, max_parallelism)
            self._claim(batch)
            batch.key_groups = groups
            batch.keyed_by = (self.token, max_parallelism)
        return batch.key_groups

    @abstractmethod
    def _find(self, batch: Batch) -> list[Any]:
        """The keys as the records have them."""

    def _find_groups(self, batch: Batch, max_parallelism: int) -> KeyGroupArray:
        return key_groups_of(self.keys(batch), max_parallelism)

    def _owns(self, batch: Batch) -> bool:
        return batch.keyed_by is not None and batch.keyed_by[0] == self.token

    def _claim(self, batch: Batch) -> None:
        """Forget what another selector has remembered there."""
        if not self._owns(batch):
            batch.keys, batch.key_groups, batch.keyed_by = None, None, (self.token, 0)


class KeyByFunction(KeySelector):
    """Keys by a callable (or an object with get_key): `key_by(lambda record: record.user)`."""

    def __init__(self, function: Callable[[Any], Any] | Any, key_type: Any = None) -> None:
        """KeyTypeError when the annotated key type cannot be one."""
        self.function = function
        self.key_type = KeyType(key_type)
        self.token = f"function {next(_numbers)}"

    def _find(self, batch: Batch) -> list[Any]:
        return called_on_each(
            callable_of(self.function, "get_key"), batch.rows(), doing="in the key function, on the record"
        )


class KeyByColumns(KeySelector):
    """Keys by columns: the value of one, the tuple of several."""

    def __init__(self, names: Sequence[str], key_type: Any = None) -> None:
        self.names = tuple(names)
        self.key_type = KeyType(key_type)
        self.token = f"columns {self.names!r}"
        self._getter: Callable[[Any], Any] | None = None
        self._record_type: type | None = None

    def _find(self, batch: Batch) -> list[Any]:
        rows = batch.rows()
        if not rows:
            return []
        if self._getter is None or type(rows[0]) is not self._record_type:
            self._getter, self._record_type = self._getter_of(rows[0]), type(rows[0])
        return called_on_each(self._getter, rows, doing=f"in key_by({', '.join(map(repr, self.names))}), on the record")

    def _getter_of(self, record: Any) -> Callable[[Any], Any]:
        try:
            return fields_getter(record, self.names)
        except RecordTypeError as error:
            raise RecordTypeError(f"key_by: {error} (on the record {shown(record)})") from None

    def _find_groups(self, batch: Batch, max_parallelism: int) -> KeyGroupArray:
        if not batch.has_columns or not alike_in_columns(batch.record_type, self.names):
            return super()._find_groups(batch, max_parallelism)
        columns = batch.columns()
        missing = [name for name in self.names if name not in columns.schema.names]
        if missing:
            raise RecordTypeError(f"key_by: no column {missing[0]!r}; there are {', '.join(columns.schema.names)}")
        return columns_key_groups([columns.column(name) for name in self.names], max_parallelism)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_getter": None, "_record_type": None}


def alike_in_columns(record_type: RecordType, names: Sequence[str]) -> bool:
    """Do the key columns hash like the keys of the rows? Not where a column carries another type than the field."""
    if isinstance(record_type, SchemaType) or not isinstance(record_type, RowType):
        return True
    fields = dict(zip(record_type.struct.shape.names, record_type.struct.fields, strict=True))
    return all(name not in fields or issubclass(fields[name].python, _ALIKE) for name in names)


_ALIKE = (str, bytes, int, float, UUID, Enum, date)
_numbers = itertools.count()
"""Tells key functions of one pipeline apart; copies of a selector keep its number."""
