"""CheckpointedFunction in everything that users write: when it is called, and what it finds after a restore."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from penstock.connectors.collections import RangeReader
from penstock.runtime.event_time.watermarks import WatermarkStrategy
from penstock.runtime.functions import (
    FilterFunction,
    FlatMapFunction,
    KeyedProcessFunction,
    MapFunction,
    ProcessFunction,
    ProcessWindowFunction,
    ReduceFunction,
)
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operator_state import CheckpointedFunction
from penstock.runtime.operators.keyed_process import KeyedProcessOperator
from penstock.runtime.operators.operator import Operator
from penstock.runtime.operators.running import RunningReduceOperator
from penstock.runtime.operators.sink import SinkOperator
from penstock.runtime.operators.source import SourceOperator
from penstock.runtime.operators.stateless import FilterOperator, FlatMapOperator, MapOperator, ProcessOperator
from penstock.runtime.records.record_types import OPAQUE, record_type_of
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.runtime.windows.evaluations import Process
from penstock.runtime.windows.window_operator import WindowOperator
from penstock.state.descriptors import ListStateDescriptor, ValueStateDescriptor
from penstock.state.errors import UserCodeError
from penstock.testing.harness import OperatorHarness, rescaled
from penstock.testing.lists import ListSink, ListSource

TEXT = record_type_of(str)
WHOLE = KeyByFunction(lambda value: value)


class Remembering(CheckpointedFunction):
    """Buffers what it has seen in a field; the state is filled at the barrier."""

    def initialize_state(self, context: Any) -> None:
        self.state = context.get_operator_state_store().get_list_state(ListStateDescriptor("seen", str))
        self.seen = list(self.state.get())
        self.calls = ["restored" if context.is_restored() else "new"]

    def open(self, runtime_context: Any) -> None:
        self.calls.append("open")

    def snapshot_state(self, context: Any) -> None:
        assert context.get_checkpoint_id() >= 1
        self.state.update(self.seen)

    def noted(self, value: str) -> str:
        assert self.calls[1:] == ["open"], "initialize_state comes first"
        self.seen.append(value)
        return f"{self.calls[0]} {''.join(self.seen)}"


class Mapping(Remembering, MapFunction):
    def map(self, value: str) -> str:
        return self.noted(value)


class FlatMapping(Remembering, FlatMapFunction):
    def flat_map(self, value: str) -> Iterator[str]:
        yield self.noted(value)


class Filtering(Remembering, FilterFunction):
    def filter(self, value: Any) -> bool:
        value[0] = self.noted(value[0])
        return True


class Processing(Remembering, ProcessFunction):
    def process_element(self, value: str, ctx: Any) -> Iterator[str]:
        yield self.noted(value)


class PerKey(Remembering, KeyedProcessFunction):
    def process_element(self, value: str, ctx: Any) -> Iterator[str]:
        yield self.noted(value)


class Reducing(Remembering, ReduceFunction):
    def reduce(self, value1: str, value2: str) -> str:
        return self.noted(value2)


class Windowed(Remembering, ProcessWindowFunction):
    def process(self, key: str, context: Any, elements: Iterable[str]) -> Iterator[str]:
        yield self.noted(key)


def windows() -> WindowOperator:
    return WindowOperator(WHOLE, TumblingEventTimeWindows(10), Process(Windowed()), TEXT)


MADE: dict[str, Any] = {
    "map": lambda: MapOperator(Mapping(), TEXT),
    "flat map": lambda: FlatMapOperator(FlatMapping(), TEXT),
    "process": lambda: ProcessOperator(Processing(), TEXT),
    "keyed process": lambda: KeyedProcessOperator(PerKey(), WHOLE, TEXT),
    "window": windows,
}


def fed(harness: OperatorHarness, value: str, at: int) -> Any:
    harness.push([value], [at])
    harness.watermark(at + 10)
    return harness.take()


@pytest.mark.parametrize("kind", MADE)
def test_functions_of_every_kind_have_operator_state(kind: str) -> None:
    with OperatorHarness(MADE[kind]()) as harness:
        assert harness.operator.stateful
        assert fed(harness, "a", 0) == ["new a"]
        assert fed(harness, "b", 20) == ["new ab"]
        snapshot = harness.snapshot()
        assert fed(harness, "c", 40) == ["new abc"]
    with OperatorHarness(MADE[kind](), restored=[snapshot]) as harness:
        assert fed(harness, "d", 40) == ["restored abd"]


def test_filters_and_reduces_too() -> None:
    with OperatorHarness(FilterOperator(Filtering(), OPAQUE)) as harness:
        harness.push([["a"]])
        snapshot = harness.snapshot()
    with OperatorHarness(FilterOperator(Filtering(), OPAQUE), restored=[snapshot]) as harness:
        harness.push([["b"]])
        assert harness.output == [["restored ab"]]
    with OperatorHarness(RunningReduceOperator(KeyByFunction(len), Reducing(), TEXT)) as harness:
        harness.push(["a", "b", "c"])
        assert harness.output == ["a", "new b", "new bc"]
        assert [state.name for state in harness.snapshot().lists] == ["seen"]


@pytest.mark.parametrize("parallelism", [1, 2, 3, 7])
def test_a_list_is_shared_out(parallelism: int) -> None:
    snapshots = []
    for subtask, text in enumerate(("abc", "d", "")):
        with OperatorHarness(MapOperator(Mapping(), TEXT), subtask=subtask, parallelism=3) as harness:
            harness.push(list(text))
            snapshots.append(harness.snapshot())
    found = []
    for harness in rescaled(lambda: MapOperator(Mapping(), TEXT), snapshots, parallelism):
        with harness:
            harness.push(["|"])
            found += harness.take()
    own = [text.removeprefix("restored ").removesuffix("|") for text in found]
    assert "".join(own) == "abcd"
    if parallelism == 3:
        assert own == ["abc", "d", ""]


def test_keyed_state_that_is_changed_at_the_barrier_is_in_the_checkpoint() -> None:
    class Counting(KeyedProcessFunction, CheckpointedFunction):
        def initialize_state(self, context: Any) -> None:
            self.count = context.get_keyed_state_store().get_state(ValueStateDescriptor("count", list[int]))

        def snapshot_state(self, context: Any) -> None:
            self.last.append(7)

        def process_element(self, value: str, ctx: Any) -> Iterator[Any]:
            self.last = self.count.value() or []
            self.count.update(self.last)
            yield tuple(self.last)

    def operator() -> Operator:
        return KeyedProcessOperator(Counting(), WHOLE, OPAQUE)

    with OperatorHarness(operator()) as harness:
        harness.push(["a"])
        snapshot = harness.snapshot()
    with OperatorHarness(operator(), restored=[snapshot]) as harness:
        harness.push(["a"])
        assert harness.output == [(7,)]


def test_an_error_at_the_barrier_names_operator_and_method() -> None:
    class Fails(Mapping):
        def snapshot_state(self, context: Any) -> None:
            raise ValueError("too much")

    with OperatorHarness(MapOperator(Fails(), TEXT)) as harness:
        harness.push(["a"])
        text = r"operator 'operator', subtask 0: ValueError: too much \(in snapshot_state\(\), for checkpoint 1\)"
        with pytest.raises(UserCodeError, match=text):
            harness.begin_snapshot()


def test_functions_without_operator_state_leave_none() -> None:
    with OperatorHarness(ProcessOperator(lambda value, ctx: [value], TEXT)) as harness:
        assert not harness.operator.stateful
        assert harness.snapshot().lists == ()


# ---- connectors


class CountingSink(ListSink):
    """Its writer remembers how many rows it has written and not committed; what it has prepared is none of them."""

    def create_writer(self, context: Any) -> Any:
        writer = super().create_writer(context)
        kind = type(writer)

        class Writer(kind, CheckpointedFunction):  # type: ignore[misc, valid-type]
            pending = 0
            total: Any

            def initialize_state(self, context: Any) -> None:
                self.total = context.get_operator_state_store().get_list_state(ListStateDescriptor("total", int))
                self.restored = list(self.total.get())

            def write(self, batch: Any) -> None:
                self.pending += len(batch)
                super().write(batch)

            def prepare_commit(self, checkpoint_id: Any) -> Any:
                self.prepared, self.pending = self.pending, 0
                return super().prepare_commit(checkpoint_id)

            def snapshot_state(self, context: Any) -> None:
                assert self.pending == 0, "prepare_commit comes first"
                self.total.add(self.prepared)

        writer.__class__ = Writer
        return writer


def test_a_sink_s_writer_has_operator_state() -> None:
    def operator() -> SinkOperator:
        return SinkOperator(CountingSink("counting"), TEXT)

    with OperatorHarness(operator(), record_type=str) as harness:
        harness.push(["a", "b"])
        harness.snapshot()
        harness.push(["c"])
        snapshot = harness.snapshot()
        assert len(snapshot.committables) == 1
    with OperatorHarness(operator(), record_type=str, restored=[snapshot]) as harness:
        assert harness.operator.writer.restored == [2, 1]  # type: ignore[attr-defined]


class Rounds(ListSource):
    """Its readers count how often they were started."""

    def create_reader(self, context: Any) -> Any:
        return RoundsReader(self)


class RoundsReader(RangeReader, CheckpointedFunction):
    def initialize_state(self, context: Any) -> None:
        self.rounds = context.get_operator_state_store().get_union_list_state(ListStateDescriptor("rounds", int))
        self.rounds.add(len(self.rounds.get()))

    def snapshot_state(self, context: Any) -> None: ...


def test_a_source_s_reader_has_operator_state() -> None:
    def operator() -> SourceOperator:
        return SourceOperator(Rounds(["a"]), WatermarkStrategy.no_watermarks(), TEXT)

    snapshot = None
    for rounds in ([0], [0, 1], [0, 1, 2]):
        with OperatorHarness(operator(), restored=[snapshot] if snapshot else []) as harness:
            snapshot = harness.snapshot()
            assert harness.operator._reader.rounds.get() == rounds  # type: ignore[attr-defined]
