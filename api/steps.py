"""The pipeline while it is written down: steps that can still be named and configured, and what is wrong with them.

A mistake does not stop the script at its line: it is remembered with the step and reported, with the step's name and
line, together with all others when the pipeline is executed. What follows a broken step is not judged any more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..runtime.changelog import ChangelogMode, Incoming, mode_of_results
from ..runtime.functions import OutputTag
from ..runtime.graph.partitioning import Forward, Partitioning, Rebalance
from ..runtime.graph.transformations import Input, Transformation
from ..runtime.graph.validation import Problem
from ..runtime.hints import nearest, with_options
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import OPAQUE, OpaqueType, RecordType, record_type_of
from ..runtime.resources import NO_RESOURCES, Resources, resources_of
from ..state.errors import PenstockError
from .missing import Guiding
from .resources import SlotGroups, SlotSharingGroup, give_resources, register
from .signatures import user_frame

if TYPE_CHECKING:
    from ..runtime.connector import Sink, Source
    from .environment import StreamExecutionEnvironment

S = TypeVar("S", bound="Configurable")


@dataclass(frozen=True, eq=False, slots=True)
class Upstream:
    """Where a stream comes from: a step's main or side output, and how it is partitioned for its reader."""

    step: Step
    partitioning: Partitioning | None = None
    """None: forward where parallelism allows it, else rebalance."""
    tag: str | None = None
    input_index: int = 0
    """1: its reader has two inputs, and this is (or belongs to) the second."""


@dataclass(eq=False, slots=True)
class Step:
    """A transformation that can still change."""

    id: int
    kind: str
    name: str
    operator: Operator
    output_type: RecordType
    inputs: tuple[Upstream, ...]
    location: str
    broken: bool = False
    uid: str | None = None
    parallelism: int | None = None
    max_parallelism: int | None = None
    chaining: str = "always"
    slot_sharing_group: str | None = None
    resources: Resources = NO_RESOURCES
    description: str = ""
    source: Source[Any] | None = None
    sink: Sink | None = None
    consumed_tags: set[str] = field(default_factory=set)
    changelog_mode: ChangelogMode = ChangelogMode.INSERT_ONLY
    """Of its results, on all its outputs."""
    tag_types: dict[str, RecordType] = field(default_factory=dict)
    """Record types of side outputs that the step knows better than their tags."""

    def side_type(self, tag: OutputTag[Any]) -> RecordType:
        """Of what goes to that side output."""
        if tag.type is not None:
            return record_type_of(tag.type)
        return self.tag_types.get(tag.name, OpaqueType("its tag has no type"))


class Pipeline:
    """All steps of an environment, in the order they were written down."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.groups: dict[str, Resources] = {}
        """Slot sharing groups that were registered with their resources."""
        self._problems: list[tuple[Step, str]] = []
        self._next_id = 0

    def add(
        self,
        kind: str,
        make: Callable[[], Operator],
        inputs: Sequence[Upstream],
        *,
        name: str | None,
        source: Source[Any] | None = None,
        sink: Sink | None = None,
    ) -> Step:
        """A new step; its operator is made here, and what is wrong with it is remembered."""
        frame = user_frame()
        location = "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        operator, mode, message = Operator(), ChangelogMode.INSERT_ONLY, ""
        broken = any(upstream.step.broken for upstream in inputs)
        if not broken:
            try:
                operator = make()
                streams = [Incoming(each.input_index, each.step.changelog_mode, each.step.name) for each in inputs]
                mode = mode_of_results(operator, streams)
            except (PenstockError, TypeError) as error:
                message, broken = str(error), True
        output_type = OPAQUE if broken else operator.output_type
        step = Step(
            self._next_id, kind, name or self.free_name(kind), operator, output_type, tuple(inputs), location, broken
        )
        step.source, step.sink, step.changelog_mode = source, sink, mode
        self._next_id += 1
        self.steps.append(step)
        if message:
            self._problems.append((step, message))
        return step

    def problem(self, step: Step, message: str) -> None:
        self._problems.append((step, message))

    def problems_in(self, steps: Sequence[Step]) -> list[Problem]:
        found = [Problem(step.name, text, step.location) for step, text in self._problems if step in steps]
        return [*found, *(Problem(step.name, text, step.location) for step in steps for text in _unknown_tags(step))]

    def free_name(self, kind: str) -> str:
        taken = {step.name for step in self.steps}
        number = 1
        while (name := kind if number == 1 else f"{kind} {number}") in taken:
            number += 1
        return name


_TAGS_KNOWN = frozenset({
    "source", "map", "filter", "select", "with columns", "map batches", "timestamps", "async map", "reduce", "sum",
    "min", "max", "min by", "max by", "count", "window agg", "window agg on rows", "only inserts", "row kinds",
    "to upsert",
})  # fmt: skip
"""Kinds of steps whose functions cannot give anything to a side output."""


def _unknown_tags(step: Step) -> list[str]:
    """What is wrong with the side outputs that are read."""
    known = step.operator.side_tags
    if step.broken or step.kind not in _TAGS_KNOWN:
        return []
    there = f"there is {', '.join(map(repr, sorted(known)))}" if known else "it gives nothing to side outputs"
    return [
        f"get_side_output: nothing goes to the side output {tag!r}: {there}{nearest(tag, known)}"
        for tag in sorted(step.consumed_tags - known)
    ]


def with_upstream(steps: Sequence[Step]) -> list[Step]:
    """The steps and everything they read, inputs before their readers."""
    found: dict[int, Step] = {}
    left = list(steps)
    while left:
        step = left.pop()
        if step.id not in found:
            found[step.id] = step
            left += [upstream.step for upstream in step.inputs]
    return [found[id_] for id_ in sorted(found)]


def unread(steps: Sequence[Step]) -> str:
    """Names of those that have results, and neither a reader nor an end; empty if there are none."""
    read = {upstream.step.id for step in steps for upstream in step.inputs}
    return ", ".join(f"'{step.name}'" for step in steps if step.sink is None and step.id not in read)


def freeze(
    steps: Sequence[Step], parallelism: int, max_parallelism: int, groups: SlotGroups, *, batch_mode: bool
) -> list[Transformation]:
    """Transformations of steps (which are in order), with the environment's parallelism where they have none."""
    frozen: dict[int, Transformation] = {}
    for step in steps:
        own = step.parallelism or min(parallelism, step.operator.most_subtasks or parallelism)
        inputs = tuple(_input(upstream, frozen[upstream.step.id], own) for upstream in step.inputs)
        group = groups.names[step.id]
        operator = step.operator.in_batch_mode() if batch_mode else step.operator
        if not step.consumed_tags <= operator.side_tags:
            operator = copy.copy(operator)
            operator.side_tags = operator.side_tags | step.consumed_tags
        frozen[step.id] = Transformation(
            step.id,
            step.kind,
            step.name,
            step.uid,
            operator,
            step.output_type,
            inputs,
            own,
            step.max_parallelism or max_parallelism,
            group,
            step.chaining,
            step.source,
            None if step.broken else step.sink,
            step.description,
            groups.resources.get(group, NO_RESOURCES),
            step.changelog_mode,
        )
    return list(frozen.values())


