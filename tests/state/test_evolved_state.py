"""State whose types changed: rows of three ages under one state, on both backends, rescaled; and what is refused."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest

from penstock.state.backend import KeyedStateBackend
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from penstock.state.errors import DamagedCheckpointError, IncompatibleStateError
from penstock.state.key_groups import KeyGroupRange, key_group
from penstock.state.key_signatures import annotated_signature, signature_of
from penstock.state.rows.backend_meta import PYTHON, decode_meta
from penstock.state.serialization.type_descriptions import renamed_from
from penstock.state.snapshots import KeyedHandle
from penstock.state.ttl_config import StateTtlConfig

Handles = tuple[KeyedHandle, ...]
KEYS = range(60)


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


class MoreLevels(enum.Enum):
    LOW = "low"
    HIGH = "high"
    TOP = "top"


@dataclass
class Visit1:
    page: str
    times: int
    level: Level


@dataclass
class Visit2:
    level: Level
    page: str
    times: int
    tags: tuple[str, ...] = ("none",)


@dataclass
class Visit3:
    site: Annotated[str, renamed_from("page")]
    times: float
    level: MoreLevels | None
    price: Decimal = Decimal("0.00")


class Pair1(NamedTuple):
    first: int
    second: str


class Pair2(NamedTuple):
    second: str
    first: int
    third: int = 3


class Pair3(NamedTuple):
    third: int | None = 3
    text: Annotated[str, renamed_from("second")] = "-"
    fourth: str = "4"


def visits(*kinds: Any) -> list[ValueStateDescriptor[Any]]:
    return [ValueStateDescriptor("visit", kind) for kind in kinds]


VISIT = visits(Visit1, Visit2, Visit3)
PAIRS = [ListStateDescriptor[Any]("pairs", kind) for kind in (Pair1, Pair2, Pair3)]
EXPIRING_PAIRS = [replace(descriptor, name="expiring", ttl=StateTtlConfig("1h")) for descriptor in PAIRS]
MAP = [MapStateDescriptor[str, Any]("map", str, kind) for kind in (int, float, float | str)]

WRITE: list[Any] = [
    lambda n: (Visit1("home", n, Level.HIGH), Pair1(n, "one"), n),
    lambda n: (Visit2(Level.LOW, "cart", n, ("x",)), Pair2("two", n, 33), n + 0.5),
    lambda n: (Visit3("shop", n + 0.25, MoreLevels.TOP, Decimal("1.50")), Pair3(None, "three", "five"), f"text {n}"),
]
READ: list[Any] = [
    lambda n: (Visit3("home", float(n), MoreLevels.HIGH), Pair3(3, "one"), float(n)),
    lambda n: (Visit3("cart", float(n), MoreLevels.LOW), Pair3(33, "two"), n + 0.5),
    WRITE[2],
]


def write(backend: KeyedStateBackend, age: int, keys: Any) -> None:
    visit, pairs = backend.value_state(VISIT[age]), backend.list_state(PAIRS[age])
    entries, expiring = backend.map_state(MAP[age]), backend.list_state(EXPIRING_PAIRS[age])
    for number in keys:
        if key_group(number, 32) in backend.key_groups:
            backend.set_current_key(number)
            one, other, third = WRITE[age](number)
            visit.update(one)
            pairs.add(other)
            expiring.add(other)
            entries.put(f"age {age}", third)


def check(backends: list[KeyedStateBackend]) -> None:
    """The third age's eyes: values are of the age that wrote last, lists and maps have one of each."""
    for number in KEYS:
        (owner,) = [each for each in backends if key_group(number, 32) in each.key_groups]
        owner.set_current_key(number)
        age = number % 3
        assert owner.value_state(VISIT[2]).value() == READ[age](number)[0]
        wrote = [each for each in range(3) if each == 0 or each == age]
        assert owner.list_state(PAIRS[2]).get() == [READ[each](number)[1] for each in wrote]
        assert owner.list_state(EXPIRING_PAIRS[2]).get() == owner.list_state(PAIRS[2]).get()
        assert list(owner.map_state(MAP[2]).items()) == [(f"age {each}", READ[each](number)[2]) for each in wrote]


