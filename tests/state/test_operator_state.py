"""Lists and broadcast maps of one operator subtask: what comes back, as what, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import count
from typing import Any, NamedTuple

import pytest

from penstock.state import key_classes
from penstock.state.descriptors import ListStateDescriptor, MapStateDescriptor
from penstock.state.errors import DamagedCheckpointError, IncompatibleStateError, KeyTypeError, StateError
from penstock.state.ids import Attempt, CheckpointId, JobId
from penstock.state.operator_state import INLINE_BYTES, OperatorStateBackend, RestoredElements
from penstock.state.snapshots import OperatorStateHandle
from penstock.state.store.checkpoint_store import CheckpointStore, Uploads
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.ttl_config import StateTtlConfig

INTS: ListStateDescriptor[int] = ListStateDescriptor("ints", int)
RULES: MapStateDescriptor[str, Any] = MapStateDescriptor("rules", str, int)
_names = count()


@dataclass
class Rule:
    name: str
    limit: int


@dataclass
class Disk:
    """A store, and what a subtask's snapshots in it come to."""

    objects: ObstoreObjects = field(default_factory=lambda: ObstoreObjects("memory://"))
    store: CheckpointStore = field(
        default_factory=lambda: CheckpointStore(JobId("job"), lambda: f"name-{next(_names)}")
    )

    def uploads(self) -> Uploads:
        return self.store.uploads(Attempt(1), CheckpointId(1))

    def snapshot(self, backend: OperatorStateBackend) -> tuple[OperatorStateHandle, ...]:
        return run_program(backend.snapshot(self.uploads), self.objects)

    def restored(self, handles: Any, subtask: int = 0, **options: Any) -> OperatorStateBackend:
        return OperatorStateBackend("op", subtask, [self.read(handle) for handle in handles], **options)

    def read(self, handle: OperatorStateHandle) -> RestoredElements:
        file = handle.file
        data = handle.inline if file is None else run_program(self.store.fetch_bytes(file), self.objects)
        return RestoredElements.of(handle, data)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_all_kinds_come_back(disk: Disk) -> None:
    backend = OperatorStateBackend("op")
    assert backend.is_empty()
    ints, union = backend.get_list_state(INTS), backend.get_union_list_state(ListStateDescriptor("all", Rule))
    rules = backend.get_broadcast_state(MapStateDescriptor("rules", tuple[str, int], Rule))
    assert (ints.get(), union.get(), rules.is_empty(), backend.is_empty()) == ([], [], True, False)
    ints.add(1)
    ints.add_all([2, 3])
    union.update([Rule("a", 1), Rule("b", 2)])
    rules.put(("x", 1), Rule("c", 3))
    rules.put_all({("y", 2): Rule("d", 4), ("z", 3): Rule("e", 5)})
    rules.remove(("y", 2))
    backend = disk.restored(disk.snapshot(backend))
    assert backend.get_list_state(INTS).get() == [1, 2, 3]
    assert backend.get_union_list_state(ListStateDescriptor("all", Rule)).get() == [Rule("a", 1), Rule("b", 2)]
    rules = backend.get_broadcast_state(MapStateDescriptor("rules", tuple[str, int], Rule))
    assert list(rules.items()) == [(("x", 1), Rule("c", 3)), (("z", 3), Rule("e", 5))]
    assert (rules.contains(("y", 2)), rules.get(("z", 3)), rules.get(("y", 2))) == (False, Rule("e", 5), None)
    rules.clear()
    backend.get_list_state(INTS).clear()
    emptied = disk.restored(disk.snapshot(backend))
    assert emptied.get_list_state(INTS).get() == []
    assert list(emptied.get_broadcast_state(MapStateDescriptor("rules", tuple[str, int], Rule)).keys()) == []


def test_a_snapshot_is_of_its_barrier(disk: Disk) -> None:
    """Neither later changes nor later changes in place reach it."""
    backend = OperatorStateBackend("op")
    state = backend.get_list_state(ListStateDescriptor("rules", Rule))
    state.add(Rule("a", 1))
    program = backend.snapshot(disk.uploads)
    state.get()[0].limit = 2
    state.add(Rule("b", 1))
    handles = run_program(program, disk.objects)
    assert disk.restored(handles).get_list_state(ListStateDescriptor("rules", Rule)).get() == [Rule("a", 1)]
    later = disk.restored(disk.snapshot(backend))
    assert later.get_list_state(ListStateDescriptor("rules", Rule)).get() == [Rule("a", 2), Rule("b", 1)]


