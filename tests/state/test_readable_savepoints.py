"""What people find in the files of a savepoint: their names, columns and values, read by DuckDB, polars and pyarrow."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.state.backend import KeyedStateBackend
from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, StateDescriptor, ValueStateDescriptor
from penstock.state.ids import Attempt, CheckpointId, JobId
from penstock.state.key_groups import KeyGroupRange, key_group
from penstock.state.savepoints.savepoint_store import SavepointUploads, StatePlace, readable_name
from penstock.state.serialization.plain_rows import read_pickle
from penstock.state.serialization.readable_types import readable
from penstock.state.serialization.serializers import serializer_for
from penstock.state.serialization.type_descriptions import renamed_from
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.ttl_config import StateTtlConfig

EXACT = ["_key", "_suffix", "_value"]
GROUPS = 4


@dataclass
class Order:
    user: str
    amount: float
    key: int = 0
    """The name of a column that is taken."""


class Point(NamedTuple):
    x: int
    y: int | None


class Color(Enum):
    RED = "red"


class Place(NamedTuple):
    city: str
    color: Color


class Written:
    """A savepoint of one operator."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = itertools.count()

    def uploads(self, checkpoint: CheckpointId) -> SavepointUploads:
        return SavepointUploads("savepoint", JobId("job"), Attempt(1), checkpoint, lambda: f"{next(self.numbers):03}")

    def take(self, fill: Callable[[KeyedStateBackend], None], parallelism: int = 1) -> Path:
        """`fill` is called for each subtask, which has an equal share of the key groups."""
        for subtask in range(parallelism):
            backend = create_keyed_backend(
                "heap",
                operator_name="shop",
                key_groups=KeyGroupRange.of_subtask(subtask, parallelism, GROUPS),
                max_parallelism=GROUPS,
                directory=self.directory / f"subtask-{subtask}",
                uploads=self.uploads,
                now_ms=lambda: 1_000,
                place=StatePlace("shop", subtask),
            )
            fill(backend)
            run_program(backend.savepoint(1), ObstoreObjects(self.directory))
            backend.close()
        return self.directory / "savepoint"


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def table(savepoint: Path, state: str) -> pa.Table:
    (path,) = savepoint.glob(f"shop/{state}/*.parquet")
    return pq.ParquetFile(path).read()


def shown(savepoint: Path, state: str) -> list[dict[str, Any]]:
    return table(savepoint, state).drop_columns(EXACT).to_pylist()


def setting(descriptor: StateDescriptor, key: Any, *changes: tuple[str, Any]) -> Callable[[KeyedStateBackend], None]:
    def fill(backend: KeyedStateBackend) -> None:
        backend.set_current_key(key)
        state = getattr(backend, f"{descriptor.kind}_state")(descriptor)
        for method, arguments in changes:
            getattr(state, method)(*arguments)

    return fill


def test_a_record_is_a_row_of_columns(written: Written) -> None:
    orders = ValueStateDescriptor[Order]("orders", Order)
    savepoint = written.take(setting(orders, "ann", ("update", [Order("ann", 2.5, 7)])))
    assert table(savepoint, "orders").schema.remove_metadata() == pa.schema(
        [
            ("key_group", pa.int32()), ("key", pa.string()), ("namespace", pa.int64()), ("user", pa.string()),
            ("amount", pa.float64()), ("value_key", pa.int64()), ("_key", pa.binary()), ("_suffix", pa.binary()),
            ("_value", pa.binary()),
        ]
    )  # fmt: skip
    assert shown(savepoint, "orders") == [
        {"key_group": 2, "key": "ann", "namespace": 0, "user": "ann", "amount": 2.5, "value_key": 7}
    ]


def test_elements_of_a_list_are_rows_in_order(written: Written) -> None:
    points = ListStateDescriptor[Point]("points", Point)
    rows = shown(written.take(setting(points, 5, ("add", [Point(1, 2)]), ("add", [Point(3, None)]))), "points")
    assert [(row["key"], row["index"], row["x"], row["y"]) for row in rows] == [(5, 0, 1, 2), (5, 1, 3, None)]


