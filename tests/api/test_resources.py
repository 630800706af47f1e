"""What operators ask of their machines, as it is written down: groups of slots, pools of models, what is refused."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import penstock as ps
from penstock.api.streams import DataStream
from penstock.jobmanager.execution_graph import ExecutionGraph
from penstock.runtime.graph.describe import plan
from penstock.runtime.resources import NO_RESOURCES, Resources, resources_of
from penstock.state.errors import ConfigurationError, PipelineError
from penstock.state.ids import Attempt, SlotId

GIB = 2**30


@dataclass
class Row:
    n: int


class Model:
    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class NoCall:
    pass


class Asynchronous:
    async def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def same(row: Row) -> Row:
    return row


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ps.StreamExecutionEnvironment:
    monkeypatch.chdir(tmp_path)
    return ps.StreamExecutionEnvironment()


@pytest.fixture
def rows(env: ps.StreamExecutionEnvironment) -> DataStream:
    return env.from_collection([Row(1)], Row, name="rows")


def groups(env: ps.StreamExecutionEnvironment) -> dict[str, tuple[str, Resources]]:
    return {vertex.name: (vertex.slot_sharing_group, vertex.resources) for vertex in env.job_graph().vertices}


def refusal(env: ps.StreamExecutionEnvironment) -> str:
    with pytest.raises(PipelineError) as caught:
        env.job_graph()
    return str(caught.value)


# ---- groups


def test_an_operator_with_resources_has_a_group_of_its_own(env: Any, rows: Any) -> None:
    heavy = rows.map(same).name("heavy").resources(cpu=2, memory="1GiB", gpu=1, custom={"fpga": 1})
    heavy.map(same).name("after").print(name="out")
    asked = Resources(2.0, GIB, 1.0, (("fpga", 1.0),))
    assert groups(env) == {
        "rows": ("default", NO_RESOURCES),
        "heavy": ("heavy", asked),
        "after -> out": ("default", NO_RESOURCES),
    }
    assert (
        "heavy: parallelism 1 of 128, slot sharing group heavy, each slot with cpu 2, memory 1GiB, gpu 1, fpga 1"
        in (env.describe())
    )
    assert plan(env.job_graph())["vertices"][1]["resources"] == {"cpu": 2.0, "memory": GIB, "gpu": 1.0, "fpga": 1.0}


def test_two_of_one_name_have_two_groups(env: Any, rows: Any) -> None:
    rows.map(same).name("m").resources(cpu=1).map(same).name("m").resources(cpu=1).print(name="out")
    assert [vertex.slot_sharing_group for vertex in env.job_graph().vertices] == ["default", "m", "m 2", "default"]


def test_in_a_group_that_was_given_the_group_has_them(env: Any, rows: Any) -> None:
    first = rows.map(same).name("first").slot_sharing_group("own").resources(cpu=1)
    first.map(same).name("second").print(name="out")
    assert groups(env) == {
        "rows": ("default", NO_RESOURCES),
        "first -> second -> out": ("own", Resources(cpu=1)),
    }


def test_a_registered_group_gives_its_resources_to_who_names_it(env: Any, rows: Any) -> None:
    assert env.register_slot_sharing_group(ps.SlotSharingGroup("heavy", cpu=1.5, memory="64MiB")) is env
    rows.map(same).name("named").slot_sharing_group("heavy").print(name="out")
    assert groups(env)["named -> out"] == ("heavy", Resources(1.5, 64 * 2**20))


def test_pyflink_s_way_to_say_it(env: Any, rows: Any) -> None:
    group = (
        ps.SlotSharingGroup.builder("heavy")
        .set_cpu_cores(1.0)
        .set_task_heap_memory_mb(100)
        .set_managed_memory_mb(28)
        .set_external_resource("gpu", 2.0)
        .build()
    )
    rows.map(same).name("heavy").slot_sharing_group(group).print(name="out")
    assert groups(env)["heavy -> out"] == ("heavy", Resources(1.0, 128 * 2**20, 2.0))


def test_contradictions_are_refused_with_names(env: Any, rows: Any) -> None:
    group = ps.SlotSharingGroup("own", cpu=1)
    rows.map(same).name("first").slot_sharing_group(group).map(same).name("second").resources(gpu=1).slot_sharing_group(
        "own"
    ).print()
    assert refusal(env).endswith(
        "it asks for gpu 1, but it is in the slot sharing group 'own', and it was registered with cpu 1; "
        "say one of them, or give it a group of its own"
    )
    assert "operator 'second'" in refusal(env)


def test_two_operators_that_want_different_things_of_their_group(env: Any, rows: Any) -> None:
    first = rows.map(same).name("first").slot_sharing_group("own").resources(cpu=1)
    first.map(same).name("second").slot_sharing_group("own").resources(cpu=2).print()
    assert "operator 'second'" in refusal(env)
    assert "operator 'first' gives it cpu 1" in refusal(env)


def test_a_group_that_is_registered_twice(env: Any) -> None:
    env.register_slot_sharing_group(ps.SlotSharingGroup("own", cpu=1))
    env.register_slot_sharing_group(ps.SlotSharingGroup("own", cpu=1))
    with pytest.raises(PipelineError, match="'own' was given cpu 1 before, and is given cpu 2 now"):
        env.register_slot_sharing_group(ps.SlotSharingGroup("own", cpu=2))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"cpu": -1}, "cpu must be a number of at least 0, not -1"),
        ({"cpu": "two"}, "cpu must be a number"),
        ({"cpu": float("nan")}, "cpu must be a number"),
        ({"memory": "much"}, "'much' is not a size"),
        ({"memory": -5}, "-5 is not a size"),
        ({"gpu": 1.5}, "gpu is a whole number, or a part of one; 1.5 is neither"),
        ({"custom": {"CPU": 1}}, "'CPU' cannot be the name of a custom resource"),
        ({"custom": {"fpga": True}}, "fpga must be a number"),
        ({}, "asks for nothing"),
        ({"cpu": 0}, "asks for nothing"),
    ],
)
def test_what_cannot_be_asked_for(env: Any, rows: Any, asked: dict[str, Any], said: str) -> None:
    rows.map(same).name("heavy").resources(**asked).print()
    assert "operator 'heavy'" in refusal(env)
    assert said in refusal(env)


def test_a_group_needs_a_name() -> None:
    with pytest.raises(PipelineError, match="has a name"):
        ps.SlotSharingGroup("", cpu=1)


def test_each_place_in_the_graph_gets_a_slot_that_has_what_it_asks_for(env: Any, rows: Any) -> None:
    env.set_parallelism(2)
    rows.map(same).name("plain").set_parallelism(1).map(same).name("heavy").resources(gpu=1).set_parallelism(2).print()
    graph = ExecutionGraph(env.job_graph())
    gpu = Resources(gpu=1)
    assert sorted(graph.slots_needed, key=bool) == [NO_RESOURCES, NO_RESOURCES, gpu, gpu]
    graph.begin_attempt(Attempt(1))
    slots = {SlotId("a"): gpu, SlotId("b"): NO_RESOURCES, SlotId("c"): gpu, SlotId("d"): NO_RESOURCES}
    graph.assign(slots)
    for subtask in graph.subtasks:
        assert slots[graph.slot_of(subtask)] == graph.vertices[subtask.vertex].resources


# ---- amounts


def test_amounts_add_up_as_ray_counts_them() -> None:
    room = Resources(cpu=1.0)
    for _ in range(10):
        assert Resources(cpu=0.1).fits(room)
        room = room.without(Resources(cpu=0.1))
    assert not Resources(cpu=0.1).fits(room)
    assert not room
    assert str(resources_of(cpu=0.5, memory=3 * GIB // 7)) == "cpu 0.5, memory 0.4GiB"


# ---- pools


def test_a_pool_has_no_more_subtasks_than_actors(env: Any, rows: Any) -> None:
    env.set_parallelism(4)
    rows.map_batches(Model, concurrency=2, gpu=0.5, batch_size=16).name("model").print(name="out")
    (model,) = [vertex for vertex in env.job_graph().vertices if vertex.name.startswith("model")]
    assert (model.parallelism, model.resources, model.slot_sharing_group) == (2, NO_RESOURCES, "default")
    assert "pool: 2 models, each with gpu 0.5, batches of 16 records" in env.describe()


def test_resources_of_a_pool_are_those_of_its_actors(env: Any, rows: Any) -> None:
    rows.map_batches(functools.partial(Model), concurrency=3).name("model").resources(gpu=1, memory="2GiB").print()
    assert "pool: 3 models, each with memory 2GiB, gpu 1, batches of 1024 records" in env.describe()
    assert all(not vertex.resources for vertex in env.job_graph().vertices)


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (lambda s: s.map_batches(Model, concurrency=0), "concurrency must be between 1 and 10000, not 0"),
        (lambda s: s.map_batches(Model, concurrency=True), "concurrency must be between"),
        (lambda s: s.map_batches(Model, batch_size=0), "batch_size must be between 1 and 1000000, not 0"),
        (lambda s: s.map_batches(Model, capacity=0), "capacity must be between 1"),
        (lambda s: s.map_batches(Model, cpu=-1), "cpu must be a number of at least 0, not -1"),
        (lambda s: s.map_batches(Model, timeout=0), "timeout must be at least 1 ms"),
        (lambda s: s.map_batches(Model, face="pandas"), "there are no 'pandas' batches"),
        (lambda s: s.map_batches(NoCall), "'NoCall' has no method __call__(batch)"),
        (lambda s: s.map_batches(Asynchronous), "__call__ of 'Asynchronous' must be a plain method"),
        (lambda s: s.map_batches(lambda batch: batch, concurrency=2), "needs a class"),
        (lambda s: s.map_batches(Model, gpu=1).resources(gpu=2), "its actors ask for gpu 1 already"),
        (lambda s: s.map_batches(Model, concurrency=2).set_parallelism(3), "parallelism 3 is more than it can use (2)"),
        (lambda s: s.map_batches(functools.partial(Model, threading.Lock())), "cannot be"),
    ],
)
def test_pools_that_cannot_be(env: Any, rows: Any, add: Callable[[Any], Any], said: str) -> None:
    add(rows).name("model").print()
    assert "operator 'model'" in refusal(env)
    assert said in refusal(env)


def test_a_local_job_says_that_it_does_not_heed_resources(env: Any, rows: Any, capsys: Any) -> None:
    env.configure(ps.Configuration({"execution.target": "local"}))
    env.disable_checkpointing()
    found = rows.map(same).name("heavy").resources(cpu=1, gpu=1).execute_and_collect()
    assert list(found) == [Row(1)]
    assert "resources are only noted: all slots of a local job share this process; 'heavy' (cpu 1, gpu 1)" in (
        capsys.readouterr().err
    )


def test_sizes_in_text_are_refused_like_elsewhere() -> None:
    with pytest.raises((PipelineError, ConfigurationError), match="memory"):
        resources_of(memory="1 GiBB")
