"""Times, windows, joins and asynchronous calls that cannot be: refused when the pipeline is built; or, where only data
can show it, the job fails at once, and names the operator and the record."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.state.errors import ConfigurationError, JobFailedError, PipelineError
from penstock.testing.lists import ListSink, ListSource


class Click(NamedTuple):
    user: str
    at: int
    page: int


class Buy(NamedTuple):
    by: str
    at: int


CLICKS = [Click("a", 1, 10), Click("b", 5, 20), Click("a", 12, 30)]
BUYS = [Buy("a", 3)]
FIRST = r"Click\(user='a', at=1, page=10\)"
Build = Callable[[Any, Any], Any]
"""Of clicks and buys."""


def at(assigner: Any) -> ps.WatermarkStrategy[Any]:
    return ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(assigner)


def streams(clicks_at: Any = "at", buys_at: Any = "at") -> tuple[Any, Any]:
    env = ps.StreamExecutionEnvironment().set_parallelism(1)
    env.set_restart_strategy("fixed-delay", attempts=1, delay="1ms")
    clicks = env.from_source(ListSource(CLICKS, record_type=Click), clicks_at and at(clicks_at), "clicks")
    return clicks, env.from_source(ListSource(BUYS, record_type=Buy), buys_at and at(buys_at), "buys")


def tumbling() -> ps.WindowAssigner:
    return ps.TumblingEventTimeWindows(10)


def pair(click: Click, buy: Buy) -> tuple[int, str]:
    return click.page, buy.by


def groups(clicks: list[Click], buys: list[Buy]) -> list[int]:
    return [len(clicks) + len(buys)]


def boom(*_: Any) -> Any:
    raise ValueError("boom")


async def never(_: Any) -> list[str]:
    await asyncio.Event().wait()
    return []


class Own(ps.WindowAssigner):
    """A user's."""

    window_type = ps.TimeWindow

    def __init__(self, assign: Callable[[], Any]) -> None:
        self.assign = assign

    def assign_windows(self, element: Any, timestamp: int) -> Any:
        return self.assign()

    def default_trigger(self) -> ps.Trigger:
        return ps.EventTimeTrigger()


class Same(ps.CoMapFunction):
    def map1(self, value: Any) -> Any:
        return value

    map2 = map1


# when it is written, or built -----------------------------------------------------------------------------------------