@pytest.mark.parametrize("value_type", [int, list[int]])
def test_each_snapshot_has_the_changes_of_a_broadcast_state_up_to_it(disk: Disk, value_type: Any) -> None:
    backend = OperatorStateBackend("op")
    descriptor: MapStateDescriptor[str, Any] = MapStateDescriptor("rules", str, value_type)
    state = backend.get_broadcast_state(descriptor)

    def value(number: int) -> Any:
        return number if value_type is int else [number]

    def written() -> dict[str, Any]:
        return dict(disk.restored(disk.snapshot(backend)).get_broadcast_state(descriptor).items())

    state.put_all({"a": value(1), "b": value(2)})
    assert written() == written() == {"a": value(1), "b": value(2)}
    state.put("b", value(3))
    assert written() == {"a": value(1), "b": value(3)}
    state.remove("a")
    assert written() == {"b": value(3)}
    if value_type is not int:
        state.get("b").append(4)
        assert written() == {"b": [3, 4]}
    state.clear()
    assert written() == {}


def test_small_states_are_inline_and_larger_ones_are_files(disk: Disk) -> None:
    backend = OperatorStateBackend("op")
    backend.get_list_state(INTS).add(1)
    backend.get_list_state(ListStateDescriptor("text", str)).add("x" * INLINE_BYTES)
    small, large = disk.snapshot(backend)
    assert (small.file, bool(small.inline)) == (None, True)
    assert large.file is not None
    assert large.inline == b""
    assert large.file.size_bytes > INLINE_BYTES
    assert disk.restored([small, large]).get_list_state(ListStateDescriptor("text", str)).get() == ["x" * INLINE_BYTES]


def test_a_part_of_a_list(disk: Disk) -> None:
    backend = OperatorStateBackend("op")
    backend.get_list_state(INTS).add_all(range(10))
    (handle,) = disk.snapshot(backend)
    assert handle.count == 10
    part = disk.restored([replace(handle, first=3, count=4)])
    assert part.get_list_state(INTS).get() == [3, 4, 5, 6]
    (again,) = disk.snapshot(part)
    assert (again.first, again.count) == (0, 4)
    with pytest.raises(DamagedCheckpointError, match="'ints' is damaged: 4 elements are expected from number 8 on, 2"):
        disk.read(replace(handle, first=8, count=4))
    with pytest.raises(DamagedCheckpointError, match="'ints' cannot be read"):
        disk.read(replace(handle, inline=b"\xc1"))


def test_what_is_not_declared_is_kept_for_later(disk: Disk) -> None:
    backend = OperatorStateBackend("op")
    backend.get_list_state(INTS).add(1)
    backend.get_union_list_state(ListStateDescriptor("all", int)).add(2)
    backend.get_broadcast_state(RULES).put("a", 3)
    handles = disk.snapshot(backend)
    first, second = (disk.snapshot(disk.restored(handles, subtask)) for subtask in (0, 1))
    assert [handle.name for handle in first] == ["ints", "all", "rules"]
    assert [handle.name for handle in second] == ["ints", "rules"], "each has all of the union: one keeps it"
    again = disk.restored(first)
    assert again.get_union_list_state(ListStateDescriptor("all", int)).get() == [2]
    assert again.get_broadcast_state(RULES).get("a") == 3


def test_types_evolve_as_those_of_keyed_state_do(disk: Disk) -> None:
    backend = OperatorStateBackend("op")
    backend.get_list_state(ListStateDescriptor("typed", Rule)).add(Rule("a", 1))
    backend.get_broadcast_state(RULES).put("a", 3)
    handles = disk.snapshot(backend)

    @dataclass
    class Wider:
        limit: float
        name: str
        unit: str = "EUR"

    @dataclass
    class Narrower:
        name: str
        limit: int
        unit: str

    evolved = disk.restored(handles)
    assert evolved.get_list_state(ListStateDescriptor("typed", Wider)).get() == [Wider(1.0, "a")]
    assert evolved.get_broadcast_state(MapStateDescriptor("rules", str, float)).get("a") == 3.0
    with pytest.raises(IncompatibleStateError, match=r"state 'typed' of operator 'op' does not fit.*unit"):
        disk.restored(handles[:1]).get_list_state(ListStateDescriptor("typed", Narrower))
    with pytest.raises(IncompatibleStateError, match="it was a broadcast state and is now declared as a list state"):
        disk.restored(handles[1:]).get_list_state(ListStateDescriptor("rules", int))
    with pytest.raises(IncompatibleStateError, match=r"does not fit: .*its keys are of type int, 'a' is not"):
        disk.restored(handles[1:]).get_broadcast_state(MapStateDescriptor("rules", int, int))


class Place(NamedTuple):
    country: str
    kind: Kind | None


