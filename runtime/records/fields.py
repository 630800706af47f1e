"""How a field of a record is read and replaced by its name or position, whatever kind of record it is."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from operator import attrgetter, itemgetter
from typing import Any

from ...state.errors import RecordTypeError

_SCALARS = (str, bytes, int, float, bool, type(None))


def field_getter(record: Any, field: str | int) -> Callable[[Any], Any]:
    """Reads `field` of records of this record's kind: dicts by name, objects by attribute, tuples also by position.

    A scalar record has one field, named `value`. RecordTypeError when this record has no such field.
    """
    getter = _getter(record, field)
    try:
        getter(record)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise RecordTypeError(f"records of type {type(record).__name__} have no field {field!r}") from error
    return getter


def _getter(record: Any, field: str | int) -> Callable[[Any], Any]:
    if field in ("value", 0) and isinstance(record, _SCALARS):
        return lambda value: value
    if isinstance(field, int) and dataclasses.is_dataclass(record):
        names = [each.name for each in dataclasses.fields(record)]
        if not 0 <= field < len(names):
            raise RecordTypeError(f"records of type {type(record).__name__} have no field {field}")
        return attrgetter(names[field])
    if isinstance(field, int) or isinstance(record, dict):
        return itemgetter(field)
    return attrgetter(field)


def fields_getter(record: Any, fields: tuple[str, ...]) -> Callable[[Any], Any]:
    """One field: its value; several: the tuple of them."""
    if len(fields) == 1:
        return field_getter(record, fields[0])
    getters = [field_getter(record, field) for field in fields]
    if isinstance(record, dict):
        return itemgetter(*fields)
    if all(isinstance(getter, attrgetter) for getter in getters):
        return attrgetter(*fields)
    return lambda row: tuple([getter(row) for getter in getters])


def field_replacer(record: Any, field: str | int) -> Callable[[Any, Any], Any]:
    """(record, value) -> a copy of the record with that value in `field`."""
    if isinstance(record, _SCALARS):
        return lambda row, value: value
    if isinstance(record, dict):
        return lambda row, value: {**row, field: value}
    if isinstance(record, tuple):
        return _tuple_replacer(record, field)
    name = dataclasses.fields(record)[field].name if isinstance(field, int) else field

    def replaced(row: Any, value: Any) -> Any:
        other = copy.copy(row)
        object.__setattr__(other, name, value)
        return other

    return replaced


def _tuple_replacer(record: Any, field: str | int) -> Callable[[Any, Any], Any]:
    position = field if isinstance(field, int) else record._fields.index(field)
    make = getattr(type(record), "_make", tuple)
    return lambda row, value: make((*row[:position], value, *row[position + 1 :]))