OTHER_TYPES = "the keys of the (joined|connected) streams are of different types, str and int, and would never be equal"
BUILT: dict[str, tuple[Build, str]] = {
    "window join, keys": (
        lambda c, b: c.join(b).where("user").equal_to("at").window(tumbling()).apply(pair),
        OTHER_TYPES,
    ),
    "co_group, keys": (
        lambda c, b: c.co_group(b).where("user").equal_to("at").window(tumbling()).apply(groups),
        OTHER_TYPES,
    ),
    "interval join, keys": (
        lambda c, b: c.key_by("user").interval_join(b.key_by("at")).between(0, 1).apply(pair),
        OTHER_TYPES,
    ),
    "regular join, keys": (lambda c, b: c.key_by("user").regular_join(b.key_by("at")), OTHER_TYPES),
    "temporal join, keys": (lambda c, b: c.key_by("user").temporal_join(b.key_by("at")), OTHER_TYPES),
    "broadcast join, keys": (lambda c, b: c.broadcast_join(b, "user", "at", pair), OTHER_TYPES),
    "connected streams, keys": (lambda c, b: c.connect(b).key_by("user", "at").map(Same(), Click), OTHER_TYPES),
    "keys of two columns and of one": (
        lambda c, b: c.join(b).where(["user", "at"]).equal_to("by").window(tumbling()).apply(pair),
        r"are of different types, tuple\[str, int\] and str",
    ),
    "negative size": (
        lambda c, b: c.key_by("user").window(ps.TumblingEventTimeWindows("-1s")),
        "at least 1 ms|negative",
    ),
    "negative slide": (
        lambda c, b: c.key_by("user").window(ps.SlidingEventTimeWindows("1s", -5)),
        "at least 1 ms|negative",
    ),
    "gap 0": (lambda c, b: c.key_by("user").window(ps.EventTimeSessionWindows(0)), "at least 1 ms"),
    "negative gap": (
        lambda c, b: c.key_by("user").window(ps.ProcessingTimeSessionWindows("-1s")),
        "at least 1|negative",
    ),
    "count 0": (lambda c, b: c.key_by("user").count_window(0), "at least 1"),
    "negative lateness": (
        lambda c, b: c.key_by("user").window(tumbling()).allowed_lateness("-1s"),
        "allowed_lateness: .*is negative",
    ),
    "negative bound": (
        lambda c, b: ps.WatermarkStrategy.for_bounded_out_of_orderness("-5s"),
        "for_bounded_out_of_orderness: .*is negative",
    ),
    "idleness 0": (lambda c, b: at("at").with_idleness(0), "with_idleness: 0 is too short"),
    "negative drift": (lambda c, b: at("at").with_watermark_alignment("g", "-1s"), "max_drift: .*is negative"),
    "negative ttl": (lambda c, b: c.key_by("user").regular_join(b.key_by("by"), ttl="-1s"), "'-1s' is negative"),
    "ttl 0": (lambda c, b: c.deduplicate("user", ttl=0), "a TTL is at least 1 ms, not 0"),
    "timeout 0": (lambda c, b: c.map_async(never, timeout=0), "a call that never ends would hold the job up for ever"),
    "no timeout": (lambda c, b: c.map_async(never, timeout=None), "a duration is .* not None"),
    "lookup without a timeout": (lambda c, b: c.lookup_join(never, "user", timeout=None), "a duration is .* not None"),
    "bounds that are no times": (
        lambda c, b: c.key_by("user").interval_join(b.key_by("by")).between(float("nan"), 1).apply(pair),
        "between: .*not nan",
    ),
    "a time in no column": (
        lambda c, b: c.assign_timestamps_and_watermarks(at("when")),
        "timestamp assigner: there is no column 'when'",
    ),
    "a time in text": (
        lambda c, b: c.assign_timestamps_and_watermarks(at("user")),
        "column 'user' is of type string; timestamps are ints",
    ),
}


@pytest.mark.parametrize("mistake", BUILT)
def test_refused_when_it_is_built(mistake: str) -> None:
    build, message = BUILT[mistake]
    with pytest.raises((PipelineError, ConfigurationError), match=f"(?s){message}"):
        build(*streams()).print()._env.job_graph("job")


# what only data can show ----------------------------------------------------------------------------------------------

MET = r"the keys of its two inputs are of different types, 'a' and 3; records meet only where their keys are equal"


def user_of(record: Any) -> Any:
    return record.user


def at_of(record: Any) -> Any:
    return record.at


def timed(assigner: Any) -> Build:
    return lambda c, b: c.assign_timestamps_and_watermarks(at(assigner)).name("timed")


def windowed(assigner: Any) -> Build:
    return lambda c, b: c.key_by("user").window(assigner).reduce(lambda one, other: one, name="windows")


