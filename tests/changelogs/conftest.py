"""An operator in several subtasks, driven side by side; its results as changes, and applied to an empty multiset."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.changelog import Change, RowKind, changes
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import record_type_of
from penstock.testing.clock import ManualClock
from penstock.testing.harness import OperatorHarness, subtask_for


class Row(NamedTuple):
    key: str
    number: int
    at: int = 0


class Table(Counter[Any]):
    """What a changelog makes of an empty multiset."""

    def apply(self, changelog: Iterable[Change]) -> None:
        for kind, record in changelog:
            record = record if isinstance(record, Hashable) else repr(record)
            self[record] += 1 if kind.adds else -1
            assert self[record] >= 0, f"{kind} of {record}, which is not there"
            if not self[record]:
                del self[record]


class Subtasks:
    """What comes goes to the subtask of its key, cut into batches at random."""

    def __init__(
        self,
        make: Callable[[], Operator],
        types: Sequence[Any],
        chance: random.Random,
        *,
        parallelism: int | None = None,
    ) -> None:
        self.make = make
        self.types = [record_type_of(kind) for kind in types]
        self.chance = chance
        self.parallelism = parallelism
        self.clock = ManualClock()
        self.given: list[Change] = []
        self.times: list[int | None] = []
        self.table = Table()
        self.late: list[Any] = []
        self.counted_late = 0
        self.backend = chance.choice(["heap", "heap", "heap", "rocksdb"])
        self.harnesses: list[OperatorHarness] = []
        self.restore([])

    def restore(self, snapshots: Sequence[Any]) -> None:
        parallelism = self.parallelism or self.chance.choice([1, 2, 3])
        options: dict[str, Any] = {"parallelism": parallelism, "restored": snapshots, "clock": self.clock}
        self.harnesses = [
            OperatorHarness(self.make(), subtask=subtask, backend=self.backend, **options).open()  # type: ignore[arg-type]
            for subtask in range(parallelism)
        ]

    def push(
        self, side: int, changelog: Sequence[Change], key: Callable[[Any], Any] = lambda record: record.key
    ) -> None:
        for number, harness in enumerate(self.harnesses):
            own = [each for each in changelog if subtask_for(key(each.record), len(self.harnesses)) == number]
            while own:
                cut = self.chance.randint(1, len(own))
                harness.push_batch(self.batch(side, own[:cut]), side)
                own = own[cut:]
        self.hand_in()

    def batch(self, side: int, changelog: Sequence[Change]) -> Batch:
        records = [record for _, record in changelog]
        times = [getattr(record, "at", 0) for record in records]
        batch = Batch.of_rows(self.types[side], self.types[side].copy_rows(records), times)
        kinds = np.array([kind for kind, _ in changelog], np.int8)
        batch.row_kinds = kinds if kinds.any() else None
        return batch

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
            given = [each for batch in harness.batches for each in changes(batch.rows(), batch.row_kinds)]
            self.times += [at for _, at in harness.timed_output]
            self.late += harness.side_output("late")
            self.given += given
            self.table.apply(given)
            harness.take()

    def restart(self) -> None:
        """From a checkpoint, or, on the other backend, from a savepoint; at another parallelism."""
        switch = self.chance.random() < 0.3
        snapshots = [harness.savepoint() if switch else harness.snapshot() for harness in self.harnesses]
        self.close()
        if switch:
            self.backend = "rocksdb" if self.backend == "heap" else "heap"
        self.restore(snapshots)

    def left(self) -> tuple[int, int]:
        """Rows and timers in state. RocksDB only estimates how many there are; so they are taken to the heap."""
        snapshots = [harness.savepoint() for harness in self.harnesses]
        self.close()
        self.backend = "heap"
        self.restore(snapshots)
        statistics = [harness.operator.state_statistics() for harness in self.harnesses]
        return sum(each.entries for each in statistics if each), sum(each.timers for each in statistics if each)

    def close(self) -> None:
        for harness in self.harnesses:
            self.counted_late += harness.metrics.counter("records_late_total").get_count()
            harness.close()


def insertions(records: Iterable[Any]) -> list[Change]:
    return [Change(RowKind.INSERT, record) for record in records]


@pytest.fixture(scope="session")
def subtasks() -> type[Subtasks]:
    return Subtasks


@pytest.fixture(scope="session")
def row() -> type[Row]:
    return Row


@pytest.fixture(scope="session")
def inserted() -> Callable[[Iterable[Any]], list[Change]]:
    return insertions


@pytest.fixture(scope="session")
def table() -> type[Table]:
    return Table
