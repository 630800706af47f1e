"""What an operator, or an actor of its pool, asks of the machine that it runs on.

Quantities are promises between neighbours, as in Ray: whoever asks for one core gets a place where one is not promised
to somebody else; nothing keeps it from using two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..state.errors import ConfigurationError, PipelineError
from .units import format_size, parse_size_bytes

_OWN_NAMES = frozenset({"cpu", "gpu", "memory", "CPU", "GPU", "object_store_memory"})
_CENTS = 10_000
"""Ray counts in ten thousandths."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one slot, one actor, or one node. False if there are none."""

    cpu: float = 0.0
    memory_bytes: int = 0
    gpu: float = 0.0
    custom: tuple[tuple[str, float], ...] = ()
    """Others that nodes were given by name, sorted."""

    def __bool__(self) -> bool:
        return bool(self.cpu or self.memory_bytes or self.gpu or self.custom)

    def __str__(self) -> str:
        known = [f"cpu {self.cpu:g}"] if self.cpu else []
        known += [f"memory {_rounded(self.memory_bytes)}"] if self.memory_bytes else []
        known += [f"gpu {self.gpu:g}"] if self.gpu else []
        return ", ".join([*known, *(f"{name} {amount:g}" for name, amount in self.custom)]) or "nothing"

    def amounts(self) -> dict[str, float]:
        """By name: cpu, memory (bytes), gpu, and the others. Those that are not zero."""
        known = {"cpu": self.cpu, "memory": float(self.memory_bytes), "gpu": self.gpu, **dict(self.custom)}
        return {name: amount for name, amount in known.items() if amount}

    def fits(self, room: Resources) -> bool:
        """Whether `room` has all of it."""
        there = room.amounts()
        return all(_units(amount) <= _units(there.get(name, 0.0)) for name, amount in self.amounts().items())

    def without(self, taken: Resources) -> Resources:
        """What is left when those are taken."""
        left = self.amounts()
        for name, amount in taken.amounts().items():
            left[name] = max(0, _units(left.get(name, 0.0)) - _units(amount)) / _CENTS
        return from_amounts(left)

    def only(self, names: Iterable[str]) -> Resources:
        """Those of these names."""
        wanted = frozenset(names)
        return from_amounts({name: amount for name, amount in self.amounts().items() if name in wanted})


NO_RESOURCES = Resources()


def _units(amount: float) -> int:
    return round(amount * _CENTS)


def _rounded(size: int) -> str:
    """In a message: exact where that is short."""
    exact = format_size(size)
    return exact if len(exact) <= 8 else f"{size / 2**30:.1f}GiB"


def from_amounts(amounts: Mapping[str, float]) -> Resources:
    """As `Resources.amounts` gives them."""
    custom = {name: amount for name, amount in amounts.items() if name not in ("cpu", "memory", "gpu") and amount}
    return Resources(
        amounts.get("cpu", 0.0), int(amounts.get("memory", 0)), amounts.get("gpu", 0.0), tuple(sorted(custom.items()))
    )


def resources_of(
    cpu: float | None = None,
    memory: str | int | None = None,
    gpu: float | None = None,
    custom: Mapping[str, float] | None = None,
) -> Resources:
    """As users say it. PipelineError: what cannot be asked for."""
    amounts = {"cpu": _amount("cpu", cpu), "gpu": _whole("gpu", _amount("gpu", gpu))}
    try:
        amounts["memory"] = 0 if memory is None else parse_size_bytes(memory)
    except ConfigurationError as error:
        raise PipelineError(f"resources: memory: {error}") from None
    for name, amount in (custom or {}).items():
        if not isinstance(name, str) or not name or name in _OWN_NAMES:
            raise PipelineError(f"resources: {name!r} cannot be the name of a custom resource")
        amounts[name] = _amount(name, amount)
    return from_amounts(amounts)


def _amount(name: str, value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise PipelineError(f"resources: {name} must be a number of at least 0, not {value!r}")
    return float(value)


def _whole(name: str, amount: float) -> float:
    """One can be shared; of several, nobody gets a part."""
    if amount > 1 and amount != int(amount):
        raise PipelineError(f"resources: {name} is a whole number, or a part of one; {amount:g} is neither")
    return amount
