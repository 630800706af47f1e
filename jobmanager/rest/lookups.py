"""Parts of a view by their id, or the 404."""

from __future__ import annotations

from ..gateway import Gateway, UnknownError
from ..views import CheckpointView, JobView, SubtaskView, TaskManagerView, VertexView


def vertex_of(view: JobView, vertex_id: str) -> VertexView:
    for vertex in view.vertices:
        if vertex.id == vertex_id:
            return vertex
    raise UnknownError(f"job {view.overview.id} ({view.overview.name}) has no vertex {vertex_id}")


def subtask_of(vertex: VertexView, index: int) -> SubtaskView:
    for subtask in vertex.subtasks:
        if subtask.index == index:
            return subtask
    raise UnknownError(f"vertex {vertex.name} has no subtask {index}: its parallelism is {vertex.parallelism}")


def checkpoint_of(view: JobView, checkpoint_id: int) -> CheckpointView:
    """From the history, or the latest ones, which may be older."""
    known = (*view.checkpoints.history, view.checkpoints.latest_completed, view.checkpoints.latest_failed)
    for checkpoint in known:
        if checkpoint is not None and checkpoint.id == checkpoint_id:
            return checkpoint
    raise UnknownError(
        f"nothing is known of checkpoint {checkpoint_id} of job {view.overview.id}: it was never triggered, "
        f"or there are newer ones"
    )


def task_manager_of(gateway: Gateway, task_manager_id: str) -> TaskManagerView:
    for view in gateway.task_managers():
        if view.id == task_manager_id:
            return view
    raise UnknownError(f"there is no task manager {task_manager_id}")