class Kind(Enum):
    SHOP = 1


def test_classes_of_keys_need_not_be_importable(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a script, in the process of a slot."""
    for each in (Place, Kind):
        monkeypatch.setattr(each, "__module__", "no_module_at_all")
    monkeypatch.setattr(Place, "__annotations__", {"country": str, "kind": Kind | None})  # as pickling.py leaves them
    descriptor: MapStateDescriptor[Any, int] = MapStateDescriptor("places", tuple[Place, int], int)
    backend = OperatorStateBackend("op")
    backend.get_broadcast_state(descriptor).put((Place("de", Kind.SHOP), 1), 5)
    handles = disk.snapshot(backend)
    monkeypatch.setattr(key_classes, "_classes", {})
    restored = disk.restored(handles).get_broadcast_state(descriptor)
    assert list(restored.items()) == [((Place("de", Kind.SHOP), 1), 5)]


def test_a_name_is_one_state() -> None:
    backend = OperatorStateBackend("op")
    assert backend.get_list_state(INTS) is backend.get_list_state(INTS)
    with pytest.raises(StateError, match=r"'ints' of operator 'op' is declared twice: as a list state.*union list"):
        backend.get_union_list_state(INTS)
    with pytest.raises(StateError, match="declared twice"):
        backend.get_list_state(ListStateDescriptor("ints", str))
    with pytest.raises(StateError, match="declared twice"):
        backend.get_broadcast_state(MapStateDescriptor("ints", str, int))


def test_operator_state_does_not_expire() -> None:
    with pytest.raises(StateError, match="'ints' of operator 'op' cannot have a TTL"):
        OperatorStateBackend("op").get_list_state(replace(INTS, ttl=StateTtlConfig("1h")))


def test_values_and_keys_of_other_types_are_refused_where_they_are_put() -> None:
    backend = OperatorStateBackend("op")
    ints, rules = backend.get_list_state(INTS), backend.get_broadcast_state(RULES)
    for change in (lambda: ints.add("1"), lambda: ints.update([1, True]), lambda: ints.add_all([1.0])):  # type: ignore[list-item, arg-type]
        with pytest.raises(StateError, match=r"operator state 'ints' of operator 'op': .* but int is declared"):
            change()
    with pytest.raises(StateError, match="'x' is of type str, but int is declared"):
        rules.put("a", "x")
    with pytest.raises(KeyTypeError, match="its keys are of type str, 1 is not"):
        rules.put_all({"a": 1, 1: 2})  # type: ignore[dict-item]
    undeclared = backend.get_broadcast_state(MapStateDescriptor("undeclared"))
    undeclared.put(1, object)
    with pytest.raises(KeyTypeError, match=r"its keys are of type int, 1\.0 is not"):
        undeclared.put(1.0, object)
    with pytest.raises(KeyTypeError):
        backend.get_broadcast_state(MapStateDescriptor("lists")).put([], 1)
    assert (ints.get(), rules.is_empty()) == ([], True)


def test_pickled_state_is_refused_where_it_is_not_wanted(disk: Disk) -> None:
    backend = OperatorStateBackend("op", generic_types=False)
    backend.get_list_state(INTS)
    with pytest.raises(StateError, match=r"'any' of operator 'op' would be pickled.*generic-types is false"):
        backend.get_list_state(ListStateDescriptor("any"))
    pickled = OperatorStateBackend("op")
    pickled.get_list_state(ListStateDescriptor("any")).add({1, "a"})
    assert disk.restored(disk.snapshot(pickled)).get_list_state(ListStateDescriptor("any")).get() == [{1, "a"}]


def test_what_cannot_be_written_names_its_state(disk: Disk) -> None:
    backend = OperatorStateBackend("op")
    backend.get_list_state(ListStateDescriptor("rules", Rule)).add(Rule("a", "many"))  # type: ignore[arg-type]
    with pytest.raises(StateError, match=r"operator state 'rules' of operator 'op': .*many"):
        backend.snapshot(disk.uploads)


def test_the_main_side_s_view_shows_changes_and_makes_none() -> None:
    rules = OperatorStateBackend("op").get_broadcast_state(RULES)
    view = rules.read_only()
    rules.put("a", 1)
    assert (list(view.items()), list(view.keys()), list(view.values())) == ([("a", 1)], ["a"], [1])
    assert (view.get("a"), view.contains("b"), view.is_empty()) == (1, False, False)
    assert not any(hasattr(view, change) for change in ("put", "put_all", "remove", "clear"))
    for key in rules.keys():  # noqa: SIM118
        rules.remove(key)
    assert view.is_empty()
