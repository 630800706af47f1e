"""/jobs/:id/vertices: one vertex, and /jobs/:id/accumulators."""

from __future__ import annotations

from fastapi import APIRouter

from . import wire_vertices as wire
from .lookups import subtask_of, vertex_of
from .parameters import JobIdPath, Server, SubtaskPath, VertexIdPath
from .wire_skew import VertexSkew, vertex_skew

router = APIRouter(tags=["vertices"])
VERTEX = "/jobs/{job_id}/vertices/{vertex_id}"


@router.get(VERTEX)
def vertex(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> wire.VertexDetails:
    """Its subtasks: state, attempt, where they run, counters, and statistics over all of them."""
    return wire.vertex_details(vertex_of(server.gateway.job(job_id), vertex_id), server.now_ms())


@router.get(f"{VERTEX}/subtasktimes")
def subtask_times(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> wire.SubtaskTimes:
    """When each of its subtasks entered which state."""
    return wire.subtask_times_of(vertex_of(server.gateway.job(job_id), vertex_id), server.now_ms())


@router.get(f"{VERTEX}/taskmanagers")
def task_managers(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> wire.VertexTaskManagers:
    """Its subtasks, summed up by task manager."""
    return wire.task_managers_of(vertex_of(server.gateway.job(job_id), vertex_id), server.now_ms())


@router.get(f"{VERTEX}/backpressure")
def backpressure(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> wire.Backpressure:
    """How much of the last seconds its subtasks could not send, were idle, were busy."""
    return wire.backpressure(vertex_of(server.gateway.job(job_id), vertex_id), server.now_ms())


@router.get(f"{VERTEX}/skew")
def skew(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> VertexSkew:
    """How its records are spread over its subtasks, and the key groups that most of them have."""
    return vertex_skew(vertex_of(server.gateway.job(job_id), vertex_id), server.now_ms())


@router.get(f"{VERTEX}/watermarks")
def watermarks(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> list[wire.Watermark]:
    """Of the inputs of its subtasks; empty for a source."""
    return wire.watermarks(vertex_of(server.gateway.job(job_id), vertex_id))


@router.get(f"{VERTEX}/accumulators")
def accumulators(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> wire.VertexAccumulators:
    """Counters of its operators and of user code, summed over its subtasks."""
    return wire.vertex_accumulators(vertex_of(server.gateway.job(job_id), vertex_id))


@router.get(f"{VERTEX}/subtasks/accumulators")
def subtask_accumulators(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath) -> wire.SubtasksAccumulators:
    """The same for each subtask."""
    return wire.subtask_accumulators(vertex_of(server.gateway.job(job_id), vertex_id))


@router.get(f"{VERTEX}/subtasks/{{subtask}}")
def subtask(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath, subtask: SubtaskPath) -> wire.SubtaskDetails:
    """One subtask."""
    found = vertex_of(server.gateway.job(job_id), vertex_id)
    return wire.subtask_details(subtask_of(found, subtask), server.now_ms())


@router.get("/jobs/{job_id}/accumulators")
def job_accumulators(
    server: Server,
    job_id: JobIdPath,
    includeSerializedValue: bool = False,
) -> wire.JobAccumulators:
    """Counters of all its operators. Serialized values are Java's, so there are none."""
    return wire.job_accumulators(server.gateway.job(job_id).vertices)
