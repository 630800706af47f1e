"""How evenly the subtasks of a vertex are loaded, and which key groups are to blame."""

from __future__ import annotations

from dataclasses import dataclass

from ..state.key_groups import subtask_of
from .views import VertexView

UNEVEN = 2.0
"""A subtask that reads more than so many times the mean of the others is worth a hint."""
FEWEST_RECORDS = 1_000
"""Of a vertex; with fewer it is chance."""
SHOWN = 10


@dataclass(frozen=True, slots=True)
class HotKeyGroup:
    key_group: int
    subtask: int
    records: int
    share: float
    """Of all records that the vertex has read."""


@dataclass(frozen=True, slots=True)
class Skew:
    """Of what a vertex has read since the attempts of its subtasks began."""

    records: tuple[int, ...]
    """By subtask."""
    key_groups: tuple[HotKeyGroup, ...]
    """The hottest first; none where nothing is partitioned by key, or there is one subtask."""

    @property
    def total(self) -> int:
        return sum(self.records)

    @property
    def busiest(self) -> int:
        """The subtask that has read most."""
        return max(range(len(self.records)), key=self.records.__getitem__)

    @property
    def times_the_mean(self) -> float:
        """What the busiest has read; 1 where all have read the same, or nothing."""
        return max(self.records) * len(self.records) / self.total if self.total else 1.0

    @property
    def uneven(self) -> bool:
        if self.total < FEWEST_RECORDS or len(self.records) < 2:
            return False
        most = max(self.records)
        return most * (len(self.records) - 1) > UNEVEN * (self.total - most)

    def share(self, subtask: int) -> float:
        return self.records[subtask] / self.total if self.total else 0.0


def skew_of(vertex: VertexView) -> Skew:
    records = tuple(subtask.metrics.records_in for subtask in vertex.subtasks)
    total = max(1, sum(records))
    found = [
        HotKeyGroup(
            each.key_group,
            subtask_of(each.key_group, vertex.parallelism, vertex.max_parallelism),
            each.records,
            min(1.0, each.records / total),
        )
        for subtask in vertex.subtasks
        for each in subtask.metrics.details.hottest_key_groups
    ]
    found.sort(key=lambda each: (-each.records, each.key_group))
    return Skew(records, tuple(found[:SHOWN]))


def skew_hint(vertex: VertexView) -> str | None:
    """What to tell people, if one subtask has much more to do than the others."""
    skew = skew_of(vertex)
    if not skew.uneven:
        return None
    busiest = skew.busiest
    hot = next((each for each in skew.key_groups if each.subtask == busiest), None)
    blame = "" if hot is None else f"; {hot.share:.0%} are of key group {hot.key_group}"
    return (
        f"'{vertex.name}': subtask {busiest} has read {skew.share(busiest):.0%} of the records, "
        f"{skew.times_the_mean:.1f} times the mean{blame} (docs/skew.md)"
    )
