"""Flink's REST interface over a gateway: which paths there are, and what holds for all of them.

    middleware.py    /v1, headers, unforeseen exceptions, durations
    origins.py       which web pages may change something
    body_limit.py    how much a request may send
    errors.py        exceptions -> status and {"errors": [...]}
    parameters.py    ids and filters as OpenAPI knows them; what handlers are given
    cluster.py, jobs.py, vertices.py, checkpoints.py, savepoints.py, state.py, exceptions.py, metrics.py,
    taskmanagers.py, jobmanager.py, artefacts.py, submission.py, unsupported.py, prometheus.py
                     the paths of one resource: they ask the gateway and call pure functions
    wire_*.py, metric_ids.py    those: from views to the wire's objects, and their types

Handlers are plain functions: the framework runs each on one of 40 threads, because the gateway blocks. The types that
they return are what OpenAPI says, and every answer is checked against them before it leaves: a field that is missing,
or null where the Java client wants a number, cannot get out.

Ids that are malformed are 400, what is not there is 404, and a path or method that does not exist is 404 too. Where
Flink answers 500 (an unknown task manager, a job's status) there is a 404 here.
"""

from __future__ import annotations

from threading import BoundedSemaphore
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Histogram

from ...runtime.versions import own_versions
from ..gateway import Gateway
from . import (
    artefacts,
    checkpoints,
    cluster,
    exceptions,
    jobmanager,
    jobs,
    metrics,
    prometheus,
    savepoints,
    state,
    submission,
    taskmanagers,
    unsupported,
    vertices,
)
from .body_limit import BodyLimit
from .errors import ErrorBody, install
from .middleware import Wire
from .origins import Origins
from .parameters import RestOptions, Serving
from .prometheus import ClusterCollector
from .responses import WireJson
from .served_metrics import SERVED, full_name

ANY_ERROR: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "What is wrong with the request."},
    "5XX": {"model": ErrorBody, "description": "It cannot be done now (503), not by penstock (501), or an error here."},
}

DURATIONS = "http_request_duration_seconds"

# metrics before those whose paths take anything in that place
ROUTERS = (
    cluster.router, prometheus.router, metrics.router, artefacts.router, submission.router, unsupported.router,
    jobs.router, vertices.router, checkpoints.router, savepoints.router, state.router, exceptions.router,
    taskmanagers.router, jobmanager.router,
)  # fmt: skip


def create_app(gateway: Gateway, options: RestOptions | None = None) -> FastAPI:
    """The application; it keeps no state of jobs. Serve it with server.start."""
    options = options or RestOptions()
    registry = CollectorRegistry()
    app = FastAPI(
        title="penstock",
        version=own_versions()["penstock"],
        description="Flink's REST interface, version 1, for penstock. Every path also answers under /v1.",
        default_response_class=WireJson,
        responses=ANY_ERROR,
        redirect_slashes=False,
        redoc_url=None,
    )
    limits = (options.max_waiting_polls, options.max_scripts, options.max_questions)
    app.state.serving = Serving(gateway, options, registry, *map(BoundedSemaphore, limits))
    install(app, options.upload_limit_bytes)
    registry.register(ClusterCollector(gateway, options.now_ms))
    for router in ROUTERS:
        app.include_router(router)
    durations = Histogram(full_name(DURATIONS), SERVED[DURATIONS].text, SERVED[DURATIONS].labels, registry=registry)
    app.add_middleware(BodyLimit, upload_limit_bytes=options.upload_limit_bytes)
    app.add_middleware(Origins, allowed=options.allowed_origins)
    app.add_middleware(Wire, durations=durations)
    return app
