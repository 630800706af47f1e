"""/jobs/:id/checkpoints."""

from __future__ import annotations

from fastapi import APIRouter

from ..gateway import UnknownError
from . import wire_checkpoints as wire
from .lookups import checkpoint_of, vertex_of
from .parameters import CheckpointIdPath, JobIdPath, Server, VertexIdPath

router = APIRouter(tags=["checkpoints"])


@router.get("/jobs/{job_id}/checkpoints")
def checkpoints(server: Server, job_id: JobIdPath) -> wire.Checkpoints:
    """Counts and statistics, the latest ones, and the newest of all. Counts are of the job's present master."""
    return wire.checkpoints(server.gateway.job(job_id).checkpoints)


@router.get("/jobs/{job_id}/checkpoints/config")
def config(server: Server, job_id: JobIdPath) -> wire.CheckpointConfig:
    """How checkpoints are taken; 404 where they are not."""
    found = server.gateway.job(job_id).checkpoint_config
    if found is None:
        raise UnknownError(f"job {job_id} takes no checkpoints: execution.checkpointing.interval is 0")
    return wire.checkpoint_config(found)


@router.get("/jobs/{job_id}/checkpoints/details/{checkpoint_id}")
def checkpoint(server: Server, job_id: JobIdPath, checkpoint_id: CheckpointIdPath) -> wire.Checkpoint:
    """One checkpoint with its vertices; 404 if there are many newer ones."""
    return wire.checkpoint(checkpoint_of(server.gateway.job(job_id), checkpoint_id), with_tasks=True)


@router.get("/jobs/{job_id}/checkpoints/details/{checkpoint_id}/subtasks/{vertex_id}")
def subtasks(
    server: Server, job_id: JobIdPath, checkpoint_id: CheckpointIdPath, vertex_id: VertexIdPath
) -> wire.TaskCheckpointDetails:
    """The subtasks of one vertex in it."""
    view = server.gateway.job(job_id)
    return wire.task_checkpoint(checkpoint_of(view, checkpoint_id), vertex_of(view, vertex_id).id)
