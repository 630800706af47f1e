"""What one seed's job is: its records, which parts it has (simulated_pipeline.py), its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from ..runtime.configuration import options
from .lists import FAIL
from .simulated_functions import Reading, is_rule
from .simulated_workers import Trouble, draw_troubles
from .virtual_time import EPOCH_MS

WINDOW_MS = 1_000

BRANCHES = {
    "running": 0.5, "windows": 0.5, "columns": 0.25, "tickets": 0.25, "judged": 0.25, "paired": 0.25, "restamped": 0.15,
}  # fmt: skip
"""How likely a job has each of them; one that would have none has the first."""
STORMY_BRANCHES = (("running", "windows", "columns"), ("running", "tickets", "judged", "paired"))
JOINS = ("union", "connect")
NEVER_TOO_LATE_MS = 86_400_000


@dataclass(frozen=True)
class Pool:
    """Of models, which give every record back."""

    concurrency: int
    batch_size: int
    capacity: int
    ordered: bool
    troubles: frozenset[Trouble]


@dataclass(frozen=True)
class Workload:
    """Everything that a checker needs to know about a job."""

    sources: tuple[tuple[Any, ...], ...]
    """Readings and FAIL marks of each source."""
    splits: int
    bound_ms: int
    branches: tuple[str, ...]
    late: bool
    lateness_ms: int
    """How late a record may be for its window to fire once more."""
    rebalanced: bool
    """Between source and map every record may go anywhere."""
    capacity: int
    """Of the service that every record is taken to; 0: there is none."""
    ordered: bool
    """Its answers go on in the order of their records."""
    pool: Pool | None
    """Through which every record goes; None: there is none."""
    two_phase: bool
    """Windows are folded before records go to the subtask of their key. They have no output of late records: none is
    too late, until event time ends."""
    separate: bool
    """Each source has a pipeline, and with it a region, of its own; their keys differ."""
    rules: tuple[Any, ...]
    """Readings and FAIL marks of the source of rules; empty: some of the records are rules, too."""
    join: str
    """How two ways of the records come together again."""
    strands: tuple[Any, ...]
    """Readings and FAIL marks of the source whose records are only passed on; empty: there is none."""
    own_slots: bool
    """Pipelines that have nothing to do with each other share no slots."""
    drift_ms: int | None
    """So far sources may be ahead of each other; None: they do not wait."""
    batch_rows: int
    pause_ms: int
    config: dict[str, str]
    lasts_ms: int
    """About; when nothing goes wrong."""

    @property
    def records(self) -> list[Reading]:
        return [record for source in self.sources for record in readings(source)]

    @property
    def judged(self) -> list[Reading]:
        """The records that rules are applied to: of pipelines of their own, one has rules."""
        return readings(self.sources[0]) if self.separate else self.records

    @property
    def rule_ids(self) -> list[int]:
        return [r.id for r in readings(self.rules)] if self.rules else [r.id for r in self.judged if is_rule(r)]

    @property
    def checkpoints(self) -> bool:
        return self.config[options.CHECKPOINT_INTERVAL.key] != "0"

    @property
    def exactly_once(self) -> bool:
        return self.config[options.CHECKPOINT_MODE.key] == "exactly-once" or not self.checkpoints


def readings(values: tuple[Any, ...]) -> list[Reading]:
    return [value for value in values if isinstance(value, Reading)]


class _Records:
    """Draws records with ids that go on."""

    def __init__(self, random: Random, bound_ms: int, failing: bool) -> None:
        self._random = random
        self._bound_ms = bound_ms
        self._failing = failing
        self.next_id = 0

    def draw(self, least: int, most: int, late: float = 0.0) -> list[Any]:
        """`late`: share of the records that are, by far."""
        random, bound_ms = self._random, self._bound_ms
        count = random.randint(least, most)
        keys, step_ms = random.randint(1, 12), random.choice((10, 60, 150))
        records: list[Any] = []
        for i in range(count):
            time = EPOCH_MS + 100_000 + i * step_ms - random.randint(0, bound_ms)
            if random.random() < late:
                time -= bound_ms + random.randint(1, 5 * WINDOW_MS)
            records.append(Reading(self.next_id + i, random.randrange(keys), random.randint(-9, 99), time))
        self.next_id += count
        if self._failing:
            records.insert(Random(self.next_id).randrange(len(records)), FAIL)
        return records


def draw_workload(random: Random, failing: bool, stormy: bool = False) -> Workload:
    """`failing`: user code fails now and then. `stormy`: much in one small job, with frequent checkpoints."""
    late = random.random() < (0.5 if stormy else 0.25)
    bound_ms = random.choice((0, 50, 300, 1_500))
    drawn = tuple(branch for branch, likely in BRANCHES.items() if random.random() < likely)
    branches = random.choice(STORMY_BRANCHES) if stormy else drawn or ("running",)
    draws = _Records(random, bound_ms, failing)
    late_share = (0.25 if stormy else 0.05) if late else 0.0
    sources = [tuple(draws.draw(40, 220, late_share)) for _ in range(random.choice((1, 1, 2)))]
    records_in_all = draws.next_id
    batch_rows = 2 if stormy else random.choice((2, 5, 12, 40))
    lasts_ms = 3_000 if stormy else random.randint(500, 5_000)
    separate = len(sources) > 1 and random.random() < 0.5
    if separate:
        sources[1] = tuple(_other_key(record) for record in sources[1])
    rules = draws.draw(4, 16) if "judged" in branches and random.random() < 0.5 else []
    strands = draws.draw(40, 160) if random.random() < 0.4 else []
    service, alignment = Random(draws.next_id), Random(f"alignment of {draws.next_id}")
    pools, phases = Random(f"workers with models of {draws.next_id}"), Random(f"partials for {draws.next_id}")
    two_phase = phases.random() < (0.3 if stormy else 0.2) and "windows" in branches
    return Workload(
        sources=tuple(sources),
        splits=15 if stormy else random.randint(1, 9),
        bound_ms=bound_ms,
        branches=branches,
        late=late,
        lateness_ms=(NEVER_TOO_LATE_MS if two_phase else random.choice((0, 0, 700, 3_000))) if late else 0,
        rebalanced=random.random() < 0.3,
        capacity=service.choice((1, 3, 20)) if service.random() < 0.15 else 0,
        ordered=service.random() < 0.5,
        pool=_draw_pool(pools) if pools.random() < (0.2 if stormy else 0.15) else None,
        two_phase=two_phase,
        separate=separate,
        rules=tuple(rules),
        join=random.choice(JOINS),
        strands=tuple(strands),
        own_slots=random.random() < 0.75,
        drift_ms=alignment.choice((300, 3_000)) if alignment.random() < 0.1 else None,
        batch_rows=batch_rows,
        pause_ms=lasts_ms * batch_rows * 2 // records_in_all,
        config=_draw_config(random) | (STORMY if stormy else {}),
        lasts_ms=lasts_ms,
    )


def _draw_pool(random: Random) -> Pool:
    """Small ones, so that batches wait."""
    return Pool(
        concurrency=random.randint(1, 4),
        batch_size=random.choice((4, 10, 25)),
        capacity=random.choice((1, 4, 12)),
        ordered=random.random() < 0.5,
        troubles=draw_troubles(random),
    )


def _other_key(record: Any) -> Any:
    return record._replace(key=record.key + 100) if isinstance(record, Reading) else record


def _draw_config(random: Random) -> dict[str, str]:
    chosen = {
        options.CHECKPOINT_INTERVAL: random.choice(("200ms", "500ms", "1s", "2s")) if random.random() < 0.96 else "0",
        options.CHECKPOINT_TIMEOUT: random.choice(("3s", "6s", "20s")),
        options.CHECKPOINT_MIN_PAUSE: random.choice(("0ms", "0ms", "300ms")),
        options.MAX_CONCURRENT_CHECKPOINTS: random.choice((1, 1, 2, 3)),
        options.TOLERABLE_FAILED_CHECKPOINTS: random.choice((0, 3, -1)),
        options.CHECKPOINT_MODE: "exactly-once" if random.random() < 0.9 else "at-least-once",
        options.UNALIGNED: random.random() < 0.7,
        options.ALIGNED_TIMEOUT: random.choice(("0ms", "0ms", "20ms", "150ms", "2s")),
        options.RETAINED_CHECKPOINTS: random.choice((1, 1, 2, 3)),
        options.STATE_BACKEND: "heap" if random.random() < 0.95 else "rocksdb",
        options.LATENCY_INTERVAL: "0ms",
        options.BUFFER_TIMEOUT: random.choice(("0ms", "10ms", "100ms")),
        options.CHANNEL_WINDOW: random.choice((200, 1_000, 5_000, 1 << 20)),
        options.CHAINING: random.random() < 0.8,
        options.ENCODE_EVERY_EDGE: random.random() < 0.1,
        options.INITIAL_BACKOFF: "100ms",
        options.MAX_BACKOFF: "2s",
    }
    return {option.key: str(value) for option, value in chosen.items()}


STORMY = {
    options.CHECKPOINT_INTERVAL.key: "150ms",
    options.CHECKPOINT_TIMEOUT.key: "3s",
    options.CHECKPOINT_MIN_PAUSE.key: "0ms",
    options.CHECKPOINT_MODE.key: "exactly-once",
    options.TOLERABLE_FAILED_CHECKPOINTS.key: "-1",
    options.RETAINED_CHECKPOINTS.key: "1",
    options.STATE_BACKEND.key: "heap",
}