def three_ages(rig: Any) -> Handles:
    """Every key written by the first age, a third of them by the second, another third by the third."""
    first = rig.open()
    write(first, 0, KEYS)
    second = rig.open(rig.snapshot(first, 1))
    write(second, 1, [number for number in KEYS if number % 3 == 1])
    third = rig.open(rig.snapshot(second, 2))
    write(third, 2, [number for number in KEYS if number % 3 == 2])
    handles: Handles = rig.snapshot(third, 3)
    return handles


def halves(rig: Any, handles: Handles, *, then: str | None = None) -> list[KeyedStateBackend]:
    rig.kind = then or rig.kind
    return [rig.open(handles, KeyGroupRange(0, 12)), rig.open(handles, KeyGroupRange(13, 31))]


def test_rows_of_three_ages_lie_side_by_side(rig: Any) -> None:
    handles = three_ages(rig)
    check([rig.open(handles)])
    (state,) = [state for state in decode_meta(handles[0].meta).states if state.name == "visit"]
    assert len(state.written_as) == 3


@pytest.mark.parametrize("then", ["heap", "rocksdb"])
def test_rows_of_three_ages_are_rescaled(rig: Any, then: str) -> None:
    """Split, onto another backend, and merged again."""
    parts = halves(rig, three_ages(rig), then=then)
    check(parts)
    merged = rig.open(rig.snapshot(parts[0], 4) + rig.snapshot(parts[1], 4))
    check([merged])


def test_subtasks_that_met_types_in_another_order_are_merged(rig: Any) -> None:
    """One subtask knew the first type, the other one never had state before: what each calls the second is the same."""
    old = rig.open()
    write(old, 0, KEYS)
    handles = rig.snapshot(old, 1)
    parts = [rig.open(handles, KeyGroupRange(0, 12)), rig.open((), KeyGroupRange(13, 31))]
    for part in parts:
        write(part, 1, KEYS)
    merged = rig.open(rig.snapshot(parts[0], 2) + rig.snapshot(parts[1], 2))
    for number in KEYS:
        merged.set_current_key(number)
        assert merged.value_state(VISIT[2]).value() == READ[1](number)[0]
        assert merged.list_state(PAIRS[2]).get()[-1] == READ[1](number)[1]


def test_old_rows_are_remembered_over_a_change_of_type(rig: Any) -> None:
    """Rows that were not touched since are still as the first version wrote them."""

    @dataclass
    class TextVisit:
        page: str
        times: str

    first = rig.open()
    write(first, 0, KEYS)
    second = rig.open(rig.snapshot(first, 1))
    second.value_state(VISIT[1])
    third = rig.open(rig.snapshot(second, 2))
    with pytest.raises(IncompatibleStateError, match="field 'times' was int and is now str"):
        third.value_state(*visits(TextVisit))


@dataclass
class NamedVisit:
    page: str
    times: int
    level: Level
    user: str


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (NamedVisit, "field 'user' is new and has no default; give 'user' a default"),
        (int, "the value was Visit1 and is now int"),
        (None, r"the value was typed \(Visit1\) and would now be pickled"),
    ],
)
def test_what_cannot_be_read_is_refused(rig: Any, declared: Any, reason: str) -> None:
    first = rig.open()
    write(first, 0, KEYS)
    restored = rig.open(rig.snapshot(first))
    with pytest.raises(IncompatibleStateError, match=f"state 'visit' of operator 'counter'.*{reason}"):
        restored.value_state(*visits(declared))


# ---- pickles


def pickled(rig: Any) -> Handles:
    backend = rig.open()
    backend.set_current_key(1)
    backend.value_state(*visits(None)).update({"any": object})
    handles: Handles = rig.snapshot(backend)
    return handles


def test_a_snapshot_says_what_is_pickled_and_by_which_python(rig: Any) -> None:
    meta = decode_meta(pickled(rig)[0].meta)
    assert [state.written_as for state in meta.states] == [["pickle"]]
    assert meta.python == PYTHON


def test_pickled_state_does_not_become_typed(rig: Any) -> None:
    restored = rig.open(pickled(rig))
    with pytest.raises(IncompatibleStateError, match="was pickled and is now declared Visit1; leave it undeclared"):
        restored.value_state(*visits(Visit1))


