"""/jobmanager: the process that answers."""

from __future__ import annotations

from fastapi import APIRouter, Response

from . import logs
from . import wire_processes as wire
from .parameters import FileNamePath, JobIdPath, Server
from .responses import TEXT, Text

router = APIRouter(tags=["job manager"])


@router.get("/jobmanager/config")
def config(server: Server) -> list[wire.ConfigEntry]:
    """Options of the cluster that are set; secrets are masked."""
    return wire.config(server.gateway.info())


@router.get("/jobmanager/environment")
def environment(server: Server) -> wire.Environment:
    """Interpreter and versions."""
    return wire.environment(server.gateway.info())


@router.get("/jobs/{job_id}/jobmanager/config")
def config_of_job(server: Server, job_id: JobIdPath) -> list[wire.ConfigEntry]:
    """The same: all jobs share it."""
    server.gateway.job(job_id)
    return wire.config(server.gateway.info())


@router.get("/jobs/{job_id}/jobmanager/environment")
def environment_of_job(server: Server, job_id: JobIdPath) -> wire.Environment:
    """The same: all jobs share it."""
    server.gateway.job(job_id)
    return wire.environment(server.gateway.info())


@router.get("/jobmanager/logs")
def list_logs(server: Server) -> wire.Logs:
    """Its log files."""
    return logs.list_logs(server.gateway, None)


@router.get("/jobmanager/logs/{file}", response_class=Response, responses=TEXT)
def read_log(server: Server, file: FileNamePath) -> Text:
    """The end of one of them."""
    return logs.read_log(server.gateway, None, file)


@router.get("/jobmanager/log", response_class=Response, responses=TEXT)
def log(server: Server) -> Text:
    """The end of its own."""
    return logs.read_own(server.gateway, None, logs.LOG_SUFFIX)


@router.get("/jobmanager/stdout", response_class=Response, responses=TEXT)
def stdout(server: Server) -> Text:
    """What was printed there."""
    return logs.read_own(server.gateway, None, logs.OUT_SUFFIX)


@router.get("/jobmanager/thread-dump")
def thread_dump(server: Server) -> wire.ThreadDump:
    """What its threads do at this moment."""
    return logs.dump_threads(server.gateway, None)
