"""/jars: code that is uploaded and run. Flink has Java archives here; penstock takes scripts and archives of working
directories (docs of `penstock submit`), and runs a script in a process of its own to see what pipeline it builds.

Uploads are streamed into a file and handed over. The name a client gives is only a name: whatever could be a path is
refused.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, UploadFile
from typing_extensions import TypedDict

from ..gateway import RefusedError
from .errors import ForbiddenError, TooLargeError, too_large
from .parameters import ArtefactPath, Server, Serving
from .responses import Nothing
from .run_requests import RunBody, RunQuery, Submission, run_request, submission

router = APIRouter(tags=["artefacts"])

LONGEST_NAME_BYTES = 200
"""File systems take 255, and a content hash goes in front."""


class Entry(TypedDict):
    name: str
    description: str | None


class Artefact(TypedDict):
    id: str
    name: str
    uploaded: int
    entry: list[Entry]


class Artefacts(TypedDict):
    address: str
    files: list[Artefact]


class Uploaded(TypedDict):
    """`filename` is the artefact's id."""

    filename: str
    status: str


class CapturedPlan(TypedDict):
    plan: dict[str, Any]
    jobName: str
    description: str


def check_submission_is_on(server: Serving) -> None:
    if not server.options.web_submit:
        raise ForbiddenError("this cluster takes no code over REST: web.submit.enable is false")


def checked_name(name: str | None) -> str:
    """RefusedError: it is empty, hidden, too long, or could lead elsewhere."""
    if not name or name.startswith(".") or name != name.strip():
        raise RefusedError(f"a file needs a name to be uploaded, one that does not begin with a dot; not {name!r}")
    if "/" in name or "\\" in name or not name.isprintable():
        raise RefusedError(f"the name of an uploaded file must be a name without a path, not {name[:100]!r}")
    if len(name.encode(errors="replace")) > LONGEST_NAME_BYTES:
        raise RefusedError(f"the name of an uploaded file may have {LONGEST_NAME_BYTES} bytes: {name[:50]!r}…")
    return name


@router.get("/jars")
def list_artefacts(server: Server) -> Artefacts:
    """Everything that was uploaded."""
    return {
        "address": "",
        "files": [
            {
                "id": artefact.id,
                "name": artefact.name,
                "uploaded": artefact.uploaded_ms,
                "entry": [{"name": artefact.entry, "description": None}] if artefact.entry else [],
            }
            for artefact in server.gateway.artefacts()
        ],
    }


@router.post("/jars/upload")
def upload(
    server: Server,
    jarfile: Annotated[UploadFile, File(description="A script (.py), or an archive of a working directory.")],
) -> Uploaded:
    """Takes a file; the same content under the same name is the same artefact."""
    check_submission_is_on(server)
    name = checked_name(jarfile.filename)
    waiting = _to_file(jarfile, server)
    try:
        return {"filename": server.gateway.upload(name, waiting).id, "status": "success"}
    finally:
        waiting.unlink(missing_ok=True)


def _to_file(upload: UploadFile, server: Serving) -> Path:
    limit = server.options.upload_limit_bytes
    if (upload.size or 0) > limit:
        raise TooLargeError(too_large(limit))
    directory = server.options.upload_directory
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="upload-", dir=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(upload.file, file, 2**20)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


@router.delete("/jars/{artefact}")
def delete(server: Server, artefact: ArtefactPath) -> Nothing:
    """Jobs that run of it are not disturbed."""
    check_submission_is_on(server)
    server.gateway.delete_artefact(artefact)
    return {}


@router.get("/jars/{artefact}/plan")
def plan(server: Server, artefact: ArtefactPath, query: RunQuery) -> CapturedPlan:
    """The pipeline that its script builds, without running it."""
    check_submission_is_on(server)
    request = run_request(artefact, query, {})
    with server.place_for_a_script():
        captured = server.gateway.capture(request)
    return {"plan": captured.plan, "jobName": captured.job_name, "description": captured.description}


@router.post("/jars/{artefact}/run")
def run(server: Server, artefact: ArtefactPath, query: RunQuery, body: RunBody | None = None) -> Submission:
    """Runs its script, and the pipeline which that executes. What is in the body wins over the query."""
    check_submission_is_on(server)
    request = run_request(artefact, query, body or {})
    with server.place_for_a_script():
        return submission(server.gateway.run(request))
