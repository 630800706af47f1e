"""What REST asks of the cluster: the interface between rest/ and whoever answers (the dispatcher's shell, or a test).

Methods block, for at most some seconds, and are called from many threads. They raise the errors below, or
PenstockErrors whose message is for the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..state.backend import VOID_NAMESPACE
from ..state.errors import PenstockError
from ..state.ids import JobId, OperatorId
from ..state.rows.cell_reads import CellRows
from ..state.store.counted_objects import ObjectCounts
from .views import DisposalOperation, JobOverview, JobView, LogFile, TaskManagerView


class UnknownError(PenstockError):
    """There is no such job, task manager, artefact or log. REST: 404."""


class RefusedError(PenstockError):
    """The request cannot be done as it is, and why. REST: 400."""


class ConflictError(PenstockError):
    """It contradicts what is there: a live job of that name, a job that has ended. REST: 409."""


class UnavailableError(PenstockError):
    """Somebody who must answer does not, now: try again. REST: 503."""


@dataclass(frozen=True, slots=True)
class ArtefactView:
    """Uploaded code: a script, or an archive of a working directory."""

    id: str
    """'<sha256>_<name>': the same content and name is the same artefact."""
    name: str
    uploaded_ms: int
    size_bytes: int
    entry: str | None
    """The script that is run when none is named."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Run a script out of an artefact: it is executed in a process of its own, which captures the pipeline."""

    artefact: str
    entry: str | None = None
    """Path of the script within the artefact."""
    arguments: tuple[str, ...] = ()
    parallelism: int | None = None
    job_id: str | None = None
    restore: str | None = None
    """'latest', or the path of a checkpoint."""
    allow_non_restored: bool = False
    config: dict[str, str] = field(default_factory=dict)
    """Flags (`-c key=value`)."""
    requirements: str | None = None
    """Path within the artefact of a requirements.txt."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the client: python, penstock and packages; what does not agree is refused."""
    user: str = ""
    """Who asked, for the logs."""
    interactive: bool = False
    """The client stays and shows progress and collected records."""


@dataclass(frozen=True, slots=True)
class GraphRequest:
    """Run a job graph that a client has packaged. Only the job's own processes look into it."""

    job_name: str
    graph: bytes
    """Pickle of a runtime JobGraph (state/serialization/pickling.py)."""
    config: dict[str, str]
    versions: dict[str, str]
    artefacts: tuple[str, ...] = ()
    """Code that its functions import."""
    python_path: tuple[str, ...] = ()
    """Directories on this machine that its functions import from (embedded clusters only)."""
    requirements: tuple[str, ...] = ()
    """Lines of a requirements.txt."""
    archives: tuple[tuple[str, str], ...] = ()
    """Files below an artefact or on this machine, each with the directory that its functions find it unpacked in."""


@dataclass(frozen=True, slots=True)
class Submitted:
    job_id: JobId
    job_name: str
    notes: tuple[str, ...] = ()
    """What the user should know: options without effect, operators without uid, lines the script printed."""
    continued: bool = False
    """An earlier job goes on."""


@dataclass(frozen=True, slots=True)
class Captured:
    """The pipeline of a script, not run."""

    job_name: str
    plan: dict[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class CollectedRows:
    """Records of `execute_and_collect`, in order, as pickled lists."""

    pages: tuple[bytes, ...]
    next: int
    """Ask with this for what follows; asking with it also says that what came before has arrived."""
    finished: bool
    """The job has ended and nothing follows."""


@dataclass(frozen=True, slots=True)
class StateQuestion:
    """What a key has in a state of a job that runs."""

    operator: str
    """Its uid or id, or its name if no other has it."""
    state: str
    key: str
    """As state/savepoints/written_keys.py reads it."""
    entry: str | None = None
    """Of a map: only what stands under this key."""
    namespace: int = VOID_NAMESPACE
    """Of a window's state: its start, ms, or number."""


@dataclass(frozen=True, slots=True)
class StateAnswer:
    """What it has, by the subtask that owns the key."""

    operator: OperatorId
    subtask: int
    cell: CellRows


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    cluster_id: str
    versions: dict[str, str]
    config: dict[str, str]
    """Secrets masked."""
    storage: str
    started_ms: int
    jobmanager_pid: int
    environment: dict[str, str] = field(default_factory=dict)
    objects: ObjectCounts = field(default_factory=ObjectCounts)
    """What the job manager's process has asked of the cluster's object store."""


class Gateway(Protocol):
    """Everything REST can ask for; see the module's text for what is raised."""

    def info(self) -> ClusterInfo: ...

    # jobs
    def jobs(self) -> list[JobOverview]:
        """Running and remembered ones."""
        ...

    def job(self, job_id: str) -> JobView: ...

    def cancel(self, job_id: str) -> None:
        """Answers when the request is taken, not when it is done. ConflictError if the job has ended otherwise."""
        ...

    def stop(self, job_id: str) -> None:
        """A last checkpoint, its commits, and the end; `latest` continues it."""
        ...

    def savepoint(self, job_id: str, request: str, target: str | None, *, stop: bool, drain: bool) -> None:
        """Begins one, with which the job ends if it is to `stop`; `drain`: after event time has ended. What becomes of
        it stands in the job's view (`savepoints`), also when the job has ended. Whoever asks again with the same
        `request`, 32 hex digits, asks nothing new. RefusedError: the target, or the default one, is missing or
        relative. ConflictError: the job has ended."""
        ...

    def checkpoint(self, job_id: str, request: str) -> None:
        """Begins one now; what becomes of it stands in the job's view (`requested_checkpoints`). Otherwise like
        `savepoint`."""
        ...

    def dispose(self, path: str, request: str) -> None:
        """Begins to delete a savepoint. RefusedError: no savepoint can be at that path."""
        ...

    def disposal(self, request: str) -> DisposalOperation:
        """What became of that."""
        ...

    def read_state(self, job_id: str, question: StateQuestion) -> StateAnswer:
        """Now, between two slices of what the subtask does. UnavailableError: it does not run at the moment, or does
        not answer; ConflictError: the job has ended; UnknownError, and PenstockErrors that say what is wrong."""
        ...

    def collected(self, job_id: str, collector: str, after: int, wait_s: float) -> CollectedRows:
        """Waits up to `wait_s` for something to come."""
        ...

    # submission
    def artefacts(self) -> list[ArtefactView]: ...

    def upload(self, name: str, file: Path) -> ArtefactView:
        """Takes the file over."""
        ...

    def delete_artefact(self, artefact_id: str) -> None: ...

    def run(self, request: RunRequest) -> Submitted: ...

    def capture(self, request: RunRequest) -> Captured: ...

    def submit(self, request: GraphRequest) -> Submitted: ...

    # processes
    def task_managers(self) -> list[TaskManagerView]: ...

    def logs(self, task_manager: str | None) -> list[LogFile]:
        """None: of the job manager."""
        ...

    def log(self, task_manager: str | None, name: str, tail_bytes: int) -> bytes: ...

    def thread_dump(self, task_manager: str | None) -> Mapping[str, str]:
        """Thread name -> stack."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Of the job manager's process: names as Flink's Status.* (REST.md)."""
        ...

    def shutdown(self) -> None:
        """Jobs are stopped with a last checkpoint, and can be resumed; then all processes end."""
        ...
