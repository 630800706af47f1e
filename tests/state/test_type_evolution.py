"""Every rule of docs/state-evolution.md, in both directions: what is refused, and what rows are read as."""

from __future__ import annotations

import dataclasses
import enum
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pyarrow as pa
import pytest

from penstock.state.errors import DamagedCheckpointError
from penstock.state.serialization.serializers import serializer_for
from penstock.state.serialization.type_descriptions import renamed_from
from penstock.state.serialization.type_evolution import differences

TABLE = Path(__file__).parents[2] / "docs" / "state-evolution.md"
NOON = datetime(2024, 5, 1, 12, 0, 0, 5_000, tzinfo=UTC)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class MoreColors(enum.Enum):
    RED = 1
    BLUE = 2
    GREEN = 3


class RenamedColor(enum.Enum):
    CRIMSON = 1
    RED = 1  # noqa: PIE796  its former name
    BLUE = 2


class RecountedColor(enum.Enum):
    GREEN = 1
    RED = 2
    BLUE = 3


@dataclass
class Point:
    x: int
    y: str


@dataclass
class Point3:
    x: int
    y: str
    z: list[int] = field(default_factory=lambda: [7])


@dataclass
class StrictPoint3:
    x: int
    y: str
    z: int


@dataclass
class ReorderedPoint:
    y: str
    x: int


@dataclass
class WidePoint:
    x: float | None
    y: str


@dataclass
class RenamedPoint:
    across: Annotated[int, renamed_from("x")]
    y: str


@dataclass
class OtherPoint:
    across: int
    y: str


class PointTuple(NamedTuple):
    x: int
    y: str


class Pair(NamedTuple):
    first: int
    second: str


class Swapped(NamedTuple):
    second: str
    third: Decimal = Decimal("1.5")
    fourth: tuple[int, ...] = (1,)


class Loose(TypedDict):
    a: int
    b: NotRequired[int]


class Strict(TypedDict):
    a: int
    b: int


@dataclass
class Box:
    content: Point | None


@dataclass
class WideBox:
    content: WidePoint | None


@dataclass
class Tree:
    value: int
    children: list[Tree]
    parent: Tree | None = None


@dataclass
class WideTree:
    value: float
    children: list[WideTree]
    parent: WideTree | None = None
    color: str = "green"


@dataclass(frozen=True)
class Tag:
    name: str
    number: int = 0


@dataclass(frozen=True)
class ShortTag:
    name: str


class Circle(msgspec.Struct, tag=True):
    radius: int


class Square(msgspec.Struct, tag=True):
    side: int


class Dot(msgspec.Struct, tag=True):
    pass


def arrow(*fields: tuple[str, Any, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable) for name, kind, nullable in fields])


SCHEMA = arrow(("x", pa.int64(), False), ("y", pa.string(), False))
Values = list[tuple[Any, Any]]
"""What was written, and what is read."""


@dataclass
class Case:
    """Of a row of the table: values that are read, or a part of the message that refuses them."""

    old: Any
    new: Any
    forth: Values | str
    back: Values | str


