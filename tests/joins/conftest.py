"""An operator of two inputs in several subtasks, driven side by side: what comes goes to the subtask of its key."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import record_type_of
from penstock.testing.clock import ManualClock
from penstock.testing.harness import OperatorHarness, subtask_for


class Left(NamedTuple):
    key: str
    number: int
    at: int


class Right(NamedTuple):
    key: str
    number: int
    at: int
    weight: float = 0.0


class Subtasks:
    """`given` counts results with their timestamps, `late` what came to each late output."""

    def __init__(self, make: Callable[[], Operator], types: Sequence[Any], chance: random.Random) -> None:
        self.make = make
        self.types = [record_type_of(kind) for kind in types]
        self.chance = chance
        self.clock = ManualClock()
        self.given: Counter[str] = Counter()
        self.late: dict[str, list[Any]] = {"late left": [], "late right": []}
        self.counted_late = 0
        self.harnesses: list[OperatorHarness] = []
        self.backend = "heap"
        self.restore([])

    def restore(self, snapshots: Sequence[Any]) -> None:
        parallelism = self.chance.choice([1, 2, 3])
        options: dict[str, Any] = {"parallelism": parallelism, "restored": snapshots, "clock": self.clock}
        self.harnesses = [
            OperatorHarness(self.make(), subtask=subtask, backend=self.backend, **options).open()  # type: ignore[arg-type]
            for subtask in range(parallelism)
        ]

    def push(self, side: int, records: Sequence[Any]) -> None:
        """One batch for each subtask."""
        for number, harness in enumerate(self.harnesses):
            own = [each for each in records if subtask_for(each.key, len(self.harnesses)) == number]
            harness.push_batch(Batch.of_rows(self.types[side], own, [each.at for each in own]), side)
        self.hand_in()

    def watermark(self, timestamp: int) -> None:
        for harness in self.harnesses:
            harness.watermark(timestamp)
        self.hand_in()

    def advance(self, duration_ms: int) -> None:
        self.clock.advance(duration_ms)
        for harness in self.harnesses:
            harness.advance_time(0)
        self.hand_in()

    def hand_in(self) -> None:
        for harness in self.harnesses:
            self.given.update(map(repr, harness.timed_output))
            for tag, late in self.late.items():
                late += harness.side_output(tag)
            harness.take()

    def restart(self, backend: str | None = None) -> None:
        """From a checkpoint, or, on the other backend, from a savepoint."""
        if backend is None and self.chance.random() < 0.1:
            backend = "rocksdb" if self.backend == "heap" else "heap"
        snapshots = [harness.savepoint() if backend else harness.snapshot() for harness in self.harnesses]
        self.close()
        self.backend = backend or self.backend
        self.restore(snapshots)

    def left(self) -> tuple[int, int]:
        """Rows and timers in state. RocksDB only estimates how many there are; so they are taken to the heap."""
        self.restart("heap")
        statistics = [harness.operator.state_statistics() for harness in self.harnesses]
        return sum(each.entries for each in statistics if each), sum(each.timers for each in statistics if each)

    def close(self) -> None:
        for harness in self.harnesses:
            self.counted_late += harness.metrics.counter("records_late_total").get_count()
            harness.close()


@pytest.fixture(scope="session")
def subtasks() -> type[Subtasks]:
    return Subtasks


@pytest.fixture(scope="session")
def sides() -> tuple[type[Left], type[Right]]:
    return Left, Right
