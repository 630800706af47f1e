"""Partitioners: to which subtask of the next vertex each record goes.

Built from the job graph's partitioning for one edge of one subtask. A partitioner splits a whole batch at once:
targets of all rows, a stable counting sort, one take, a slice per target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from ...runtime.batch import Batch
from ...runtime.functions import called_on_each
from ...runtime.graph.partitioning import (
    Broadcast,
    Custom,
    Forward,
    Global,
    Hash,
    Partitioning,
    Rebalance,
    Rescale,
)
from ...runtime.keys import KeySelector
from ...state.errors import PipelineError


class Partitioner(ABC):
    """One edge of one subtask; may remember where its round robin stands."""

    @abstractmethod
    def split(self, batch: Batch) -> list[tuple[int, Batch]]:
        """(target subtask, its records in order) of every target that gets any. All targets get own rows."""


class ToOne(Partitioner):
    """Everything to one subtask: forward, global, and whatever has but one target."""

    def __init__(self, target: int) -> None:
        self.target = target

    def split(self, batch: Batch) -> list[tuple[int, Batch]]:
        return [(self.target, batch)]


class HashPartitioner(Partitioner):
    """To the subtask that owns the key's key group; the groups travel with the batch."""

    def __init__(self, selector: KeySelector, parallelism: int, max_parallelism: int) -> None:
        self.selector = selector
        self.parallelism = parallelism
        self.max_parallelism = max_parallelism

    def split(self, batch: Batch) -> list[tuple[int, Batch]]:
        groups = self.selector.key_groups(batch, self.max_parallelism)
        batch.key_groups = groups
        return split_by_target(
            batch, groups.astype(np.int64) * self.parallelism // self.max_parallelism, self.parallelism
        )


class RoundRobinPartitioner(Partitioner):
    """Batch by batch over its targets: rebalance over all, rescale over the own share."""

    def __init__(self, targets: range, first: int) -> None:
        self.targets = targets
        self.next = first % len(targets)

    def split(self, batch: Batch) -> list[tuple[int, Batch]]:
        """Cut so that even one large batch spreads over all targets."""
        share = -(-len(batch) // len(self.targets))
        parts = []
        for start in range(0, len(batch), share):
            parts.append((self.targets[self.next], batch.slice(start, share)))
            self.next = (self.next + 1) % len(self.targets)
        return parts


class BroadcastPartitioner(Partitioner):
    """Everything to everyone."""

    def __init__(self, parallelism: int) -> None:
        self.parallelism = parallelism

    def split(self, batch: Batch) -> list[tuple[int, Batch]]:
        others = [(target, batch.branch()) for target in range(1, self.parallelism)]
        return [(0, batch), *others]


class CustomPartitioner(Partitioner):
    """By the user's function. PipelineError if it gives no subtask."""

    def __init__(self, partitioning: Custom, parallelism: int) -> None:
        self.partitioning = partitioning
        self.parallelism = parallelism

    def split(self, batch: Batch) -> list[tuple[int, Batch]]:
        function, parallelism = self.partitioning.function, self.parallelism
        keys = self.partitioning.selector.keys(batch)
        targets = called_on_each(function, keys, repeat(parallelism), doing="in partition_custom, on the key")
        for target in targets:
            if not isinstance(target, (int, np.integer)) or not 0 <= target < parallelism:
                raise PipelineError(
                    f"partition_custom: the function gave {target!r}, not a subtask number from 0 to {parallelism - 1}"
                )
        return split_by_target(batch, np.array(targets, np.int64), parallelism)


def split_by_target(batch: Batch, targets: npt.NDArray[np.integer[Any]], parallelism: int) -> list[tuple[int, Batch]]:
    counts = np.bincount(targets, minlength=parallelism)
    only = int(counts.argmax()) if len(counts) else 0
    if counts[only] == len(batch):
        return [(only, batch)]
    ordered = batch.take(np.argsort(targets.astype(np.uint16), kind="stable"))
    parts, start = [], 0
    for target, count in enumerate(counts.tolist()):
        if count:
            parts.append((target, ordered.slice(start, count)))
            start += count
    return parts


def rescale_targets(source: int, sources: int, targets: int) -> range:
    """The targets that share this source's part of the edge (Flink's POINTWISE distribution)."""
    if sources >= targets:
        return range(source * targets // sources, source * targets // sources + 1)
    return range(-(-source * targets // sources), -(-(source + 1) * targets // sources))


def partitioner_for(
    partitioning: Partitioning, source: int, sources: int, targets: int, max_parallelism: int
) -> Partitioner:
    """For subtask `source` of `sources`, towards `targets` subtasks of a vertex with that max parallelism."""
    match partitioning:
        case Forward():
            return ToOne(source)
        case Global():
            return ToOne(0)
        case Broadcast():
            return BroadcastPartitioner(targets)
        case Rebalance():
            return RoundRobinPartitioner(range(targets), source)
        case Rescale():
            return RoundRobinPartitioner(rescale_targets(source, sources, targets), 0)
        case Hash(selector):
            return ToOne(0) if targets == 1 else HashPartitioner(selector, targets, max_parallelism)
        case Custom():
            return CustomPartitioner(partitioning, targets)


def connected(partitioning: Partitioning, source: int, sources: int, targets: int) -> range:
    """Target subtasks this source subtask has a channel to."""
    match partitioning:
        case Forward():
            return range(source, source + 1)
        case Rescale():
            return rescale_targets(source, sources, targets)
        case _:
            return range(targets)
