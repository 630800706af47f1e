"""The slots a job has: asked for, offered, lost, given back. The job asks for what it lacks and never for more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..runtime.resources import Resources
from ..state.ids import SlotId
from ..taskmanager.messages import SlotAddress
from .events import AcquireSlots, Command, DiscardSlot, ReleaseSlots, SlotOffered


@dataclass(frozen=True, slots=True)
class _Slot:
    address: SlotAddress | None
    resources: Resources


class SlotPool:
    """Methods answer the commands to carry out."""

    def __init__(self) -> None:
        self._slots: dict[SlotId, _Slot] = {}
        self._asked_for: Counter[Resources] = Counter()
        self.denial = ""
        """Why slots could not be had, the last time."""

    def __contains__(self, slot: SlotId) -> bool:
        return slot in self._slots

    @property
    def slots(self) -> dict[SlotId, Resources]:
        """What each has. Oldest first."""
        return {slot: known.resources for slot, known in self._slots.items()}

    def ensure(self, needed: Iterable[Resources]) -> list[Command]:
        """A slot for each."""
        lacking = self._lacking(needed) - self._asked_for
        if not lacking:
            return []
        self._asked_for += lacking
        return [AcquireSlots(tuple(lacking.elements()))]

    def has(self, needed: Iterable[Resources]) -> bool:
        """A slot for each is there."""
        return not self._lacking(needed)

    def _lacking(self, needed: Iterable[Resources]) -> Counter[Resources]:
        return Counter(needed) - Counter(known.resources for known in self._slots.values())

    @property
    def addresses(self) -> dict[SlotId, SlotAddress]:
        """Of slots that are reached by one."""
        return {slot: known.address for slot, known in self._slots.items() if known.address is not None}

    def offered(self, offer: SlotOffered) -> None:
        self._asked_for -= Counter([offer.resources])
        self._slots[offer.slot] = _Slot(offer.address, offer.resources)

    def denied(self, reason: str) -> None:
        self._asked_for.clear()
        self.denial = reason

    def lost(self, slot: SlotId) -> bool:
        """False if it was not ours any more."""
        return self._slots.pop(slot, None) is not None

    def discard(self, slot: SlotId, reason: str) -> list[Command]:
        return [DiscardSlot(slot, reason)] if self.lost(slot) else []

    def release_all(self) -> list[Command]:
        slots, self._slots = tuple(self._slots), {}
        return [ReleaseSlots(slots)] if slots else []
