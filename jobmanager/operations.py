"""What people ask of a job or a cluster, and takes a while: how much may be under way, and what is remembered.

It is told by request id what became of it. Whoever never asks again must not cost memory for ever, and views of a job
show all that is remembered; so both are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

KEPT_MS = 300_000
"""How long the outcome is told after its end; as long as Flink tells it."""
REMEMBERED = 500
"""Outcomes; of more the oldest are forgotten before."""
UNDER_WAY = 100
"""Not ended yet; one more is refused."""


class Operation(Protocol):
    """One of them, as far as it matters here. Times in ms."""

    @property
    def ended(self) -> bool: ...

    @property
    def ended_ms(self) -> int: ...


T = TypeVar("T", bound=Operation)


def still_known(operations: Mapping[str, T], now_ms: int) -> dict[str, T]:
    """By request, in the order in which they were asked for."""
    recent = [name for name, each in operations.items() if each.ended and each.ended_ms + KEPT_MS > now_ms]
    told = set(recent[-REMEMBERED:])
    return {name: each for name, each in operations.items() if not each.ended or name in told}


def too_many(operations: Mapping[str, Operation]) -> bool:
    """One more cannot be begun."""
    return sum(not each.ended for each in operations.values()) >= UNDER_WAY
