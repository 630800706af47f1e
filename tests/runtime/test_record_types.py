"""Records come back from columns exactly as they were, or are refused (PROTOCOLS 14)."""

from __future__ import annotations

import math
import pickle
import pprint
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.records.record_types import OPAQUE, RecordType, SchemaType, record_type_of
from penstock.state.errors import RecordTypeError


class Color(Enum):
    RED = "r"
    BLUE = "b"
    CRIMSON = "r"  # noqa: PIE796


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Rights(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: int
    y: float | None


class Pair(NamedTuple):
    name: str
    point: Point


class Visit(TypedDict):
    user: str
    pages: list[str]


@dataclass(frozen=True)
class Frozen:
    id: UUID
    level: Level


@dataclass(frozen=True, slots=True)
class Slotted:
    text: str
    when: datetime


@dataclass(kw_only=True)
class Counted:
    """Building one calls __post_init__, restoring one must not."""

    name: str
    scale: InitVar[int] = 2
    length: int = field(init=False)

    def __post_init__(self, scale: int) -> None:
        self.length = len(self.name) * scale
        self.name = self.name.upper()


@dataclass
class Everything:
    a: int
    b: float
    c: str
    d: bool
    e: bytes
    f: Decimal
    g: datetime
    h: date
    i: timedelta
    j: UUID
    k: Color
    ll: list[int | None]
    m: dict[str, Point]
    n: Point | None
    o: tuple[int, str]
    p: tuple[float, ...] | None
    q: Optional[list[list[str]]]  # noqa: UP045
    r: Pair
    s: dict[int, tuple[bool, bytes]]


UserId = NewType("UserId", str)

INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda t: t.replace(fold=0))
POINTS = st.builds(Point, INTS, st.none() | FLOATS)
PAIRS = st.builds(Pair, TEXTS, POINTS)
SPANS = st.timedeltas(timedelta(days=-(10**8)), timedelta(days=10**8))
EVERYTHING = st.builds(
    Everything, INTS, FLOATS, TEXTS, st.booleans(), st.binary(), st.decimals(allow_nan=False), TIMES, st.dates(),
    SPANS, st.uuids(), st.sampled_from(Color), st.lists(st.none() | INTS), st.dictionaries(TEXTS, POINTS),
    st.none() | POINTS, st.tuples(INTS, TEXTS), st.none() | st.lists(FLOATS).map(tuple),
    st.none() | st.lists(st.lists(TEXTS)), PAIRS, st.dictionaries(INTS, st.tuples(st.booleans(), st.binary())),
)  # fmt: skip

CASES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, INTS),
    (float, FLOATS),
    (str, TEXTS),
    (bool, st.booleans()),
    (bytes, st.binary()),
    (Decimal, st.decimals(allow_nan=False)),
    (datetime, TIMES),
    (date, st.dates()),
    (timedelta, SPANS),
    (UUID, st.uuids()),
    (Color, st.sampled_from(Color)),
    (Level | None, st.none() | st.sampled_from(Level)),
    (Optional[str], st.none() | TEXTS),  # noqa: UP045
    (UserId, TEXTS),
    (Annotated[int, "ms"], INTS),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (list[int], st.lists(INTS)),
    (dict[str, float | None], st.dictionaries(TEXTS, st.none() | FLOATS)),
    (tuple[int, str], st.tuples(INTS, TEXTS)),
    (Point, POINTS),
    (Point | None, st.none() | POINTS),
    (Pair, PAIRS),
    (Visit, st.fixed_dictionaries({"user": TEXTS, "pages": st.lists(TEXTS)})),
    (Frozen, st.builds(Frozen, st.uuids(), st.sampled_from(Level))),
    (Slotted, st.builds(Slotted, TEXTS, TIMES)),
    (Counted, st.builds(Counted, name=TEXTS)),
    (Everything, EVERYTHING),
]


def exactly_equal(left: Any, right: Any) -> bool:
    """== and the same types all the way down; 1.0 and 1.00, 0.0 and -0.0 are different.

    pprint sorts the keys of dicts, whose order is the schema's afterwards."""
    return type(left) is type(right) and pprint.pformat(left) == pprint.pformat(right) and left == right


