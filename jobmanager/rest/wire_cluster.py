"""The cluster as a whole: /config, /overview, /applications."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from typing_extensions import TypedDict

from ..gateway import ClusterInfo
from ..views import JobOverview, JobView, TaskManagerView
from .parameters import RestOptions
from .states import application_state, duration_ms, has_ended, job_state, job_timestamps
from .wire_jobs import JobSummary, job_summary

Features = TypedDict("Features", {"web-submit": bool, "web-cancel": bool, "web-rescale": bool, "web-history": bool})
DashboardConfig = TypedDict(
    "DashboardConfig",
    {
        "refresh-interval": int,
        "timezone-name": str,
        "timezone-offset": int,
        "flink-version": str,
        "flink-revision": str,
        "features": Features,
    },
)
ClusterOverview = TypedDict(
    "ClusterOverview",
    {
        "taskmanagers": int,
        "slots-total": int,
        "slots-available": int,
        "jobs-running": int,
        "jobs-finished": int,
        "jobs-cancelled": int,
        "jobs-failed": int,
        "jobs-suspended": int,
        "flink-version": str,
        "flink-commit": str,
    },
)
ApplicationSummary = TypedDict(
    "ApplicationSummary",
    {
        "id": str,
        "name": str,
        "status": str,
        "start-time": int,
        "end-time": int,
        "duration": int,
        "jobs": dict[str, int],
    },
)
ApplicationDetails = TypedDict(
    "ApplicationDetails",
    {
        "id": str,
        "name": str,
        "status": str,
        "start-time": int,
        "end-time": int,
        "duration": int,
        "timestamps": dict[str, int],
        "jobs": list[JobSummary],
    },
)


class Applications(TypedDict):
    applications: list[ApplicationSummary]


NO_REVISION = "unknown"
"""Of the source: an installed package does not know its commit."""
APPLICATION_STATES = ("CREATED", "RUNNING", "FAILING", "FAILED", "CANCELING", "CANCELED", "FINISHED")


def version_of(info: ClusterInfo) -> str:
    return f"penstock {info.versions.get('penstock', '')}".strip()


def dashboard_config(info: ClusterInfo, options: RestOptions) -> DashboardConfig:
    local = time.localtime()
    return {
        "refresh-interval": options.refresh_interval_ms,
        "timezone-name": local.tm_zone,
        "timezone-offset": local.tm_gmtoff * 1_000,
        "flink-version": version_of(info),
        "flink-revision": NO_REVISION,
        "features": {
            "web-submit": options.web_submit,
            "web-cancel": options.web_cancel,
            "web-rescale": False,
            "web-history": False,
        },
    }


def cluster_overview(
    info: ClusterInfo, jobs: Sequence[JobOverview], task_managers: Sequence[TaskManagerView]
) -> ClusterOverview:
    states = Counter(job_state(job.state) for job in jobs)
    return {
        "taskmanagers": len(task_managers),
        "slots-total": sum(manager.slots_total for manager in task_managers),
        "slots-available": sum(manager.slots_free for manager in task_managers),
        "jobs-running": sum(not has_ended(job) for job in jobs),
        "jobs-finished": states["FINISHED"],
        "jobs-cancelled": states["CANCELED"],
        "jobs-failed": states["FAILED"],
        "jobs-suspended": states["SUSPENDED"],
        "flink-version": version_of(info),
        "flink-commit": NO_REVISION,
    }


def applications(jobs: Sequence[JobOverview], now_ms: int) -> Applications:
    """Each job is the one of its application, which has its id."""
    return {
        "applications": [
            {
                "id": job.id,
                "name": job.name,
                "status": application_state(job.state),
                "start-time": job.started_ms,
                "end-time": job.ended_ms,
                "duration": duration_ms(job.started_ms, job.ended_ms, now_ms),
                "jobs": {job_state(job.state): 1},
            }
            for job in jobs
        ]
    }


def application(view: JobView, now_ms: int) -> ApplicationDetails:
    job = view.overview
    entered = job_timestamps(view.timestamps)
    entered["CANCELING"] = entered["CANCELLING"]
    return {
        "id": job.id,
        "name": job.name,
        "status": application_state(job.state),
        "start-time": job.started_ms,
        "end-time": job.ended_ms,
        "duration": duration_ms(job.started_ms, job.ended_ms, now_ms),
        "timestamps": {state: entered[state] for state in APPLICATION_STATES},
        "jobs": [job_summary(job, now_ms)],
    }
