"""What lasts: slots that die, jobs that are stopped, cancelled and continued, at another parallelism and from a path.

Everything is compared with what an undisturbed run gives: nothing lost, nothing doubled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Csv, Json, Parquet
from penstock.jobmanager.events import JobState
from penstock.state.errors import JobFailedError
from penstock.testing.lists import FAIL, ListSink, ListSource


@dataclass
class Event:
    user: str
    at: int
    value: int


EVENTS = [Event(f"u{i % 7}", i * 10, i) for i in range(300)]
EVENT_TIME = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")


class Counting(ps.KeyedProcessFunction):
    """How many of each user so far; how many in the end, told by a timer."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", int, 0))
        self.values = runtime_context.get_list_state(ps.ListStateDescriptor("values", int))
        self.halves = runtime_context.get_map_state(ps.MapStateDescriptor("halves", bool, int))

    def process_element(self, event: Event, ctx: Any) -> Iterator[Any]:
        self.seen.update(self.seen.value() + 1)
        self.values.add(event.value)
        late = event.value >= 150
        self.halves.put(late, (self.halves.get(late) or 0) + 1)
        ctx.timer_service().register_event_time_timer(5_000)
        yield event.user, self.seen.value()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        yield ctx.get_current_key(), "all", sum(self.values.get()), dict(self.halves.items())


def add_values(one: Event, other: Event) -> Event:
    return Event(one.user, max(one.at, other.at), one.value + other.value)


def unchanged(event: Event) -> Event:
    return event


def build(env: ps.StreamExecutionEnvironment, source: Any, step: Any = unchanged) -> None:
    """Keyed state, timers, windows on both faces, splits: everything that must survive."""
    events = env.from_source(source, EVENT_TIME, name="events", uid="events").map(step, name="checked")
    keyed = events.key_by(lambda event: event.user)
    keyed.process(Counting()).uid("counting").sink_to(ListSink("counts"), name="counts").uid("counts")
    rows = keyed.window(ps.TumblingEventTimeWindows("700ms")).reduce(add_values).uid("rows")
    rows.sink_to(ListSink("rows"), name="rows").uid("rows sink")
    columns = events.key_by("user").window(ps.TumblingEventTimeWindows("700ms"))
    totals = columns.agg(n=ps.count(), total=ps.sum("value")).uid("columns")
    totals.sink_to(ListSink("columns"), name="columns").uid("columns sink")