def test_entries_of_a_map_and_keys_of_several_fields(written: Written) -> None:
    visits = MapStateDescriptor[date, int]("visits", date, int, ttl=StateTtlConfig("1h"))
    rome = Place("Rome", Color.RED)
    fill = setting(visits, rome, ("put", [date(2026, 1, 2), 3]))
    assert shown(written.take(fill), "visits") == [
        {
            "key_group": key_group(rome, GROUPS), "key": {"city": "Rome", "color": "RED"}, "namespace": 0,
            "user_key": date(2026, 1, 2),
            "last_access": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), "value": 3,
        }
    ]  # fmt: skip


def test_timers_by_their_kind(written: Written) -> None:
    def fill(backend: KeyedStateBackend) -> None:
        backend.set_current_key(("a", 1))
        backend.timers("event").register(5_000, 60_000)

    (row,) = shown(written.take(fill), "timers/event")
    assert (row["key"], row["namespace"], row["timestamp"]) == ({"_0": "a", "_1": 1}, 60_000, 5_000)


def test_pickled_values_are_shown_without_their_classes(written: Written) -> None:
    anything = ValueStateDescriptor[Any]("anything")
    value = {"order": Order("ann", 2.5), "when": date(2026, 1, 2), ("a", 1): {1}}
    (row,) = shown(written.take(setting(anything, "a", ("update", [value]))), "anything")
    name = f"{Order.__module__}.Order"
    assert row["value"] == (
        f'[["order",{{"class":"{name}","user":"ann","amount":2.5,"key":0}}],["when","2026-01-02"],[["a",1],[1]]]'
    )


