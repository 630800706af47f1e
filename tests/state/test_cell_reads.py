"""What a key has in a state, read from outside: what a function would find wherever it is, and nothing moves for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.state.errors import KeyTypeError, StateError
from penstock.state.key_encoding import encode_key
from penstock.state.rows.cell_cache import MISSING
from penstock.state.rows.cell_reads import MOST_BYTES, MOST_ENTRIES, CellRead, NoSuchStateError, readable
from penstock.state.rows.map_cells import MapTable

Rig = Any
Backend = Any
KEY = "k"


@dataclass
class Visit:
    page: str
    ms: list[int]


class Colour(Enum):
    RED = 1


class Place(NamedTuple):
    colour: Colour
    number: int


VALUE: ps.ValueStateDescriptor[int] = ps.ValueStateDescriptor("value", int)
VISIT: ps.ValueStateDescriptor[Visit] = ps.ValueStateDescriptor("visit", Visit)
NUMBERS: ps.ListStateDescriptor[int] = ps.ListStateDescriptor("numbers", int)
VISITS: ps.ListStateDescriptor[Visit] = ps.ListStateDescriptor("visits", Visit)
PAGES: ps.MapStateDescriptor[str, int] = ps.MapStateDescriptor("pages", str, int)
SUM: ps.ReducingStateDescriptor[int] = ps.ReducingStateDescriptor("sum", lambda a, b: a + b, int)


def asked(backend: Backend, state: str, key: Any = KEY, *, entry: Any = None, namespace: int = 0) -> Any:
    """The value, as it is shown."""
    suffix = None if entry is None else encode_key(entry)
    cell = backend.read(CellRead(state, encode_key(key), namespace, suffix))
    value, truncated = readable(cell, entry=entry is not None)
    assert not truncated
    return value


def stay(backend: Backend, rig: Rig) -> None: ...


def age(backend: Backend, rig: Rig) -> None:
    backend._rotate()


def leave(backend: Backend, rig: Rig) -> None:
    age(backend, rig)
    age(backend, rig)


def write(backend: Backend, rig: Rig) -> None:
    leave(backend, rig)
    backend._queue.write_all()


def seal(backend: Backend, rig: Rig) -> None:
    backend.snapshot(1)


MOVES: tuple[Callable[[Backend, Rig], None], ...] = (stay, age, leave, write, seal)


def fill(backend: Backend, key: Any = KEY) -> None:
    backend.set_current_key(key)
    backend.value_state(VALUE).update(7)
    backend.value_state(VISIT).update(Visit("home", [1]))
    backend.list_state(NUMBERS).add_all([1, 2])
    backend.list_state(VISITS).add(Visit("cart", []))
    backend.map_state(PAGES).put_all({"b": 2, "a": 1})
    backend.reducing_state(SUM).add(5)


def change(backend: Backend, key: Any = KEY) -> None:
    backend.set_current_key(key)
    backend.value_state(VISIT).value().ms.append(2)
    backend.list_state(NUMBERS).add(3)
    backend.list_state(VISITS).get()[0].ms.append(9)
    backend.map_state(PAGES).put("c", 3)
    backend.map_state(PAGES).remove("b")
    backend.reducing_state(SUM).add(6)


def cache_of(backend: Backend) -> list[Any]:
    tables = [table for handle in backend._handles() for table in handle._tables.values()]
    cells = [list(cells) for t in tables for cells in (t.changed, t.young, t.old_changed, t.old)]
    maps = [table for table in tables if isinstance(table, MapTable)]
    known = [(list(cell.entries), cell.complete) for t in maps if (cell := t.known(KEY)) is not MISSING]
    counts = [backend.cache_misses, backend._cursor.admitted, *(t.grown for t in maps)]
    return [cells, known, counts, [len(h._tables) for h in backend._handles()]]


@pytest.mark.parametrize("then", MOVES)
@pytest.mark.parametrize("first", MOVES)
def test_every_kind_wherever_it_is(rig: Rig, first: Callable[..., None], then: Callable[..., None]) -> None:
    backend = rig.open()
    fill(backend)
    first(backend, rig)
    change(backend)
    then(backend, rig)
    backend.set_current_key("another")
    before = cache_of(backend)
    assert asked(backend, "value") == 7
    assert asked(backend, "visit") == {"page": "home", "ms": [1, 2]}
    assert asked(backend, "numbers") == [1, 2, 3]
    assert asked(backend, "visits") == [{"page": "cart", "ms": [9]}]
    assert list(asked(backend, "pages").items()) == [("a", 1), ("c", 3)]
    assert asked(backend, "sum") == 11
    assert [asked(backend, "pages", entry=entry) for entry in "abc"] == [1, None, 3]
    assert cache_of(backend) == before, "nothing has moved"
    assert backend.current_key == "another"


def test_a_key_that_has_nothing(rig: Rig) -> None:
    backend = rig.open()
    fill(backend)
    with_default = backend.value_state(ps.ValueStateDescriptor("listed", list[int], []))
    with_default.value()
    for state in ("value", "numbers", "pages", "sum"):
        cell = backend.read(CellRead(state, encode_key("other")))
        assert (cell.rows, readable(cell)) == ((), (None, False))
    assert asked(backend, "listed") is None, "a default that nobody has changed is no state"
    assert asked(backend, "value", namespace=60_000) is None
    backend.set_current_key(KEY)
    backend.map_state(PAGES).clear()
    backend.list_state(NUMBERS).clear()
    assert (asked(backend, "pages"), asked(backend, "numbers")) == (None, None)


def test_a_namespace_has_its_own(rig: Rig) -> None:
    backend = rig.open()
    backend.set_current_key(KEY)
    backend.set_namespace(60_000)
    backend.value_state(VALUE).update(1)
    backend.set_namespace(0)
    leave(backend, rig)
    assert (asked(backend, "value"), asked(backend, "value", namespace=60_000)) == (None, 1)


def test_keys_of_classes(rig: Rig) -> None:
    backend = rig.open()
    key = Place(Colour.RED, 3)
    backend.set_current_key(key)
    backend.value_state(VALUE).update(1)
    backend.map_state(ps.MapStateDescriptor("by place", Place, int)).put(key, 2)
    assert asked(backend, "value", key) == 1
    assert asked(backend, "by place", key) == [[["RED", 3], 2]]
    assert asked(backend, "by place", key, entry=key) == 2


def test_what_has_expired_is_not_there_and_is_left_alone(rig: Rig) -> None:
    backend = rig.open()
    ttl = ps.StateTtlConfig("1s", update_type="on_read_and_write")
    value = backend.value_state(ps.ValueStateDescriptor("value", int, ttl=ttl))
    numbers = backend.list_state(ps.ListStateDescriptor("numbers", int, ttl=ttl))
    pages = backend.map_state(ps.MapStateDescriptor("pages", str, int, ttl=ttl))
    backend.set_current_key(KEY)
    value.update(1)
    numbers.add(1)
    pages.put("a", 1)
    rig.now_ms += 600
    numbers.add(2)
    pages.put("b", 2)
    for _ in range(2):
        assert (asked(backend, "value"), asked(backend, "numbers")) == (1, [1, 2])
        assert asked(backend, "pages") == {"a": 1, "b": 2}
    rig.now_ms += 400
    for move in (stay, leave, write):
        move(backend, rig)
        assert asked(backend, "value") is None, "asking before has renewed nothing"
        assert (asked(backend, "numbers"), asked(backend, "pages")) == ([2], {"b": 2})
        assert (asked(backend, "pages", entry="a"), asked(backend, "pages", entry="b")) == (None, 2)


def test_a_list_with_a_ttl_that_its_function_has_changed(rig: Rig) -> None:
    backend = rig.open()
    numbers = backend.list_state(ps.ListStateDescriptor("numbers", int, ttl=ps.StateTtlConfig("1h")))
    backend.set_current_key(KEY)
    numbers.add(1)
    numbers.get().append(2)
    assert asked(backend, "numbers") == [1, 2]
    numbers.add(3)
    assert asked(backend, "numbers") == [1, 2, 3]


@pytest.mark.parametrize("move", [stay, write])
def test_large_ones_are_cut(rig: Rig, move: Callable[..., None]) -> None:
    backend = rig.open()
    backend.set_current_key(KEY)
    for number in range(MOST_ENTRIES + 500):
        backend.list_state(NUMBERS).add(number)
        backend.map_state(PAGES).put(f"{number:05}", number)
        if number % 100 == 0:
            move(backend, rig)
            backend.set_current_key(KEY)
    for state, expected in (
        ("numbers", list(range(MOST_ENTRIES))),
        ("pages", {f"{number:05}": number for number in range(MOST_ENTRIES)}),
    ):
        cell = backend.read(CellRead(state, encode_key(KEY)))
        assert readable(cell) == (expected, True)


@pytest.mark.parametrize("move", [stay, age, leave, write])
def test_a_map_of_which_much_was_removed_is_cut_all_the_same(rig: Rig, move: Callable[..., None]) -> None:
    backend = rig.open()
    backend.set_current_key(KEY)
    pages = backend.map_state(PAGES)
    pages.put_all({f"{number:05}": number for number in range(3 * MOST_ENTRIES)})
    write(backend, rig)
    backend.set_current_key(KEY)
    for number in range(MOST_ENTRIES + 500):
        pages.remove(f"{number:05}")
    move(backend, rig)
    first = MOST_ENTRIES + 500
    cell = backend.read(CellRead("pages", encode_key(KEY)))
    assert readable(cell) == ({f"{number:05}": number for number in range(first, first + MOST_ENTRIES)}, True)


@pytest.mark.parametrize("ttl", [None, ps.StateTtlConfig("1h")])
def test_a_long_list_that_was_written_anew_is_cut(rig: Rig, ttl: ps.StateTtlConfig | None) -> None:
    backend = rig.open()
    backend.set_current_key(KEY)
    texts = backend.list_state(ps.ListStateDescriptor("texts", str, ttl=ttl))
    texts.update([f"{number:04} {'x' * 1_000}" for number in range(2_000)])
    write(backend, rig)
    cell = backend.read(CellRead("texts", encode_key(KEY)))
    value, truncated = readable(cell)
    assert ([text[:4] for text in value], truncated) == ([f"{number:04}" for number in range(len(value))], True)
    assert len(value) == MOST_ENTRIES


def test_rows_have_a_limit_in_bytes(rig: Rig) -> None:
    backend = rig.open()
    backend.set_current_key(KEY)
    texts = backend.map_state(ps.MapStateDescriptor("texts", int, str))
    for number in range(4):
        texts.put(number, "x" * (MOST_BYTES // 3))
    cell = backend.read(CellRead("texts", encode_key(KEY)))
    assert (len(cell.rows), cell.truncated) == (2, True)
    backend.value_state(ps.ValueStateDescriptor("text", str)).update("x" * MOST_BYTES)
    with pytest.raises(StateError, match=r"state 'text' takes 1,048,\d+ bytes"):
        backend.read(CellRead("text", encode_key(KEY)))


def test_what_cannot_be_asked(rig: Rig) -> None:
    backend = rig.open()
    fill(backend)
    with pytest.raises(NoSuchStateError, match=r"'counter' has no state 'nothing', only 'numbers', 'pages', 'sum'"):
        backend.read(CellRead("nothing", encode_key(KEY)))
    with pytest.raises(StateError, match="state 'sum' is a reducing state"):
        backend.read(CellRead("sum", encode_key(KEY), entry=encode_key("a")))
    with pytest.raises(KeyTypeError, match="nowhere"):
        backend.read(CellRead("value", b"\x34nowhere:Colour\x00RED\x00"))


def test_a_value_that_its_function_has_spoilt_is_an_error_of_who_asks(rig: Rig) -> None:
    backend = rig.open()
    fill(backend)
    visit = backend.value_state(VISIT).value()
    visit.ms.append("not a number")
    with pytest.raises(StateError, match=r"ms"):
        backend.read(CellRead("visit", encode_key(KEY)))
    visit.ms.pop()
    assert asked(backend, "visit") == {"page": "home", "ms": [1]}


class Custom:
    def __init__(self) -> None:
        self.number, self.data = 5, b"\x00\xff"


def test_pickled_values_are_shown_as_far_as_that_goes(rig: Rig) -> None:
    backend = rig.open()
    backend.set_current_key(KEY)
    backend.value_state(ps.ValueStateDescriptor("custom")).update(Custom())
    assert asked(backend, "custom") == {"class": f"{__name__}.Custom", "number": 5, "data": "AP8="}


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5)),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.just("add"), st.integers(0, 5)),
        st.tuples(st.sampled_from(["get", "clear", "age", "write", "seal"]), st.just(0)),
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", ["heap", "rocksdb"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # a class
@given(actions=ACTIONS)
def test_it_is_what_a_function_would_see(new_rig: Any, kind: str, actions: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as directory, closing(new_rig(kind, Path(directory))) as rig:
        backend = rig.open()
        pages, numbers = backend.map_state(ps.MapStateDescriptor("map", int, list[int])), backend.list_state(NUMBERS)
        for action, number in actions:
            backend.set_current_key(KEY)
            match action:
                case "put":
                    pages.put(number, [number])
                case "remove":
                    pages.remove(number)
                case "add":
                    numbers.add(number)
                    (pages.get(number) or []).append(0)
                case "get":
                    numbers.get()
                    list(pages.items())
                case "clear":
                    numbers.clear()
                    pages.clear()
                case "age":
                    age(backend, rig)
                case "write":
                    write(backend, rig)
                case "seal":
                    seal(backend, rig)
            shown = asked(backend, "map") or [], asked(backend, "numbers") or []
            backend.set_current_key(KEY)
            assert shown == ([[key, value] for key, value in pages.items()], numbers.get())
