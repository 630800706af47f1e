"""Which task managers a job's slots come from. Pure: what they have in, how many to ask each for out.

A job gets all the slots it asks for, or none: two jobs that hold half of what they need would wait for each other.
Slots are spread, so that the death of a node costs as few subtasks as possible and the nodes share the load; those
that the job was let before (by a master that died) come first, because their processes are warm and hold its code.
A slot that died is replaced on its node where there is room: there are copies of its state (local_copies.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_NAMED = 10
"""So many task managers are named in a message."""


@dataclass(frozen=True, slots=True)
class Room:
    """What one task manager could give this job."""

    total: int
    free: int
    """Slots that are nobody's."""
    held: int = 0
    """Slots that are the job's already, and that its master does not know."""
    used: int = 0
    """Slots that are the job's and known."""
    lost: int = 0
    """Slots that the job had here and that died."""
    problem: str = ""
    """Why it has fewer than it should."""


def place(rooms: Mapping[str, Room], count: int) -> dict[str, int] | None:
    """Task manager -> how many slots to ask it for; None: there are not enough."""
    if sum(room.free + room.held for room in rooms.values()) < count:
        return None
    taken = dict.fromkeys(rooms, 0)
    for name, room in rooms.items():
        taken[name] = min(room.held, count - sum(taken.values()))
    for name, room in rooms.items():
        taken[name] += min(room.lost, room.held + room.free - taken[name], count - sum(taken.values()))
    for _ in range(count - sum(taken.values())):
        open_rooms = [name for name, room in rooms.items() if taken[name] < room.held + room.free]
        taken[min(open_rooms, key=lambda name: (rooms[name].used + taken[name], name))] += 1
    return {name: slots for name, slots in taken.items() if slots}


def shortage(rooms: Mapping[str, Room], count: int) -> str:
    """Why the job did not get them, for the user."""
    if not rooms:
        return f"the job asks for {count} slots, and the cluster has no task manager yet"
    free, total = sum(room.free for room in rooms.values()), sum(room.total for room in rooms.values())
    used = sum(room.used for room in rooms.values())
    parts = [f"{name}: {room.free} of {room.total}{_reason(room)}" for name, room in sorted(rooms.items())]
    each = ", ".join(parts[:MAX_NAMED])
    if count + used > total:
        hint = "lower the parallelism, or add nodes or slots (penstock cluster join, taskmanager.numberOfTaskSlots)"
    elif count > free:
        hint = "other jobs hold the rest; cancel one, or add a node"
    else:
        hint = "their processes have not come up yet; the logs of the task managers tell more"
    more = f"{count} slots more than its {used}" if used else f"{count} slots"
    return f"the job asks for {more}, and {free} of {total} are free ({each}); {hint}"


def _reason(room: Room) -> str:
    return f" ({room.problem})" if room.problem else ""