@pytest.mark.parametrize(("annotation", "values"), CASES, ids=lambda v: getattr(v, "__name__", None))
def test_round_trip(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    record_type = record_type_of(annotation)
    assert not record_type.opaque

    @settings(max_examples=40, deadline=None)
    @given(st.lists(values, max_size=6), st.data())
    def check(rows: list[Any], data: st.DataObject) -> None:
        columns = record_type.to_columns(rows)
        assert columns.schema.equals(record_type.schema)
        columns.validate(full=True)
        assert exactly_equal(record_type.to_rows(columns), rows)
        start = data.draw(st.integers(0, len(rows)))
        assert exactly_equal(record_type.to_rows(columns.slice(start)), rows[start:])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, columns.schema) as writer:
            writer.write_batch(columns.slice(start))
        sent = pa.ipc.open_stream(sink.getvalue()).read_next_batch()
        assert exactly_equal(record_type.to_rows(sent), rows[start:])

    check()


def test_special_floats_survive() -> None:
    rows = [math.nan, math.inf, -math.inf, -0.0]
    back = record_type_of(float).to_rows(record_type_of(float).to_columns(rows))
    assert repr(back) == repr(rows)


class SubclassOfInt(int):
    pass


@pytest.mark.parametrize(
    ("annotation", "row", "words"),
    [
        (Point, Point(True, 1.0), ["field 'x' of Point", "int", "bool"]),
        (Point, Point(1, 1), ["field 'y' of Point", "float | None", "int"]),
        (Point, Point(None, 1.0), ["field 'x' of Point", "int", "NoneType"]),  # type: ignore[arg-type]
        (Point, Point(2**63, 1.0), ["field 'x' of Point", "int64", "object"]),
        (Point, Pair("a", Point(1, 1.0)), ["Point", "Pair"]),
        (int, SubclassOfInt(3), ["int", "SubclassOfInt"]),
        (str, "\ud800", ["surrogates"]),
        (datetime, datetime(2024, 1, 1), ["UTC", "zone would be lost"]),
        (datetime, datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))), ["UTC", "zone would be lost"]),
        (date, datetime(2024, 1, 1, tzinfo=UTC), ["date", "datetime"]),
        (Visit, {"user": "a", "pages": [1]}, ["item of field 'pages' of Visit", "str", "int"]),
        (Visit, {"user": "a"}, ["Visit", "pages"]),
        (Visit, {"user": "a", "pages": [], "more": 1}, ["Visit", "more"]),
        (tuple[int, str], (1, "a", 2), ["2 fields"]),
        (Color, Level.LOW, ["Color", "Level"]),
    ],
)
def test_other_types_are_refused(annotation: Any, row: Any, words: list[str]) -> None:
    record_type = record_type_of(annotation)
    with pytest.raises(RecordTypeError) as caught:
        record_type.to_columns([row])
    for word in words:
        assert word in str(caught.value)


class Recursive(NamedTuple):
    children: list[Recursive]


class Partial(TypedDict):
    user: str
    age: NotRequired[int]


@dataclass
class Managed:
    """Pickled its own way, so its fields do not say all."""

    x: int

    def __reduce__(self) -> tuple[Any, ...]:
        return Managed, (self.x + 1,)


@pytest.mark.parametrize(
    "annotation",
    [Any, object, int | str, set[int], list, dict, Rights, Recursive, Partial, Managed, Point.__init__, None, "Point",
     type("Plain", (), {}), dict[str, Any], tuple[()]],
)  # fmt: skip
def test_what_cannot_be_exact_is_opaque(annotation: Any) -> None:
    record_type = record_type_of(annotation)
    assert record_type.opaque
    assert record_type == OPAQUE
    with pytest.raises(RecordTypeError, match="no columns"):
        record_type.to_columns([1])


@pytest.mark.parametrize("annotation", [annotation for annotation, _ in CASES] + [Any, pa.schema([("a", pa.int8())])])
def test_types_compare_and_pickle(annotation: Any) -> None:
    record_type = record_type_of(annotation)
    assert pickle.loads(pickle.dumps(record_type)) == record_type == record_type_of(annotation)
    assert hash(record_type) == hash(record_type_of(annotation))
    assert record_type_of(record_type) is record_type
    assert record_type != record_type_of(Recursive if annotation is Everything else Everything)


def test_scalar_columns_can_be_named() -> None:
    assert record_type_of(int, name="n").schema == pa.schema([pa.field("n", pa.int64(), nullable=False)])


