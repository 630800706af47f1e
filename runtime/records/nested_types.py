"""Field types with others inside: lists, dicts, objects with fields. They encode what is inside as one long column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .field_types import FieldType
from .shapes import Shape


@dataclass(frozen=True)
class ListOf(FieldType):
    """list[item], or tuple[item, ...]."""

    container: type
    item: FieldType

    @property
    def python(self) -> type:
        return self.container

    @property
    def name(self) -> str:
        return f"list[{self.item}]" if self.container is list else f"tuple[{self.item}, ...]"

    @property
    def arrow(self) -> pa.DataType:
        return pa.list_(self.item.arrow)

    @property
    def immutable(self) -> bool:
        return self.container is tuple and self.item.immutable

    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        items = self.item.encode(list(chain.from_iterable(values)), f"an item of {where}")
        return pa.ListArray.from_arrays(_offsets(values), items)

    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        items = self.item.decode(array.flatten(), f"an item of {where}")
        ends = list(accumulate(pc.list_value_length(array).to_pylist(), initial=0))
        parts = [items[start:end] for start, end in pairwise(ends)]
        return parts if self.container is list else list(map(tuple, parts))


@dataclass(frozen=True)
class MapOf(FieldType):
    """dict[key, value], in the order of insertion."""

    key: FieldType
    value: FieldType

    @property
    def python(self) -> type:
        return dict

    @property
    def name(self) -> str:
        return f"dict[{self.key}, {self.value}]"

    @property
    def arrow(self) -> pa.DataType:
        return pa.map_(self.key.arrow, self.value.arrow)

    @property
    def immutable(self) -> bool:
        return False

    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        keys = self.key.encode(list(chain.from_iterable(values)), f"a key of {where}")
        items = self.value.encode([v for d in values for v in d.values()], f"a value of {where}")
        return pa.MapArray.from_arrays(_offsets(values), keys, items)

    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        offsets = array.offsets.to_pylist()
        first, count = offsets[0], offsets[-1] - offsets[0]
        keys = self.key.decode(array.keys.slice(first, count), f"a key of {where}")
        values = self.value.decode(array.items.slice(first, count), f"a value of {where}")
        return [
            dict(zip(keys[start - first : end - first], values[start - first : end - first], strict=True))
            for start, end in pairwise(offsets)
        ]


def _offsets(values: Sequence[Any]) -> pa.Array:
    return pa.array(list(accumulate(map(len, values), initial=0)), pa.int32())


@dataclass(frozen=True)
class Struct(FieldType):
    """Objects with named fields: dataclasses, named and plain tuples, typed dicts."""

    shape: Shape
    fields: tuple[FieldType, ...]

    @property
    def python(self) -> type:
        return self.shape.python

    @property
    def name(self) -> str:
        return self.shape.name

    @cached_property
    def arrow_fields(self) -> list[pa.Field]:
        pairs = zip(self.shape.names, self.fields, strict=True)
        return [pa.field(name, field.arrow, field.nullable) for name, field in pairs]

    @property
    def arrow(self) -> pa.DataType:
        return pa.struct(self.arrow_fields)

    @property
    def immutable(self) -> bool:
        return self.shape.frozen and all(field.immutable for field in self.fields)

    def encode_fields(self, rows: Sequence[Any]) -> list[pa.Array]:
        """One array per field, of rows that are all exactly of this type."""
        columns = self.shape.take_apart(rows)
        places = zip(self.fields, columns, self.shape.names, strict=True)
        return [field.encode(column, f"field {name!r} of {self.name}") for field, column, name in places]

    def decode_fields(self, arrays: Sequence[pa.Array]) -> list[Any]:
        places = zip(self.fields, arrays, self.shape.names, strict=True)
        return self.shape.put_together(
            *[field.decode(array, f"field {name!r} of {self.name}") for field, array, name in places]
        )

    def _encode(self, values: Sequence[Any], where: str) -> pa.Array:
        return pa.StructArray.from_arrays(self.encode_fields(values), fields=self.arrow_fields)

    def _decode(self, array: pa.Array, where: str) -> list[Any]:
        return self.decode_fields(array.flatten())
