"""Windows on rows against a naive oracle: any order, lateness, cut into batches, snapshot and parallelism."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.functions import AggregateFunction, OutputTag, ProcessWindowFunction
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.records.record_types import OPAQUE
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.runtime.windows.triggers import EventTimeTrigger, TriggerContext, TriggerResult
from penstock.runtime.windows.window_operator import Aggregate, Apply, Evaluation, Process, Reduce, WindowOperator
from penstock.runtime.windows.windows import TimeWindow
from penstock.state.descriptors import ListStateDescriptor, ValueStateDescriptor
from penstock.state.errors import PipelineError, RecordTypeError, UserCodeError
from penstock.testing.harness import BackendKind, OperatorHarness, rescaled, subtask_for

SIZE = 10
KEYS = "abcde"
Record = tuple[str, int]


class Sum(AggregateFunction):
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Record, accumulator: int) -> int:
        return accumulator + value[1]

    def get_result(self, accumulator: int) -> int:
        return accumulator


def collect(key: str, context: Any, elements: Iterable[Any]) -> Iterable[Any]:
    yield key, context.window().start, sorted(elements)


def with_key(key: str, context: Any, elements: Iterable[Any]) -> Iterable[Any]:
    yield key, context.window().start, next(iter(elements))


EVALUATIONS: dict[str, Callable[[], Evaluation]] = {
    "reduce": lambda: Reduce(lambda a, b: (a[0], a[1] + b[1]), with_key),
    "aggregate": lambda: Aggregate(Sum(), with_key),
    "process": lambda: Process(collect),
    "apply": lambda: Apply(lambda key, window, elements: [(key, window.start, sorted(elements))]),
}
RESULT: dict[str, Callable[[str, list[int]], Any]] = {
    "reduce": lambda key, values: (key, sum(values)),
    "aggregate": lambda key, values: sum(values),
    "process": lambda key, values: sorted((key, value) for value in values),
    "apply": lambda key, values: sorted((key, value) for value in values),
}


def operator(evaluation: Evaluation, lateness: int = 0, trigger: Any = None) -> WindowOperator:
    return WindowOperator(
        KeyByFunction(lambda record: record[0]), TumblingEventTimeWindows(SIZE), evaluation, OPAQUE,
        allowed_lateness_ms=lateness, late_tag="late", trigger=trigger,
    )  # fmt: skip


@dataclass
class Oracle:
    """Windows as one would explain them: a dict, and nothing else."""

    kind: str
    lateness: int
    watermark: int = -(2**63)
    windows: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    fired: Counter[str] = field(default_factory=Counter)
    late: list[Record] = field(default_factory=list)

    def record(self, record: Record, timestamp: int, watermark: int) -> None:
        key, value = record
        start = timestamp - timestamp % SIZE
        if start + SIZE - 1 + self.lateness <= watermark:
            self.late.append(record)
            return
        self.windows.setdefault((key, start), []).append(value)
        if start + SIZE - 1 <= watermark:
            self._fire(key, start)

    def advance(self, watermark: int) -> None:
        for key, start in list(self.windows):
            if self.watermark < start + SIZE - 1 <= watermark:
                self._fire(key, start)
            if start + SIZE - 1 + self.lateness <= watermark:
                del self.windows[key, start]
        self.watermark = watermark

    def _fire(self, key: str, start: int) -> None:
        result = RESULT[self.kind](key, self.windows[key, start])
        self.fired[repr(((key, start, result), start + SIZE - 1))] += 1


@dataclass(frozen=True)
class Scenario:
    kind: str
    lateness: int
    records: list[tuple[Record, int]]
    seed: int


scenarios = st.builds(
    Scenario,
    st.sampled_from(sorted(EVALUATIONS)),
    st.sampled_from([0, 7, 25]),
    st.lists(st.tuples(st.tuples(st.sampled_from(KEYS), st.integers(-5, 5)), st.integers(-50, 120)), max_size=60),
    st.integers(0, 2**20),
)


def play(scenario: Scenario, backend: BackendKind, *, restarts: bool) -> tuple[Counter[str], list[Record], Oracle]:
    """Run the records through, cut anyhow, with watermarks in between; with restarts also at other parallelisms."""
    chance = random.Random(scenario.seed)
    oracle = Oracle(scenario.kind, scenario.lateness)

    def make() -> WindowOperator:
        return operator(EVALUATIONS[scenario.kind](), scenario.lateness)

    fired: Counter[str] = Counter()
    late: list[Record] = []
    subtasks = rescaled(make, [], 1, backend=backend)
    watermark = -(2**63)

    def hand_in() -> None:
        for harness in subtasks:
            fired.update(map(repr, harness.timed_output))
            late.extend(harness.side_output("late"))
            harness.take()

    left = list(scenario.records)
    while left:
        count = chance.randint(1, 12)
        batch, left = left[:count], left[count:]
        for record, timestamp in batch:
            oracle.record(record, timestamp, watermark)
        for number, harness in enumerate(subtasks):
            mine = [(r, t) for r, t in batch if subtask_for(r[0], len(subtasks)) == number]
            harness.push([r for r, _ in mine], [t for _, t in mine])
        if chance.random() < 0.5:
            watermark = max(watermark, batch[0][1] - chance.randint(0, 30))
            oracle.advance(watermark)
            for harness in subtasks:
                harness.watermark(watermark)
        if restarts and chance.random() < 0.3:
            hand_in()
            snapshots = [harness.snapshot() for harness in subtasks]
            for harness in subtasks:
                harness.close()
            subtasks = rescaled(make, snapshots, chance.choice([1, 2, 3]), backend=backend)
    oracle.advance(2**63 - 1)
    for harness in subtasks:
        harness.watermark(2**63 - 1)
    hand_in()
    for harness in subtasks:
        harness.close()
    return fired, late, oracle


@given(scenarios)
@settings(max_examples=150, deadline=None)
def test_against_the_oracle(scenario: Scenario) -> None:
    fired, late, oracle = play(scenario, "heap", restarts=False)
    assert fired == oracle.fired
    assert late == oracle.late


@given(scenarios)
@settings(max_examples=60, deadline=None)
def test_with_restarts_at_other_parallelisms(scenario: Scenario) -> None:
    fired, late, oracle = play(scenario, "heap", restarts=True)
    assert fired == oracle.fired
    assert Counter(late) == Counter(oracle.late)


@pytest.mark.parametrize("kind", sorted(EVALUATIONS))
def test_on_rocksdb_with_restarts(kind: str) -> None:
    chance = random.Random(5)
    records = [((chance.choice(KEYS), chance.randint(-5, 5)), chance.randint(-50, 120)) for _ in range(80)]
    fired, late, oracle = play(Scenario(kind, 7, records, 11), "rocksdb", restarts=True)
    assert fired == oracle.fired
    assert Counter(late) == Counter(oracle.late)


def test_the_end_of_a_window_is_its_last_ms_and_results_carry_it() -> None:
    with OperatorHarness(operator(Aggregate(Sum()))) as harness:
        harness.push([("a", 1), ("b", 2), ("a", 3)], [0, 9, 5])
        harness.watermark(8)
        assert harness.output == []
        harness.watermark(9)
        assert harness.timed_output == [(4, 9), (2, 9)]
        harness.push([("a", 1)], [9])
        assert harness.side_output("late") == [("a", 1)]
        assert harness.timed_side_output("late") == [(("a", 1), 9)]
        assert harness.metrics.values()["records_late_total"] == 1


def test_late_but_allowed_fires_again_for_every_element_until_cleanup() -> None:
    with OperatorHarness(operator(Aggregate(Sum()), lateness=5)) as harness:
        harness.push([("a", 1)], [0])
        harness.watermark(10)
        harness.push([("a", 2), ("b", 7), ("a", 4)], [3, 3, 3])
        assert harness.take() == [1, 3, 7, 7]
        harness.watermark(13)
        harness.push([("a", 8)], [3])
        assert harness.take() == [15]
        harness.watermark(14)
        harness.push([("a", 8)], [3])
        assert harness.output == []
        assert harness.side_output("late") == [("a", 8)]


def test_what_was_given_out_and_changed_does_not_change_what_is_kept() -> None:
    with OperatorHarness(operator(Reduce(lambda a, b: [*a, *b]), lateness=5)) as harness:
        harness.push([["a"]], [0])
        harness.watermark(9)
        harness.output[0].append("changed by the next function")
        harness.push([["a"]], [1])
        assert harness.output[1] == ["a", "a"]


def test_windows_fire_in_the_order_of_time() -> None:
    with OperatorHarness(operator(Process(collect))) as harness:
        harness.push([("b", 1), ("a", 1), ("b", 2)], [25, 12, 3])
        harness.watermark(100)
        assert [row[:2] for row in harness.output] == [("b", 0), ("a", 10), ("b", 20)]


def test_firing_can_be_interrupted_between_keys() -> None:
    with OperatorHarness(operator(Aggregate(Sum()))) as harness:
        harness.push([(f"k{i}", 1) for i in range(300)], [0] * 300)
        from penstock.runtime.elements import Watermark

        steps = sum(1 for _ in harness.operator.process_watermark(Watermark(50)))
        assert steps >= 3
        assert len(harness.output) == 300


def test_state_is_gone_after_the_window() -> None:
    with OperatorHarness(operator(Process(collect))) as harness:
        harness.push([("a", 1)], [0])
        harness.watermark(50)
        backend = harness.operator.backend  # type: ignore[attr-defined]
        backend.set_current_key("a")
        backend.set_namespace(0)
        assert backend.list_state(ListStateDescriptor("window-contents")).get() == []
        assert backend.timers("event").next_timestamp() is None


class Counting(ProcessWindowFunction):
    """Counts firings per window and records per key, in state that outlives a firing."""

    def open(self, runtime_context: Any) -> None:
        self.opened = runtime_context.get_state(ValueStateDescriptor("total", int))

    def process(self, key: Any, context: Any, elements: Iterable[Any]) -> Iterable[Any]:
        firings = context.window_state().get_state(ValueStateDescriptor("n", int))
        total = context.global_state().get_state(ValueStateDescriptor("total", int))
        firings.update((firings.value() or 0) + 1)
        total.update((total.value() or 0) + len(list(elements)))
        context.output(OutputTag("marks"), (key, context.current_watermark()))
        yield context.window(), firings.value(), total.value(), self.opened.value()

    def clear(self, context: Any) -> None:
        context.window_state().get_state(ValueStateDescriptor("n", int)).clear()


def test_state_of_the_window_and_of_all_windows() -> None:
    with OperatorHarness(operator(Process(Counting()), lateness=5)) as harness:
        harness.push([("a", 1), ("a", 2)], [0, 11])
        harness.watermark(10)
        harness.push([("a", 3)], [1])
        harness.watermark(40)
        first, second = TimeWindow(0, 10), TimeWindow(10, 20)
        assert harness.output == [(first, 1, 1, 1), (first, 2, 3, 3), (second, 1, 4, 4)]
        assert harness.side_output("marks") == [("a", 10), ("a", 10), ("a", 40)]


class EverySecond(EventTimeTrigger):
    """A trigger with state of its own: fires and purges at every second element."""

    same_for_all_elements = False

    def on_element(self, element: Any, timestamp: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult:
        count = ctx.get_partitioned_state(ValueStateDescriptor("count", int))
        count.update((count.value() or 0) + 1)
        return TriggerResult.FIRE_AND_PURGE if count.value() % 2 == 0 else TriggerResult.CONTINUE

    def on_event_time(self, time: int, window: TimeWindow, ctx: TriggerContext) -> TriggerResult:
        return TriggerResult.CONTINUE

    def clear(self, window: TimeWindow, ctx: TriggerContext) -> None:
        ctx.get_partitioned_state(ValueStateDescriptor("count", int)).clear()


def test_a_custom_trigger_sees_every_element() -> None:
    with OperatorHarness(operator(Process(collect), trigger=EverySecond())) as harness:
        harness.push([("a", i) for i in range(5)], [0] * 5)
        assert harness.take() == [("a", 0, [("a", 0), ("a", 1)]), ("a", 0, [("a", 2), ("a", 3)])]
        harness.watermark(100)
        assert harness.output == []


def test_mistakes_have_clear_messages() -> None:
    with OperatorHarness(operator(Aggregate(Sum()))) as harness, pytest.raises(RecordTypeError, match="WatermarkStra"):
        harness.push([("a", 1)])
    with (
        OperatorHarness(operator(Aggregate(Sum()))) as harness,
        pytest.raises(UserCodeError, match="operator 'op") as e,
    ):
        harness.push([("a", "x")], [1])
    assert isinstance(e.value.__cause__, TypeError)
    with pytest.raises(PipelineError, match="offset"):
        TumblingEventTimeWindows("1min", "2min")
    with pytest.raises(PipelineError, match="at least 1 ms"):
        TumblingEventTimeWindows(0)


@pytest.mark.parametrize(
    ("offset", "timestamp", "start"), [("5s", 4_999, -5_000), ("-2s", 7_999, -2_000), (None, -1, -10_000)]
)
def test_offsets(offset: str | None, timestamp: int, start: int) -> None:
    (window,) = TumblingEventTimeWindows.of("10s", offset).assign_windows(None, timestamp)
    assert window == TimeWindow(start, start + 10_000)
