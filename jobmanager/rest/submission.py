"""penstock's own paths for clients that have built their pipeline themselves (env.execute with an address).

    POST /jobs/graph                        multipart: `request` (JSON, GraphBody) and `graph` (the pickled job graph)
    GET  /jobs/:id/collected/:collector     records of execute_and_collect, page after page
    POST /jobs/:id/suspend                  a last checkpoint and the end; `-s latest` continues the job

Nothing here looks into the graph: it is unpickled in the job's own processes.

Asking for collected records waits up to `wait` ms for something to come. Each request that waits holds a thread; when
as many as RestOptions.max_waiting_polls do, one more is answered at once with what there is, and asks again.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, NotRequired

import msgspec
from fastapi import APIRouter, File, Form, Path, Query, UploadFile
from typing_extensions import TypedDict

from ..gateway import GraphRequest, RefusedError
from .artefacts import check_submission_is_on
from .errors import TooLargeError, too_large
from .parameters import JobIdPath, Server
from .responses import Nothing
from .run_requests import Submission, submission

router = APIRouter(tags=["submission"])

LONGEST_WAIT_MS = 10_000
MS_PER_SECOND = 1_000


class GraphBody(TypedDict):
    """The `request` part. `artefacts`: ids of uploaded code that the functions import, the first one first.
    `pythonPath`: directories of this machine, for clients on it. `requirements`: lines of a requirements.txt.
    `archives`: pairs of an archive, in an artefact or on this machine, and the directory it is unpacked to."""

    jobName: str
    config: dict[str, str]
    versions: dict[str, str]
    artefacts: NotRequired[list[str]]
    pythonPath: NotRequired[list[str]]
    requirements: NotRequired[list[str]]
    archives: NotRequired[list[tuple[str, str]]]


class Collected(TypedDict):
    """`pages`: each a pickled list of records, in base64. `next`: the `after` to ask with next time, which says that
    these have arrived. `finished`: nothing follows."""

    pages: list[str]
    next: int
    finished: bool


@router.post("/jobs/graph")
def submit_graph(
    server: Server,
    request: Annotated[str, Form(description="JSON: jobName, config, versions; what a job's code needs.")],
    graph: Annotated[UploadFile, File(description="The pickled job graph.")],
) -> Submission:
    """Runs a job graph that a client has packaged."""
    check_submission_is_on(server)
    limit = server.options.upload_limit_bytes
    if (graph.size or 0) > limit:
        raise TooLargeError(too_large(limit))
    body = _graph_body(request)
    return submission(
        server.gateway.submit(
            GraphRequest(
                job_name=body["jobName"],
                graph=graph.file.read(),
                config=body["config"],
                versions=body["versions"],
                artefacts=tuple(body.get("artefacts", ())),
                python_path=tuple(body.get("pythonPath", ())),
                requirements=tuple(body.get("requirements", ())),
                archives=tuple(body.get("archives", ())),
            )
        )
    )


def _graph_body(text: str) -> GraphBody:
    try:
        return msgspec.json.decode(text, type=GraphBody)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise RefusedError(f"the part `request` is not what it should be: {error}") from None


@router.get("/jobs/{job_id}/collected/{collector}")
def collected(
    server: Server,
    job_id: JobIdPath,
    collector: Annotated[str, Path(description="As the job's view names it.", max_length=300)],
    after: Annotated[int, Query(description="`next` of the answer before; 0 at first.", ge=0, le=2**62)] = 0,
    wait: Annotated[int, Query(description="Ms to wait for something.", ge=0, le=LONGEST_WAIT_MS)] = 0,
) -> Collected:
    """Records that have come since."""
    waiting = wait > 0 and server.polls.acquire(blocking=False)
    try:
        wait_s = wait / MS_PER_SECOND if waiting else 0.0
        rows = server.gateway.collected(job_id, collector, after, wait_s)
    finally:
        if waiting:
            server.polls.release()
    pages = [b64encode(page).decode("ascii") for page in rows.pages]
    return {"pages": pages, "next": rows.next, "finished": rows.finished}


@router.post("/jobs/{job_id}/suspend", status_code=202)
def suspend(server: Server, job_id: JobIdPath) -> Nothing:
    """Takes a last checkpoint, commits it, and ends the job; submitted again with `-s latest` it goes on. Answers when
    the request is taken."""
    server.gateway.stop(job_id)
    return {}
