"""What operators ask of their machines, while a pipeline is written down: groups of slots, and what each slot has.

    .slot_sharing_group("a")              the operator's slots are of that group; followers inherit it
    .resources(cpu=1, memory="2GiB")      without a group given to it, the operator gets one of its own, which nobody
                                          inherits; with one, it is the group that has the resources
    SlotSharingGroup("a", cpu=1)          a group with its resources, given to an operator, or registered

Operators with a pool of actors (map_batches of a class) run in slots as always: their resources are those of an actor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..runtime.graph.validation import Problem
from ..runtime.hints import with_options
from ..runtime.resources import NO_RESOURCES, Resources, resources_of
from ..state.errors import PipelineError

if TYPE_CHECKING:
    from .steps import Pipeline, Step

DEFAULT_GROUP = "default"


class SlotSharingGroup:
    """Operators of one group share slots; all its slots have these resources (Flink's class of that name).

    SlotSharingGroup("heavy", cpu=2, memory="4GiB"), or Flink's builder. PipelineError: what cannot be asked for."""

    @with_options
    def __init__(
        self,
        name: str,
        *,
        cpu: float | None = None,
        memory: str | int | None = None,
        gpu: float | None = None,
        custom: Mapping[str, float] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise PipelineError(f"a slot sharing group has a name, not {name!r}")
        self.name = name
        self.resources = resources_of(cpu, memory, gpu, custom)

    @staticmethod
    def builder(name: str) -> SlotSharingGroupBuilder:
        return SlotSharingGroupBuilder(name)


class SlotSharingGroupBuilder:
    """As PyFlink's scripts write it. Memory of all kinds is one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._cpu = 0.0
        self._mebibytes: dict[str, int] = {}
        self._external: dict[str, float] = {}

    def set_cpu_cores(self, cpu_cores: float) -> SlotSharingGroupBuilder:
        self._cpu = cpu_cores
        return self

    def set_task_heap_memory_mb(self, task_heap_memory_mb: int) -> SlotSharingGroupBuilder:
        self._mebibytes["heap"] = task_heap_memory_mb
        return self

    def set_task_off_heap_memory_mb(self, task_off_heap_memory_mb: int) -> SlotSharingGroupBuilder:
        self._mebibytes["off heap"] = task_off_heap_memory_mb
        return self

    def set_managed_memory_mb(self, managed_memory_mb: int) -> SlotSharingGroupBuilder:
        self._mebibytes["managed"] = managed_memory_mb
        return self

    def set_external_resource(self, name: str, value: float) -> SlotSharingGroupBuilder:
        """'gpu', or one that nodes were given by name."""
        self._external[name] = value
        return self

    def build(self) -> SlotSharingGroup:
        custom = dict(self._external)
        gpu = custom.pop("gpu", None)
        memory = sum(self._mebibytes.values()) * 2**20
        return SlotSharingGroup(self._name, cpu=self._cpu, memory=memory, gpu=gpu, custom=custom)


@dataclass(slots=True)
class SlotGroups:
    """Of the steps of a pipeline."""

    names: dict[int, str] = field(default_factory=dict)
    """By the step's id."""
    resources: dict[str, Resources] = field(default_factory=dict)
    """By the group's name; groups without any are not in it."""
    problems: list[Problem] = field(default_factory=list)


def slot_groups(steps: Sequence[Step], registered: Mapping[str, Resources]) -> SlotGroups:
    """Of steps in order, inputs before their readers. What contradicts itself is among the problems."""
    found = SlotGroups(resources={name: resources for name, resources in registered.items() if resources})
    said_by = {name: f"it was registered with {resources}" for name, resources in found.resources.items()}
    taken = {DEFAULT_GROUP, *registered, *(step.slot_sharing_group for step in steps if step.slot_sharing_group)}
    inherited: dict[int, str] = {}
    for step in steps:
        above = inherited[step.inputs[0].step.id] if step.inputs else DEFAULT_GROUP
        inherited[step.id] = name = step.slot_sharing_group or above
        if step.resources and not step.slot_sharing_group:
            name = _free_name(step.name, taken)
            taken.add(name)
        found.names[step.id] = name
        if not step.resources:
            continue
        known = found.resources.setdefault(name, step.resources)
        said_by.setdefault(name, f"operator '{step.name}' gives it {step.resources}")
        if known != step.resources:
            found.problems.append(
                Problem(
                    step.name,
                    f"it asks for {step.resources}, but it is in the slot sharing group '{name}', and {said_by[name]}; "
                    "say one of them, or give it a group of its own",
                    step.location,
                )
            )
    return found


def _free_name(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted} {number}"
    return name


def give_resources(pipeline: Pipeline, step: Step, resources: Resources) -> None:
    """What `.resources(...)` of an operator says."""
    from ..runtime.operators.model_pool import ModelPoolOperator

    if not resources:
        pipeline.problem(step, "resources(...) asks for nothing; say cpu=, memory=, gpu= or custom=")
    elif not isinstance(step.operator, ModelPoolOperator):
        step.resources = resources
    elif step.operator.settings.resources not in (NO_RESOURCES, resources):
        had = step.operator.settings.resources
        pipeline.problem(step, f"its actors ask for {had} already, and resources(...) for {resources}; say one of them")
    else:
        step.operator.with_resources(resources)


def register(pipeline: Pipeline, group: SlotSharingGroup) -> None:
    """PipelineError: a group of that name has other resources."""
    known = pipeline.groups.setdefault(group.name, group.resources)
    if known != group.resources:
        if known and group.resources:
            raise PipelineError(
                f"the slot sharing group '{group.name}' was given {known} before, and is given {group.resources} now"
            )
        pipeline.groups[group.name] = known or group.resources
