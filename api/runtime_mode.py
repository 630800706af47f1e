"""How a job runs: as a stream, or in batch mode, which gives out final results only (docs/batch-mode.md)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Literal

from ..runtime.configuration.config import Configuration
from ..runtime.configuration.options import RUNTIME_MODE
from ..runtime.graph.validation import Problem
from .steps import Step

Mode = Literal["streaming", "batch"]


class RuntimeExecutionMode(Enum):
    """PyFlink's names; the texts 'streaming', 'batch' and 'automatic' do as well."""

    STREAMING = "streaming"
    """Results as they come, for input with or without an end."""
    BATCH = "batch"
    """Only final results, for input that ends."""
    AUTOMATIC = "automatic"
    """Batch if every source has an end, else streaming."""


def resolved_mode(steps: Sequence[Step], config: Configuration) -> Mode:
    """The mode that these steps run in."""
    wanted = config.get(RUNTIME_MODE)
    if wanted == "automatic":
        return "streaming" if _unbounded(steps) else "batch"
    return "batch" if wanted == "batch" else "streaming"


def problems_of_mode(steps: Sequence[Step], mode: Mode) -> list[Problem]:
    """Sources that never end, in batch mode."""
    message = (
        f"the source has no end, so it cannot run in batch mode; give it an end, or set {RUNTIME_MODE.key} to "
        "streaming (or automatic)"
    )
    return [Problem(step.name, message, step.location) for step in _unbounded(steps)] if mode == "batch" else []


def _unbounded(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.source is not None and not step.source.bounded]
