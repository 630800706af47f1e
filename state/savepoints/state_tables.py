"""Rows of one state as a table: what people read, and beside it the exact bytes.

    key_group    of the key; rows stand in this order
    key          typed, as far as the keys of the stream are of one type; else JSON text
    namespace    0, or the start of the window in ms
    user_key     of a map's entry
    index        of a list's element
    timestamp    of a timer, in ms
    last_access  where the state has or had a TTL: when the value, entry or element was last used
    ...          the value: a column for each field of a record, else one named `value`; pickled ones as JSON text,
                 as far as they can be read without their classes
    _key         \\
    _suffix       > the row as it is in the row store (row_keys.py, timer_rows.py), which is what a restore reads
    _value       /

A list's elements are rows of their own; `_value` is that of a chunk, which stands with its first element, and null
with the others. A field whose name is taken gets "value_" in front. Columns follow the newest description of the
state's type; in rows that were written before, fields that are new are null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from ..key_encoding import decode_plain
from ..rows.backend_meta import BackendMeta, StateMeta
from ..rows.row_keys import decode_word, parts_of_row_key, prefix_length, row_key
from ..rows.ttl import is_stamped, stamp_of, stamps_of_chunk
from ..serialization.plain_rows import PlainRows
from ..serialization.readable_types import ReadableField, fields_of, readable, readable_key
from .parquet_files import KEY_GROUP

Row = tuple[bytes, bytes]
NamesOf = Callable[[str], Sequence[str]]
"""The field names of a class of keys, "module:Name"; none where they are not known."""

KEY, SUFFIX, VALUE = EXACT = ("_key", "_suffix", "_value")
_TAKEN = (KEY_GROUP, "key", "namespace", "user_key", "index", "timestamp", "last_access", *EXACT)
_TIME = pa.timestamp("ms", "UTC")
_NO_ELEMENT: list[tuple[Any, int | None]] = [(None, None)]


class StateTable:
    """Makes the tables of one state, part by part in the order of the rows."""

    def __init__(self, meta: BackendMeta, state: StateMeta, names_of: NamesOf) -> None:
        self._kind = state.kind
        self._rows = PlainRows(state.written_as)
        self._key = readable_key(meta.keys, names_of)
        self._user_key = readable_key(state.keys, names_of)
        newest = state.written_as[-1] if state.written_as else None
        self._fields = _named(fields_of(newest))
        self._value = None if newest is None or self._fields else readable(newest)
        self.schema = self._schema(state.stamped)
        self._list: tuple[bytes, int] = (b"", 0)
        """The list that the last part ended with, and how many of its elements there were."""

    def _schema(self, stamped: bool) -> pa.Schema:
        columns = [(KEY_GROUP, pa.int32()), ("key", self._key.arrow), ("namespace", pa.int64())]
        own = {"map": ("user_key", self._user_key.arrow), "list": ("index", pa.int64())}
        own["timers"] = ("timestamp", pa.int64())
        columns += [own[self._kind]] if self._kind in own else []
        columns += [("last_access", _TIME)] if stamped else []
        columns += [(name, field.type.arrow) for name, field in self._fields.items()]
        columns += [] if self._value is None else [("value", self._value.arrow)]
        return pa.schema([*columns, *((name, pa.binary()) for name in EXACT)])

    def table(self, rows: Sequence[Row], expired_ms: int | None = None) -> pa.Table:
        """`rows`: sorted. Elements of lists that were last used at `expired_ms` or before are not shown; the bytes of
        their chunk are kept as they are."""
        if self._kind != "list":
            trees = [] if self._kind == "timers" else [self._tree(value) for _key, value in rows]
            stamps = [stamp_of(value) if is_stamped(value) else None for _key, value in rows]
            return self._table(rows, trees, {"last_access": stamps})
        shown: list[Row] = []
        elements: list[Any] = []
        columns: dict[str, list[Any]] = {"index": [], "last_access": [], VALUE: []}
        for row in rows:
            in_chunk = self._elements(row[1], expired_ms)
            for place, (element, stamp) in enumerate(in_chunk or _NO_ELEMENT):
                shown.append(row)
                elements.append(element)
                columns["index"].append(self._next_index(row[0]) if in_chunk else None)
                columns["last_access"].append(stamp)
                columns[VALUE].append(None if place else row[1])
        return self._table(shown, elements, columns)

    def _table(self, rows: Sequence[Row], trees: list[Any], own: dict[str, list[Any]]) -> pa.Table:
        groups, keys, namespaces, suffixes = zip(*(parts_of_row_key(key) for key, _value in rows), strict=True)
        columns: dict[str, Any] = {
            KEY_GROUP: groups,
            "key": self._key.array(list(map(decode_plain, suffixes if self._kind == "timers" else keys))),
            "namespace": namespaces,
            KEY: keys,
            SUFFIX: suffixes,
            VALUE: [value for _key, value in rows],
            **own,
        }
        if self._kind == "map":
            columns["user_key"] = self._user_key.array(list(map(decode_plain, suffixes)))
        elif self._kind == "timers":
            columns["timestamp"] = list(map(decode_word, keys))
        if self._value is not None:
            columns["value"] = self._value.array(trees)
        for name, field in self._fields.items():
            columns[name] = field.type.array([field.of(tree) if isinstance(tree, dict) else None for tree in trees])
        arrays = [_array(columns[field.name], field.type) for field in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _tree(self, value: bytes) -> Any:
        """None where it cannot be read: the bytes are there."""
        try:
            return self._rows.value(value)
        except Exception:  # whatever a pickle may raise
            return None

    def _elements(self, chunk: bytes, expired_ms: int | None) -> list[tuple[Any, int | None]]:
        try:
            elements = self._rows.elements(chunk)
        except Exception:  # as above
            return []
        if not is_stamped(chunk):
            return [(element, None) for element in elements]
        stamped = zip(elements, stamps_of_chunk(chunk), strict=True)
        return [(each, stamp) for each, stamp in stamped if expired_ms is None or stamp > expired_ms]

    def _next_index(self, key: bytes) -> int:
        cell = key[: prefix_length(key)]
        known, index = self._list
        index = index if known == cell else 0
        self._list = (cell, index + 1)
        return index


def _named(fields: dict[str, ReadableField]) -> dict[str, ReadableField]:
    """Columns are told apart without regard to case, as SQL does it."""
    taken = set(_TAKEN)
    named: dict[str, ReadableField] = {}
    for field, column in fields.items():
        name = field
        while name.casefold() in taken:
            name = f"value_{name}"
        taken.add(name.casefold())
        named[name] = column
    return named


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def rows_of_table(batch: pa.RecordBatch, state_id: int) -> Iterator[Row]:
    """The rows that it was made of, under the id that the state has here."""
    columns = (batch.column(name).to_pylist() for name in (KEY_GROUP, KEY, "namespace", SUFFIX, VALUE))
    for group, key, namespace, suffix, value in zip(*columns, strict=True):
        if value is not None:
            yield row_key(group, state_id, key, namespace, suffix), value
