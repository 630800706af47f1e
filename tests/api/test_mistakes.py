"""What people write who begin, and what they are told: what is wrong, where, and what to write instead."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.api.streams import DataStream
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Json
from penstock.runtime.functions import RuntimeContext
from penstock.runtime.keys import KeyByColumns, KeyByFunction, KeySelector
from penstock.runtime.operators.keyed_process import KeyedProcessOperator
from penstock.runtime.operators.watermarks import WatermarksOperator
from penstock.runtime.records.record_types import OPAQUE
from penstock.state.errors import JobFailedError, PenstockError, PipelineError, RecordTypeError, UserCodeError
from penstock.testing.harness import OperatorHarness


@dataclass
class Click:
    user: str
    page: str
    at: int


CLICKS = [Click("ann", "a", 1), Click("bob", "b", 2)]
LATE: ps.OutputTag[Any] = ps.OutputTag("late")
MINUTES = ps.TumblingEventTimeWindows("1min")
TIMED = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ps.StreamExecutionEnvironment:
    monkeypatch.chdir(tmp_path)
    return ps.StreamExecutionEnvironment()


@pytest.fixture
def clicks(env: ps.StreamExecutionEnvironment) -> DataStream:
    return env.from_collection(CLICKS, watermark_strategy=TIMED, name="clicks")


Written = Callable[[DataStream], Any]


def keyed(clicks: DataStream) -> Any:
    return clicks.key_by("user")


def windows(clicks: DataStream) -> Any:
    return keyed(clicks).window(MINUTES)


# names that are not there


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda c: c.window(MINUTES), r"^window\(…\) needs a stream with keys: call key_by\(…\) .*window_all\(…\)$"),
        (lambda c: c.count_window(2), r"^count_window\(…\) needs a stream with keys.*count_window_all\(…\)$"),
        (lambda c: c.reduce(max), r"^reduce\(…\) needs a stream with keys: call key_by\(…\) right before it"),
        (lambda c: keyed(c).map(str).sum(0), r"^sum\(…\) needs a stream with keys"),
        (lambda c: c.interval_join(c), r"^interval_join\(…\) needs a stream with keys"),
        (lambda c: c.flatmap(str), "^DataStream has no 'flatmap'; did you mean 'flat_map'"),
        (lambda c: c.zzz, "^'DataStream' object has no attribute 'zzz'$"),
        (
            lambda c: windows(c).print(),
            r"^WindowedStream has no print\(…\): windows give results by a function: call agg",
        ),
        (lambda c: windows(c).sum("at"), r"^WindowedStream has no sum.* agg\(n=ps.count\(\), total="),
        (lambda c: windows(c).alowed_lateness("1s"), "did you mean 'allowed_lateness'"),
        (lambda c: c.join(c).print(), r"^JoinedStreams has no print\(…\): call where"),
        (lambda c: keyed(c).interval_join(keyed(c)).map(str), r"^IntervalJoinedStreams has no map\(…\): call between"),
        (lambda c: c.connect(c).filter(bool), r"^ConnectedStreams has no filter\(…\): call map"),
        (lambda c: c.print().map(str), r"^DataStreamSink has no map\(…\): a sink is the end of its stream"),
        (lambda c: ps.TumblingWindows, "^module 'penstock' has no attribute 'TumblingWindows'; did you mean 'Tumbling"),
    ],
)
def test_methods_that_are_not_there(clicks: DataStream, write: Written, told: str) -> None:
    with pytest.raises(AttributeError, match=told):
        write(clicks)


def test_what_asks_for_attributes_is_answered_as_ever(clicks: DataStream) -> None:
    assert not hasattr(clicks, "window")
    assert not hasattr(clicks, "__array__")
    assert hasattr(keyed(clicks), "window")


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda c: c.map(str).resources(cores=1), "resources.* no option 'cores'; there are cpu, memory, gpu, custom"),
        (lambda c: c.map(str).resources(cpus=1), "no option 'cpus'; did you mean 'cpu'"),
        (lambda c: c.map_batches(len, batchsize=5), "did you mean 'batch_size'.* there are function, face"),
        (lambda c: c.map_async(str, retries=5), "no option 'retries'; did you mean 'retry'"),
        (lambda c: c.lookup_join(list, "user", chache=5), "no option 'chache'; did you mean 'cache'"),
        (lambda c: ps.SlotSharingGroup("a", cpus=5), r"^SlotSharingGroup\(…\) has no option 'cpus'"),
        (lambda c: FileSource("in", Json(), watching="1s"), r"^FileSource\(…\) has no option 'watching'; .* 'watch'"),
        (lambda c: FileSink("out", Json(), role_rows=1), "no option 'role_rows'; did you mean 'roll_rows'"),
        (lambda c: c._env.enable_checkpointing("1s", storge="x"), "no option 'storge'; did you mean 'storage'"),
        (lambda c: windows(c).agg(ps.count()), r"^agg\(…\) takes aggregates by name.*agg\(n=ps.count\(\)\)"),
    ],
)
def test_options_that_are_not_there(clicks: DataStream, write: Written, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        write(clicks)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda c: c._env.from_source("clicks"), r"from_source takes a source first, like FileSource\(.* not 'clicks'"),
        (lambda c: c._env.from_source(TIMED, "in"), "from_source takes a source first"),
        (lambda c: c.sink_to("out"), r"sink_to takes a sink, like FileSink\(path, Json\(\)\), not 'out'"),
        (lambda c: c.sink_to(FileSink), r"and not the class FileSink; write FileSink\(…\)"),
        (lambda c: FileSink(Json(), "out"), "FileSink takes a path first"),
        (lambda c: FileSink("out", Json), r"FileSink takes a format, and not its class; write Json\(\)"),
        (lambda c: FileSource("in", "json"), "FileSource takes a format after the path.* not 'json'"),
        (
            lambda c: windows(c).side_output_late_data("late"),
            r"takes an OutputTag, not 'late'; write OutputTag\('late'\)",
        ),
        (lambda c: c.map(str).get_side_output("late"), "get_side_output takes an OutputTag, not 'late'"),
        (lambda c: c.partition_custom(lambda key: 1, "user"), "is to be called with a key and the number of subtasks"),
        (lambda c: c.partition_custom(lambda key, n: 1, "usr"), "partition_custom: .* there is no column 'usr'"),
    ],
)
def test_things_that_are_given_in_the_place_of_others(clicks: DataStream, write: Written, told: str) -> None:
    with pytest.raises(PipelineError, match=told):
        write(clicks)


# functions that cannot be called


class OfOne(ps.KeyedProcessFunction):
    def process_element(self, value: Any) -> Any:  # type: ignore[override]
        yield value


class Fine(ps.KeyedProcessFunction):
    def process_element(self, value: Any, ctx: Any) -> Any:
        yield value


class WrongTimer(Fine):
    def on_timer(self, timestamp: int) -> Any:  # type: ignore[override]
        yield timestamp


class WrongAdd(ps.AggregateFunction):
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Any) -> int:  # type: ignore[override]
        return 1

    def get_result(self, accumulator: int) -> int:
        return accumulator


class WrongMerge(WrongAdd):
    def add(self, value: Any, accumulator: int) -> int:
        return 1

    def merge(self, one: int) -> int:  # type: ignore[override]
        return one


class OfStreams:
    def process_element1(self, value: Any, ctx: Any) -> None: ...

    def process_element2(self, value: Any) -> None: ...


class Model:
    def __init__(self, path: str) -> None: ...

    def __call__(self, batch: Any) -> Any:
        return batch


class Uncallable:
    def __call__(self) -> None: ...


class WrongOpen(Fine):
    def open(self) -> None:  # type: ignore[override]
        pass


def alone(one: Any) -> Any:
    return one


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda c: c.process(alone),
         r"'alone' is to be called with a record and its context, .* def alone\(value, ctx\)"),
        (lambda c: keyed(c).process(alone), r"does not take 2 arguments.* write def alone\(value, ctx\)"),
        (lambda c: keyed(c).process(OfOne()), r"write def process_element\(self, value, ctx\)"),
        (lambda c: keyed(c).process(Fine), r"'Fine' is a class, and an object of it is needed: write Fine\(…\)"),
        (lambda c: keyed(c).process(WrongTimer()),
         r"a timer's time and context, .* def on_timer\(self, timestamp, ctx\)"),
        (lambda c: keyed(c).process(WrongOpen()), r"open of 'WrongOpen' .* write def open\(self, context\)"),
        (lambda c: keyed(c).reduce(lambda a: a), "is to be called with two records.* write lambda value1, value2: …"),
        (lambda c: windows(c).reduce(alone), r"is to be called with two records.* write def alone\(value1, value2\)"),
        (lambda c: windows(c).reduce(alone, two_phase=True), r"write def alone\(value1, value2\)"),
        (lambda c: windows(c).reduce(max, alone), r"write def alone\(key, context, elements\)"),
        (lambda c: windows(c).process(lambda k, e: e),
         "with a key, a window's context and its elements.* write lambda key, context, elements: …"),
        (lambda c: windows(c).apply(alone), r"a key, a window and its elements.* def alone\(key, window, elements\)"),
        (lambda c: c.window_all(MINUTES).process(alone),
         r"with a window's context and.* def alone\(context, elements\)"),
        (lambda c: c.window_all(MINUTES).apply(alone), r"write def alone\(window, elements\)"),
        (lambda c: windows(c).aggregate(WrongAdd()), r"an accumulator.* write def add\(self, value, accumulator\)"),
        (lambda c: windows(c).aggregate(WrongMerge()), r"two accumulators.* write def merge\(self, acc_a, acc_b\)"),
        (lambda c: c.connect(c).process(OfStreams()), r"write def process_element2\(self, value, ctx\)"),
        (lambda c: c.map_async(lambda: 1), "is to be called with a record, .* write lambda value: …"),
        (lambda c: c.lookup_join(lambda: 1, "user"), "is to be called with a key, .* write lambda key: …"),
        (lambda c: c.map_batches(lambda: 1), "is to be called with a batch, .* write lambda batch: …"),
        (lambda c: c.as_changelog(lambda: 1), "is to be called with a record, "),
        (lambda c: c.map_batches(Model),
         r"every actor makes 'Model' without arguments: missing .* 'path'; give .* functools.partial\(Model, …\)"),
        (lambda c: keyed(c).sum("page"), "sum needs numbers, but column 'page' is of type string"),
        (lambda c: c.map_batches(Model("path"), concurrency=2),
         r"an object of 'Model': give functools.partial\(Model, …\)"),
        (lambda c: c._env.from_collection(CLICKS, watermark_strategy=ps.WatermarkStrategy.for_monotonous_timestamps()),
         r"follows the timestamps of records, and these have none; add .with_timestamp_assigner\("),
        (lambda c: c.map_batches(Uncallable), r"with a batch: .* write def __call__\(self, batch\)"),
        (lambda c: c.map(str).set_parallelism("2"), "parallelism must be an int of at least 1, not '2'"),
        (lambda c: c.map(str).set_max_parallelism("2"), "max parallelism must be between 1 and 32768, not '2'"),
        (lambda c: c.map(str).get_side_output(LATE),
         "nothing goes to the side output 'late': it gives nothing to side"),
        (lambda c: windows(c).side_output_late_data(LATE).agg(n=ps.count()).get_side_output(ps.OutputTag("lat")),
         "nothing goes to the side output 'lat': there is 'late'; did you mean 'late'"),
        (lambda c: keyed(c).temporal_join(c.to_upsert("page").key_by("user")),
         r"'to upsert' gives upserts with the key 'page', and they are read by 'user', .* call to_upsert\('user'\)"),
        (lambda c: c.to_upsert("page").to_upsert("user"), "upserts with the key 'page', and they are read by 'user'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_its_operator(
    env: ps.StreamExecutionEnvironment, clicks: DataStream, write: Written, told: str
) -> None:
    write(clicks).print()
    with pytest.raises(PipelineError, match=told) as caught:
        env.job_graph()
    assert "(test_mistakes.py:" in str(caught.value)


class OfItsClass(ps.AggregateFunction[Any, Any, Any]):
    """No object of it is needed."""

    @staticmethod
    def create_accumulator() -> Any:
        return 0

    @staticmethod
    def add(value: Any, accumulator: Any) -> Any:
        return accumulator + 1

    @classmethod
    def get_result(cls, accumulator: Any) -> Any:
        return accumulator


def test_functions_that_fit_or_say_nothing_pass(env: ps.StreamExecutionEnvironment, clicks: DataStream) -> None:
    keyed(clicks).reduce(max).print()
    keyed(clicks).process(lambda value, ctx, more=1: [value]).print()
    keyed(clicks).process(functools.partial(lambda more, value, ctx: [value], 1)).print()
    windows(clicks).reduce(lambda *records: records[0], lambda key, context, elements: elements).print()
    clicks.map_batches(functools.partial(Model, "path")).print()
    clicks.partition_custom(min, "user").print()
    windows(clicks).aggregate(OfItsClass).print()
    upserts = clicks.to_upsert("page", "user").assign_timestamps_and_watermarks(TIMED).key_by("user", "page")
    clicks.key_by("user", "page").temporal_join(upserts).print()
    env.job_graph()


def test_a_pipeline_whose_results_nobody_reads_is_told(
    env: ps.StreamExecutionEnvironment, clicks: DataStream, capsys: pytest.CaptureFixture[str]
) -> None:
    clicks.map(str, name="texts")
    clicks.map(str, name="others").print()
    env.execute()
    told = "warning: nothing reads the results of 'texts': call sink_to(…) or print() to see them"
    assert told in capsys.readouterr().err.splitlines()


# what only records show


def assigner(assign: Any) -> WatermarksOperator:
    return WatermarksOperator(ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(assign), OPAQUE)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "the record {'at': None} has no timestamp: it is None"),
        (1.5, "the timestamp 1.5 of the record {'at': 1.5} is a float: use int ms .*; of seconds: int"),
        ("1", "the timestamp '1' of the record {'at': '1'} is a str: .* datetime.fromisoformat"),
        (True, "the timestamp True of the record {'at': True} is a bool: use int ms or an aware datetime"),
        (datetime(2020, 1, 1), "of the record {'at': datetime.datetime.* is a naive datetime: give it a time zone"),
    ],
)
def test_what_is_no_timestamp_names_operator_and_record(value: Any, told: str) -> None:
    for assign in ("at", lambda record, _: record["at"]):
        with OperatorHarness(assigner(assign)) as harness, pytest.raises(RecordTypeError, match=told) as caught:
            harness.push([{"at": 1}, {"at": value}])
        assert str(caught.value).startswith("operator 'operator': ")


def test_a_record_without_the_timestamp_field_is_named() -> None:
    for records in ([{"at": 1}, {"when": 2}], [{"when": 2}]):
        with OperatorHarness(assigner("at")) as harness, pytest.raises(RecordTypeError) as caught:
            harness.push(records)
        assert "operator 'operator': the record {'when': 2} has no field 'at'" in str(caught.value)


def test_an_assigner_that_raises_names_the_record() -> None:
    told = r"KeyError: 'at' \(in the timestamp assigner, on the record \{'when': 2\}\)"
    with OperatorHarness(assigner(lambda record, _: record["at"])) as harness, pytest.raises(UserCodeError, match=told):
        harness.push([{"at": 1}, {"when": 2}])


@pytest.mark.parametrize(
    ("selector", "told"),
    [
        (KeyByFunction(lambda record: record.usr),
         r"has no attribute 'usr'; did you mean 'user'\? \(in the key function, on the record Click\(user='ann'"),
        (KeyByFunction(lambda record: [record.user] if record.at == 2 else record.user),
         r"one is of type list: .* \(the key \['bob'\] of the record Click\(user='bob'"),
        (KeyByColumns(["usr"]), r"key_by: records of type Click have no field 'usr' \(on the record Click\(user='ann'"),
    ],
)  # fmt: skip
def test_a_key_that_is_not_there_names_the_record(selector: KeySelector, told: str) -> None:
    operator = KeyedProcessOperator(Fine(), selector, OPAQUE)
    with OperatorHarness(operator) as harness, pytest.raises(PenstockError, match=told):
        harness.push(CLICKS)


def test_a_key_that_is_missed_on_the_way_to_other_subtasks_names_the_record(
    env: ps.StreamExecutionEnvironment, clicks: DataStream
) -> None:
    env.set_parallelism(2).set_restart_strategy("none")
    clicks.key_by(lambda click: {"ann": 1}[click.user]).process(Fine(), name="fine").print()
    with pytest.raises(
        JobFailedError, match=r"KeyError: 'bob' \(in the key function, on the record Click\(user='bob'"
    ) as told:
        env.execute()
    assert isinstance(told.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("last", r"needs a ValueStateDescriptor, not 'last'; write ValueStateDescriptor\('last', …\)"),
        (ps.ListStateDescriptor("last", int), "needs a ValueStateDescriptor, not ListStateDescriptor"),
    ],
)
def test_a_state_without_its_descriptor(given: Any, told: str) -> None:
    class Wants(Fine):
        def open(self, runtime_context: RuntimeContext) -> None:
            runtime_context.get_state(given)

    with (
        pytest.raises(UserCodeError, match=told),
        OperatorHarness(KeyedProcessOperator(Wants(), KeyByFunction(abs), OPAQUE)),
    ):
        pass
