"""What /jars/:id/run and /plan are asked: Flink's fields, in the query or the body, and penstock's own."""

from __future__ import annotations

import shlex
from typing import Annotated, NotRequired

from fastapi import Depends, Query
from pydantic import Field
from typing_extensions import TypedDict

from ..gateway import RefusedError, RunRequest, Submitted
from .parameters import HEX_ID

MAX_PARALLELISM = 32_768
Parallelism = Annotated[int, Field(ge=1, le=MAX_PARALLELISM)]
HexId = Annotated[str, Field(pattern=HEX_ID)]
Claim = Annotated[str, Field(pattern="^(CLAIM|NO_CLAIM|LEGACY)$")]


class RunBody(TypedDict):
    """All of it may be left out or null. `claimMode` is taken and changes nothing: a checkpoint that a job was started
    from is never deleted by it. `programArgs` is split as a shell would. The last five are penstock's own: the path of
    a requirements.txt within the artefact, the versions of the client (checked), who asks, and whether somebody waits
    for collected records."""

    entryClass: NotRequired[str | None]
    programArgs: NotRequired[str | None]
    programArgsList: NotRequired[list[str] | None]
    parallelism: NotRequired[Parallelism | None]
    jobId: NotRequired[HexId | None]
    allowNonRestoredState: NotRequired[bool | None]
    savepointPath: NotRequired[str | None]
    claimMode: NotRequired[Claim | None]
    flinkConfiguration: NotRequired[dict[str, str] | None]
    requirements: NotRequired[str | None]
    versions: NotRequired[dict[str, str] | None]
    user: NotRequired[str | None]
    interactive: NotRequired[bool | None]


class Submission(TypedDict):
    """`applicationId` is the job's. `notes`: what the user should know. `continued`: an earlier job goes on."""

    jobid: str
    applicationId: str
    jobName: str
    notes: list[str]
    continued: bool


def _query(
    entry: Annotated[str | None, Query(alias="entry-class", description="Path of the script in the archive.")] = None,
    arguments: Annotated[list[str] | None, Query(alias="programArg", description="One argument each.")] = None,
    line: Annotated[str | None, Query(alias="program-args", description="Arguments, as a shell splits them.")] = None,
    parallelism: Annotated[int | None, Query(ge=1, le=MAX_PARALLELISM)] = None,
    restore: Annotated[
        str | None, Query(alias="savepointPath", description="'latest', or the path of a checkpoint.")
    ] = None,
    non_restored: Annotated[
        bool, Query(alias="allowNonRestoredState", description="State of operators that are gone is dropped.")
    ] = False,
) -> RunBody:
    return {
        "entryClass": entry,
        "programArgsList": arguments,
        "programArgs": line,
        "parallelism": parallelism,
        "savepointPath": restore,
        "allowNonRestoredState": non_restored,
    }


RunQuery = Annotated[RunBody, Depends(_query)]


def run_request(artefact: str, query: RunBody, body: RunBody) -> RunRequest:
    """What is given in the body wins. RefusedError: arguments that cannot be split."""
    given: RunBody = {**query, **{key: value for key, value in body.items() if value is not None}}  # type: ignore[typeddict-item]
    return RunRequest(
        artefact=artefact,
        entry=given.get("entryClass") or None,
        arguments=tuple(_arguments(given)),
        parallelism=given.get("parallelism"),
        job_id=given.get("jobId"),
        restore=given.get("savepointPath") or None,
        allow_non_restored=bool(given.get("allowNonRestoredState")),
        config=given.get("flinkConfiguration") or {},
        requirements=given.get("requirements") or None,
        versions=given.get("versions") or {},
        user=given.get("user") or "",
        interactive=bool(given.get("interactive")),
    )


def _arguments(given: RunBody) -> list[str]:
    listed = given.get("programArgsList")
    if listed:
        return listed
    line = given.get("programArgs") or ""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise RefusedError(f"the arguments {line[:100]!r} cannot be split: {error}") from None


def submission(submitted: Submitted) -> Submission:
    return {
        "jobid": submitted.job_id,
        "applicationId": submitted.job_id,
        "jobName": submitted.job_name,
        "notes": list(submitted.notes),
        "continued": submitted.continued,
    }
