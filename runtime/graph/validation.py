"""What makes a pipeline impossible, found before anything runs. All of it is reported together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...state.errors import PenstockError, PipelineError
from ..changelog import ChangelogMode
from ..configuration.config import Configuration
from ..configuration.memory_options import NETWORK_MEMORY, network_bytes
from ..configuration.options import CHANNEL_WINDOW, CHECKPOINT_INTERVAL, GENERIC_TYPES
from ..units import format_size
from .job_graph import JobGraph
from .partitioning import Forward, Rebalance, Rescale
from .transformations import Input, Transformation


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with one operator of a pipeline."""

    operator: str
    message: str
    location: str = ""
    """Where the operator was written down: 'job.py:12'."""

    def __str__(self) -> str:
        place = f" ({self.location})" if self.location else ""
        return f"operator '{self.operator}'{place}: {self.message}"


def raise_problems(problems: Sequence[Problem]) -> None:
    """One PipelineError for all of them; nothing when there are none."""
    if not problems:
        return
    texts = list(dict.fromkeys(map(str, problems)))
    if len(texts) == 1:
        raise PipelineError(texts[0])
    raise PipelineError("\n  - ".join([f"the pipeline has {len(texts)} problems:", *texts]))


def problems_of(transformations: Sequence[Transformation], config: Configuration) -> list[Problem]:
    unbounded = _unbounded(transformations)
    found = list(_duplicate_uids(transformations))
    for each in transformations:
        messages = [
            *_parallelism(each),
            *_overtaken_changes(each),
            *_types(each, config),
            *_connectors(each),
            *_commits(each, each.id in unbounded, config),
        ]
        found += [Problem(each.name, message) for message in messages]
    return found


def warnings_of(transformations: Sequence[Transformation]) -> list[str]:
    unnamed = [each.name for each in transformations if each.operator.stateful and each.uid is None]
    found = []
    if unnamed:
        found.append(
            f"no uid is set for {_listed(unnamed)}: state is found again by the position in the pipeline; "
            "call .uid('…') to be free to change it"
        )
    twice = [name for name, times in Counter(each.name for each in transformations).items() if times > 1]
    if twice:
        found.append(f"several operators are called {_listed(twice)}: metrics and messages cannot tell them apart")
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _duplicate_uids(transformations: Sequence[Transformation]) -> Iterator[Problem]:
    first: dict[str, Transformation] = {}
    for each in transformations:
        if each.uid is None:
            continue
        other = first.setdefault(each.uid, each)
        if other is not each:
            yield Problem(each.name, f"the uid '{each.uid}' is taken by operator '{other.name}'; uids must be unique")


def _parallelism(each: Transformation) -> Iterator[str]:
    if each.parallelism > each.max_parallelism:
        yield (
            f"parallelism {each.parallelism} is above max parallelism {each.max_parallelism}; "
            "lower the one or raise the other (set_max_parallelism)"
        )
    most = each.operator.most_subtasks
    if most is not None and each.parallelism > most:
        yield f"parallelism {each.parallelism} is more than it can use ({most}); lower it, or raise its concurrency"
    for edge in each.inputs:
        if isinstance(edge.partitioning, Forward) and edge.upstream.parallelism != each.parallelism:
            yield (
                f"forward() needs the parallelism of '{edge.upstream.name}' ({edge.upstream.parallelism}), "
                f"but it has {each.parallelism}; use rebalance() or rescale(), or set the same parallelism"
            )


def _overtaken_changes(each: Transformation) -> Iterator[str]:
    for edge in each.inputs:
        if edge.upstream.changelog_mode is not ChangelogMode.INSERT_ONLY and _spreads(edge, each.parallelism):
            yield (
                f"changes that '{edge.upstream.name}' gives would be spread over {each.parallelism} subtasks, where "
                "those of one record overtake each other; call key_by(…) or to_upsert(key) before, or set the "
                f"parallelism of '{edge.upstream.name}' ({edge.upstream.parallelism})"
            )


def _spreads(edge: Input, targets: int) -> bool:
    """One subtask's records, over several."""
    match edge.partitioning:
        case Rebalance():
            return targets > 1
        case Rescale():
            return targets > edge.upstream.parallelism
        case _:
            return False


def _types(each: Transformation, config: Configuration) -> Iterator[str]:
    if each.output_type.opaque and each.sink is None and not config.get(GENERIC_TYPES):
        yield (
            "its records would be pickled, and pipeline.generic-types is false; annotate what the function returns, "
            "or give output_type=…"
        )


def _connectors(each: Transformation) -> Iterator[str]:
    try:
        if each.source is not None:
            each.source.validate()
        if each.sink is not None:
            each.sink.validate(each.output_type)
    except PenstockError as error:
        yield str(error)


def _commits(each: Transformation, unbounded: bool, config: Configuration) -> Iterator[str]:
    if each.sink is None or not unbounded or config.get(CHECKPOINT_INTERVAL):
        return
    if each.sink.delivery == "exactly-once":
        yield (
            "an exactly-once sink of an unbounded stream shows its output at checkpoints, and they are switched off; "
            "call enable_checkpointing('10s')"
        )


def _unbounded(transformations: Sequence[Transformation]) -> set[int]:
    """Ids of the transformations that an unbounded source reaches."""
    found: set[int] = set()
    for each in transformations:
        if (each.source is not None and not each.source.bounded) or any(
            edge.upstream.id in found for edge in each.inputs
        ):
            found.add(each.id)
    return found


def check_network(graph: JobGraph, config: Configuration) -> None:
    """The windows of all channels into a slot must fit its network memory: what cannot fit is refused here, not later.

    A slot runs one subtask of every vertex of its group.
    """
    vertices = {vertex.id: vertex for vertex in graph.vertices}
    channels: Counter[str] = Counter()
    for edge in graph.edges:
        forward = isinstance(edge.partitioning, Forward)
        channels[vertices[edge.target].slot_sharing_group] += 1 if forward else vertices[edge.source].parallelism
    window, limit = config.get(CHANNEL_WINDOW), network_bytes(config)
    for group, count in channels.items():
        if count * window > limit:
            raise PipelineError(
                f"a slot of group '{group}' would have {count} channels with a window of {format_size(window)} each, "
                f"more than {NETWORK_MEMORY.key} ({format_size(limit)}) allows; raise it, lower "
                f"{CHANNEL_WINDOW.key}, or lower the parallelism"
            )
