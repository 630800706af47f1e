"""Parameters that many paths share, with what OpenAPI says of them, and what handlers are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from threading import BoundedSemaphore
from time import time
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from prometheus_client import CollectorRegistry

from ..gateway import Gateway, UnavailableError

HEX_ID = "^[0-9a-f]{32}$"
COUNT = "[0-9]{1,6}"

JobIdPath = Annotated[str, Path(description="A job: 32 hexadecimal digits.", pattern=HEX_ID)]
VertexIdPath = Annotated[str, Path(description="A vertex of the job: 32 hexadecimal digits.", pattern=HEX_ID)]
SubtaskPath = Annotated[int, Path(description="A subtask's index, from 0.", ge=0, le=2**31 - 1)]
CheckpointIdPath = Annotated[int, Path(description="A checkpoint's number.", ge=0, le=2**63 - 1)]
TaskManagerPath = Annotated[str, Path(description="A task manager, as /taskmanagers names it.", max_length=300)]
FileNamePath = Annotated[str, Path(description="A file, as /logs names it.", max_length=300)]
ArtefactPath = Annotated[str, Path(description="Uploaded code, as /jars names it.", max_length=400)]
GetQuery = Annotated[
    str | None, Query(description="Names of metrics, with commas; without it only their names are answered.")
]
AggQuery = Annotated[
    str | None,
    Query(
        description="Of min, max, sum, avg and skew, with commas; all without it.",
        pattern="^(min|max|sum|avg|skew)(,(min|max|sum|avg|skew))*$",
    ),
]
SubtasksQuery = Annotated[
    str | None,
    Query(
        description="Indexes and ranges of subtasks, like 0-3,5; all without it.",
        pattern=f"^{COUNT}(-{COUNT})?(,{COUNT}(-{COUNT})?)*$",
    ),
]
IdsQuery = Annotated[str | None, Query(description="Only these, with commas; all without it.")]


def _now_ms() -> int:
    return int(time() * 1_000)


@dataclass(frozen=True, slots=True)
class RestOptions:
    """What is not the gateway's. Read from configuration by the process that serves."""

    upload_limit_bytes: int = 256 * 2**20
    refresh_interval_ms: int = 3_000
    web_submit: bool = True
    web_cancel: bool = True
    upload_directory: FilePath | None = None
    """Where uploads wait until they are taken over; None: the system's directory for temporary files."""
    max_waiting_polls: int = 16
    """Requests that may wait for collected records at a time: each holds one of the 40 threads that serve. One more
    is answered at once with what there is."""
    max_scripts: int = 8
    """Submitted scripts that may build their pipelines at a time; one more is asked to try again (503)."""
    max_questions: int = 16
    """For keyed state, that may wait for their slots at a time; likewise."""
    allowed_origins: tuple[str, ...] = ()
    """Whose web pages, besides this server's own, may change something."""
    now_ms: Callable[[], int] = _now_ms


@dataclass(frozen=True, slots=True)
class Serving:
    """What a handler works with."""

    gateway: Gateway
    options: RestOptions
    registry: CollectorRegistry
    polls: BoundedSemaphore = field(repr=False)
    scripts: BoundedSemaphore = field(repr=False)
    questions: BoundedSemaphore = field(repr=False)

    def now_ms(self) -> int:
        return self.options.now_ms()

    def place_for_a_script(self) -> AbstractContextManager[None]:
        """UnavailableError: all are taken. Each holds a thread for as long as its script takes."""
        return _place(self.scripts, f"{self.options.max_scripts} submitted scripts are being run already")

    def place_for_a_question(self) -> AbstractContextManager[None]:
        """UnavailableError: all are taken. Each holds a thread until its slot has answered."""
        return _place(self.questions, f"{self.options.max_questions} questions for keyed state wait already")


@contextmanager
def _place(places: BoundedSemaphore, taken: str) -> Iterator[None]:
    if not places.acquire(blocking=False):
        raise UnavailableError(f"{taken}; try again")
    try:
        yield
    finally:
        places.release()


async def _serving(request: Request) -> Serving:
    serving = request.app.state.serving
    assert isinstance(serving, Serving)
    return serving


Server = Annotated[Serving, Depends(_serving)]
"""A handler's first parameter. Not a thread's work, so it is async."""
