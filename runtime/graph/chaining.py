"""From transformations to the job graph: chains, ids, pickled operators.

Two neighbours are chained, that is run in one task and hand batches over by a call, when the second one has a single
input, by a forward edge, and both have equal parallelism, equal max parallelism and the same slot sharing group, and
neither forbids it. A chain is a tree: an operator may hand its output to several followers, and side outputs chain
like the main one.

The id of an operator is what its state is found by after a restart. The user's uid if there is one; otherwise a hash
of its kind and its inputs' ids, numbered among those that look alike, so that a change in one branch of the pipeline
leaves the ids of the others as they are, and names and parallelism can change freely.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import xxhash

from ...state.errors import PipelineError
from ...state.ids import OperatorId, VertexId
from ..changelog import ChangelogMode
from ..configuration.config import Configuration
from ..configuration.options import CHAINING
from ..configuration.state_settings import check_settings
from .job_graph import ChainedOperator, Edge, JobGraph, Vertex
from .partitioning import Forward, Rebalance
from .serialization import pickled
from .transformations import Input, Transformation
from .validation import Problem, check_network, problems_of, raise_problems, warnings_of


def build_job_graph(
    transformations: Sequence[Transformation],
    config: Configuration,
    job_name: str,
    problems: Sequence[Problem] = (),
) -> JobGraph:
    """`transformations`: inputs before their readers. `problems`: what was found while they were recorded.

    Raises one PipelineError that names every problem and its operator.
    """
    found = [*problems, *problems_of(transformations, config)]
    bytes_of: dict[int, bytes] = {}
    if not found:
        for each in transformations:
            try:
                bytes_of[each.id] = pickled(each.operator)
                for edge in each.inputs:
                    pickled(edge.partitioning)
            except PipelineError as error:
                found.append(Problem(each.name, str(error)))
    raise_problems(found)

    ids = operator_ids(transformations)
    chains = list(_chains(transformations, config.get(CHAINING)))
    vertices = [_vertex(chain, ids, bytes_of) for chain in chains]
    graph = JobGraph(
        job_name,
        tuple(vertices),
        tuple(_edges(chains, vertices)),
        {ids[each.id]: pickled(each.source) for each in transformations if each.source is not None},
        {ids[each.id]: pickled(each.sink) for each in transformations if each.sink is not None},
        config.to_dict(),
        tuple(warnings_of(transformations)),
    )
    check_settings(config)
    check_network(graph, config)
    return graph


def operator_ids(transformations: Sequence[Transformation]) -> dict[int, OperatorId]:
    """Transformation id -> operator id."""
    ids: dict[int, OperatorId] = {}
    alike: dict[str, int] = {}
    for each in transformations:
        if each.uid is not None:
            ids[each.id] = OperatorId(_plain(each.uid))
            continue
        inputs = [
            f"{ids[edge.upstream.id]}/{edge.tag or ''}/{_way(edge)}{'/second' * edge.input_index}"
            for edge in each.inputs
        ]
        signature = "|".join([each.kind, *inputs])
        number = alike[signature] = alike.get(signature, -1) + 1
        kind = re.sub(r"\W+", "-", each.kind)
        ids[each.id] = OperatorId(f"{kind}-{_hash(f'{signature}#{number}')}")
    return ids


def _way(edge: Input) -> str:
    """Of records over an edge. Where nobody says anything it depends on the parallelism of both ends."""
    return type(Forward() if isinstance(edge.partitioning, Rebalance) else edge.partitioning).__name__


def _plain(uid: str) -> str:
    """The uid where it can be part of an object's name; else a readable rest of it with a hash."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", uid):
        return uid
    return f"{re.sub(r'[^A-Za-z0-9_]+', '-', uid)[:32].strip('-')}-{_hash(uid)}"


def _hash(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())


Chain = list[Transformation]
"""Parents before children; the head comes first."""


def _chains(transformations: Sequence[Transformation], allowed: bool) -> Iterator[Chain]:
    chain_of: dict[int, Chain] = {}
    for each in transformations:
        if allowed and chains_with_input(each):
            chain = chain_of[each.inputs[0].upstream.id]
            chain.append(each)
        else:
            chain = [each]
        chain_of[each.id] = chain
    yield from (chain_of[each.id] for each in transformations if chain_of[each.id][0] is each)


def chains_with_input(each: Transformation) -> bool:
    if len(each.inputs) != 1 or each.chaining != "always" or not each.operator.chainable:
        return False
    upstream, partitioning = each.inputs[0].upstream, each.inputs[0].partitioning
    return (
        isinstance(partitioning, Forward)
        and upstream.chaining != "never"
        and upstream.parallelism == each.parallelism
        and upstream.max_parallelism == each.max_parallelism
        and upstream.slot_sharing_group == each.slot_sharing_group
    )


def _vertex(chain: Chain, ids: dict[int, OperatorId], bytes_of: dict[int, bytes]) -> Vertex:
    position = {each.id: index for index, each in enumerate(chain)}
    head = chain[0]
    operators = tuple(
        ChainedOperator(
            ids[each.id],
            each.name,
            each.uid,
            each.kind,
            bytes_of[each.id],
            None if each is head else position[each.inputs[0].upstream.id],
            None if each is head else each.inputs[0].tag,
            each.source is not None,
            each.sink is not None,
            each.operator.face,
            _type_text(each),
            each.operator.note,
        )
        for each in chain
    )
    return Vertex(
        VertexId(ids[head.id]),
        _chain_name(head, chain),
        operators,
        head.parallelism,
        head.max_parallelism,
        head.slot_sharing_group,
        head.resources,
    )


def _type_text(each: Transformation) -> str:
    reason = getattr(each.output_type, "reason", "")
    mode = each.changelog_mode
    kinds = "" if mode is ChangelogMode.INSERT_ONLY else f", {mode}"
    return f"{each.output_type}, because {reason}{kinds}" if reason else f"{each.output_type}{kinds}"


def _chain_name(node: Transformation, chain: Chain) -> str:
    """'a -> b -> (c, d)', as Flink writes it."""
    children = [each for each in chain if each is not chain[0] and each.inputs[0].upstream is node]
    names = [_chain_name(child, chain) for child in children]
    if not names:
        return node.name
    return f"{node.name} -> {names[0] if len(names) == 1 else '(' + ', '.join(names) + ')'}"


def _edges(chains: Sequence[Chain], vertices: Sequence[Vertex]) -> Iterator[Edge]:
    place = {
        each.id: (vertex.id, index)
        for chain, vertex in zip(chains, vertices, strict=True)
        for index, each in enumerate(chain)
    }
    for chain, vertex in zip(chains, vertices, strict=True):
        for edge in chain[0].inputs:
            source, operator = place[edge.upstream.id]
            yield Edge(source, operator, edge.tag, vertex.id, edge.input_index, edge.partitioning)