CASES = {
    1: Case(int, float, [(3, 3.0), (-(2**40), -float(2**40))], "the value was float and is now int"),
    2: Case(pa.int32(), pa.int64(), [(-5, -5), (2**31 - 1, 2**31 - 1)], "was int64 and is now int32"),
    3: Case(pa.int64(), int, [(2**63 - 1, 2**63 - 1)], "was int and is now int64, which is narrower"),
    4: Case(pa.float32(), pa.float64(), [(0.5, 0.5)], "which is narrower"),
    5: Case(int, str, "was int and is now str", "was str and is now int"),
    6: Case(bool, int, "was bool and is now int", "was int and is now bool"),
    7: Case(int, Decimal, "was int and is now decimal", "was decimal and is now int"),
    8: Case(date, datetime, "was date and is now datetime", "was datetime and is now date"),
    9: Case(UUID, str, "was uuid and is now str", "was str and is now uuid"),
    10: Case(pa.decimal128(5, 2), pa.decimal128(7, 3), [(Decimal("123.45"), Decimal("123.45"))], "narrower"),
    11: Case(pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC"), [(NOON, NOON)], "narrower"),
    12: Case(pa.timestamp("us"), pa.timestamp("us", "UTC"), "narrower", "narrower"),
    13: Case(Annotated[int, msgspec.Meta(ge=0)], int, [(4, 4)], "was int and is now int(ge=0), which is narrower"),
    14: Case(Point, Point | None, [(Point(1, "a"), Point(1, "a"))], "may be None and is now Point; declare it Point |"),
    15: Case(int, int | str, [(1, 1)], "may be str and is now int"),
    16: Case(int | str, str | float, [(1, 1.0), ("a", "a")], "may be float and is now int | str"),
    17: Case(Literal["a"], Literal["a", "b"], [("a", "a")], "may be 'b', which is no longer allowed"),
    18: Case(Literal["a"], str, [("a", "a")], "was str and is now Literal['a']"),
    19: Case(Color, MoreColors, [(Color.BLUE, MoreColors.BLUE)], "may be MoreColors.GREEN, which no longer exists"),
    20: Case(Color, RenamedColor, [(Color.RED, RenamedColor.CRIMSON)], "keep the member (as a second name of RED)"),
    21: Case(Color, RecountedColor, "Color.RED, which was 1 and is now 2", "GREEN, which no longer exists"),
    22: Case(Color, int, "was Color and is now int", "was int and is now Color"),
    23: Case(Point, Point3, [(Point(1, "a"), Point3(1, "a", [7]))], [(Point3(1, "a", [8]), Point(1, "a"))]),
    24: Case(Point, StrictPoint3, "field 'z' is new and has no default", [(StrictPoint3(1, "a", 2), Point(1, "a"))]),
    25: Case(Point, ReorderedPoint, [(Point(1, "a"), ReorderedPoint("a", 1))],
             [(ReorderedPoint("a", 1), Point(1, "a"))]),
    26: Case(Point, WidePoint, [(Point(1, "a"), WidePoint(1.0, "a"))], "field 'x' may be float and is now int"),
    27: Case(Point, RenamedPoint, [(Point(1, "a"), RenamedPoint(1, "a"))], "field 'x' is new and has no default"),
    28: Case(Point, OtherPoint, "field 'across' is new", "field 'x' is new"),
    29: Case(OtherPoint, RenamedPoint, [(OtherPoint(1, "a"), RenamedPoint(1, "a"))],
             [(RenamedPoint(1, "a"), OtherPoint(1, "a"))]),
    30: Case(Point, PointTuple, [(Point(1, "a"), PointTuple(1, "a"))], [(PointTuple(1, "a"), Point(1, "a"))]),
    31: Case(Pair, Swapped, [(Pair(1, "a"), Swapped("a", Decimal("1.5"), (1,)))], "field 'first' is new"),
    32: Case(Loose, Strict, "field 'b' was not required and is now", [({"a": 1, "b": 2}, {"a": 1, "b": 2})]),
    33: Case(SCHEMA, SCHEMA.append(pa.field("z", pa.list_(pa.int8()))),
             [({"x": 1, "y": "a"}, {"x": 1, "y": "a", "z": None})],
             [({"x": 1, "y": "a", "z": [3, None]}, {"x": 1, "y": "a"})]),
    34: Case(SCHEMA, SCHEMA.append(pa.field("z", pa.int8(), False)), "field 'z' is new and has no default",
             [({"x": 1, "y": "a", "z": 3}, {"x": 1, "y": "a"})]),
    35: Case(SCHEMA, Point, [({"x": 1, "y": "a"}, Point(1, "a"))], "field 'x' was int and is now int64"),
    36: Case(list[Point], list[WidePoint], [([Point(1, "a")], [WidePoint(1.0, "a")])], "field '[].x' may be float"),
    37: Case(dict[str, PointTuple], dict[str, WidePoint], [({"k": PointTuple(1, "a")}, {"k": WidePoint(1.0, "a")})],
             "field '{value}.x' may be float"),
    38: Case(tuple[int, Point], tuple[int, WidePoint], [((4, Point(1, "a")), (4, WidePoint(1.0, "a")))], "'[1].x'"),
    39: Case(Box, WideBox, [(Box(Point(1, "a")), WideBox(WidePoint(1.0, "a"))), (Box(None), WideBox(None))],
             "field 'content.x' may be float and is now int"),
    40: Case(Tree, WideTree,
             [(Tree(1, [Tree(2, [], Tree(3, []))]), WideTree(1.0, [WideTree(2.0, [], WideTree(3.0, []))]))],
             "field 'value' was float and is now int"),
    41: Case(tuple[int, int], tuple[int, int, int], "was tuple[int, int] and is now", "was tuple[int, int, int]"),
    42: Case(list[int], tuple[int, ...], "was list[int] and is now tuple[int, ...]", "was tuple[int, ...] and is now"),
    43: Case(set[int], set[float], "'[]' is an int in a key or set and is now a float", "was float and is now int"),
    44: Case(dict[int, str], dict[float, str], "'{key}' is an int in a key or set", "was float and is now int"),
    45: Case(frozenset[Tag], frozenset[ShortTag], "field '[].number' is gone",
             [(frozenset({ShortTag("a")}), frozenset({Tag("a", 0)}))]),
    46: Case(Circle | Square, Circle | Square | Dot, [(Circle(1), Circle(1)), (Square(2), Square(2))], "may be Dot"),
    47: Case(Point, None, "was typed (Point) and would now be pickled", "was pickled and is now declared Point"),
}  # fmt: skip
ELSEWHERE = {48, 49, 50}
"""Rows about kinds and keys: tests/state/test_evolved_state.py."""


def rows() -> dict[int, tuple[str, str]]:
    """The verdicts of the table."""
    pattern = re.compile(r"^\| (\d+) \|.*\| (reads|refused) \| (reads|refused) \|$", re.MULTILINE)
    return {int(number): (forth, back) for number, forth, back in pattern.findall(TABLE.read_text())}


def test_the_table_and_the_cases_say_the_same() -> None:
    verdicts = {
        number: tuple("refused" if isinstance(each, str) else "reads" for each in (case.forth, case.back))
        for number, case in CASES.items()
    }
    assert {number: each for number, each in rows().items() if number not in ELSEWHERE} == verdicts
    assert {rows()[number] for number in ELSEWHERE} == {("refused", "refused")}


def check(old: Any, new: Any, expected: Values | str) -> None:
    before, after = serializer_for(old), serializer_for(new)
    found = differences(before.description, after.description)
    if isinstance(expected, str):
        assert any(expected in str(each) for each in found), found
        return
    assert not found
    reader = after.reading([after.description, before.description])
    for written, value in expected:
        row = before.encode(written)
        assert reader.decode(row) == value
        assert type(reader.decode(row)) is type(value)
        lists = reader.of_lists()
        assert lists.decode(before.of_lists().encode([written, written])) == [value, value]
        again = reader.encode(reader.decode(row))
        assert reader.decode_all([again, None, row]) == [value, None, value]


@pytest.mark.parametrize("number", CASES)
def test_forth(number: int) -> None:
    check(CASES[number].old, CASES[number].new, CASES[number].forth)


@pytest.mark.parametrize("number", CASES)
def test_back(number: int) -> None:
    check(CASES[number].new, CASES[number].old, CASES[number].back)


@pytest.mark.parametrize("number", CASES)
def test_a_type_reads_its_own_rows(number: int) -> None:
    case = CASES[number]
    for kind, values in ((case.old, case.forth), (case.new, case.back)):
        serializer = serializer_for(kind)
        assert not differences(serializer.description, serializer.description)
        stored = msgspec.json.decode(msgspec.json.encode(serializer.description))
        assert not differences(stored, serializer.description), "as it comes back from a snapshot"
        for written, _value in values if isinstance(values, list) else ():
            assert serializer.decode(serializer.encode(written)) == written


# ---- what the table does not say


@dataclass
class Counter:
    count: int
    name: str


@dataclass
class NewCounter:
    total: Annotated[float, renamed_from("count")]
    name: str
    unit: str = "1"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (Counter(2**70, "big"), NewCounter(float(2**70), "big")),
        (Counter(1, "lone \ud800"), NewCounter(1.0, "lone \ud800")),
    ],
)
def test_what_message_pack_cannot_carry_evolves_as_well(written: Any, read: Any) -> None:
    """It used to be a pickle of the object, which knows nothing of new fields."""
    old, new = serializer_for(Counter), serializer_for(NewCounter)
    assert old.decode(old.encode(written)) == written
    assert new.reading([old.description]).decode(old.encode(written)) == read


