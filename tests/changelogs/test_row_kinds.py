"""Which streams are changelogs, who takes them, and what becomes of the kinds on their way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.connectors.files import FileSink
from penstock.connectors.formats import Json
from penstock.jobmanager.local_job import LocalJob
from penstock.runtime.batch import Batch
from penstock.runtime.changelog import changes
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.changelogs import AsUpsertsOperator, ToUpsertOperator
from penstock.runtime.records.record_types import record_type_of
from penstock.state.errors import JobFailedError, PipelineError
from penstock.state.ttl_config import StateTtlConfig
from penstock.testing.harness import OperatorHarness
from penstock.testing.lists import ListSink

TENS: ps.OutputTag[int] = ps.OutputTag("tens", int)


class Price(NamedTuple):
    item: str
    cents: int


PRICES = [Price(f"i{i % 7}", i) for i in range(100)]
LAST = Counter({f"i{i % 7}": Price(f"i{i % 7}", i) for i in range(100)}.values())


def run(build: Callable[[ps.StreamExecutionEnvironment], Any], parallelism: int = 1) -> list[Any]:
    ListSink.clear()
    env = ps.StreamExecutionEnvironment().set_parallelism(parallelism).set_buffer_timeout("1ms")
    build(env).sink_to(ListSink("changes"))
    finish(env)
    return ListSink.results("changes")


def finish(env: ps.StreamExecutionEnvironment) -> None:
    job = LocalJob(env.job_graph("job"), env.configuration)
    try:
        job.run()
        job.result()
    finally:
        job.close()


def last_prices(env: ps.StreamExecutionEnvironment) -> Any:
    return env.from_collection(PRICES, Price).deduplicate("item", keep="last")


def both(price: Price) -> Iterator[int | tuple[ps.OutputTag[int], int]]:
    yield price.cents
    yield price.cents + 1_000
    yield TENS, price.cents * 10


def cheaper(price: Price) -> Price:
    return Price(price.item, price.cents - 1)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_kinds_stay_with_their_records(table: Any, parallelism: int) -> None:
    builders: dict[Callable[[Any], Any], Counter[Any]] = {
        lambda last: last: LAST,
        lambda last: last.map(cheaper): Counter(cheaper(each) for each in LAST),
        lambda last: last.filter(lambda price: price.cents % 2 == 0): Counter(p for p in LAST if p.cents % 2 == 0),
        lambda last: last.filter(pl.col("cents") % 2 == 0): Counter(p for p in LAST if p.cents % 2 == 0),
        lambda last: last.flat_map(both): Counter(n for p in LAST for n in (p.cents, p.cents + 1_000)),
        lambda last: last.flat_map(both).get_side_output(TENS): Counter(p.cents * 10 for p in LAST),
        lambda last: last.key_by("item").map(cheaper): Counter(cheaper(each) for each in LAST),
        lambda last: last.key_by("cents").map(cheaper): Counter(cheaper(each) for each in LAST),
        lambda last: last.union(last.map(cheaper)): LAST + Counter(cheaper(each) for each in LAST),
        lambda last: last.select("cents").map(lambda row: row["cents"]): Counter(p.cents for p in LAST),
        lambda last: last.with_columns(twice=pl.col("cents") * 2).map(lambda row: row["twice"]): Counter(
            p.cents * 2 for p in LAST
        ),
    }  # fmt: skip
    env = ps.StreamExecutionEnvironment().set_parallelism(parallelism).set_buffer_timeout("1ms")
    last = last_prices(env)
    ListSink.clear()
    for number, build in enumerate(builders):
        build(last).sink_to(ListSink(f"kinds {number}"))
    finish(env)
    for number, expected in enumerate(builders.values()):
        counts: Counter[Any] = Counter()
        for kind, record in ListSink.results(f"kinds {number}"):
            counts[record] += 1 if kind.adds else -1
        assert {record: count for record, count in counts.items() if count} == expected
        assert {str(kind) for kind, _ in ListSink.results(f"kinds {number}")} >= {"+I", "+U"}


def test_only_inserts_drops_all_others() -> None:
    assert run(lambda env: last_prices(env).only_inserts()) == PRICES[:7]


def test_the_kinds_as_part_of_the_records() -> None:
    given_ = run(lambda env: last_prices(env).with_row_kinds())
    assert given_[:7] == [(ps.RowKind.INSERT, price) for price in PRICES[:7]]
    assert given_[7:9] == [(ps.RowKind.UPDATE_BEFORE, PRICES[0]), (ps.RowKind.UPDATE_AFTER, PRICES[7])]


def test_kinds_within_printed_records(capsys: pytest.CaptureFixture[str]) -> None:
    env = ps.StreamExecutionEnvironment().set_parallelism(1)
    kinds = tuple(ps.RowKind)
    env.from_collection([0, 1, 2, 3], int).as_changelog(kinds.__getitem__).with_row_kinds().print()
    finish(env)
    assert capsys.readouterr().out.splitlines() == ["(+I, 0)", "(-U, 1)", "(+U, 2)", "(-D, 3)"]


def test_a_stream_is_made_a_changelog() -> None:
    kinds = {0: ps.RowKind.INSERT, 1: ps.RowKind.DELETE}
    assert run(lambda env: env.from_collection([0, 1]).as_changelog(kinds.__getitem__)) == [
        (ps.RowKind.INSERT, 0), (ps.RowKind.DELETE, 1)
    ]  # fmt: skip
    with pytest.raises(JobFailedError, match="operator 'as changelog': the kind of a record is a RowKind, not 1"):
        run(lambda env: env.from_collection([1]).as_changelog(lambda _: 1))  # type: ignore[arg-type, return-value]


def applied(upserts: Iterable[ps.Change], key: Callable[[Any], Any]) -> dict[Any, Any]:
    """What a sink has that overwrites by key."""
    table: dict[Any, Any] = {}
    for kind, record in upserts:
        assert kind is not ps.RowKind.UPDATE_BEFORE
        if kind.adds:
            table[key(record)] = record
        else:
            table.pop(key(record), None)
    return table


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40), st.integers(0, 10**6))
def test_upserts_leave_the_newest_record_of_every_key(
    subtasks: Any, row: Any, steps: list[tuple[int, int]], seed: int
) -> None:
    """Records of a table with a key (number), by which updates may change it. The changes of every record come in
    their order, those of two records in either: as from the subtasks of a join."""
    chance = random.Random(seed)
    table: dict[int, Any] = {}
    ways: tuple[list[ps.Change], ...] = ([], [], [])
    way_of: dict[Any, list[ps.Change]] = {}

    def change(kind: ps.RowKind, record: Any) -> None:
        way_of.setdefault(record, chance.choice(ways)).append(ps.Change(kind, record))

    for serial, (old, new) in enumerate(steps):
        record = row(str(serial), new)
        if old in table and new != old and new in table:
            change(ps.RowKind.DELETE, table.pop(old))
            continue
        if old in table:
            change(ps.RowKind.UPDATE_BEFORE, table.pop(old))
        elif new in table:
            continue
        change(ps.RowKind.UPDATE_AFTER if old in table else ps.RowKind.INSERT, record)
        table[new] = record
    make = ToUpsertOperator(KeyByFunction(lambda record: record.number, int), record_type_of(row))
    run = subtasks(lambda: make, [row], chance)
    run.table.apply = lambda changes: None  # a table of upserts is no multiset
    while left := [way for way in ways if way]:
        way = chance.choice(left)
        cut = chance.randint(1, 4)
        run.push(0, way[:cut], lambda record: record.number)
        del way[:cut]
        if chance.random() < 0.1:
            run.restart()
    assert applied(run.given, lambda record: record.number) == table
    assert run.left() == (len(table), 0)
    run.close()


def test_upserts_of_a_join_by_another_key() -> None:
    """An update goes from one of its subtasks to another one."""

    def build(env: ps.StreamExecutionEnvironment) -> Any:
        cents = env.from_collection([(number, -number) for number in range(10)]).key_by(lambda pair: pair[0] % 10)
        prices = last_prices(env).key_by(lambda price: price.cents % 10)
        return prices.regular_join(cents, lambda price, pair: price).to_upsert(lambda price: price.item)

    assert Counter(applied(run(build, 3), lambda price: price.item).values()) == LAST


@pytest.mark.parametrize("record", [("a", 1.5), ("a", float("nan"))])
def test_a_record_is_found_that_does_not_equal_itself(record: tuple[str, float]) -> None:
    make = ToUpsertOperator(KeyByFunction(lambda each: each[0]), record_type_of(tuple[str, float]))
    again = (record[0], float(str(record[1])))
    steps = [(ps.RowKind.INSERT, record), (ps.RowKind.INSERT, ("a", 2.5)), (ps.RowKind.DELETE, again)]
    with OperatorHarness(make, record_type=tuple[str, float]) as harness:
        for kind, each in [*steps, (ps.RowKind.DELETE, ("a", 2.5))]:
            harness.push_batch(changed([each], [kind], tuple[str, float]))
        assert kinds_of(harness) == [ps.RowKind.INSERT, ps.RowKind.INSERT, ps.RowKind.DELETE]


def test_what_was_forgotten_is_removed_when_it_is_taken_back(row: Any) -> None:
    selector = KeyByFunction(lambda record: record.number)
    with OperatorHarness(
        ToUpsertOperator(selector, record_type_of(row), StateTtlConfig(100)), record_type=row
    ) as harness:
        harness.push([row("a", 1)])
        harness.advance_time(100)
        harness.push_batch(changed([row("a", 1)], [ps.RowKind.DELETE], row))
        assert kinds_of(harness) == [ps.RowKind.INSERT, ps.RowKind.DELETE]


def changed(records: list[Any], kinds: list[ps.RowKind], kind: Any) -> Batch:
    batch = Batch.of_rows(record_type_of(kind), records)
    batch.row_kinds = np.array(kinds, np.int8)
    return batch


def kinds_of(harness: OperatorHarness) -> list[ps.RowKind]:
    return [each.kind for batch in harness.batches for each in changes(batch.rows(), batch.row_kinds)]


def test_updates_of_one_key_become_upserts() -> None:
    got = run(lambda env: last_prices(env).to_upsert("item"), 3)
    assert {str(kind) for kind, _ in got} <= {"+I", "+U", "-D"}
    assert Counter({record.item: record for kind, record in got if kind.adds}.values()) == LAST


def test_a_batch_of_insertions_is_left_alone(row: Any) -> None:
    kind = record_type_of(row)
    for make in (ToUpsertOperator(KeyByFunction(lambda record: record.key), kind), AsUpsertsOperator(kind)):
        with OperatorHarness(make, record_type=row) as harness:
            harness.push([row("a", 1), row("a", 2)])
            assert harness.output == [row("a", 1), row("a", 2)]
            assert harness.batches[0].row_kinds is None


# ---- who takes which


def upserts_of(env: ps.StreamExecutionEnvironment) -> Any:
    return last_prices(env).to_upsert("item")


def refused(build: Callable[[Any], Any], source: Callable[[Any], Any] = last_prices, parallelism: int = 1) -> str:
    env = ps.StreamExecutionEnvironment().set_parallelism(parallelism)
    build(source(env))
    with pytest.raises(PipelineError) as error:
        env.job_graph("job")
    return str(error.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda last: last.key_by("item").reduce(lambda a, b: a, name="it"),
        lambda last: last.key_by("item").window(ps.TumblingProcessingTimeWindows("1s")).reduce(max, name="it"),
        lambda last: last.key_by("item").sum("cents", name="it"),
        lambda last: last.key_by("item").process(lambda value, ctx: None, name="it"),
        lambda last: last.process(lambda value, ctx: None, name="it"),
        lambda last: last.map_batches(lambda batch: batch, name="it"),
        lambda last: last.map_async(abs, name="it"),
        lambda last: last.deduplicate("cents", name="it"),
        lambda last: last.as_changelog(lambda record: ps.RowKind.INSERT, name="it"),
        lambda last: last.lookup_join(lambda key: [], "item", name="it"),
        lambda last: last.key_by("item").temporal_join(last.key_by("item"), name="it"),
    ],
)
def test_what_does_not_know_kinds_refuses_them(build: Callable[[Any], Any]) -> None:
    message = refused(build)
    assert message.startswith("operator 'it' (test_row_kinds.py:")
    assert "'deduplicate' gives a changelog (+I, -U, +U, -D), but it takes insertions only" in message
    assert "only_inserts() drops all but insertions" in message


def test_a_sink_that_appends_refuses_a_changelog(tmp_path: Any) -> None:
    for source in (last_prices, upserts_of):
        message = refused(lambda last: last.sink_to(FileSink(str(tmp_path), Json()), name="files"), source)
        assert message.startswith("operator 'files'")
        assert "but it takes insertions only: only_inserts() drops all but insertions" in message


def test_a_sink_of_upserts_says_how_to_get_them() -> None:
    class Upserting(ListSink):
        accepted_modes = frozenset({ps.ChangelogMode.INSERT_ONLY, ps.ChangelogMode.UPSERT})

    message = refused(lambda last: last.sink_to(Upserting("upserts"), name="table"))
    assert "operator 'table'" in message
    assert "takes insertions or upserts only: to_upsert(key) gives the newest record of every key" in message
    env = ps.StreamExecutionEnvironment()
    upserts_of(env).sink_to(Upserting("upserts"))
    env.job_graph("job")


@pytest.mark.parametrize(
    "build",
    [
        lambda upserts: upserts.filter(lambda price: price.cents > 3),
        lambda upserts: upserts.filter(pl.col("cents") > 3),
        lambda upserts: upserts.key_by("item").regular_join(upserts.key_by("item")),
    ],
)
def test_upserts_are_refused_where_the_old_record_is_needed(build: Callable[[Any], Any]) -> None:
    assert "'to upsert' gives upserts (+I, +U, -D), but it takes changelog or insertions only" in refused(
        build, upserts_of
    )


def test_a_union_of_upserts_and_a_changelog_is_refused() -> None:
    message = refused(lambda last: last.union(last.to_upsert("item")).print())
    assert "a union of upserts and of a changelog that takes updates back is neither" in message


@pytest.mark.parametrize("spread", ["rebalance", "shuffle", "default"])
def test_a_changelog_is_not_spread_round_robin(spread: str) -> None:
    def build(last: Any) -> None:
        if spread == "default":
            last.set_parallelism(1).map(cheaper, name="it").set_parallelism(3).print()
        else:
            getattr(last, spread)().map(cheaper, name="it").print()

    message = refused(build, parallelism=3)
    assert "operator 'it'" in message
    assert "changes that 'deduplicate' gives would be spread over 3 subtasks" in message
    assert "call key_by(…) or to_upsert(key) before" in message


@pytest.mark.parametrize("build", [last_prices, upserts_of])
def test_a_temporal_join_knows_whether_its_versions_are_upserts(build: Callable[[Any], Any]) -> None:
    env = ps.StreamExecutionEnvironment()
    times = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("cents")
    left = env.from_collection(PRICES, Price).assign_timestamps_and_watermarks(times).key_by("item")
    joined = left.temporal_join(build(env).key_by("item"))
    assert joined._step is not None
    assert joined._step.operator.upserts == (build is upserts_of)


def test_describe_says_which_streams_are_changelogs() -> None:
    env = ps.StreamExecutionEnvironment()
    described = last_prices(env).to_upsert("item").describe()
    assert "deduplicate (deduplicate): rows -> Price(item: str, cents: int), changelog" in described
    assert "to upsert (to upsert): rows -> Price(item: str, cents: int), upserts" in described
    assert env.from_collection([1]).map(abs).changelog_mode is ps.ChangelogMode.INSERT_ONLY


def test_print_shows_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    env = ps.StreamExecutionEnvironment()
    env.from_collection([1, 3]).deduplicate(lambda number: 0, keep="last").print("last")
    env.from_collection([(1, 2)]).key_by(lambda pair: pair[0]).deduplicate(keep="last").print()
    env.from_collection([5]).print("plain")
    finish(env)
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == sorted(["last> +I(1)", "last> -U(1)", "last> +U(3)", "+I(1, 2)", "plain> 5"])


# ---- what else is wrong when a pipeline is written down

KEYED = "regular_join takes a keyed stream: call key_by"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: p.deduplicate(name="it"), "deduplicate needs a key"),
        (lambda p: p.deduplicate("nothing", name="it"), "there is no column 'nothing'"),
        (lambda p: p.deduplicate("item", keep="any", name="it"), "keep='any' is neither 'first' nor 'last'"),
        (lambda p: p.deduplicate("item", order="size", name="it"), "order='size' is neither"),
        (lambda p: p.deduplicate("item", order="event_time", name="it"), "by event time need records with timestamps"),
        (lambda p: p.deduplicate("item", ttl="0s", name="it"), "a TTL is at least 1 ms"),
        (lambda p: p.key_by("item").regular_join(p, name="it"), KEYED),
        (lambda p: p.key_by("item").regular_join(p.key_by("item"), how="outer", name="it"), "how='outer' is no way"),
        (lambda p: p.key_by("item").regular_join(p.key_by("cents"), name="it"), "of different types, str and int"),
        (lambda p: p.key_by("item").regular_join(p.key_by("item"), ttl=("1h",), name="it"), "or one for each side"),
        (lambda p: p.key_by("item").regular_join(p.key_by("item"), abs, name="it"), "does not take 2 arguments"),
        (lambda p: p.key_by("item").regular_join(p.key_by("item"), condition=abs, name="it"), "does not take 2"),
        (lambda p: p.key_by("item").temporal_join(p.key_by("item"), how="full", name="it"), "left, not 'full'"),
        (lambda p: p.key_by("item").temporal_join(p.key_by("item"), late="x", name="it"), "late records go to an"),
        (lambda p: p.lookup_join(5, "item", name="it"), "a function is needed"),
        (lambda p: p.lookup_join(lambda key: [], "item", how="right", name="it"), "inner or left, not 'right'"),
        (lambda p: p.lookup_join(lambda key: [], "item", cache=100, name="it"), "the cache is a LookupCache, not 100"),
        (lambda p: p.lookup_join(lambda key: [], "nothing", name="it"), "there is no column 'nothing'"),
        (lambda p: p.lookup_join(lambda key: [], "item", capacity=0, name="it"), "the capacity must be between"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_with_the_operator(build: Callable[[Any], Any], message: str) -> None:
    found = refused(build, lambda env: env.from_collection(PRICES, Price))
    assert found.startswith("operator 'it'")
    assert message in found