def _input(upstream: Upstream, source: Transformation, parallelism: int) -> Input:
    default = Forward() if source.parallelism == parallelism else Rebalance()
    return Input(source, upstream.partitioning or default, upstream.tag, upstream.input_index)


class Configurable(Guiding):
    """What can be said about the operator that was just added; every method returns the stream."""

    _env: StreamExecutionEnvironment
    _step: Step | None

    def _own_step(self, what: str) -> Step:
        if self._step is None:
            raise AttributeError(f"{what} belongs to an operator; call it right after the operator, not on a union, "
                                 "a side output or a partitioned stream")  # fmt: skip
        return self._step

    def name(self: S, name: str) -> S:
        self._own_step("name()").name = name
        return self

    def uid(self: S, uid: str) -> S:
        """What the operator's state is found by when a changed pipeline is restored."""
        self._own_step("uid()").uid = uid
        return self

    def set_parallelism(self: S, parallelism: int) -> S:
        step = self._own_step("set_parallelism()")
        if type(parallelism) is not int or parallelism < 1:
            self._env.pipeline.problem(step, f"parallelism must be an int of at least 1, not {parallelism!r}")
        else:
            step.parallelism = parallelism
        return self

    def set_max_parallelism(self: S, max_parallelism: int) -> S:
        step = self._own_step("set_max_parallelism()")
        if type(max_parallelism) is not int or not 1 <= max_parallelism <= 32_768:
            self._env.pipeline.problem(step, f"max parallelism must be between 1 and 32768, not {max_parallelism!r}")
        else:
            step.max_parallelism = max_parallelism
        return self

    def disable_chaining(self: S) -> S:
        """Run this operator in a task of its own."""
        self._own_step("disable_chaining()").chaining = "never"
        return self

    def start_new_chain(self: S) -> S:
        """Do not chain this operator with the one before it."""
        self._own_step("start_new_chain()").chaining = "head"
        return self

    def slot_sharing_group(self: S, group: str | SlotSharingGroup) -> S:
        """Operators of different groups never share a slot. Followers inherit the group."""
        step = self._own_step("slot_sharing_group()")
        if isinstance(group, SlotSharingGroup):
            self._noting(step, lambda: register(self._env.pipeline, group))
        step.slot_sharing_group = group.name if isinstance(group, SlotSharingGroup) else group
        return self

    @with_options
    def resources(
        self: S,
        cpu: float | None = None,
        memory: str | int | None = None,
        gpu: float | None = None,
        custom: Mapping[str, float] | None = None,
    ) -> S:
        """Run the operator's subtasks in slots of their own, each of which has these resources to itself: cores, bytes
        or a text like "2GiB", GPUs, and resources that nodes were given by name. On a cluster; elsewhere they are only
        noted. Of map_batches with a pool: what each actor has. An operator that is in a slot sharing group by
        slot_sharing_group(...) says what the group's slots have."""
        step = self._own_step("resources()")
        self._noting(step, lambda: give_resources(self._env.pipeline, step, resources_of(cpu, memory, gpu, custom)))
        return self

    def _noting(self, step: Step, say: Callable[[], None]) -> None:
        try:
            say()
        except PenstockError as error:
            self._env.pipeline.problem(step, str(error))

    def set_description(self: S, description: str) -> S:
        self._own_step("set_description()").description = description
        return self
