"""Joins as a pipeline writes them: results of whole jobs, their types, and mistakes that are found when it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.state.errors import ConfigurationError, PipelineError
from penstock.testing.lists import ListSource


class Click(NamedTuple):
    user: str
    at: int
    page: int


class Buy(NamedTuple):
    by: str
    at: int
    cents: int


CLICKS = [Click("a", 1, 10), Click("b", 5, 20), Click("a", 12, 30), Click("c", 50, 40)]
BUYS = [Buy("a", 3, 100), Buy("b", 30, 200), Buy("d", 31, 300)]
LATE: ps.OutputTag[Any] = ps.OutputTag("late")
LATE_BUYS: ps.OutputTag[Buy] = ps.OutputTag("late buys")
TUMBLING = ps.TumblingEventTimeWindows("10ms")


def environment(parallelism: int = 2, **options: Any) -> ps.StreamExecutionEnvironment:
    return ps.StreamExecutionEnvironment(ps.Configuration(options)).set_parallelism(parallelism)


def timed(bound: str = "100ms") -> Any:
    return ps.WatermarkStrategy.for_bounded_out_of_orderness(bound).with_timestamp_assigner(lambda each, _: each.at)


def streams(env: ps.StreamExecutionEnvironment, strategy: Any = None) -> tuple[Any, Any]:
    strategy = strategy or timed()
    clicks = env.from_collection(CLICKS, Click).assign_timestamps_and_watermarks(strategy)
    return clicks, env.from_collection(BUYS, Buy).assign_timestamps_and_watermarks(strategy)


def results(stream: Any) -> list[Any]:
    with stream.execute_and_collect() as collected:
        return sorted(collected, key=repr)


def both(click: Click | None, buy: Buy | None) -> tuple[int | None, int | None]:
    return click and click.page, buy and buy.cents


def pages(click: Click, buy: Buy) -> Iterator[int]:
    yield click.page
    yield -click.page


WINDOWED = {
    "inner": [(10, 100)],
    "left": [(10, 100), (20, None), (30, None), (40, None)],
    "right": [(10, 100), (None, 200), (None, 300)],
    "full": [(10, 100), (20, None), (30, None), (40, None), (None, 200), (None, 300)],
}


@pytest.mark.parametrize("how", WINDOWED)
def test_windowed(how: str) -> None:
    clicks, buys = streams(environment())
    stream = clicks.join(buys, how=how).where("user").equal_to("by").window(TUMBLING).apply(both)
    assert str(stream.record_type) == "tuple(f0: int | None, f1: int | None)"
    assert results(stream) == WINDOWED[how]


@pytest.mark.parametrize("how", WINDOWED)
def test_by_interval(how: str) -> None:
    clicks, buys = streams(environment())
    near = clicks.key_by("user").interval_join(buys.key_by("by"), how=how).between("-9ms", "2ms")
    alone: list[Any] = [(20, None), (40, None)] if how in ("left", "full") else []
    alone += [(None, 200), (None, 300)] if how in ("right", "full") else []
    assert results(near.apply(both)) == sorted([(10, 100), (30, 100), *alone], key=repr)


def test_bounds_that_are_not_in_it() -> None:
    found = []
    for exclude in ("", "lower_bound_exclusive", "upper_bound_exclusive"):
        clicks, buys = streams(environment())
        near = clicks.key_by("user").interval_join(buys.key_by("by")).between(-9, 2)
        found.append(results((getattr(near, exclude)() if exclude else near).apply(both)))
    assert found == [[(10, 100), (30, 100)], [(10, 100)], [(30, 100)]]


def test_functions_of_all_kinds() -> None:
    class Flat(ps.FlatJoinFunction):
        def join(self, left: Click, right: Buy) -> list[int]:
            return [left.page, right.cents]

    class Near(ps.ProcessJoinFunction):
        def process_element(self, left: Click, right: Buy, ctx: ps.ProcessJoinFunction.Context) -> Iterator[str]:
            yield f"{left.page} {ctx.timestamp()}"

    clicks, buys = streams(environment())
    windowed = clicks.join(buys).where("user").equal_to("by").window(TUMBLING)
    assert results(windowed.apply(Flat())) == [10, 100]
    clicks, buys = streams(environment())
    stream = clicks.join(buys).where("user").equal_to("by").window(TUMBLING).apply(pages)
    assert (str(stream.record_type), results(stream)) == ("int", [-10, 10])
    clicks, buys = streams(environment())
    near = clicks.key_by("user").interval_join(buys.key_by("by")).between(-9, 2).process(Near())
    assert (str(near.record_type), results(near)) == ("str", ["10 3", "30 12"])


def test_co_group_in_sessions_of_the_clock_and_by_count() -> None:
    clicks, buys = streams(environment())
    grouped = clicks.co_group(buys).where("user").equal_to("by").window(ps.EventTimeSessionWindows("12ms"))
    assert results(grouped.apply(lambda left, right: [(len(left), len(right))])) == [
        (0, 1), (0, 1), (1, 0), (1, 0), (2, 1),
    ]  # fmt: skip
    clicks, buys = streams(environment())
    counted = clicks.join(buys).where("user").equal_to("by").window(ps.GlobalWindows()).trigger(ps.CountTrigger(3))
    assert results(counted.evictor(ps.CountEvictor(3)).apply(both)) == [(10, 100), (30, 100)]


def test_a_broadcast_join() -> None:
    clicks, buys = streams(environment())
    stream = clicks.broadcast_join(
        buys, "user", "by", lambda click, buy: (click.page, buy is None or buy.by), how="left"
    )
    joined = results(stream)
    assert [page for page, _ in joined] == [10, 20, 30, 40]
    assert (
        {(40, True)} <= set(joined) <= {(40, True), *((click.page, b) for click in CLICKS for b in (click.user, True))}
    )


@pytest.mark.parametrize("encode", [False, True])
@pytest.mark.parametrize("tags", [(LATE,), (LATE, LATE_BUYS)], ids=["one", "two"])
def test_late_records_go_to_their_side_outputs(tags: tuple[Any, ...], encode: bool) -> None:
    """Of both sides to one, whose records are then of two types, or of each to its own. By the time they come the other
    side is far beyond them as well."""
    env = environment(1, **{"pipeline.encode-every-edge": encode})
    clicks = [*CLICKS, *[Click("z", 60, 0)] * 20, Click("a", 2, 50)]
    buys = [*BUYS, *[Buy("y", 60, 0)] * 20, Buy("a", 4, 400)]
    left, right = (
        env.from_source(ListSource(each, batch_rows=1, pause_ms=1, record_type=type(each[0])), timed("0ms"))
        for each in (clicks, buys)
    )
    joined = left.join(right).where("user").equal_to("by").window(TUMBLING).side_output_late_data(*tags).apply(both)
    outputs = [joined.get_side_output(tag) for tag in tags]
    late = [output.map(lambda record: (type(record).__name__, *record)) for output in outputs]
    assert results(late[0].union(*late[1:])) == [("Buy", "a", 4, 400), ("Click", "a", 2, 50)]
    assert [output.record_type.opaque for output in outputs] == ([True] if len(tags) == 1 else [False, False])


# mistakes -----------------------------------------------------------------------------------------------------------


class NoFunction:
    pass


async def waits(click: Click, buy: Buy) -> int:
    return 1


def one_argument(click: Click) -> int:
    return click.page


def windowed(function: Any = both, how: Any = "inner", window: Any = TUMBLING) -> Callable[[Any, Any], Any]:
    return lambda a, b: a.join(b, how).where("user").equal_to("by").window(window).apply(function)


def near(lower: Any, upper: Any, function: Any = both, **options: Any) -> Callable[[Any, Any], Any]:
    return lambda a, b: a.key_by("user").interval_join(b.key_by("by"), **options).between(lower, upper).apply(function)


def open_interval(a: Any, b: Any) -> Any:
    joined = a.key_by("user").interval_join(b.key_by("by")).between(0, 1)
    return joined.lower_bound_exclusive().upper_bound_exclusive().apply(both)


MISTAKES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "how": (windowed(how="outer"), "'window join both'.*how='outer' is no way to join; choose one of inner, left"),
    "no how at all": (windowed(how=None), "how=None is no way to join"),
    "no window": (
        lambda a, b: a.join(b).where("user").equal_to("by").apply(both), r"needs a window: call window\(…\) before",
    ),
    "no window assigner": (windowed(window="10ms"), "window takes a window assigner"),
    "no key": (lambda a, b: a.join(b).where("user").window(TUMBLING).apply(both), r"call equal_to\(…\) before apply"),
    "no left key": (
        lambda a, b: a.co_group(b).equal_to("by").window(TUMBLING).apply(lambda x, y: []), r"call where\(…\) before",
    ),
    "no such key": (
        lambda a, b: a.join(b).where("user").equal_to("user").window(TUMBLING).apply(both), "there is no column 'user'",
    ),
    "keys of two types": (
        lambda a, b: a.join(b).where("user").equal_to("cents").window(TUMBLING).apply(both),
        "the keys of the joined streams are of different types, str and int",
    ),
    "keys of two types, interval": (
        lambda a, b: a.key_by("user").interval_join(b.key_by("cents")).between(0, 1).apply(both),
        "the keys of the joined streams are of different types",
    ),
    "keys of two types, broadcast": (
        lambda a, b: a.broadcast_join(b, "user", "cents", both), "the keys of the joined streams are of different",
    ),
    "one argument": (windowed(one_argument), "'one_argument' is to be called with a left and a right record, and does"),
    "no function": (windowed(NoFunction()), "is not callable and has no method join"),
    "async": (windowed(waits), "'waits' is async def"),
    "co_group of pairs": (
        lambda a, b: a.co_group(b).where("user").equal_to("by").window(TUMBLING).apply(one_argument),
        "'one_argument' is to be called with the records of both sides",
    ),
    "process of pairs": (
        lambda a, b: a.key_by("user").interval_join(b.key_by("by")).between(0, 1).process(both),
        "'both' is to be called with a left record, a right record and a context, and does not take 3",
    ),
    "bounds the wrong way": (near("5s", "-5s"), r"between\('5s', '-5s'\) is an interval that no time lies in"),
    "nothing between": (open_interval, r"between\(0, 1\) without its bounds is an interval that no time lies in"),
    "no bounds": (
        lambda a, b: a.key_by("user").interval_join(b.key_by("by")).apply(both), r"call between\(lower, upper\) before",
    ),
    "bounds that are none": (near("a while", 1), "between: .*a while"),
    "interval how": (near(0, 1, how="cross"), "how='cross' is no way to join"),
    "not keyed": (
        lambda a, b: a.key_by("user").interval_join(b).between(0, 1).apply(both), r"call key_by\(…\) on the other",
    ),
    "broadcast how": (
        lambda a, b: a.broadcast_join(b, "user", "by", both, how="full"), "broadcast join is inner or left, not 'full'",
    ),
    "late to a name": (
        lambda a, b: a.join(b).where("user").equal_to("by").window(TUMBLING).side_output_late_data("late").apply(both),
        "late records go to an OutputTag, not 'late'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_when_it_is_built(mistake: str) -> None:
    env = environment()
    build, message = MISTAKES[mistake]
    build(*streams(env)).print()
    with pytest.raises(PipelineError, match=f"(?s){message}"):
        env.job_graph("job")


@pytest.mark.parametrize(
    ("build", "what"),
    [(windowed(), "windows of event time"), (near(0, 1), "interval joins")],
    ids=["window", "interval"],
)
def test_event_time_without_timestamps(build: Callable[[Any, Any], Any], what: str) -> None:
    env = environment()
    clicks, _ = streams(env)
    build(clicks, env.from_collection(BUYS, Buy)).print()
    with pytest.raises(PipelineError, match=rf"{what} need records with timestamps, and those of 'collection 3' have"):
        env.job_graph("job")


def test_two_environments() -> None:
    env = environment()
    windowed()(streams(env)[0], streams(environment())[1]).print()
    with pytest.raises(PipelineError, match="belong to two environments"):
        env.job_graph("job")


def test_a_negative_lateness() -> None:
    clicks, buys = streams(environment())
    with pytest.raises(ConfigurationError):
        clicks.join(buys).allowed_lateness("-1s")
