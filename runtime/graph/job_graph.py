"""The job graph: chained vertices, edges, and the pickled operators. What is submitted.

`build_job_graph` chains transformations (equal parallelism, one forward edge, chaining allowed, same slot sharing
group) into vertices, derives ids, pickles operators and validates the whole; every error of the pipeline is
reported together, each with its operator's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...state.ids import OperatorId, VertexId
from ..configuration.options import RUNTIME_MODE
from ..resources import NO_RESOURCES, Resources
from .partitioning import Partitioning


@dataclass(frozen=True, slots=True)
class ChainedOperator:
    """One operator of a vertex's chain, which is a tree: the head reads the vertex's inputs, every other operator
    reads its parent's main output, or the parent's side output `tag`."""

    id: OperatorId
    name: str
    uid: str | None
    kind: str
    pickled: bytes
    """cloudpickle of the Operator prototype."""
    parent: int | None
    """Index within the vertex; None for the head."""
    tag: str | None = None
    is_source: bool = False
    is_sink: bool = False
    face: str = "rows"
    output_type: str = ""
    note: str = ""
    """What else describe() says of it."""


@dataclass(frozen=True, slots=True)
class Vertex:
    id: VertexId
    name: str
    operators: tuple[ChainedOperator, ...]
    """Parents before children."""
    parallelism: int
    max_parallelism: int
    slot_sharing_group: str = "default"
    resources: Resources = NO_RESOURCES
    """Of each slot of that group."""


@dataclass(frozen=True, slots=True)
class Edge:
    source: VertexId
    operator: int
    """Index of the operator in the source vertex whose output this is."""
    tag: str | None
    target: VertexId
    input_index: int
    partitioning: Partitioning


def edge_name(sender: OperatorId, tag: str | None, receiver: OperatorId, input_index: int) -> str:
    """What an edge is called in checkpoints: the same as long as its two operators keep their ids."""
    return f"{sender}{'' if tag is None else f'#{tag}'}>{receiver}#{input_index}"


@dataclass(frozen=True, slots=True)
class JobGraph:
    """A whole job, as it is submitted."""

    job_name: str
    vertices: tuple[Vertex, ...]
    """Topological order: sources first."""
    edges: tuple[Edge, ...]
    pickled_sources: dict[OperatorId, bytes] = field(default_factory=dict)
    """cloudpickle of each Source, for its enumerator."""
    pickled_sinks: dict[OperatorId, bytes] = field(default_factory=dict)
    """cloudpickle of each Sink, for its committer."""
    config: dict[str, str] = field(default_factory=dict)
    """Resolved options (config.py), strings."""
    warnings: tuple[str, ...] = ()

    @property
    def batch_mode(self) -> bool:
        """It gives out final results only (docs/batch-mode.md)."""
        return self.config.get(RUNTIME_MODE.key) == "batch"

    def vertex(self, vertex_id: VertexId) -> Vertex:
        return next(vertex for vertex in self.vertices if vertex.id == vertex_id)

    def sender_of(self, edge: Edge) -> OperatorId:
        return self.vertex(edge.source).operators[edge.operator].id

    def name_of(self, edge: Edge) -> str:
        receiver = self.vertex(edge.target).operators[0].id
        return edge_name(self.sender_of(edge), edge.tag, receiver, edge.input_index)
