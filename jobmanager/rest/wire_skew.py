"""How evenly the subtasks of a vertex are loaded: a path of penstock's own."""

from __future__ import annotations

from typing_extensions import TypedDict

from ..skew import skew_of
from ..views import VertexView

SubtaskShare = TypedDict("SubtaskShare", {"subtask": int, "read-records": int, "share": float})
KeyGroupShare = TypedDict("KeyGroupShare", {"key-group": int, "subtask": int, "read-records": int, "share": float})
VertexSkew = TypedDict(
    "VertexSkew",
    {
        "id": str,
        "name": str,
        "parallelism": int,
        "maxParallelism": int,
        "now": int,
        "read-records": int,
        "times-the-mean": float,
        "subtasks": list[SubtaskShare],
        "key-groups": list[KeyGroupShare],
    },
)


def vertex_skew(vertex: VertexView, now_ms: int) -> VertexSkew:
    skew = skew_of(vertex)
    return {
        "id": vertex.id,
        "name": vertex.name,
        "parallelism": vertex.parallelism,
        "maxParallelism": vertex.max_parallelism,
        "now": now_ms,
        "read-records": skew.total,
        "times-the-mean": skew.times_the_mean,
        "subtasks": [
            {"subtask": subtask, "read-records": records, "share": skew.share(subtask)}
            for subtask, records in enumerate(skew.records)
        ],
        "key-groups": [
            {"key-group": hot.key_group, "subtask": hot.subtask, "read-records": hot.records, "share": hot.share}
            for hot in skew.key_groups
        ],
    }
