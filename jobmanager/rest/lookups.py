"""Parts of a view by their id, or the 404."""

from __future__ import annotations

from ..gateway import Gateway, UnavailableError, UnknownError
from ..job_states import JobState
from ..views import (
    CheckpointOperation,
    CheckpointView,
    JobView,
    SavepointOperation,
    SubtaskView,
    TaskManagerView,
    VertexView,
)


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
    all_of_them = view.checkpoints
    latest = (all_of_them.latest_completed, all_of_them.latest_savepoint, all_of_them.latest_failed)
    for checkpoint in (*all_of_them.history, *latest):
        if checkpoint is not None and checkpoint.id == checkpoint_id:
            return checkpoint
    raise UnknownError(
        f"nothing is known of checkpoint {checkpoint_id} of job {view.overview.id}: it was never triggered, "
        f"or there are newer ones"
    )


def savepoint_of(view: JobView, request: str) -> SavepointOperation:
    for operation in view.savepoints:
        if operation.request == request:
            return operation
    raise _not_known(view, request)


def requested_checkpoint_of(view: JobView, request: str) -> CheckpointOperation:
    for operation in view.requested_checkpoints:
        if operation.request == request:
            return operation
    raise _not_known(view, request)


def _not_known(view: JobView, request: str) -> UnknownError | UnavailableError:
    """A master that has not read the job's log yet does not know what the one before was asked."""
    if view.overview.state == JobState.CREATED.value:
        return UnavailableError(f"nobody leads job {view.overview.id} at the moment; try again")
    return UnknownError(
        f"nothing is known of request {request} of job {view.overview.id}: it was asked for long ago, of a job manager "
        "that is gone, or never"
    )


def task_manager_of(gateway: Gateway, task_manager_id: str) -> TaskManagerView:
    for view in gateway.task_managers():
        if view.id == task_manager_id:
            return view
    raise UnknownError(f"there is no task manager {task_manager_id}")
