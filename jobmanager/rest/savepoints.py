"""Savepoints, checkpoints and disposals that people ask for, and stops with a savepoint: a POST begins one and answers
its request id, a GET with that says what became of it.

A client that gives the id itself (`triggerId`) may ask again when an answer got lost: nothing is begun twice. What
became of a job's operations is known for five minutes after their end, and of a job that has ended as long as the job.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Path
from pydantic import Field
from typing_extensions import TypedDict

from ...state.ids import new_nonce
from . import wire_operations as wire
from .lookups import requested_checkpoint_of, savepoint_of
from .parameters import HEX_ID, JobIdPath, Server
from .run_requests import HexId

router = APIRouter(tags=["savepoints"])

LONGEST_PATH = 4_000
TriggerPath = Annotated[str, Path(description="A request: 32 hexadecimal digits.", pattern=HEX_ID)]
SavepointPath = Annotated[str, Field(min_length=1, max_length=LONGEST_PATH)]
Format = Literal["CANONICAL", "NATIVE"]

SavepointBody = TypedDict(
    "SavepointBody",
    {
        "target-directory": NotRequired[SavepointPath | None],
        "cancel-job": NotRequired[bool | None],
        "formatType": NotRequired[Format | None],
        "triggerId": NotRequired[HexId | None],
    },
)
"""All of it may be left out or null. Without a directory state.savepoints.dir is used. `cancel-job`: the job ends with
it, as by /stop. `formatType` changes nothing: savepoints are canonical."""


class StopBody(TypedDict):
    """Likewise. `drain`: event time ends before, so that all windows fire."""

    targetDirectory: NotRequired[SavepointPath | None]
    drain: NotRequired[bool | None]
    formatType: NotRequired[Format | None]
    triggerId: NotRequired[HexId | None]


class CheckpointBody(TypedDict):
    """Likewise. `checkpointType` changes nothing: each is as the job's backend is configured."""

    checkpointType: NotRequired[Literal["CONFIGURED", "FULL", "INCREMENTAL"] | None]
    triggerId: NotRequired[HexId | None]


DisposalBody = TypedDict("DisposalBody", {"savepoint-path": SavepointPath, "triggerId": NotRequired[HexId | None]})


@router.post("/jobs/{job_id}/savepoints", status_code=202)
def take_savepoint(server: Server, job_id: JobIdPath, body: SavepointBody | None = None) -> wire.Triggered:
    """Begins a savepoint; with `cancel-job` the job ends with it. 400: there is no directory for it."""
    given: SavepointBody = body or {}
    request = given.get("triggerId") or new_nonce()
    stop = bool(given.get("cancel-job"))
    server.gateway.savepoint(job_id, request, given.get("target-directory"), stop=stop, drain=False)
    return {"request-id": request}


@router.post("/jobs/{job_id}/stop", status_code=202)
def stop_with_savepoint(server: Server, job_id: JobIdPath, body: StopBody | None = None) -> wire.Triggered:
    """Begins a savepoint with which the job ends: what came before it is committed, and nothing else is read. Its
    status is that of a savepoint. 400: there is no directory for it."""
    given: StopBody = body or {}
    request = given.get("triggerId") or new_nonce()
    drain = bool(given.get("drain"))
    server.gateway.savepoint(job_id, request, given.get("targetDirectory"), stop=True, drain=drain)
    return {"request-id": request}


@router.get("/jobs/{job_id}/savepoints/{trigger}")
def savepoint(server: Server, job_id: JobIdPath, trigger: TriggerPath) -> wire.SavepointStatus:
    """What became of a savepoint, also of one with which the job has ended."""
    return wire.savepoint_status(savepoint_of(server.gateway.job(job_id), trigger))


@router.post("/jobs/{job_id}/checkpoints", status_code=202)
def take_checkpoint(server: Server, job_id: JobIdPath, body: CheckpointBody | None = None) -> wire.Triggered:
    """Begins a checkpoint, whatever the interval says."""
    request = (body or {}).get("triggerId") or new_nonce()
    server.gateway.checkpoint(job_id, request)
    return {"request-id": request}


@router.get("/jobs/{job_id}/checkpoints/{trigger}")
def requested_checkpoint(server: Server, job_id: JobIdPath, trigger: TriggerPath) -> wire.CheckpointStatus:
    """What became of a checkpoint that was asked for."""
    return wire.checkpoint_status(requested_checkpoint_of(server.gateway.job(job_id), trigger))


@router.post("/savepoint-disposal")
def dispose(server: Server, body: DisposalBody) -> wire.Triggered:
    """Begins to delete a savepoint. 400: no savepoint can be at that path."""
    request = body.get("triggerId") or new_nonce()
    server.gateway.dispose(body["savepoint-path"], request)
    return {"request-id": request}


@router.get("/savepoint-disposal/{trigger}")
def disposal(server: Server, trigger: TriggerPath) -> wire.DisposalStatus:
    """What became of that."""
    return wire.disposal_status(server.gateway.disposal(trigger))
