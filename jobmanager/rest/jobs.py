"""/jobs: lists of jobs, one job, and what can be done to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from typing_extensions import TypedDict

from ..views import JobView
from . import wire_jobs
from .parameters import JobIdPath, Server
from .responses import Nothing
from .states import job_state

router = APIRouter(tags=["jobs"])


@router.get("/jobs")
def jobs(server: Server) -> wire_jobs.JobIds:
    """Ids and states of all jobs that are known, running or ended."""
    return wire_jobs.job_ids(server.gateway.jobs())


@router.get("/jobs/overview")
def jobs_overview(server: Server) -> wire_jobs.JobsOverview:
    """The list that `flink list` and dashboards show."""
    return wire_jobs.jobs_overview(server.gateway.jobs(), server.now_ms())


@router.get("/jobs/{job_id}")
def job(server: Server, job_id: JobIdPath) -> wire_jobs.JobDetails:
    """One job with its vertices and its plan."""
    return wire_jobs.job_details(server.gateway.job(job_id), server.now_ms())


@router.get("/jobs/{job_id}/view")
def view(server: Server, job_id: JobIdPath) -> JobView:
    """Everything that is known of it, in one answer, under penstock's own names (jobmanager/views.py)."""
    return server.gateway.job(job_id)


@router.get("/jobs/{job_id}/status")
def status(server: Server, job_id: JobIdPath) -> wire_jobs.JobStatus:
    """Its state."""
    return {"status": job_state(server.gateway.job(job_id).overview.state)}


@router.get("/jobs/{job_id}/plan")
def plan(server: Server, job_id: JobIdPath) -> wire_jobs.PlanBody:
    """Its vertices and how they are connected."""
    return {"plan": wire_jobs.plan(server.gateway.job(job_id))}


@router.get("/jobs/{job_id}/config")
def config(server: Server, job_id: JobIdPath) -> wire_jobs.JobConfig:
    """Its own options; secrets are masked."""
    return wire_jobs.job_config(server.gateway.job(job_id))


@router.get("/jobs/{job_id}/execution-result")
def execution_result(server: Server, job_id: JobIdPath) -> wire_jobs.ExecutionResult:
    """How it ended; IN_PROGRESS while it has not."""
    return wire_jobs.execution_result(server.gateway.job(job_id))


@router.patch("/jobs/{job_id}", status_code=202)
def end(
    server: Server,
    job_id: JobIdPath,
    mode: Annotated[str, Query(description="cancel is the only one.", pattern="^cancel$")] = "cancel",
) -> Nothing:
    """Cancels it. Answers when the request is taken; 409 if the job has ended."""
    server.gateway.cancel(job_id)
    return {}


@router.get("/jobs/{job_id}/yarn-cancel", status_code=202)
def end_by_get(server: Server, job_id: JobIdPath) -> Nothing:
    """Cancels it too: what the button of Flink's dashboard asks."""
    server.gateway.cancel(job_id)
    return {}


class Heartbeat(TypedDict):
    """Until when the client will be heard of, ms since the epoch."""

    expiredTimestamp: int


@router.patch("/jobs/{job_id}/clientHeartbeat", status_code=202)
def client_heartbeat(server: Server, job_id: JobIdPath, body: Heartbeat) -> Nothing:
    """Taken from attached clients; no job ends because its client does."""
    server.gateway.job(job_id)
    return {}
