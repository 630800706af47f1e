"""/, /config, /overview, /applications and /cluster."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from ...runtime.versions import own_versions
from . import wire_cluster
from .errors import original_path
from .parameters import JobIdPath, Server
from .responses import Nothing

router = APIRouter(tags=["cluster"])


class Welcome(TypedDict):
    """For people, and for who looks whether somebody is here."""

    server: str
    version: str
    documentation: str
    openapi: str
    overview: str


@router.get("/")
def welcome(request: Request) -> Welcome:
    """What this is, and where its interface is described."""
    if original_path(request) != "/":  # /v1/ is no path of Flink's
        raise HTTPException(404)
    return {
        "server": "penstock: stateful stream processing for Python; this is the REST interface of a cluster",
        "version": own_versions()["penstock"],
        "documentation": "/docs",
        "openapi": "/openapi.json",
        "overview": "/jobs/overview",
    }


@router.get("/config")
def config(server: Server) -> wire_cluster.DashboardConfig:
    """What a dashboard asks first: version, time zone, which buttons it may offer."""
    return wire_cluster.dashboard_config(server.gateway.info(), server.options)


@router.get("/overview")
def overview(server: Server) -> wire_cluster.ClusterOverview:
    """How many task managers, slots and jobs there are."""
    gateway = server.gateway
    return wire_cluster.cluster_overview(gateway.info(), gateway.jobs(), gateway.task_managers())


@router.get("/applications/overview")
def applications(server: Server) -> wire_cluster.Applications:
    """Each job as an application of its own."""
    return wire_cluster.applications(server.gateway.jobs(), server.now_ms())


@router.get("/applications/{application_id}")
def application(server: Server, application_id: JobIdPath) -> wire_cluster.ApplicationDetails:
    """One of them; its id is the job's."""
    return wire_cluster.application(server.gateway.job(application_id), server.now_ms())


@router.post("/applications/{application_id}/cancel", status_code=202)
def cancel_application(server: Server, application_id: JobIdPath) -> Nothing:
    """Cancels its job. Answers when the request is taken."""
    server.gateway.cancel(application_id)
    return {}


@router.delete("/cluster")
def shut_down(server: Server) -> Nothing:
    """Stops every job with a last checkpoint, so that it can be resumed, and then all processes."""
    server.gateway.shutdown()
    return {}
