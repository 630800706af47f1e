"""/jobs/:id/exceptions: why a job was restarted, or failed; newest first, the user's own frames first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from typing_extensions import TypedDict

from ..views import ExceptionView, JobView
from .parameters import JobIdPath, Server

router = APIRouter(tags=["exceptions"])

DEFAULT_EXCEPTIONS = 20
MAX_EXCEPTIONS = 10_000


class ExceptionEntry(TypedDict):
    exceptionName: str
    stacktrace: str
    timestamp: int
    failureLabels: dict[str, str]
    taskName: str | None
    endpoint: str | None
    taskManagerId: str | None


class ExceptionGroup(ExceptionEntry):
    """What ended an attempt, and what else failed in it."""

    concurrentExceptions: list[ExceptionEntry]


class ExceptionHistory(TypedDict):
    entries: list[ExceptionGroup]
    truncated: bool


class JobExceptions(TypedDict):
    exceptionHistory: ExceptionHistory


def job_exceptions(view: JobView, most: int) -> JobExceptions:
    return {
        "exceptionHistory": {
            "entries": [_group(exception) for exception in view.exceptions[:most]],
            "truncated": len(view.exceptions) > most,
        }
    }


def _group(view: ExceptionView) -> ExceptionGroup:
    return {**_entry(view), "concurrentExceptions": [_entry(other) for other in view.concurrent]}


def _entry(view: ExceptionView) -> ExceptionEntry:
    return {
        "exceptionName": view.exception,
        "stacktrace": view.stacktrace or f"{view.exception}: {view.message}",
        "timestamp": view.timestamp_ms,
        "failureLabels": {},
        "taskName": view.task or None,
        "endpoint": view.endpoint or None,
        "taskManagerId": view.task_manager or None,
    }


MaxExceptions = Annotated[int, Query(description="At most so many, the newest.", ge=1, le=MAX_EXCEPTIONS)]


@router.get("/jobs/{job_id}/exceptions")
def exceptions(server: Server, job_id: JobIdPath, maxExceptions: MaxExceptions = DEFAULT_EXCEPTIONS) -> JobExceptions:
    """Its failures, the newest first."""
    return job_exceptions(server.gateway.job(job_id), maxExceptions)


@router.get("/applications/{application_id}/exceptions")
def application_exceptions(
    server: Server,
    application_id: JobIdPath,
    maxExceptions: MaxExceptions = DEFAULT_EXCEPTIONS,
) -> JobExceptions:
    """The failures of its job."""
    return job_exceptions(server.gateway.job(application_id), maxExceptions)
