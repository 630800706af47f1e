"""How records find the subtask of the next vertex, as the job graph says it (partitioners.py does it)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..keys import KeySelector


@dataclass(frozen=True, slots=True)
class Forward:
    """Subtask i to subtask i; the only chainable one. Needs equal parallelism."""


@dataclass(frozen=True, slots=True)
class Hash:
    """By key group of the key."""

    selector: KeySelector


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Round robin by batch over all subtasks."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """Round robin over the subtasks of the own share, so that few connections are needed (Flink's rescale)."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Everything to everyone."""


@dataclass(frozen=True, slots=True)
class Global:
    """Everything to subtask 0."""


@dataclass(frozen=True, slots=True)
class Custom:
    """function(key, number of subtasks) -> subtask."""

    function: Callable[[Any, int], int]
    selector: KeySelector


Partitioning = Forward | Hash | Rebalance | Rescale | Broadcast | Global | Custom
