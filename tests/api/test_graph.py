"""From transformations to the job graph: chains, edges, ids, validation, description."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import cloudpickle
import msgspec
import pytest

from penstock.api.environment import StreamExecutionEnvironment
from penstock.runtime.configuration.config import Configuration
from penstock.runtime.graph.chaining import build_job_graph, operator_ids
from penstock.runtime.graph.describe import describe, plan
from penstock.runtime.graph.partitioning import Forward, Hash, Partitioning, Rebalance
from penstock.runtime.graph.transformations import Input, Transformation
from penstock.runtime.keys import KeyByColumns
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import OPAQUE, RecordType, record_type_of
from penstock.state.errors import ConfigurationError, PipelineError

FORWARD = Forward()
HASH = Hash(KeyByColumns(["value"]))
INT = record_type_of(int)


class Doing(Operator):
    def __init__(self, what: Any = None, output_type: RecordType = INT, stateful: bool = False) -> None:
        self.what = what
        self.output_type = output_type
        self.stateful = stateful


class Pipe:
    """Transformations by name, with little writing."""

    def __init__(self) -> None:
        self.all: dict[str, Transformation] = {}

    def add(
        self,
        name: str,
        *inputs: str | tuple[str, Partitioning],
        operator: Operator | None = None,
        uid: str | None = None,
        tag: str | None = None,
        kind: str = "map",
        **settings: Any,
    ) -> None:
        pairs = [(each, FORWARD) if isinstance(each, str) else each for each in inputs]
        edges = tuple(Input(self.all[upstream], partitioning, tag) for upstream, partitioning in pairs)
        operator = operator or Doing()
        self.all[name] = Transformation(
            len(self.all), kind, name, uid, operator, operator.output_type, edges, **settings
        )

    def chains(self, **options: object) -> list[str]:
        return [vertex.name for vertex in self.graph(**options).vertices]

    def graph(self, **options: object) -> Any:
        config = Configuration({key.replace("__", "-").replace("_", "."): value for key, value in options.items()})
        return build_job_graph(list(self.all.values()), config, "job")


def test_forward_neighbours_are_one_chain() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b", "a")
    pipe.add("c", "b")
    graph = pipe.graph()
    assert [vertex.name for vertex in graph.vertices] == ["a -> b -> c"]
    assert [operator.parent for operator in graph.vertices[0].operators] == [None, 0, 1]
    assert graph.edges == ()


def test_a_chain_is_a_tree_with_side_outputs() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b", "a")
    pipe.add("late", "a", tag="late")
    pipe.add("c", "b")
    (vertex,) = pipe.graph().vertices
    assert vertex.name == "a -> (b -> c, late)"
    assert [(each.name, each.parent, each.tag) for each in vertex.operators] == [
        ("a", None, None), ("b", 0, None), ("late", 0, "late"), ("c", 1, None),
    ]  # fmt: skip


def test_a_hash_edge_cuts_the_chain() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b", "a")
    pipe.add("c", ("b", HASH))
    graph = pipe.graph()
    assert [vertex.name for vertex in graph.vertices] == ["a -> b", "c"]
    (edge,) = graph.edges
    assert (edge.source, edge.operator, edge.target, edge.tag) == (graph.vertices[0].id, 1, graph.vertices[1].id, None)
    assert edge.partitioning is HASH


@pytest.mark.parametrize(
    "settings",
    [
        {"chaining": "head"},
        {"chaining": "never"},
        {"slot_sharing_group": "other"},
        {"max_parallelism": 64},
        {"operator": type("Alone", (Doing,), {"chainable": False})()},
    ],
)
def test_what_forbids_chaining(settings: dict[str, Any]) -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b", "a", **settings)
    assert pipe.chains() == ["a", "b"]


def test_nothing_is_chained_behind_an_operator_that_never_chains() -> None:
    pipe = Pipe()
    pipe.add("a", chaining="never")
    pipe.add("b", "a")
    assert pipe.chains() == ["a", "b"]


def test_another_parallelism_cuts_the_chain() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b", ("a", Rebalance()), parallelism=2)
    assert pipe.chains() == ["a", "b"]


def test_chaining_can_be_switched_off() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b", "a")
    assert pipe.chains(pipeline_operator__chaining=False) == ["a", "b"]


def test_a_union_has_one_edge_for_each_input() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b")
    pipe.add("both", "a", "b")
    graph = pipe.graph()
    assert [vertex.name for vertex in graph.vertices] == ["a", "b", "both"]
    assert [(edge.source, edge.input_index) for edge in graph.edges] == [
        (graph.vertices[0].id, 0),
        (graph.vertices[1].id, 0),
    ]


def test_operators_travel_as_bytes() -> None:
    pipe = Pipe()
    pipe.add("a", operator=Doing(lambda x: x + 1))
    operator = cloudpickle.loads(pipe.graph().vertices[0].operators[0].pickled)
    assert operator.what(1) == 2


# ids


def ids(pipe: Pipe) -> dict[str, str]:
    found = operator_ids(list(pipe.all.values()))
    return {each.name: found[each.id] for each in pipe.all.values()}


def two_branches(*, extra: bool = False, other_name: str = "x", parallelism: int = 1) -> Pipe:
    pipe = Pipe()
    if extra:
        pipe.add("s0", kind="sequence")
        pipe.add("m0", "s0", kind="filter")
    pipe.add("s", kind="source")
    pipe.add(other_name, "s", kind="filter")
    pipe.add("y", ("s", HASH), parallelism=parallelism)
    return pipe


@pytest.mark.parametrize("parallelism", [2, 3])
def test_a_step_with_a_parallelism_of_its_own_leaves_ids_alone(parallelism: int) -> None:
    """Between steps of unequal parallelism records are spread, between equal ones they are not."""

    def ids_at(parallelism: int) -> list[str]:
        env = StreamExecutionEnvironment().set_parallelism(parallelism)
        env.from_collection([1]).map(abs).map(abs).set_parallelism(2).map(abs).key_by(abs).reduce(max).print()
        return [each.id for vertex in env.job_graph("ids").vertices for each in vertex.operators]

    assert sorted(ids_at(parallelism)) == sorted(ids_at(1))


def test_an_unrelated_branch_a_name_and_parallelism_leave_ids_alone() -> None:
    before = ids(two_branches())
    assert ids(two_branches(extra=True))["y"] == before["y"]
    assert ids(two_branches(other_name="z"))["z"] == before["x"]
    assert ids(two_branches(parallelism=2))["y"] == before["y"]


def test_operators_that_look_alike_have_different_ids() -> None:
    pipe = Pipe()
    pipe.add("s")
    pipe.add("a", "s")
    pipe.add("b", "s")
    pipe.add("c", "s", tag="late")
    assert len(set(ids(pipe).values())) == 4


def test_the_id_is_the_uid() -> None:
    pipe = Pipe()
    pipe.add("a", uid="words.count-1")
    pipe.add("b", "a", uid="a/b c")
    pipe.add("c", "a", uid="a b/c")
    found = ids(pipe)
    assert found["a"] == "words.count-1"
    assert "/" not in found["b"] + found["c"]
    assert found["b"] != found["c"]


# refusals


def test_parallelism_above_max_parallelism() -> None:
    pipe = Pipe()
    pipe.add("a", parallelism=9, max_parallelism=8)
    with pytest.raises(PipelineError, match=r"operator 'a': parallelism 9 is above max parallelism 8"):
        pipe.graph()


def test_two_operators_with_one_uid() -> None:
    pipe = Pipe()
    pipe.add("a", uid="same")
    pipe.add("b", "a", uid="same")
    with pytest.raises(PipelineError, match="operator 'b': the uid 'same' is taken by operator 'a'"):
        pipe.graph()


def test_forward_between_different_parallelisms() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b", "a", parallelism=2)
    with pytest.raises(
        PipelineError, match=r"operator 'b': forward\(\) needs the parallelism of 'a' \(1\), but it has 2"
    ):
        pipe.graph()


def test_generic_types_can_be_refused() -> None:
    pipe = Pipe()
    pipe.add("a", operator=Doing(output_type=OPAQUE))
    pipe.graph()
    with pytest.raises(PipelineError, match="operator 'a': its records would be pickled"):
        pipe.graph(pipeline_generic__types=False)


def test_a_function_that_cannot_be_serialised_names_what_is_in_the_way() -> None:
    lock = threading.Lock()
    pipe = Pipe()
    pipe.add("a", operator=Doing(lambda x: (lock, x)))
    with pytest.raises(
        PipelineError, match=r"operator 'a': its function cannot be serialised.*'lock' \(a _thread.lock\)"
    ):
        pipe.graph()


def test_the_culprit_is_found_inside_objects_and_inner_functions() -> None:
    class Holder:
        def __init__(self) -> None:
            self.connection = threading.Lock()

    holder = Holder()

    def outer(x: int) -> Any:
        return [holder for _ in range(x)]

    pipe = Pipe()
    pipe.add("a", operator=Doing(outer))
    with pytest.raises(PipelineError, match="'connection'"):
        pipe.graph()


def test_all_problems_are_reported_together() -> None:
    pipe = Pipe()
    pipe.add("a", parallelism=200, uid="same")
    pipe.add("b", ("a", HASH), uid="same")
    with pytest.raises(PipelineError, match=r"2 problems:\n  - operator 'b': the uid.*\n  - operator 'a': parallelism"):
        pipe.graph()


def test_windows_must_fit_the_network_memory() -> None:
    pipe = Pipe()
    pipe.add("a", parallelism=100)
    pipe.add("b", ("a", HASH), parallelism=100)
    pipe.graph()
    with pytest.raises(PipelineError, match=r"100 channels with a window of 1MiB each.*\(64MiB\)"):
        pipe.graph(taskmanager_memory_network_max="64MiB")


def test_options_are_checked_before_the_pipeline() -> None:
    with pytest.raises(ConfigurationError, match="no option"):
        Pipe().graph(pipeline_generics=False)


# warnings and description


def test_stateful_operators_without_a_uid_are_warned_of() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.add("b", "a", operator=Doing(stateful=True))
    pipe.add("c", "b", operator=Doing(stateful=True), uid="c")
    (warning,) = pipe.graph().warnings
    assert "no uid is set for 'b':" in warning


def test_equal_names_are_warned_of() -> None:
    pipe = Pipe()
    pipe.add("a")
    pipe.all["second"] = Transformation(1, "map", "a", None, Doing(), INT, (Input(pipe.all["a"], FORWARD),))
    assert "several operators are called 'a'" in pipe.graph().warnings[0]


def test_description() -> None:
    pipe = Pipe()
    pipe.add("numbers", kind="source", parallelism=2)
    pipe.add("parse", "numbers", operator=Doing(output_type=OPAQUE), parallelism=2)
    columnar = Doing()
    columnar.face = "columns"
    pipe.add("totals", ("parse", HASH), operator=columnar, kind="window agg", uid="t", slot_sharing_group="big")
    assert describe(pipe.graph()).splitlines() == [
        "job 'job'",
        "[1] numbers -> parse: parallelism 2 of 128",
        "    numbers (source): rows -> int",
        "    parse (map): pickled rows -> opaque, because its type is not declared",
        "        faster: say what the function returns (annotation or output_type=…), and records travel as columns",
        "[2] totals: parallelism 1 of 128, slot sharing group big",
        "    reads [1] 'parse': hash",
        "    totals (window agg, uid 't'): vectorised -> int",
    ]
    assert [operator["runs"] for vertex in plan(pipe.graph())["vertices"] for operator in vertex["operators"]] == [
        "rows", "pickled rows", "vectorised",
    ]  # fmt: skip


def test_a_class_that_msgspec_has_looked_at_still_travels_by_value() -> None:
    @dataclass
    class Record:
        x: int

    msgspec.json.Decoder(Record).decode(b'{"x": 1}')
    pipe = Pipe()
    pipe.add("a", operator=Doing(lambda x: Record(x)))
    made = cloudpickle.loads(pipe.graph().vertices[0].operators[0].pickled).what(2)
    assert made == Record(2)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Record) == made
