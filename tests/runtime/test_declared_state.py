"""What state the operators of a job declare, found without running it; compared with a checkpoint before a restore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import penstock as ps
from penstock.runtime.clock import SystemClock
from penstock.runtime.operators.declared_state import declared_state
from penstock.state import pickling
from penstock.state.compatibility import DeclaredOperator, check_compatibility
from penstock.state.ids import Attempt, CheckpointId, OperatorId, VertexId
from penstock.state.serializers import serializer_for
from penstock.state.snapshots import CheckpointMetadata, OperatorSnapshot, OperatorStateHandle, SubtaskSnapshot


@dataclass
class Event:
    user: str
    at: int
    value: int


class Counting(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        self.seen = runtime_context.get_state(ps.ValueStateDescriptor("seen", Event))
        self.values = runtime_context.get_list_state(ps.ListStateDescriptor("values"))
        self.marks = runtime_context.get_map_state(ps.MapStateDescriptor("marks", str, int))

    def process_element(self, event: Event, ctx: Any) -> Any:
        yield event.value


class Rules(ps.KeyedProcessFunction, ps.CheckpointedFunction):
    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def initialize_state(self, context: ps.FunctionInitializationContext) -> None:
        store = context.get_operator_state_store()
        store.get_list_state(ps.ListStateDescriptor("rules", self.kind))

    def snapshot_state(self, context: ps.FunctionSnapshotContext) -> None: ...

    def process_element(self, event: Event, ctx: Any) -> Any:
        yield event.value


class Failing(ps.KeyedProcessFunction):
    def open(self, runtime_context: ps.RuntimeContext) -> None:
        raise OSError("no connection")

    def process_element(self, event: Event, ctx: Any) -> Any:
        yield event.value


def user_of(event: Event) -> str:
    return event.user


def add_up(one: Event, other: Event) -> Event:
    return Event(one.user, other.at, one.value + other.value)


def declared(function: Any) -> dict[str, DeclaredOperator]:
    """By uid, of all operators of a job."""
    env = ps.StreamExecutionEnvironment()
    events = env.from_collection([Event("a", 1, 1)])
    timed = events.assign_timestamps_and_watermarks(
        ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner("at")
    )
    keyed = timed.key_by(user_of)
    keyed.process(function).uid("counting").print()
    keyed.window(ps.TumblingEventTimeWindows("1s")).reduce(add_up).uid("windows").print()
    timed.key_by("user").window(ps.TumblingEventTimeWindows("1s")).agg(n=ps.count()).uid("columns").print()
    graph = env.job_graph("declaring")
    return {
        each.id: declared_state(pickling.loads(each.pickled), each.id, each.name, SystemClock())
        for vertex in graph.vertices
        for each in vertex.operators
        if each.id in ("counting", "windows", "columns")
    }


def test_what_functions_and_windows_declare() -> None:
    found = declared(Counting())
    states = {(state.name, state.kind): state for state in found["counting"].states}
    assert set(states) == {("seen", "value"), ("values", "list"), ("marks", "map")}
    assert states["seen", "value"].description == serializer_for(Event).description
    assert states["values", "list"].description == "pickle"
    assert states["marks", "map"].keys == "str"
    assert found["counting"].keys == "str"
    assert [state.description for state in found["windows"].states] == [serializer_for(Event).description]
    assert found["columns"].states == ()


def test_operator_state_is_compared_too() -> None:
    (rules,) = declared(Rules(int))["counting"].operator_states
    assert (rules.name, rules.kind, rules.description) == ("rules", "split", "int")
    handle = OperatorStateHandle("rules", "split", 1, inline=b"", written_as="str")
    snapshot = OperatorSnapshot(OperatorId("counting"), lists=(handle,))
    subtask = SubtaskSnapshot(VertexId("v"), 0, (snapshot,))
    metadata = CheckpointMetadata("job", "job", Attempt(1), CheckpointId(1), 0, 0, {"v": 1}, {"v": 1}, (subtask,))
    (problem,) = check_compatibility(metadata, {OperatorId("counting"): declared(Rules(int))["counting"]})
    assert (problem.state, problem.reason) == ("rules", "the value was str and is now int")
    assert check_compatibility(metadata, {OperatorId("counting"): declared(Rules(str))["counting"]}) == []


def test_what_open_raises_is_raised() -> None:
    with pytest.raises(Exception, match="no connection"):
        declared(Failing())
