"""Slots with resources of their own, seen by the master: where they come from, what is said where there are none."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from penstock.jobmanager.cluster.own_slots import (
    PATIENCE_S,
    START_S,
    NodeRoom,
    OwnSlotsRequest,
    impossible,
    node_rooms,
    place,
    shortage,
)
from penstock.jobmanager.events import AcquireSlots, SlotOffered
from penstock.jobmanager.slot_pool import SlotPool
from penstock.runtime.resources import NO_RESOURCES, Resources
from penstock.state.ids import JobId, SlotId
from penstock.taskmanager.messages import SlotAddress
from penstock.taskmanager.processes.task_manager import SlotOffer
from penstock.taskmanager.views import SlotView, TaskManagerView

GPU, CORE = Resources(gpu=1), Resources(cpu=1)
ADDRESS = SlotAddress("tm", "host", 1, "", 1)


def room(free: Resources, **more: object) -> NodeRoom:
    return NodeRoom(total=free, free=free, **more)  # type: ignore[arg-type]


# ---- where they come from


def test_slots_are_spread_over_nodes_that_have_room() -> None:
    nodes = {name: room(Resources(cpu=4)) for name in ("a", "b")}
    assert place(nodes, [CORE] * 4) == {"a": Counter({CORE: 2}), "b": Counter({CORE: 2})}


def test_what_is_hardest_to_find_is_placed_first() -> None:
    nodes = {"a": room(Resources(cpu=1, gpu=1)), "b": room(Resources(cpu=1))}
    both = Resources(cpu=1, gpu=1)
    assert place(nodes, [CORE, both]) == {"a": Counter({both: 1}), "b": Counter({CORE: 1})}


def test_slots_that_the_job_has_come_first_and_take_nothing() -> None:
    nodes = {"a": room(Resources(cpu=2)), "b": room(NO_RESOURCES, held=(CORE,))}
    assert place(nodes, [CORE]) == {"b": Counter({CORE: 1})}


def test_one_that_died_comes_back_to_its_node() -> None:
    nodes = {"a": room(Resources(cpu=2)), "b": room(Resources(cpu=2), lost=1)}
    assert place(nodes, [CORE]) == {"b": Counter({CORE: 1})}


def test_all_or_none() -> None:
    assert place({"a": room(CORE)}, [CORE, CORE]) is None
    assert place({}, []) == {}


def test_fractions_are_counted_exactly() -> None:
    tenth = Resources(cpu=0.1)
    assert place({"a": room(CORE)}, [tenth] * 10) is not None
    assert place({"a": room(CORE)}, [tenth] * 11) is None


@pytest.mark.parametrize("seed", range(30))
def test_a_plan_never_takes_more_than_there_is(seed: int) -> None:
    draw = random.Random(seed)
    nodes = {
        f"n{n}": room(Resources(cpu=draw.randint(0, 4), gpu=draw.randint(0, 2))) for n in range(draw.randint(1, 4))
    }
    wanted = [Resources(cpu=draw.randint(0, 2), gpu=draw.choice((0, 0.5, 1)), memory_bytes=0) for _ in range(4)]
    wanted = [each for each in wanted if each]
    plan = place(nodes, wanted)
    if plan is not None:
        assert sum(plan.values(), Counter()) == Counter(wanted)
        for name, slots in plan.items():
            asked = list(slots.elements())
            assert sum(each.cpu for each in asked) <= nodes[name].free.cpu
            assert sum(each.gpu for each in asked) <= nodes[name].free.gpu


def test_nodes_that_must_have_no_slots_have_no_resources_either() -> None:
    def view(name: str, slots: int) -> TaskManagerView:
        held = (SlotView("s1", "job", 1, resources=GPU), SlotView("s2", "job", 1, resources=GPU))
        return TaskManagerView(
            name, "host", f"id-{name}", 1, 0, slots, slots, held, 0, 1, 1, 1, 1, resources=Resources(gpu=4)
        )

    views = {"good": view("good", 2), "unfit": view("unfit", 0)}
    found = node_rooms(views, {"id-good": Resources(gpu=2)}, JobId("job"), {SlotId("s1")}, {"good": 1})
    assert found == {"good": NodeRoom(Resources(gpu=4), Resources(gpu=2), (GPU,), 1)}
    assert views["good"].resources_free == Resources(gpu=2)


# ---- a request


class Managers:
    """Task managers that start what they are asked for, a moment later."""

    def __init__(self) -> None:
        self.up: dict[str, list[SlotOffer]] = {}
        self.asked: list[str] = []

    def ask(self, name: str, count: int, resources: Resources) -> list[SlotOffer]:
        self.asked.append(name)
        return [offer for offer in self.up.get(name, ()) if offer.resources == resources][:count]

    def come_up(self, name: str, slot: str, resources: Resources) -> None:
        self.up.setdefault(name, []).append(SlotOffer(SlotId(slot), slot, ADDRESS, 1, resources))


def test_a_request_waits_until_all_of_it_is_there() -> None:
    nodes, managers = {"a": room(CORE), "b": room(CORE)}, Managers()
    request = OwnSlotsRequest([CORE, CORE])
    assert request.look(nodes, managers.ask, 0.0) is None
    managers.come_up("a", "s1", CORE)
    empty = {name: room(NO_RESOURCES) for name in nodes}
    assert request.look(empty, managers.ask, 1.0) is None, "its own slots have taken what was free"
    managers.come_up("b", "s2", CORE)
    found = request.look(empty, managers.ask, 2.0)
    assert found is not None
    assert [(offer.slot_id, name) for offer, name in found] == [("s1", "a"), ("s2", "b")]


def test_a_plan_that_comes_to_nothing_is_made_anew() -> None:
    managers, request = Managers(), OwnSlotsRequest([CORE])
    request.look({"a": room(CORE)}, managers.ask, 0.0)
    request.look({"b": room(CORE)}, managers.ask, PATIENCE_S)
    request.look({"b": room(CORE)}, managers.ask, PATIENCE_S + 0.1)
    assert managers.asked == ["a", "a", "b"]


def test_processes_that_take_long_to_start_are_waited_for() -> None:
    """They have what was free, and nobody sees them before they are up."""
    managers, request, taken = Managers(), OwnSlotsRequest([CORE]), {"a": NodeRoom(CORE)}
    request.look({"a": room(CORE)}, managers.ask, 0.0)
    for now_s in range(1, int(START_S), 5):
        assert request.look(taken, managers.ask, float(now_s)) is None
    assert len(managers.asked) == 1 + len(range(1, int(START_S), 5))
    asked = len(managers.asked)
    for now_s in (START_S + 1, START_S + 2):
        assert request.look(taken, managers.ask, now_s) is None
    assert len(managers.asked) == asked, "they did not come up"


def test_nothing_is_asked_for_as_long_as_there_is_not_enough() -> None:
    managers, request = Managers(), OwnSlotsRequest([CORE, CORE])
    assert request.look({"a": room(CORE)}, managers.ask, 0.0) is None
    assert managers.asked == []


# ---- what is said


def test_what_no_node_has_is_told_from_what_is_taken() -> None:
    nodes = {"node-1": NodeRoom(Resources(cpu=8, gpu=1), Resources(cpu=8))}
    assert not impossible(nodes, [GPU])
    assert shortage(nodes, [GPU]) == (
        "the job asks for slots with resources of their own (1 with gpu 1); the nodes do not have them "
        "(node-1: nothing free of gpu 1); the rest is taken; wait, ask for less, or add a node"
    )
    two = Resources(gpu=2)
    assert impossible(nodes, [two])
    assert "(2 with gpu 2)" in shortage(nodes, [two, two])
    assert "no node has so much; ask for less, or add a node (penstock cluster join)" in shortage(nodes, [two])
    assert not impossible({}, [GPU]), "as long as there is no node nobody can tell"


# ---- the slots of a job


def test_a_job_asks_for_what_it_lacks_of_each_kind() -> None:
    pool = SlotPool()
    needed = (NO_RESOURCES, NO_RESOURCES, GPU)
    assert pool.ensure(needed) == [AcquireSlots(needed)]
    assert pool.ensure(needed) == []
    pool.offered(SlotOffered(SlotId("s1")))
    pool.offered(SlotOffered(SlotId("s2")))
    assert not pool.has(needed), "two plain ones do not make up for one with a GPU"
    pool.offered(SlotOffered(SlotId("s3"), resources=GPU))
    assert pool.has(needed)
    pool.lost(SlotId("s3"))
    assert pool.ensure(needed) == [AcquireSlots((GPU,))]
    pool.denied("no GPU")
    assert pool.ensure(needed) == [AcquireSlots((GPU,))]
