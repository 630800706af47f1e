"""A job graph for people: tasks, chains, edges, and per operator how it runs and what would make it faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .job_graph import ChainedOperator, Edge, JobGraph, Vertex

_FASTER = {
    "map": "with_columns(…) or map_batches(…) would run vectorised",
    "filter": "a polars expression, filter(pl.col(…) > …), would run vectorised",
    "window reduce": "agg(…) would run vectorised",
    "window aggregate": "agg(…) would run vectorised",
    "window agg": "it runs vectorised where the stream's type is known, key_by names columns, no aggregate needs rows",
}
"""What a Python function of this kind could be replaced by."""


def mode(operator: ChainedOperator) -> str:
    """'vectorised' on Arrow columns, 'rows' of a known type, or 'pickled rows'."""
    if operator.face == "columns":
        return "vectorised"
    return "pickled rows" if is_opaque(operator) else "rows"


def is_opaque(operator: ChainedOperator) -> bool:
    return operator.output_type.startswith("opaque") and not operator.is_sink


def advice(operator: ChainedOperator) -> str:
    """What would make it faster; empty when nothing simple would."""
    if operator.face == "columns":
        return ""
    if is_opaque(operator) and not operator.is_source:
        return "say what the function returns (annotation or output_type=…), and records travel as columns"
    if is_opaque(operator):
        return "give the source a type, and records travel as columns"
    return _FASTER.get(operator.kind, "")


def plan(graph: JobGraph) -> dict[str, Any]:
    """The graph as plain data, for JSON."""
    return {
        "job_name": graph.job_name,
        "vertices": [
            {
                "id": vertex.id,
                "name": vertex.name,
                "parallelism": vertex.parallelism,
                "max_parallelism": vertex.max_parallelism,
                "slot_sharing_group": vertex.slot_sharing_group,
                "resources": vertex.resources.amounts(),
                "inputs": [
                    {
                        "vertex": edge.source,
                        "operator": edge.operator,
                        "side_output": edge.tag,
                        "partitioning": ship(edge),
                        "input": edge.input_index,
                    }
                    for edge in _inputs(graph, vertex)
                ],
                "operators": [_operator_plan(operator) for operator in vertex.operators],
            }
            for vertex in graph.vertices
        ],
        "warnings": list(graph.warnings),
    }


def _operator_plan(operator: ChainedOperator) -> dict[str, Any]:
    return {
        "id": operator.id,
        "uid": operator.uid,
        "name": operator.name,
        "kind": operator.kind,
        "runs": mode(operator),
        "output_type": operator.output_type,
        "parent": operator.parent,
        "side_output": operator.tag,
        "advice": advice(operator),
        "note": operator.note,
    }


def describe(graph: JobGraph) -> str:
    """Several lines of text."""
    return "\n".join(_lines(graph))


def _lines(graph: JobGraph) -> Iterator[str]:
    number = {vertex.id: index for index, vertex in enumerate(graph.vertices, start=1)}
    yield f"job '{graph.job_name}'{' in batch mode' if graph.batch_mode else ''}"
    for vertex in graph.vertices:
        group = "" if vertex.slot_sharing_group == "default" else f", slot sharing group {vertex.slot_sharing_group}"
        parallelism = f"parallelism {vertex.parallelism} of {vertex.max_parallelism}"
        slots = f", each slot with {vertex.resources}" if vertex.resources else ""
        yield f"[{number[vertex.id]}] {vertex.name}: {parallelism}{group}{slots}"
        edges = _inputs(graph, vertex)
        two = any(edge.input_index for edge in edges)
        for edge in edges:
            source = graph.vertices[number[edge.source] - 1].operators[edge.operator]
            side = f", side output '{edge.tag}'" if edge.tag else ""
            place = f" as input {edge.input_index + 1}" if two else ""
            yield f"    reads [{number[edge.source]}] '{source.name}'{side}{place}: {ship(edge)}"
        for operator in vertex.operators:
            yield from _operator_lines(operator)
    yield from (f"warning: {warning}" for warning in graph.warnings)


def _operator_lines(operator: ChainedOperator) -> Iterator[str]:
    uid = f", uid '{operator.uid}'" if operator.uid else ""
    arrow = "" if operator.is_sink else f" -> {operator.output_type}"
    yield f"    {operator.name} ({operator.kind}{uid}): {mode(operator)}{arrow}"
    if operator.note:
        yield f"        {operator.note}"
    if hint := advice(operator):
        yield f"        faster: {hint}"


def ship(edge: Edge) -> str:
    """'hash', 'rebalance', ...: how records find their subtask."""
    return type(edge.partitioning).__name__.lower()


def _inputs(graph: JobGraph, vertex: Vertex) -> list[Edge]:
    return [edge for edge in graph.edges if edge.target == vertex.id]