def expected() -> dict[str, Counter[str]]:
    windows: dict[tuple[str, int], list[Event]] = {}
    for event in EVENTS:
        windows.setdefault((event.user, event.at // 700 * 700), []).append(event)
    own = {user: [event for event in EVENTS if event.user == user] for user in {event.user for event in EVENTS}}
    counts: list[Any] = [(user, number) for user, events in own.items() for number in range(1, len(events) + 1)]
    for user, events in own.items():
        halves = Counter(event.value >= 150 for event in events)
        counts.append((user, "all", sum(event.value for event in events), {False: halves[False], True: halves[True]}))
    rows = [Event(user, max(e.at for e in each), sum(e.value for e in each)) for (user, _), each in windows.items()]
    columns = [
        {"user": user, "window_start": start, "window_end": start + 700, "n": len(each),
         "total": sum(event.value for event in each)}
        for (user, start), each in windows.items()
    ]  # fmt: skip
    lists: dict[str, list[Any]] = {"counts": counts, "rows": rows, "columns": columns}
    return {name: Counter(map(repr, values)) for name, values in lists.items()}


@pytest.fixture
def found(results: Any) -> Any:
    for name in ("counts", "rows", "columns"):
        assert results(name) == []
    return lambda: {name: Counter(map(repr, results(name))) for name in ("counts", "rows", "columns")}


@pytest.fixture
def source(held_source: Any, tmp_path: Path) -> Any:
    """Holds after some rows until `gate` is there."""
    return lambda: held_source(EVENTS, tmp_path / "gate", 15, splits=6, batch_rows=10, record_type=Event)


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_slots_killed_again_and_again(
    new_env: Any, drive: Any, found: Any, source: Any, backend: str, tmp_path: Path
) -> None:
    env = new_env(3).set_state_backend(backend)
    build(env, source())
    job = drive(env)
    for _ in range(3):
        job.checkpoints(1).kill()
    (tmp_path / "gate").touch()
    status = job.end()
    assert (status.restarts, status.state) == (3, JobState.FINISHED)
    assert status.last_failure is not None
    assert "killed" in status.last_failure
    assert status.checkpoints.restored is not None
    assert found() == expected()


@pytest.mark.parametrize(
    ("before", "after", "backend", "how"),
    [(1, 1, "rocksdb", "latest"), (1, 3, "heap", "latest"), (3, 2, "rocksdb", "path"), (2, 4, "rocksdb", "latest")],
)
def test_a_stopped_job_goes_on_at_another_parallelism(
    new_env: Any, drive: Any, found: Any, source: Any, before: int, after: int, backend: str, how: str, tmp_path: Path
) -> None:
    env = new_env(before).set_state_backend(backend)
    build(env, source())
    first = drive(env).checkpoints()
    path = first.stop()
    assert 0 < len(ListSink.results("counts")) < len(EVENTS)
    (tmp_path / "gate").touch()
    env = new_env(after, restore=path if how == "path" else "latest")
    build(env.set_state_backend(backend), source())
    second = drive(env)
    assert (second.job.job_id == first.job.job_id) == (how == "latest")
    status = second.end()
    assert status.checkpoints.restored is not None
    assert found() == expected()


def test_a_cancelled_job_leaves_its_last_checkpoint(
    new_env: Any, drive: Any, found: Any, source: Any, tmp_path: Path
) -> None:
    env = new_env(2)
    build(env, source())
    job = drive(env).checkpoints()
    job.job.cancel()
    assert job.end().state is JobState.CANCELED
    (tmp_path / "gate").touch()
    env = new_env(3, restore="latest")
    build(env, source())
    assert drive(env).end().checkpoints.restored is not None
    assert found() == expected()


def test_a_cancelled_job_without_checkpoints_leaves_nothing(new_env: Any, drive: Any, found: Any, source: Any) -> None:
    env = new_env(2).disable_checkpointing()
    build(env, source())
    job = drive(env).until(lambda status: sum(vertex.records_in for vertex in status.vertices) > 10)
    job.job.cancel()
    assert job.end().state is JobState.CANCELED
    assert found() == {"counts": Counter(), "rows": Counter(), "columns": Counter()}
    assert not Path(".penstock").exists()


def test_a_job_that_failed_for_good_goes_on_when_its_function_is_mended(
    new_env: Any, drive: Any, found: Any, source: Any, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"

    def checked(event: Event) -> Event:
        if event.value == 200 and not mended.exists():
            raise ValueError("no such user")
        return event

    def job(restore: str | None = None) -> Any:
        env = new_env(2, restore).set_restart_strategy("fixed-delay", attempts=1, delay="1ms")
        build(env, source(), checked)
        return drive(env)

    broken = job().checkpoints()
    (tmp_path / "gate").touch()
    with pytest.raises(JobFailedError, match=r"operator 'checked', subtask \d: ValueError: no such user"):
        broken.end()
    mended.touch()
    assert job(restore="latest").end().checkpoints.restored is not None
    assert found() == expected()


def test_at_least_once_loses_nothing(new_env: Any, drive: Any, results: Any) -> None:
    env = new_env(3).enable_checkpointing("5ms", "at-least-once")
    values = [*range(100), FAIL, *range(100, 200)]
    numbers = env.from_source(ListSource(values, splits=5, batch_rows=5, pause_ms=1, record_type=int))
    numbers.key_by(lambda x: x % 3).process(Same()).sink_to(ListSink("same"))
    assert results("same") == []
    assert drive(env).end().restarts == 1
    assert set(results("same")) == set(range(200))


class Same(ps.KeyedProcessFunction):
    def process_element(self, value: int, ctx: Any) -> Iterator[int]:
        yield value


# files ------------------------------------------------------------------------------------------------------------


def lines(directory: Path) -> list[str]:
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(("_", "."))]
    return sorted(line for path in files for line in path.read_text().splitlines())


def test_files_written_and_read_again_with_failures_on_the_way(new_env: Any, drive: Any, tmp_path: Path) -> None:
    env = new_env(2)
    marked = [*EVENTS[:90], FAIL, *EVENTS[90:200], FAIL, *EVENTS[200:]]
    source = ListSource(marked, splits=4, batch_rows=10, pause_ms=2, record_type=Event)
    events = env.from_source(source, EVENT_TIME)
    formats = {"json": Json(Event), "csv": Csv(Event), "parquet": Parquet()}
    for name, form in formats.items():
        events.sink_to(FileSink(tmp_path / name, form, roll_rows=17), name=name)
    assert drive(env).end().restarts >= 1
    assert lines(tmp_path / "json") == sorted(
        json.dumps({"user": e.user, "at": e.at, "value": e.value}, separators=(",", ":")) for e in EVENTS
    )

    env = new_env(3)
    for name, form in formats.items():
        read = env.from_source(FileSource(tmp_path / name, form, split_size="100B"), name=f"{name} files")
        totals = read.rebalance().key_by("user").sum("value").select("user", "value")
        totals.sink_to(FileSink(tmp_path / f"{name} totals", Json()), name=f"{name} totals")
        read.select("value").sink_to(FileSink(tmp_path / f"{name} values", Csv(), roll_rows=11), name=f"{name} values")
    job = drive(env)
    job.until(lambda status: sum(vertex.records_in for vertex in status.vertices) > 0).kill()
    assert job.end().restarts == 1
    for name in formats:
        assert sorted(int(line) for line in lines(tmp_path / f"{name} values") if line != '"value"') == list(range(300))
        totals = Counter[str]()
        for line in lines(tmp_path / f"{name} totals"):
            row = json.loads(line)
            totals[row["user"]] = max(totals[row["user"]], row["value"])
        assert totals == {f"u{i}": sum(range(i, 300, 7)) for i in range(7)}


def test_files_survive_a_stop_between_two_jobs_at_another_parallelism(
    new_env: Any, drive: Any, source: Any, tmp_path: Path
) -> None:
    def job(parallelism: int, restore: str | None = None) -> Any:
        env = new_env(parallelism, restore)
        values = env.from_source(source(), EVENT_TIME).map(lambda event: {"value": event.value})
        values.sink_to(FileSink(tmp_path / "out", Json()), name="values")
        return drive(env)

    job(3).checkpoints().stop()
    assert 0 < len(lines(tmp_path / "out")) < len(EVENTS)
    (tmp_path / "gate").touch()
    job(1, restore="latest").end()
    assert sorted(json.loads(line)["value"] for line in lines(tmp_path / "out")) == list(range(300))


# time -------------------------------------------------------------------------------------------------------------


class ByTheClock(ps.KeyedProcessFunction):
    """Each user once, a moment after its first event."""

    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.set = runtime_context.get_state(ps.ValueStateDescriptor("set", int, 0))

    def process_element(self, event: Event, ctx: Any) -> None:
        if not self.set.value():
            timers = ctx.timer_service()
            self.set.update(timers.current_processing_time() + 20)
            timers.register_processing_time_timer(self.set.value())
            timers.register_processing_time_timer(self.set.value() - 10)
            timers.delete_processing_time_timer(self.set.value() - 10)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        assert timestamp == self.set.value() <= ctx.timer_service().current_processing_time()
        yield ctx.get_current_key(), ctx.time_domain().value


@pytest.mark.parametrize("backend", ["heap", "rocksdb"])
def test_timers_of_the_clock_fire_once_also_after_a_restore(
    new_env: Any, drive: Any, source: Any, results: Any, backend: str, tmp_path: Path
) -> None:
    def job(parallelism: int, restore: str | None = None) -> Any:
        env = new_env(parallelism, restore).set_state_backend(backend)
        env.from_source(source(), EVENT_TIME).key_by("user").process(ByTheClock()).sink_to(ListSink("clock"))
        return drive(env)

    assert results("clock") == []
    job(1).checkpoints().stop()
    second = job(2, restore="latest")
    second.until(lambda status: len(results("clock")) >= 7)
    second.checkpoints().kill()
    (tmp_path / "gate").touch()
    second.end()
    assert sorted(results("clock")) == [(f"u{i}", "processing time") for i in range(7)]


def test_an_idle_input_does_not_hold_event_time_back(
    new_env: Any, drive: Any, held_source: Any, results: Any, tmp_path: Path
) -> None:
    """One of two sources falls silent; windows of the other fire all the same, and before anything ends."""
    env = new_env(1)
    gate = tmp_path / "gate"
    idle = EVENT_TIME.with_idleness("20ms")
    busy = env.from_source(held_source(EVENTS, gate, 290, record_type=Event), EVENT_TIME, name="busy")
    silent = env.from_source(held_source(EVENTS[:5], gate, 1, record_type=Event), idle, name="silent")
    windows = busy.union(silent).key_by("user").window(ps.TumblingEventTimeWindows("100ms"))
    windows.agg(n=ps.count()).sink_to(ListSink("windows"))
    assert results("windows") == []
    job = drive(env).until(lambda status: sum(row["n"] for row in results("windows")) >= 280)
    gate.touch()
    job.end()
    assert sum(row["n"] for row in results("windows")) in range(300, 306)  # of the silent one's some are late