def test_pickles_of_another_python_are_warned_of(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    handles = [replace(h, meta=h.meta.replace(PYTHON.encode(), b"3.99")) for h in pickled(rig)]
    with caplog.at_level(logging.WARNING):
        rig.open(tuple(handles))
    assert "state 'visit' pickled, by Python 3.99" in caplog.text


# ---- keys


def keyed_by(rig: Any, key: Any) -> Handles:
    backend = rig.open()
    backend.set_current_key(key)
    backend.value_state(VISIT[0]).update(WRITE[0](1)[0])
    handles: Handles = rig.snapshot(backend)
    return handles


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (1, "1", "of type int, and now of type str"),
        ("1", 1, "of type str, and now of type int"),
        (("a", 1), ("a", "1"), r"of type tuple\[str, int\], and now of type tuple\[str, str\]"),
        (("a", 1), ("a", 1, 1), "and now of type tuple"),
        (Level.LOW, MoreLevels.LOW, "of type Level, and now of type MoreLevels"),
        (Pair1(1, "a"), Pair2("a", 1), r"Pair1\(int, str\), and now of type Pair2"),
    ],
)
def test_keys_of_another_type_are_refused(rig: Any, before: Any, now: Any, said: str) -> None:
    for use in ("cell", "fold"):
        restored = rig.open(keyed_by(rig, before))
        state = restored.value_state(VISIT[0])
        with pytest.raises(IncompatibleStateError, match=f"operator 'counter': the keys of .*{said}.*another uid"):
            restored.set_current_key(now) if use == "cell" else state.fold([now], [1], lambda value, _: value)


def test_none_stands_beside_any_key(rig: Any) -> None:
    restored = rig.open(keyed_by(rig, ("a", None)))
    restored.set_current_key(None)
    restored.set_current_key((None, None))
    with pytest.raises(IncompatibleStateError, match=r"of type tuple\[str, None\], and now of type tuple\[int, int\]"):
        restored.set_current_key((1, 1))


def mapped(rig: Any, key_type: Any, key: Any) -> Handles:
    backend = rig.open()
    backend.set_current_key(1)
    backend.map_state(MapStateDescriptor[Any, int]("map", key_type, int)).put(key, 1)
    handles: Handles = rig.snapshot(backend)
    return handles


@pytest.mark.parametrize("written", [int, None])
def test_keys_of_a_map_of_another_type_are_refused_where_they_are_declared(rig: Any, written: Any) -> None:
    restored = rig.open(mapped(rig, written, 5))
    with pytest.raises(IncompatibleStateError, match=r"state 'map' of operator 'counter': .* int, and now of type str"):
        restored.map_state(MapStateDescriptor[str, int]("map", str, int))


def test_keys_of_a_map_that_are_not_declared_are_refused_when_they_come(rig: Any) -> None:
    restored = rig.open(mapped(rig, None, (1, "a")))
    restored.set_current_key(1)
    state = restored.map_state(MapStateDescriptor[Any, int]("map", None, int))
    with pytest.raises(IncompatibleStateError, match=r"tuple\[int, str\], and now of type tuple\[str, str\]"):
        state.get(("a", "a"))


@pytest.mark.parametrize(
    ("annotation", "key"),
    [
        (int, 1), (str | None, "a"), (tuple[int, str], (1, "a")), (Level, Level.LOW), (Pair1, Pair1(1, "a")),
        (Annotated[int, "id"], 4),
    ],
)  # fmt: skip
def test_an_annotation_says_what_its_keys_say(annotation: Any, key: Any) -> None:
    assert annotated_signature(annotation) == signature_of(key)


# ---- descriptions


@pytest.mark.parametrize(("version", "writer"), [(1, "a version before the first release"), (99, "a newer version")])
def test_another_format_of_the_description_is_refused(rig: Any, version: int, writer: str) -> None:
    handles = keyed_by(rig, 1)
    meta = msgspec.json.encode({**msgspec.json.decode(handles[0].meta), "format": version})
    handles = (replace(handles[0], meta=meta),)
    with pytest.raises(IncompatibleStateError, match=f"has format {version} and was written by {writer}"):
        rig.open(handles)


def test_a_damaged_description_is_told(rig: Any) -> None:
    handles = (replace(keyed_by(rig, 1)[0], meta=b"{"),)
    with pytest.raises(DamagedCheckpointError, match="description of keyed state cannot be read"):
        rig.open(handles)
