"""Records reach the same subtask whichever face their batch has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.keys import KeyByColumns, KeyByFunction
from penstock.runtime.records.record_types import record_type_of
from penstock.state.key_groups import key_group


class Colour(Enum):
    RED = "r"
    BLUE = "b"


class Place(NamedTuple):
    country: str
    code: int


@dataclass(frozen=True)
class Everything:
    text: str
    data: bytes
    number: int
    maybe: int | None
    flag: bool
    colour: Colour
    uuid: UUID
    amount: Decimal
    at: datetime
    day: date
    place: Place


AT, DAY, PLACE = datetime(2013, 1, 1, 12, tzinfo=UTC), date(2013, 1, 1), Place("CH", 1)
RECORDS = [
    Everything("JFK", b"\x00a", 1, None, True, Colour.RED, UUID(int=7), Decimal("1.50"), AT, DAY, PLACE),
    Everything(
        "", b"", -9, 3, False, Colour.BLUE, UUID(int=2**99), Decimal(-7), AT.min.replace(tzinfo=UTC), DAY, PLACE
    ),
]
FIELDS = list(Everything.__annotations__)


@pytest.mark.parametrize(
    "names", [*((name,) for name in FIELDS), ("text", "number"), ("maybe", "colour", "uuid", "day")]
)
def test_key_groups_of_rows_and_columns_are_equal(names: tuple[str, ...]) -> None:
    record_type = record_type_of(Everything)
    rows = Batch.of_rows(record_type, RECORDS)
    columns = Batch.of_columns(record_type, record_type.to_columns(RECORDS))
    selector = KeyByColumns(names)
    of_rows = selector.key_groups(rows, 128).tolist()
    assert selector.key_groups(columns, 128).tolist() == of_rows
    assert [key_group(key, 128) for key in selector.keys(rows)] == of_rows
    by_function = KeyByFunction(lambda record: selector.keys(Batch.of_rows(record_type, [record]))[0])
    assert by_function.key_groups(Batch.of_rows(record_type, RECORDS), 128).tolist() == of_rows
    back: list[Any] = columns.rows()
    assert [key_group(key, 128) for key in selector.keys(Batch.of_rows(record_type, back))] == of_rows
