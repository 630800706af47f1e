"""The slots a job has: asked for, offered, lost, given back. The job asks for what it lacks and never for more."""

from __future__ import annotations

from ..state.ids import SlotId
from ..taskmanager.messages import SlotAddress
from .events import AcquireSlots, Command, DiscardSlot, ReleaseSlots


class SlotPool:
    """Methods answer the commands to carry out."""

    def __init__(self) -> None:
        self._slots: dict[SlotId, SlotAddress | None] = {}
        self._asked_for = 0
        self.denial = ""
        """Why slots could not be had, the last time."""

    def __contains__(self, slot: SlotId) -> bool:
        return slot in self._slots

    @property
    def slots(self) -> tuple[SlotId, ...]:
        """Oldest first."""
        return tuple(self._slots)

    def ensure(self, needed: int) -> list[Command]:
        lacking = needed - len(self._slots) - self._asked_for
        if lacking <= 0:
            return []
        self._asked_for += lacking
        return [AcquireSlots(lacking)]

    @property
    def addresses(self) -> dict[SlotId, SlotAddress]:
        """Of slots that are reached by one."""
        return {slot: address for slot, address in self._slots.items() if address is not None}

    def offered(self, slot: SlotId, address: SlotAddress | None = None) -> None:
        self._asked_for = max(0, self._asked_for - 1)
        self._slots[slot] = address

    def denied(self, reason: str) -> None:
        self._asked_for, self.denial = 0, reason

    def lost(self, slot: SlotId) -> bool:
        """False if it was not ours any more."""
        known = slot in self._slots
        self._slots.pop(slot, None)
        return known

    def discard(self, slot: SlotId, reason: str) -> list[Command]:
        return [DiscardSlot(slot, reason)] if self.lost(slot) else []

    def release_all(self) -> list[Command]:
        slots, self._slots = self.slots, {}
        return [ReleaseSlots(slots)] if slots else []
