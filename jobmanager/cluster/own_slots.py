"""Slots with resources of their own: which nodes they come from, and the way to all of them or none. Without Ray.

A job's request is planned against what the nodes have free at one moment, and then asked of the task managers until
all slots are up: their processes start when Ray gives them the resources. Nobody reserves anything, so somebody else
may have been faster, and the plan comes to nothing: after a while there is a new one. What was started for the old one
is used first, and ends by itself where it is not (task_manager.py): two jobs that have half of the GPUs each do not
wait for each other for ever. Nothing is leased before all of it is there.

What no node could ever give, however idle it were, is waited for only for a moment: a node may be about to join.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ...runtime.resources import NO_RESOURCES, Resources
from ...state.ids import JobId, SlotId
from ...taskmanager.processes.task_manager import SlotOffer
from ...taskmanager.views import TaskManagerView

PATIENCE_S = 30.0
"""After so long there is a new plan, if there is one; and so long a node that could do it may take to join."""
START_S = 120.0
"""So long a plan is tried when there is no other: what is missing may be what its own processes have, which start."""
MAX_NAMED = 10
"""So many nodes are named in a message."""


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """What one node has."""

    total: Resources
    free: Resources = NO_RESOURCES
    held: tuple[Resources, ...] = ()
    """Slots that are the job's already, and that its master does not know."""
    lost: int = 0
    """Slots that the job had here and that died."""


Views = Mapping[str, TaskManagerView]


def node_rooms(
    views: Views,
    free: Mapping[str, Resources],
    job_id: JobId,
    known: Collection[SlotId],
    lost_at: Mapping[str, int],
) -> dict[str, NodeRoom]:
    """By task manager, of nodes that may have slots. `free`: by node id."""
    rooms = {}
    for name, view in views.items():
        held = [slot for slot in view.slots if slot.job_id == job_id and slot.resources and slot.id not in known]
        if view.slots_total:
            rooms[name] = NodeRoom(
                view.resources,
                free.get(view.node_id, NO_RESOURCES),
                tuple(slot.resources for slot in held),
                lost_at.get(name, 0),
            )
    return rooms


Plan = dict[str, Counter[Resources]]
"""Task manager -> slots to ask it for."""


def place(nodes: Mapping[str, NodeRoom], wanted: Sequence[Resources]) -> Plan | None:
    """None: there is not enough now. Slots that the job has come first, then those that lack are spread; one that
    died comes back to its node, where copies of its state are."""
    plan: Plan = {name: Counter() for name in nodes}
    held = {name: list(node.held) for name, node in nodes.items()}
    free = {name: node.free for name, node in nodes.items()}
    for resources in sorted(wanted, key=_weight, reverse=True):
        able = [name for name in nodes if resources in held[name] or resources.fits(free[name])]
        if not able:
            return None
        name = min(able, key=lambda one: (
            resources not in held[one], plan[one].total() >= nodes[one].lost, plan[one].total(), one
        ))  # fmt: skip
        plan[name][resources] += 1
        if resources in held[name]:
            held[name].remove(resources)
        else:
            free[name] = free[name].without(resources)
    return {name: slots for name, slots in plan.items() if slots}


def _weight(resources: Resources) -> tuple[float, float, float, float]:
    """What is hardest to find first."""
    return (resources.gpu, sum(amount for _, amount in resources.custom), resources.memory_bytes, resources.cpu)


def impossible(nodes: Mapping[str, NodeRoom], wanted: Sequence[Resources]) -> bool:
    """Whether one of these slots fits on no node at all. As long as there is no node nobody can tell."""
    return bool(nodes) and any(not any(resources.fits(node.total) for node in nodes.values()) for resources in wanted)


def shortage(nodes: Mapping[str, NodeRoom], wanted: Sequence[Resources]) -> str:
    """Why the job did not get them, for the user."""
    asked = ", ".join(f"{count} with {resources}" for resources, count in Counter(wanted).items())
    names = {name for resources in wanted for name in resources.amounts()}
    shown = [
        f"{name}: {node.free.only(names)} free of {node.total.only(names)}" for name, node in sorted(nodes.items())
    ]
    there = "; ".join(shown[:MAX_NAMED]) or "there is no node yet"
    if impossible(nodes, wanted):
        hint = "no node has so much; ask for less, or add a node (penstock cluster join)"
    else:
        hint = "the rest is taken; wait, ask for less, or add a node"
    return f"the job asks for slots with resources of their own ({asked}); the nodes do not have them ({there}); {hint}"


Ask = Callable[[str, int, Resources], list[SlotOffer]]
"""(task manager, how many, of which) -> those that are up. Does not wait for them."""


class OwnSlotsRequest:
    """For all that a job lacks. `look` is called again and again."""

    def __init__(self, wanted: Sequence[Resources]) -> None:
        self._wanted = tuple(wanted)
        self._plan: Plan | None = None
        self._planned_s = 0.0

    def look(self, nodes: Mapping[str, NodeRoom], ask: Ask, now_s: float) -> list[tuple[SlotOffer, str]] | None:
        """All of them, with their task managers, or None as long as one lacks. A node that is not there any more, or
        does not keep what it promised, ends the plan after a while."""
        tried_s = now_s - self._planned_s
        if self._plan is None or tried_s > PATIENCE_S:
            plan = place(nodes, self._wanted)
            if plan is not None or tried_s > START_S:
                self._plan, self._planned_s = plan, now_s
        if self._plan is None:
            return None
        offers = [
            (offer, name)
            for name, slots in self._plan.items()
            for resources, count in slots.items()
            for offer in ask(name, count, resources)
        ]
        return offers if len(offers) == len(self._wanted) else None