def test_a_row_of_an_unknown_description_is_damaged() -> None:
    with pytest.raises(DamagedCheckpointError, match="of which its snapshot knows nothing"):
        serializer_for(Swapped).decode(serializer_for(Pair).encode(Pair(1, "a")))


def test_all_differences_are_told_each_with_its_path() -> None:
    @dataclass
    class Money:
        amount: int
        currency: str

    @dataclass
    class NewMoney:
        amount: str
        currency: str
        rate: float

    old = serializer_for(dataclasses.make_dataclass("Order", [("price", Money), ("items", list[Money])]))
    new = serializer_for(dataclasses.make_dataclass("Order", [("price", NewMoney), ("items", list[NewMoney])]))
    found = differences(old.description, new.description)
    assert [each.path for each in found] == ["price.amount", "price.rate", "items[].amount", "items[].rate"]
    assert all(each.advice for each in found)


def test_two_fields_cannot_have_one_origin() -> None:
    @dataclass
    class Both:
        across: Annotated[int, renamed_from("x")]
        y: str
        x: int = 0

    found = differences(serializer_for(Point).description, serializer_for(Both).description)
    assert "field 'x' is read from 'x', like 'across'" in str(found[0])


def test_a_default_that_is_left_out_of_rows_cannot_change() -> None:
    old = msgspec.defstruct("Short", [("a", int, 1)], omit_defaults=True)
    new = msgspec.defstruct("Short", [("a", int, 2)], omit_defaults=True)
    found = differences(serializer_for(old).description, serializer_for(new).description)
    assert "field 'a' was left out of rows where it had its default" in str(found[0])
