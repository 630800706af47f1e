"""Groups of sources that wait for each other: the master's part alone, and both parts together in a model."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.jobmanager.execution_graph import SubtaskState
from penstock.jobmanager.watermark_alignment import WatermarkAlignments
from penstock.runtime.elements import MAX_WATERMARK, MIN_WATERMARK
from penstock.runtime.event_time.watermarks import WatermarkAlignment
from penstock.runtime.metrics import MetricGroup
from penstock.runtime.operators.source_alignment import SourceAlignment
from penstock.state.ids import Attempt, SlotId, VertexId
from penstock.taskmanager.messages import AlignWatermark, ReportWatermark, SubtaskId
from penstock.testing.clock import ManualClock

A, B, C = (SubtaskId(VertexId(name), 0) for name in "abc")


class Graph:
    """What the master's part asks of the execution graph."""

    def __init__(self) -> None:
        self.states = dict.fromkeys((A, B, C), SubtaskState.RUNNING)

    def state(self, subtask: SubtaskId) -> SubtaskState:
        return self.states[subtask]

    def slot_of(self, subtask: SubtaskId) -> SlotId:
        return SlotId(subtask.vertex)


class Sent:
    """The orders: what is said to whom."""

    def __init__(self) -> None:
        self.answers: list[tuple[SubtaskId, int | None]] = []

    def send(self, slots: list[SlotId], message: Any, subtask: SubtaskId, lowest: int | None) -> None:
        assert message is AlignWatermark
        assert slots == [SlotId(subtask.vertex)]
        self.answers.append((subtask, lowest))


class Master:
    def __init__(self) -> None:
        self.graph, self.sent = Graph(), Sent()
        self.alignments = WatermarkAlignments(self.graph, self.sent)  # type: ignore[arg-type]

    def hears(self, subtask: SubtaskId, watermark: int | None, group: str = "g") -> int | None:
        self.alignments.reported(ReportWatermark(Attempt(1), subtask, group, watermark))
        asked, lowest = self.sent.answers.pop()
        assert asked == subtask
        return lowest


def test_the_answer_is_the_lowest_of_the_group() -> None:
    master = Master()
    assert master.hears(A, 10) == 10
    assert master.hears(B, 5) == 5
    assert master.hears(A, 11) == 5
    assert master.hears(C, 1, "another") == 1
    assert master.hears(B, 20) == 11


def test_who_is_idle_or_has_ended_is_not_waited_for() -> None:
    master = Master()
    master.hears(A, 10)
    master.hears(B, 5)
    assert master.hears(B, None) == 10
    assert master.hears(B, 6) == 6
    master.graph.states[B] = SubtaskState.DRAINED
    assert master.hears(A, 12) == 12
    assert master.hears(A, None) is None


def test_who_is_being_restarted_stands_where_it_stood() -> None:
    master = Master()
    master.hears(A, 10)
    master.hears(B, 5)
    master.graph.states[B] = SubtaskState.FAILED
    assert master.hears(A, 12) == 5
    master.graph.states[B] = SubtaskState.RUNNING
    assert master.hears(B, 3) == 3
    master.alignments.begin_attempt()
    assert master.hears(A, 2) == 2


DRIFT_MS = 100
Speeds = st.lists(st.integers(1, 60), min_size=3, max_size=3)
LOST = st.lists(st.booleans(), max_size=120)


@given(Speeds, st.lists(st.integers(5, 60), min_size=3, max_size=3), LOST)
@settings(max_examples=80, deadline=None)
def test_all_come_to_their_ends_whatever_is_lost_and_none_runs_away(
    speeds: list[int], lengths: list[int], lost: list[bool]
) -> None:
    """Three subtasks, each a step of its own size per round; all report in each round, some of it gets lost."""
    master, clock = Master(), ManualClock()
    group = WatermarkAlignment("g", DRIFT_MS, 10)
    sources = {
        each: SourceAlignment(group, lambda name, watermark: None, clock, MetricGroup(clock)) for each in (A, B, C)
    }
    steps = dict(zip(sources, speeds, strict=True))
    ends = {each: steps[each] * length for each, length in zip(sources, lengths, strict=True)}
    at = dict.fromkeys(sources, 0)
    losses = iter(lost)
    for round_ in range(1_000):
        running = [each for each in sources if at[each] < ends[each]]
        if not running:
            break
        slowest = min(at[each] for each in running)
        for each in running:
            if at[each] <= sources[each].allowed:
                at[each] += steps[each]
                if round_ > len(lost) + 2:  # all have heard of all since then: a step of the slowest, and its own
                    assert at[each] <= slowest + DRIFT_MS + 2 * max(speeds)
            if at[each] >= ends[each]:
                master.graph.states[each] = SubtaskState.DRAINED
            elif not next(losses, False):
                sources[each].announced(master.hears(each, at[each]))
    assert all(at[each] >= ends[each] for each in sources)


def test_before_the_first_answer_and_when_nobody_holds_nothing_pauses() -> None:
    clock = ManualClock()
    reports: list[Any] = []
    alignment = SourceAlignment(
        WatermarkAlignment("g", 5, 10), lambda *report: reports.append(report), clock, MetricGroup(clock)
    )
    assert alignment.allowed == MAX_WATERMARK
    alignment.announced(MIN_WATERMARK)
    assert alignment.allowed == MIN_WATERMARK + 5
    alignment.announced(MAX_WATERMARK - 1)
    assert alignment.allowed == MAX_WATERMARK
    alignment.announced(None)
    assert alignment.allowed == MAX_WATERMARK
    alignment.look(7, 0)
    alignment.look(8, 9)
    alignment.look(9, 10)
    assert reports == [("g", 7), ("g", 9)]
