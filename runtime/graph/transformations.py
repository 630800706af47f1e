"""The logical plan: transformations recorded by the API, before chaining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..changelog import ChangelogMode
from ..connector import Sink, Source
from ..operators.operator import Operator
from ..records.record_types import RecordType
from ..resources import NO_RESOURCES, Resources
from .partitioning import Partitioning


@dataclass(frozen=True, eq=False)
class Input:
    """An edge into a transformation."""

    upstream: Transformation
    partitioning: Partitioning
    tag: str | None = None
    """Name of the upstream's side output that is read; None for its main output."""
    input_index: int = 0
    """1: it is, or belongs to, the second input of an operator of two."""


@dataclass(frozen=True, eq=False)
class Transformation:
    """One step of the pipeline. Names and parallelism are filled in by `api/` while the user still changes them;
    a finished transformation is frozen. A union is no transformation: it is several inputs with one input index."""

    id: int
    kind: str
    """'source', 'map', 'filter', 'key_by sum', 'window agg', 'sink', ... as describe() shows it."""
    name: str
    uid: str | None
    operator: Operator
    """A prototype that is pickled into the job graph and opened in every subtask."""
    output_type: RecordType
    inputs: tuple[Input, ...] = ()
    parallelism: int = 1
    max_parallelism: int = 128
    slot_sharing_group: str = "default"
    chaining: str = "always"
    """'always', 'head' (starts a new chain), 'never'."""
    source: Source[Any] | None = None
    sink: Sink | None = None
    description: str = ""
    resources: Resources = NO_RESOURCES
    """Of each slot of its slot sharing group."""
    changelog_mode: ChangelogMode = ChangelogMode.INSERT_ONLY
    """Of its results."""