RUN: dict[str, tuple[Build, str]] = {
    "an assigner of timestamps that raises": (
        timed(boom),
        f"'timed', subtask 0: ValueError: boom .*on the record {FIRST}",
    ),
    "no timestamp": (timed(lambda *_: None), f"'timed': the record {FIRST} has no timestamp: it is None"),
    "a timestamp that is text": (
        timed(lambda *_: "now"),
        f"'timed': the timestamp 'now' of the record {FIRST} is a str",
    ),
    "a timestamp that is a float": (
        timed(lambda *_: 1.5),
        f"'timed': the timestamp 1.5 of the record {FIRST} is a float",
    ),
    "a timestamp that is no number": (timed(lambda *_: float("nan")), f"the timestamp nan of the record {FIRST}"),
    "a timestamp of more than 64 bits": (timed(lambda *_: 2**63), f"'timed': the timestamp {2**63} .*64 bits"),
    "a generator that raises": (
        lambda c, b: c.assign_timestamps_and_watermarks(
            ps.WatermarkStrategy.for_punctuated(boom).with_timestamp_assigner("at")
        ).name("timed"),
        f"'timed', subtask 0: ValueError: boom .*watermark generator, on the record {FIRST}",
    ),
    "an assigner of windows that raises": (
        windowed(Own(boom)),
        f"'windows', subtask 0: ValueError: boom .*assigner, on the record {FIRST}",
    ),
    "an assigner that gives no windows": (
        windowed(Own(lambda: ["today"])),
        f"'windows', .*gave 'today', which is no window: .*on the record {FIRST}",
    ),
    "a gap that raises": (
        windowed(ps.EventTimeSessionWindows(boom)),
        f"'windows', subtask 0: ValueError: boom .*gap.*on the record {FIRST}",
    ),
    "a gap of 0": (
        windowed(ps.EventTimeSessionWindows(lambda _: 0)),
        f"'windows', .*at least 1 ms, not 0 .*on the record {FIRST}",
    ),
    "an assigner of a join that raises": (
        lambda c, b: c.join(b).where("user").equal_to("by").window(Own(boom)).apply(pair, name="join"),
        f"'join', subtask 0: ValueError: boom .*assigner, on the record {FIRST}",
    ),
    "an asynchronous function that never answers": (
        lambda c, b: c.map_async(never, timeout="20ms", name="asked"),
        f"'asked', subtask 0: TimeoutError: gave no result within timeout=20ms; .*on the record {FIRST}",
    ),
    "the same, unordered": (
        lambda c, b: c.map_async(never, timeout="20ms", ordered=False, name="asked"),
        f"'asked', subtask 0: TimeoutError: gave no result within timeout=20ms; .*on the record {FIRST}",
    ),
    "a lookup that never answers": (
        lambda c, b: c.lookup_join(never, "user", timeout="20ms", name="asked"),
        f"'asked', subtask 0: TimeoutError: gave no result within timeout=20ms; .*on the record {FIRST}",
    ),
    "window join, keys": (
        lambda c, b: c.join(b).where(user_of).equal_to(at_of).window(tumbling()).apply(pair, name="join"),
        f"'join': {MET}",
    ),
    "co_group, keys": (
        lambda c, b: c.co_group(b).where(user_of).equal_to(at_of).window(tumbling()).apply(groups, name="join"),
        f"'join': {MET}",
    ),
    "interval join, keys": (
        lambda c, b: c.key_by(user_of).interval_join(b.key_by(at_of)).between(0, 1).apply(pair, name="join"),
        f"'join': {MET}",
    ),
    "regular join, keys": (lambda c, b: c.key_by(user_of).regular_join(b.key_by(at_of), name="join"), f"'join': {MET}"),
    "temporal join, keys": (
        lambda c, b: c.key_by(user_of).temporal_join(b.key_by(at_of), name="join"),
        f"'join': {MET}",
    ),
    "broadcast join, keys": (
        lambda c, b: c.broadcast_join(b, user_of, at_of, pair, name="join"),
        "'join': the keys of its two inputs are of different types, ('a' and 3|3 and 'a')",
    ),
}


@pytest.mark.parametrize("mistake", RUN)
def test_the_job_fails_at_once_and_names_the_operator_and_the_record(
    mistake: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build, message = RUN[mistake]
    stream = build(*streams())
    stream.sink_to(ListSink("nothing"))
    with pytest.raises(JobFailedError, match=f"(?s)operator {message}" if message.startswith("'") else message):
        stream._env.execute("job")


@pytest.mark.parametrize("side", ["clicks", "buys"])
@pytest.mark.parametrize("kind", ["join", "interval", "temporal"])
def test_a_join_by_time_of_a_side_that_has_none(side: str, kind: str) -> None:
    """A source that might give timestamps does not, and no strategy does."""
    clicks, buys = streams(**{f"{side}_at": None})
    make: dict[str, Callable[[], Any]] = {
        "join": lambda: clicks.join(buys).where("user").equal_to("by").window(tumbling()).apply(pair),
        "interval": lambda: clicks.key_by("user").interval_join(buys.key_by("by")).between(0, 1).apply(pair),
        "temporal": lambda: clicks.key_by("user").temporal_join(buys.key_by("by")),
    }
    make[kind]().name("join").sink_to(ListSink("nothing"))
    record = FIRST if side == "clicks" else r"Buy\(by='a', at=3\)"
    with pytest.raises(JobFailedError, match=rf"operator 'join': .*timestamp.*{record}") as failed:
        clicks._env.execute("job")
    assert re.search("WatermarkStrategy|assign_timestamps_and_watermarks", str(failed.value)), "what to do"