BERLIN = ZoneInfo("Europe/Berlin")
SCHEMA_CASES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [1, None, -128]),
    (pa.uint64(), [2**64 - 1]),
    (pa.float32(), [0.5, None]),
    (pa.large_string(), ["a", None]),
    (pa.binary(2), [b"ab"]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a", None]),
    (pa.decimal128(10, 2), [Decimal("1.20")]),
    (pa.timestamp("ns", "UTC"), [datetime(2024, 1, 1, 1, 2, 3, 4, tzinfo=UTC)]),
    (pa.timestamp("ms"), [datetime(2024, 1, 1, 1, 2, 3, 4000), None]),
    (pa.timestamp("us", "Europe/Berlin"), [datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN)]),
    (pa.timestamp("us", "+02:00"), [datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2)))]),
    (pa.date32(), [date(2024, 1, 1)]),
    (pa.duration("us"), [timedelta(days=1)]),
    (pa.list_(pa.struct([("a", pa.int32())])), [[{"a": 1}, {"a": None}], None, []]),
]


@pytest.mark.parametrize(("arrow", "values"), SCHEMA_CASES, ids=lambda v: str(v) if isinstance(v, pa.DataType) else "")
def test_rows_of_a_schema_are_dicts(arrow: pa.DataType, values: list[Any]) -> None:
    record_type = SchemaType(pa.schema([("odd name\n'", arrow), pa.field("id", pa.int64(), nullable=False)]))
    rows = [{"odd name\n'": value, "id": i} for i, value in enumerate(values)]
    columns = record_type.to_columns(rows)
    assert columns.schema == record_type.schema
    assert exactly_equal(record_type.to_rows(columns), rows)
    assert exactly_equal(record_type.to_rows(columns.slice(1)), rows[1:])


@pytest.mark.parametrize(
    ("arrow", "value"),
    [(pa.int8(), 200), (pa.float32(), 0.1), (pa.decimal128(10, 2), Decimal("1.2")), (pa.int64(), 1.0), (pa.string(), 1),
     (pa.timestamp("s", "UTC"), datetime(2024, 1, 1, microsecond=1, tzinfo=UTC)),
     (pa.timestamp("us", "Europe/Berlin"), datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN)),
     (pa.list_(pa.int64()), [True]), (pa.time64("us"), 1)],
)  # fmt: skip
def test_a_schema_never_changes_a_value(arrow: pa.DataType, value: Any) -> None:
    with pytest.raises(RecordTypeError, match="'a'"):
        SchemaType(pa.schema([("a", arrow)])).to_columns([{"a": value}])


def test_nulls_in_a_required_column_and_lost_nanoseconds_are_errors() -> None:
    with pytest.raises(RecordTypeError, match="field 'x' of Point is declared int, but a column has a null"):
        record_type_of(Point).to_rows(pa.record_batch({"x": pa.array([None], pa.int64()), "y": [1.0]}))
    nanoseconds = pa.record_batch({"at": pa.array([1], pa.timestamp("ns"))})
    with pytest.raises(RecordTypeError, match="nanoseconds"):
        SchemaType(nanoseconds.schema).to_rows(nanoseconds)


@pytest.mark.parametrize(
    ("annotation", "row"),
    [(Point, Point(1, 2.0)), (Visit, {"user": "a", "pages": ["b"]}), (Any, [1, [2]]), (list[int], [1]),
     (Any, Point(1, None)), (Counted, Counted(name="a")), (Point, lambda: None)],
)  # fmt: skip
def test_copied_rows_are_independent(annotation: Any, row: Any) -> None:
    record_type = record_type_of(annotation)
    (copied,) = record_type.copy_rows([row])
    if not callable(row):
        assert copied is not row
        assert exactly_equal(copied, row)
    if annotation is Visit:
        assert copied["pages"] is not row["pages"]


@pytest.mark.parametrize("annotation", [int, str, Slotted, tuple[int, str], Any, Color])
def test_immutable_rows_are_not_copied(annotation: Any) -> None:
    rows = [1, 2]
    assert record_type_of(annotation).copy_rows(rows) is rows


def test_descriptions() -> None:
    assert str(record_type_of(Pair)) == "Pair(name: str, point: Point)"
    assert str(record_type_of(list[int | None])) == "list[int | None]"
    opaque: RecordType = record_type_of(Partial)
    assert "age" in opaque.reason  # type: ignore[attr-defined]
