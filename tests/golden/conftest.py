"""The job behind the golden checkpoints and savepoints, at three ages of its types, and what it must have given then.

A golden checkpoint is what a released version of penstock left in a store: two runs of this job, each stopped with a
checkpoint, the second one with types that have changed since the first, and with a savepoint before it was stopped.
Every later version restores either with the types of the third age and must end with exactly what a plain count over
the input says.

What is in it: values, lists and maps of typed state in rows of two ages, timers, windows over rows and over columns,
splits that are read in part, watermarks, the job's log. Nothing of it is pickled by class: what the sinks hold is
text, because these classes are not part of the promise (docs/compatibility.md).
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pytest

import penstock as ps
from penstock.connectors.collections import RangeReader, RangeSource, RangeSplit
from penstock.jobmanager.events import JobState
from penstock.jobmanager.local_job import LocalJob
from penstock.runtime.batch import Batch
from penstock.runtime.connector import NotReady, PollResult, ReaderContext
from penstock.runtime.graph.job_graph import JobGraph
from penstock.runtime.records.record_types import record_type_of
from penstock.testing.lists import ListSink

GOLDEN = Path(__file__).parent
ROWS, SPLITS, AGES, WINDOW_MS = 240, 2, 3, 700
SINKS = ("seen", "state", "windows", "columns")


@dataclass
class Event:
    user: str
    at: int
    value: int


def event(number: int) -> Event:
    """Every fourth one is of a user whom only one age sees."""
    age = number % (ROWS // SPLITS) * AGES // (ROWS // SPLITS)
    user = f"age {age} user {number % 8}" if number % 4 == 0 else f"user {number % 12}"
    return Event(user, number * 10, number)


EVENTS = [event(number) for number in range(ROWS)]
EVENT_TIME = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")


class Events(RangeSource):
    """Every split up to the part that an age may read, and then nothing until the job is stopped."""

    in_process = True

    def __init__(self, age: int) -> None:
        self.start, self.end, self.age = 0, ROWS, age
        self.record_type = record_type_of(Event)

    def cut(self, parallelism: int) -> list[RangeSplit]:
        size = ROWS // SPLITS
        return [RangeSplit(str(i), i * size, (i + 1) * size) for i in range(SPLITS)]

    def create_reader(self, context: ReaderContext) -> StagedReader:
        return StagedReader(self, context)

    def read(self, start: int, end: int) -> Batch:
        return Batch.of_rows(self.record_type, [replace(each) for each in EVENTS[start:end]])

    def rows(self) -> int:
        """That are read when this age has read all it may."""
        return ROWS * (self.age + 1) // AGES


class StagedReader(RangeReader):
    def __init__(self, source: Events, context: ReaderContext) -> None:
        super().__init__(source)
        self._age, self._clock = source.age, context.clock

    def poll(self, max_rows: int) -> PollResult:
        if self._splits:
            split, size = self._splits[0], ROWS // SPLITS
            may_read = split.end - size + size * (self._age + 1) // AGES - split.start
            if self._age + 1 < AGES and may_read <= 0:
                return NotReady(self._clock.now_ms() + 2)
            max_rows = min(max_rows, 7, max(1, may_read))
        return super().poll(max_rows)


# ---- types of three ages


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


class MoreLevels(enum.Enum):
    LOW = "low"
    MIDDLE = "middle"
    HIGH = "high"


@dataclass
class Account1:
    total: int
    level: Level
    last: str


@dataclass
class Account2:
    last: str
    total: int
    level: Level
    limit: Decimal = Decimal("1.5")


@dataclass
class Account3:
    amount: Annotated[float, ps.renamed_from("total")]
    level: MoreLevels | None
    limit: Decimal = Decimal("2.5")
    tags: tuple[str, ...] = ("new",)


ACCOUNTS: dict[int, Any] = {0: Account1, 1: Account2, 2: Account3}


class Entry1(NamedTuple):
    at: int
    value: int


class Entry2(NamedTuple):
    value: int
    at: int
    note: str = "second"


class Entry3(NamedTuple):
    note: str = "third"
    at: int = -1
    number: Annotated[float, ps.renamed_from("value")] = -1.0


PARITY1 = pa.schema([pa.field("n", pa.int32(), False), pa.field("old", pa.int8())])
PARITY2 = pa.schema([pa.field("n", pa.int64(), False), pa.field("max", pa.int64())])
PARITY3 = pa.schema(
    [
        pa.field("n", pa.int64(), False),
        pa.field("highest", pa.int64(), metadata={"renamed_from": "max"}),
        pa.field("more", pa.string()),
    ]
)


def account_of(age: int, total: float, each: Event) -> Any:
    if age == 0:
        return Account1(int(total), Level.HIGH, each.user)
    return Account2(each.user, int(total), Level.LOW) if age == 1 else Account3(float(total), MoreLevels.MIDDLE)


def entry_of(age: int, each: Event) -> Any:
    if age == 0:
        return Entry1(each.at, each.value)
    return Entry2(each.value, each.at) if age == 1 else Entry3("now", each.at, float(each.value))


def parity_of(age: int, known: dict[str, Any], value: int) -> dict[str, Any]:
    n = known.get("n", 0) + 1
    if age == 0:
        return {"n": n, "old": 1}
    highest = max(value, known.get("max" if age == 1 else "highest") or 0)
    return {"n": n, "max": highest} if age == 1 else {"n": n, "highest": highest, "more": "x"}


LONG = ps.StateTtlConfig("36500d")
"""Rows have stamps, and do not expire while anybody restores this."""


class Accounting(ps.KeyedProcessFunction):
    """A value, lists and maps of every user, with a TTL and without; a timer at the end of the input tells all."""

    def __init__(self, age: int) -> None:
        self.age = age

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        account = ACCOUNTS[self.age]
        entry = (Entry1, Entry2, Entry3)[self.age]
        parity = (PARITY1, PARITY2, PARITY3)[self.age]
        self.account = runtime_context.get_state(ps.ValueStateDescriptor("account", account))
        self.entries = runtime_context.get_list_state(ps.ListStateDescriptor("entries", entry))
        self.parities = runtime_context.get_map_state(ps.MapStateDescriptor("parities", tuple[str, int], parity))
        number, mark = (int, int, float)[self.age], (int, float, float | str)[self.age]
        self.numbers = runtime_context.get_list_state(ps.ListStateDescriptor("numbers", number, ttl=LONG))
        self.marks = runtime_context.get_map_state(ps.MapStateDescriptor("marks", str, mark, ttl=LONG))

    def process_element(self, event: Event, ctx: Any) -> Iterator[str]:
        before = self.account.value()
        total = 0 if before is None else before.amount if self.age == 2 else before.total
        self.account.update(account_of(self.age, total + event.value, event))
        self.entries.add(entry_of(self.age, event))
        place = ("parity", event.value % 2)
        self.parities.put(place, parity_of(self.age, self.parities.get(place) or {}, event.value))
        self.numbers.add(float(event.value) if self.age == 2 else event.value)
        self.marks.put(f"age {self.age}", MARKS[self.age])
        ctx.timer_service().register_event_time_timer(1_000_000)
        yield str(event.value)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        parities = [(key, sorted(value.items())) for key, value in self.parities.items()]
        entries = sorted(self.entries.get(), key=lambda entry: entry.at)
        expiring = sorted(self.numbers.get()), list(self.marks.items())
        yield TELL, repr((ctx.get_current_key(), self.account.value(), entries, parities, *expiring))


TELL = ps.OutputTag("tell", str)
MARKS: list[Any] = [1, 1.5, "now"]


def add_up(one: Event, other: Event) -> Event:
    return Event(one.user, max(one.at, other.at), one.value + other.value)


def build(env: ps.StreamExecutionEnvironment, age: int) -> Events:
    source = Events(age)
    events = env.from_source(source, EVENT_TIME, name="events", uid="events")
    seen = events.key_by(lambda each: each.user).process(Accounting(age)).uid("accounting")
    window = ps.TumblingEventTimeWindows(f"{WINDOW_MS}ms")
    rows = events.key_by(lambda each: (each.user, each.value % 2)).window(window).reduce(add_up).uid("rows")
    columns = events.key_by("user").window(window).agg(n=ps.count(), total=ps.sum("value")).uid("columns")
    told = seen.get_side_output(TELL)
    for name, stream in zip(SINKS, (seen, told, rows.map(repr), columns.map(repr)), strict=True):
        stream.sink_to(ListSink(f"golden {name}"), name=name).uid(f"{name} sink")
    return source


def graph(age: int) -> JobGraph:
    """As a job of that age has it."""
    env = ps.StreamExecutionEnvironment().set_max_parallelism(16)
    build(env, age)
    return env.job_graph("golden")


def environment(
    directory: Path, backend: str, age: int, parallelism: int, restore: str | None = None
) -> tuple[LocalJob, Events]:
    env = ps.StreamExecutionEnvironment().set_parallelism(parallelism).set_buffer_timeout("1ms")
    env.enable_checkpointing("10ms", storage=str(directory)).set_restart_strategy("none")
    env.set_max_parallelism(16).set_state_backend(backend)
    env.configure(ps.Configuration({"execution.state-recovery.path": restore}))
    source = build(env, age)
    return LocalJob(env.job_graph("golden"), env.configuration), source


def results(name: str) -> list[str]:
    return ListSink.results(f"golden {name}")


def clear() -> None:
    for name in SINKS:
        ListSink.clear(f"golden {name}")


@dataclass
class Made:
    """A golden checkpoint and savepoint: paths below the directory, and what the sinks had shown in the end."""

    path: str
    savepoint: str
    shown: dict[str, list[str]]


def make(directory: Path, backend: str, ages: int = AGES - 1) -> Made:
    """Run and stop the job at each age but the last."""
    path, savepoint, restore = "", "", None
    for age in range(ages):
        job, source = environment(directory, backend, age, 2, restore)
        try:
            job.run(_all_seen(source))
            assert not job.ended, job.status().last_failure
            if age == ages - 1:
                savepoint = _savepoint(job, directory / "savepoints")
            job.stop()
            job.run()
            assert job.result() is JobState.SUSPENDED
            path = str(Path(f"{job.status().checkpoints.last_metadata_name}").parent)
        finally:
            job.close()
        restore = "latest"
    savepoint = str(Path(savepoint).relative_to(directory.absolute()))
    return Made(path, savepoint, {name: results(name) for name in SINKS})


def _savepoint(job: LocalJob, target: Path) -> str:
    request = job.savepoint(str(target))
    job.run(lambda: (found := job.operation(request)) is not None and found.ended)
    operation = job.operation(request)
    assert operation is not None, "it has ended"
    return operation.path


def _all_seen(source: Events) -> Callable[[], bool]:
    checks = 0

    def seen() -> bool:
        nonlocal checks
        checks += 1
        return checks % 20 == 0 and len(results("seen")) >= source.rows()  # looking is not free

    return seen


def finish(directory: Path, backend: str, parallelism: int, restore: str) -> dict[str, list[str]]:
    """What the job of the last age shows when it goes on from a golden checkpoint or savepoint to its end."""
    job, _source = environment(directory, backend, AGES - 1, parallelism, restore)
    try:
        job.run()
        assert job.result() is JobState.FINISHED
        assert job.status().checkpoints.restored is not None
    finally:
        job.close()
    return {name: results(name) for name in SINKS}


# ---- what must come out


def age_of(each: Event) -> int:
    size = ROWS // SPLITS
    return each.value % size * AGES // size


def told(user: str, events: list[Event]) -> str:
    """The state of a user, seen by the third age: defaults are its own, where an earlier age wrote last."""
    last = max(map(age_of, events))
    level = (MoreLevels.HIGH, MoreLevels.LOW, MoreLevels.MIDDLE)[last]
    limit = Decimal("1.5") if last == 1 else Decimal("2.5")
    account = Account3(float(sum(each.value for each in events)), level, limit)
    entries = [Entry3(("third", "second", "now")[age_of(each)], each.at, float(each.value)) for each in events]
    parities = [_parity(events, parity) for parity in (0, 1) if _own(events, parity)]
    marks = [(f"age {age}", (1.0, 1.5, "now")[age]) for age in sorted(set(map(age_of, events)))]
    return repr((user, account, entries, parities, [float(each.value) for each in events], marks))


def _own(events: list[Event], parity: int) -> list[Event]:
    return [each for each in events if each.value % 2 == parity]


def _parity(events: list[Event], parity: int) -> Any:
    own = _own(events, parity)
    highest = max((each.value for each in own if age_of(each) > 0), default=None)
    more = "x" if any(age_of(each) == 2 for each in own) else None
    return ("parity", parity), [("highest", highest), ("more", more), ("n", len(own))]


def expected() -> dict[str, list[str]]:
    by_user: dict[str, list[Event]] = defaultdict(list)
    by_window: dict[tuple[str, int], list[Event]] = defaultdict(list)
    for each in EVENTS:
        by_user[each.user].append(each)
        by_window[each.user, each.at // WINDOW_MS * WINDOW_MS].append(each)
    rows, columns = [], []
    for (user, start), events in by_window.items():
        halves = filter(None, (_own(events, 0), _own(events, 1)))
        rows += [repr(Event(user, own[-1].at, sum(each.value for each in own))) for own in halves]
        total = sum(each.value for each in events)
        columns.append(repr({"user": user, "window_start": start, "window_end": start + WINDOW_MS, "n": len(events),
                             "total": total}))  # fmt: skip
    return {
        "seen": [str(each.value) for each in EVENTS],
        "state": [told(user, events) for user, events in by_user.items()],
        "windows": rows,
        "columns": columns,
    }


class Golden:
    """What the tests need of this file."""

    accounts = ACCOUNTS
    graph = staticmethod(graph)
    clear = staticmethod(clear)
    make = staticmethod(make)
    finish = staticmethod(finish)
    expected = staticmethod(expected)


@pytest.fixture
def golden() -> type[Golden]:
    return Golden
