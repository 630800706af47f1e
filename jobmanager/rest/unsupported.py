"""What Flink's clients and dashboards ask and penstock does not have (yet): answers that say what to do instead.

Bodies are read and dropped first, so that the client is ready to read why.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from .errors import UnsupportedError
from .parameters import JobIdPath, Server, VertexIdPath
from .responses import Nothing

router = APIRouter(tags=["not supported"])

NO_SAMPLES = -3
"""Flink's word for a flame graph that has none."""


class NoFlameGraph(TypedDict):
    endTimestamp: int


async def _dropped(request: Request) -> None:
    async for _ in request.stream():
        pass


@router.post("/jobs", status_code=501)
async def submit_java_job(request: Request) -> Nothing:
    """Flink's client sends a Java-serialized plan here, which only Java can read."""
    await _dropped(request)
    raise UnsupportedError(
        "penstock runs Python pipelines: a Java-serialized job graph cannot be read. Submit a script with "
        "`penstock submit SCRIPT`, or upload it (POST /jars/upload) and run it (POST /jars/:id/run)"
    )


@router.put("/jobs/{job_id}/resource-requirements", status_code=501)
async def rescale(request: Request, job_id: JobIdPath) -> Nothing:
    """Running jobs keep their parallelism."""
    await _dropped(request)
    raise UnsupportedError(
        f"a running job keeps its parallelism. POST /jobs/{job_id}/suspend it, and submit its script again with "
        "`-s latest -p N`"
    )


@router.get("/jobs/{job_id}/vertices/{vertex_id}/flamegraph")
def flame_graph(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> NoFlameGraph:
    """There are no samples."""
    return {"endTimestamp": NO_SAMPLES}
