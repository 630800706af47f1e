"""/taskmanagers: each is the slots of one node."""

from __future__ import annotations

from fastapi import APIRouter, Response

from ..gateway import Gateway, UnavailableError, UnknownError
from ..views import JobView, TaskManagerView
from . import logs
from . import wire_processes as wire
from .lookups import task_manager_of
from .parameters import FileNamePath, Server, TaskManagerPath
from .responses import TEXT, Text

router = APIRouter(tags=["task managers"])
ONE = "/taskmanagers/{task_manager}"


@router.get("/taskmanagers")
def task_managers(server: Server) -> wire.TaskManagers:
    """All that have been heard lately."""
    views = server.gateway.task_managers()
    return wire.task_managers(views, wire.tasks_by_slot(_jobs_on(server.gateway, views)))


@router.get(ONE)
def task_manager(server: Server, task_manager: TaskManagerPath) -> wire.TaskManagerDetails:
    """One, with its memory and whom its slots are let to."""
    view = task_manager_of(server.gateway, task_manager)
    return wire.task_manager_details(view, wire.tasks_by_slot(_jobs_on(server.gateway, [view])))


def _jobs_on(gateway: Gateway, views: list[TaskManagerView]) -> list[JobView]:
    """Of the jobs that have slots there; one that does not answer is left out: it must not hide the others."""
    found = []
    for job_id in dict.fromkeys(slot.job_id for view in views for slot in view.slots if slot.job_id):
        try:
            found.append(gateway.job(job_id))
        except (UnknownError, UnavailableError):
            continue
    return found


@router.get(f"{ONE}/logs")
def list_logs(server: Server, task_manager: TaskManagerPath) -> wire.Logs:
    """Its log files and those of its slots."""
    return logs.list_logs(server.gateway, task_manager)


@router.get(f"{ONE}/logs/{{file}}", response_class=Response, responses=TEXT)
def read_log(server: Server, task_manager: TaskManagerPath, file: FileNamePath) -> Text:
    """The end of one of them."""
    return logs.read_log(server.gateway, task_manager, file)


@router.get(f"{ONE}/log", response_class=Response, responses=TEXT)
def log(server: Server, task_manager: TaskManagerPath) -> Text:
    """The end of its own."""
    return logs.read_own(server.gateway, task_manager, logs.LOG_SUFFIX)


@router.get(f"{ONE}/stdout", response_class=Response, responses=TEXT)
def stdout(server: Server, task_manager: TaskManagerPath) -> Text:
    """What was printed there."""
    return logs.read_own(server.gateway, task_manager, logs.OUT_SUFFIX)


@router.get(f"{ONE}/thread-dump")
def thread_dump(server: Server, task_manager: TaskManagerPath) -> wire.ThreadDump:
    """What its threads do at this moment."""
    return logs.dump_threads(server.gateway, task_manager)
