"""Resources as Ray counts them: of actors that ask for some, and of nodes.

Ray keeps an actor that does not fit waiting in silence, so whoever starts one looks here whether it can ever fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from ...runtime.resources import Resources, from_amounts

_OURS = {"CPU": "cpu", "GPU": "gpu", "memory": "memory"}
_NOT_FOR_USERS = ("node:", "accelerator_type:", "object_store_memory", "penstock_")
"""Ray's own, and what keeps two penstock clusters from using a node twice."""


def ray_options(resources: Resources) -> dict[str, Any]:
    """Of an actor."""
    return {
        "num_cpus": resources.cpu,
        "num_gpus": resources.gpu,
        "memory": resources.memory_bytes or None,
        "resources": dict(resources.custom) or None,
    }


def total_resources() -> dict[str, Resources]:
    """Node id -> what it has, of nodes that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: _resources(node["Resources"]) for node in nodes if node["Alive"]}


def free_resources() -> dict[str, Resources]:
    """Node id -> what nobody has been given of it, as Ray knew a moment ago."""
    free: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return {node: _resources(amounts) for node, amounts in free.items()}


def _resources(amounts: Mapping[str, float]) -> Resources:
    return from_amounts(
        {_OURS.get(name, name): amount for name, amount in amounts.items() if not name.startswith(_NOT_FOR_USERS)}
    )