def test_reading_a_pickle_runs_nothing_of_it(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    harmful = b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    assert read_pickle(harmful).as_tree() == {"class": "posix.system", "arguments": [f"touch {mark}"]}
    assert not mark.exists()


def test_all_subtasks_of_a_state_are_one_table_to_duckdb_and_polars(written: Written) -> None:
    orders = ValueStateDescriptor[Order]("orders by user", Order)

    def fill(backend: KeyedStateBackend) -> None:
        keys = [key for key in [f"u{number}" for number in range(10)] if key_group(key, GROUPS) in backend.key_groups]
        for key in keys:
            backend.set_current_key(key)
            backend.value_state(orders).update(Order(key, int(key[1]) / 2))

    files = f"{written.take(fill, parallelism=3)}/shop/{readable_name('orders by user')}/*.parquet"
    assert len(list(Path("/").glob(files[1:]))) == 3
    found = duckdb.sql(f"SELECT count(*), sum(amount), max(key) FROM '{files}'").fetchall()
    assert found == [(10, 22.5, "u9")]
    frame = pl.read_parquet(files)
    assert sorted(frame["amount"]) == [number / 2 for number in range(10)]
    assert frame.columns[:4] == ["key_group", "key", "namespace", "user"]


def test_duckdb_reads_every_type(written: Written) -> None:
    wide = ValueStateDescriptor[Any]("wide", _Wide)
    savepoint = written.take(setting(wide, "a", ("update", [_Wide()])))
    rows = duckdb.sql(
        f"SELECT points, counts, nested, epoch_ms(moment), tag FROM '{savepoint}/shop/wide/*.parquet'"
    ).fetchall()
    assert rows == [([{"x": 1, "y": None}], {"a": 1}, {"x": 3, "y": 4}, 1_767_225_600_000, "red")]
    assert pl.read_parquet(f"{savepoint}/shop/wide/*.parquet")["total"].to_list() == ["1.50"]


@dataclass
class _Wide:
    points: list[Point] = field(default_factory=lambda: [Point(1, None)])
    counts: dict[str, int] = field(default_factory=lambda: {"a": 1})
    nested: Point = field(default_factory=lambda: Point(3, 4))
    moment: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    total: Decimal = Decimal("1.50")
    tag: Color = Color.RED


class _Old(NamedTuple):
    x: int
    y: int


class _New(NamedTuple):
    height: Annotated[int, renamed_from("y")]
    x: int
    z: int = 0


def test_rows_of_every_age_stand_under_the_newest_names(tmp_path: Path) -> None:
    """A NamedTuple's fields moved, and one was renamed: its rows are not rewritten."""
    handles: Any = ()
    objects = ObstoreObjects(tmp_path)
    uploads = Written(tmp_path).uploads(CheckpointId(1))
    for number, kind in enumerate((_Old, _New)):
        backend = create_keyed_backend(
            "heap",
            operator_name="shop",
            key_groups=KeyGroupRange(0, 3),
            max_parallelism=4,
            directory=tmp_path / f"work-{number}",
            uploads=lambda _checkpoint: uploads,
            now_ms=lambda: 0,
            restored=[(handle, tmp_path / "fetched") for handle in handles],
            place=StatePlace("shop", 0),
        )
        points = backend.value_state(ValueStateDescriptor[Any]("points", kind))
        backend.set_current_key(number)
        points.update(kind(1, 2))
        handles = run_program(backend.savepoint(number), objects)
        (tmp_path / "fetched").mkdir(exist_ok=True)
        for name, file in handles[0].files.items():
            (tmp_path / "fetched" / name).write_bytes((tmp_path / file.name).read_bytes())
        backend.close()
    rows = pq.ParquetFile(tmp_path / "fetched" / "0.parquet").read().to_pylist()
    assert {(row["key"], row["height"], row["x"], row["z"]) for row in rows} == {(0, 2, 1, None), (1, 1, 2, 0)}


class _Loose(TypedDict, total=False):
    a: int


@pytest.mark.parametrize(
    ("declared", "value", "arrow", "expected"),
    [
        (int, 2**70, pa.int64(), None),
        (str, "\ud800", pa.string(), None),
        (bytes, b"\xff", pa.binary(), b"\xff"),
        (bool, True, pa.bool_(), True),
        (float, 1, pa.float64(), 1.0),
        (int | None, None, pa.int64(), None),
        (int | float, 1.5, pa.float64(), 1.5),
        (int | str, "a", pa.string(), '"a"'),
        (datetime, datetime(2026, 1, 2), pa.timestamp("us", "UTC"), datetime(2026, 1, 2, tzinfo=UTC)),
        (date, date(2026, 1, 2), pa.date32(), date(2026, 1, 2)),
        (time, time(1, 2, 3), pa.time64("us"), time(1, 2, 3)),
        (timedelta, timedelta(days=1, microseconds=5), pa.duration("us"), timedelta(days=1, microseconds=5)),
        (UUID, UUID(int=5), pa.string(), str(UUID(int=5))),
        (Decimal, Decimal("1.50"), pa.string(), "1.50"),
        (Color, Color.RED, pa.string(), "red"),
        (Literal["a", 1], 1, pa.string(), "1"),
        (list[int | None], [1, None], pa.list_(pa.int64()), [1, None]),
        (frozenset[str], frozenset({"a"}), pa.list_(pa.string()), ["a"]),
        (tuple[int, str], (1, "a"), pa.struct([("_0", pa.int64()), ("_1", pa.string())]), {"_0": 1, "_1": "a"}),
        (dict[str, Point], {"a": Point(1, 2)}, None, [("a", {"x": 1, "y": 2})]),
        (_Loose, {}, pa.struct([("a", pa.int64())]), {"a": None}),
        (pa.decimal128(5, 2), Decimal("1.50"), pa.decimal128(5, 2), Decimal("1.50")),
        (pa.uint64(), 2**64 - 1, pa.uint64(), 2**64 - 1),
        (pa.timestamp("ms"), datetime(2026, 1, 2), pa.timestamp("us"), datetime(2026, 1, 2)),
        (pa.map_(pa.string(), pa.int64()), [("a", 1)], None, [{"_0": "a", "_1": 1}]),
    ],
    ids=str,
)
def test_types_and_values_in_columns(declared: Any, value: Any, arrow: pa.DataType | None, expected: Any) -> None:
    from penstock.state.serialization.plain_rows import PlainRows

    serializer = serializer_for(declared)
    column = readable(serializer.description)
    tree = PlainRows([serializer.description]).value(serializer.encode(value))
    assert column.array([tree, None]).to_pylist() == [expected, None]
    assert arrow in (None, column.arrow)


@pytest.mark.parametrize(
    "name", ["orders by user", "", "a/b/c", "../up", "ü", "a" * 100, ".hidden", "a//b", "per%cent"]
)
def test_names_that_no_path_can_have_get_one(name: str) -> None:
    readable = readable_name(name)
    assert readable != readable_name(name + " ")
    assert set(readable) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert readable_name("timers/event") == "timers/event"
