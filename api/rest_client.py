"""What a client asks of a cluster, over REST (jobmanager/rest/): one method per request, typed answers.

What the cluster refuses is raised as the gateway's errors (jobmanager/gateway.py) with its own sentences, whichever
request it was: UnknownError, RefusedError, ConflictError, and RestError for any other status. UnreachableError: nobody
answers at the address.

Retries. A cluster that is being restarted refuses connections for some seconds, or answers 503; both are tried again
within `patience_s`, with growing pauses. A connection that breaks after the request was sent is tried again only where
that does no harm: what starts a job is not, since it may have been heard. The first answer is awaited for
FIRST_PATIENCE_S only: a wrong address should be told at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from ..jobmanager.gateway import (
    CollectedRows,
    ConflictError,
    GraphRequest,
    RefusedError,
    RunRequest,
    StateQuestion,
    UnavailableError,
    UnknownError,
)
from ..jobmanager.views import NEVER, JobView
from ..state.errors import ConfigurationError, PenstockError
from ..state.ids import new_nonce
from .operations import Outcome

T = TypeVar("T")

DEFAULT_PORT = 8081
PATIENCE_S = 60.0
FIRST_PATIENCE_S = 3.0
CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 30.0
SUBMIT_TIMEOUT_S = 900.0
"""A script is executed before the answer comes, and its requirements may have to be installed."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 2.0
SHOWN = 300
"""Characters of an answer that is not what it should be."""


class UnreachableError(PenstockError):
    """No cluster answers at the address."""


class RestError(PenstockError):
    """The cluster answered with an error of its own, or not as a cluster does."""


_ERRORS: dict[int, type[PenstockError]] = {
    400: RefusedError, 403: RefusedError, 413: RefusedError,
    404: UnknownError, 409: ConflictError, 503: UnavailableError,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job in a list. State as Flink calls it; times in ms, -1: not yet."""

    id: str
    name: str
    state: str
    started_ms: int
    ended_ms: int
    duration_ms: int
    tasks: dict[str, int]

    @property
    def is_live(self) -> bool:
        return self.state not in ("FINISHED", "FAILED", "CANCELED", "SUSPENDED")


@dataclass(frozen=True, slots=True)
class LogRow:
    name: str
    size_bytes: int
    modified_ms: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that was submitted."""

    job_id: str
    job_name: str
    notes: tuple[str, ...] = ()
    continued: bool = False


def base_url(address: str) -> str:
    """'host', 'host:port' or a URL, as a URL. ConfigurationError if it is none of them."""
    text = address.strip()
    text = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"{address!r} is no address of a cluster; it looks like http://127.0.0.1:{DEFAULT_PORT}"
        )
    if port is None and parts.scheme == "http":
        text = text.replace(parts.netloc, f"{parts.netloc}:{DEFAULT_PORT}", 1)
    return text


class RestClient:
    """Safe to use from several threads. Close it in the end."""

    def __init__(self, address: str, *, patience_s: float = PATIENCE_S) -> None:
        """Does not connect yet. ConfigurationError: that is no address."""
        self.address = base_url(address)
        self._patience_s = patience_s
        self._answered = False
        loopback = urlsplit(self.address).hostname in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(
            base_url=self.address,
            timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=not loopback,  # no proxy is on the way to this machine
        )

    def close(self) -> None:
        self._http.close()

    # the cluster

    def config(self) -> dict[str, Any]:
        return self._json("GET", "/config", dict[str, Any])

    def overview(self) -> dict[str, Any]:
        """Counts of jobs, slots and task managers, under Flink's names."""
        return self._json("GET", "/overview", dict[str, Any])

    def task_managers(self) -> list[dict[str, Any]]:
        return self._json("GET", "/taskmanagers", dict[str, list[dict[str, Any]]])["taskmanagers"]

    def shut_down(self) -> None:
        """Jobs are stopped with a last checkpoint; then the cluster ends."""
        self._send("DELETE", "/cluster")

    # jobs

    def jobs(self) -> list[JobRow]:
        rows = self._json("GET", "/jobs/overview", dict[str, list[dict[str, Any]]])["jobs"]
        return [
            JobRow(
                row["jid"], row["name"], row["state"], row["start-time"], row["end-time"], row["duration"],
                dict(row.get("tasks", {})),
            )
            for row in rows
        ]  # fmt: skip

    def job(self, job_id: str) -> JobView:
        return self._json("GET", f"/jobs/{_part(job_id)}/view", JobView)

    def cancel(self, job_id: str) -> None:
        self._send("PATCH", f"/jobs/{_part(job_id)}", params={"mode": "cancel"})

    def stop(self, job_id: str) -> None:
        """A last checkpoint, its commits, the end; it can be continued."""
        self._send("POST", f"/jobs/{_part(job_id)}/suspend")

    def checkpoints(self, job_id: str) -> dict[str, Any]:
        """Under Flink's names."""
        return self._json("GET", f"/jobs/{_part(job_id)}/checkpoints", dict[str, Any])

    def begin_savepoint(
        self, job_id: str, target: str | None = None, *, stop: bool = False, drain: bool = False
    ) -> str:
        """Answers the request, by which `savepoint` tells what became of it. `target`: a URL or an absolute path; else
        state.savepoints.dir. `stop`: the job ends with it, `drain`: and event time before."""
        what, request = ("stop" if stop else "savepoints"), new_nonce()
        body: dict[str, Any] = {"triggerId": request}
        if target is not None:
            body["targetDirectory" if stop else "target-directory"] = target
        if drain:
            body["drain"] = True
        return self._begun(f"/jobs/{_part(job_id)}/{what}", body)

    def savepoint(self, job_id: str, request: str) -> Outcome:
        return self._outcome(f"/jobs/{_part(job_id)}/savepoints/{_part(request)}")

    def begin_checkpoint(self, job_id: str) -> str:
        """Answers the request."""
        return self._begun(f"/jobs/{_part(job_id)}/checkpoints", {"triggerId": new_nonce()})

    def checkpoint(self, job_id: str, request: str) -> Outcome:
        return self._outcome(f"/jobs/{_part(job_id)}/checkpoints/{_part(request)}")

    def begin_disposal(self, path: str) -> str:
        """Answers the request."""
        return self._begun("/savepoint-disposal", {"savepoint-path": path, "triggerId": new_nonce()})

    def disposal(self, request: str) -> Outcome:
        return self._outcome(f"/savepoint-disposal/{_part(request)}")

    def _begun(self, path: str, body: dict[str, Any]) -> str:
        """The cluster knows the request when it hears it again."""
        return self._json("POST", path, dict[str, str], repeatable=True, json=body)["request-id"]

    def _outcome(self, path: str) -> Outcome:
        answer = self._json("GET", path, dict[str, Any])
        told = answer["operation"] or {}
        cause = told.get("failure-cause")
        failure = None if cause is None else str(cause["stack-trace"]).removeprefix(f"{cause['class']}: ")
        ended = answer["status"]["id"] == "COMPLETED"
        return Outcome(ended, told.get("location", ""), told.get("checkpointId", NEVER), failure)

    def states(self, job_id: str) -> list[dict[str, Any]]:
        """Which can be asked for; under the names of REST."""
        return self._json("GET", f"/jobs/{_part(job_id)}/state", dict[str, list[dict[str, Any]]])["states"]

    def state(self, job_id: str, question: StateQuestion) -> dict[str, Any]:
        """What a key has in a state now; likewise. While the job restarts it is asked again."""
        params: dict[str, Any] = {"key": question.key, "namespace": question.namespace}
        if question.entry is not None:
            params["map-key"] = question.entry
        path = f"/jobs/{_part(job_id)}/state/{_part(question.operator)}/{_part(question.state)}"
        return self._json("GET", path, dict[str, Any], params=params)

    def collected(self, job_id: str, collector: str, after: int, wait_s: float) -> CollectedRows:
        """Records of execute_and_collect that follow number `after`: those before it have arrived."""
        path = f"/jobs/{_part(job_id)}/collected/{_part(collector)}"
        params = {"after": after, "wait": int(wait_s * 1000)}
        return self._json("GET", path, CollectedRows, params=params)

    # code, and what runs it

    def artefacts(self) -> set[str]:
        """Ids of the code that the cluster has."""
        answer = self._json("GET", "/jars", dict[str, Any])
        return {str(file["id"]) for file in answer["files"]}

    def upload(self, file: Path, name: str) -> str:
        """The id of the artefact."""
        with file.open("rb") as content:
            files = {"jarfile": (name, content, "application/octet-stream")}
            answer = self._json("POST", "/jars/upload", dict[str, Any], files=files, timeout=SUBMIT_TIMEOUT_S)
        return str(answer["filename"]).rpartition("/")[2]

    def run(self, request: RunRequest) -> Accepted:
        body: dict[str, Any] = {
            "entryClass": request.entry,
            "programArgsList": list(request.arguments),
            "parallelism": request.parallelism,
            "jobId": request.job_id,
            "allowNonRestoredState": request.allow_non_restored,
            "savepointPath": request.restore,
            "flinkConfiguration": request.config,
            "requirements": request.requirements,
            "versions": request.versions,
            "user": request.user,
            "interactive": request.interactive,
        }
        body = {name: value for name, value in body.items() if value is not None}
        path = f"/jars/{_part(request.artefact)}/run"
        return self._accepted(self._json("POST", path, dict[str, Any], json=body, timeout=SUBMIT_TIMEOUT_S))

    def submit(self, request: GraphRequest) -> Accepted:
        description = {
            "jobName": request.job_name,
            "config": request.config,
            "versions": request.versions,
            "artefacts": request.artefacts,
            "pythonPath": request.python_path,
            "requirements": request.requirements,
            "archives": request.archives,
        }
        data = {"request": json.dumps(description)}
        files = {"graph": ("graph", request.graph, "application/octet-stream")}
        path, timeout = "/jobs/graph", SUBMIT_TIMEOUT_S
        return self._accepted(self._json("POST", path, dict[str, Any], data=data, files=files, timeout=timeout))

    @staticmethod
    def _accepted(answer: Mapping[str, Any]) -> Accepted:
        return Accepted(
            str(answer["jobid"]),
            str(answer.get("jobName", "")),
            tuple(answer.get("notes", ())),
            bool(answer.get("continued", False)),
        )

    # logs

    def logs(self, task_manager: str | None) -> list[LogRow]:
        """None: of the job manager."""
        answer = self._json("GET", f"{_process(task_manager)}/logs", dict[str, list[dict[str, Any]]])
        return [LogRow(row["name"], row["size"], row["mtime"]) for row in answer["logs"]]

    def log(self, task_manager: str | None, name: str) -> bytes:
        """Its end, at most some MiB."""
        return self._send("GET", f"{_process(task_manager)}/logs/{_part(name)}").content

    # how requests are sent

    def _json(self, method: str, path: str, kind: type[T], *, repeatable: bool = False, **arguments: Any) -> T:
        response = self._send(method, path, repeatable=repeatable, **arguments)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.MsgspecError as error:
            raise RestError(
                f"{self.address} does not answer as a penstock cluster of this version does to {method} {path}: {error}"
            ) from None

    def _send(self, method: str, path: str, *, repeatable: bool = False, **arguments: Any) -> httpx.Response:
        """`repeatable`: it does no harm to be heard twice."""
        repeatable = repeatable or method in ("GET", "PATCH", "DELETE")
        patience_s = self._patience_s if self._answered else min(self._patience_s, FIRST_PATIENCE_S)
        response = _patiently(
            lambda: self._try(method, path, repeatable, arguments), time.monotonic() + patience_s, FIRST_PAUSE_S
        )
        self._answered = True
        if response.is_success:
            return response
        raise _error(response, self.address)

    def _try(self, method: str, path: str, repeatable: bool, arguments: dict[str, Any]) -> httpx.Response:
        """_Again where another try does no harm."""
        _rewind(arguments.get("files"))
        try:
            response = self._http.request(method, path, **arguments)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _Again(self._unreachable(error)) from None
        except httpx.TransportError as error:
            if repeatable:
                raise _Again(self._unreachable(error)) from None
            raise UnreachableError(
                f"the connection to {self.address} broke before it answered ({_reason(error)}): what was asked may "
                "have happened; `penstock list` shows the jobs"
            ) from None
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"{self.address!r} is no address of a cluster: {error}") from None
        if response.status_code == 503:
            raise _Again(_error(response, self.address))
        return response

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"no cluster answers at {self.address} ({_reason(error)}): is it running? `penstock cluster start` starts "
            "one here; --address or PENSTOCK_ADDRESS names another, and --local runs without"
        )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Again(Exception):
    def __init__(self, error: PenstockError) -> None:
        self.error = error


def _patiently(attempt: Callable[[], httpx.Response], deadline_s: float, pause_s: float) -> httpx.Response:
    while True:
        try:
            return attempt()
        except _Again as again:
            if time.monotonic() + pause_s > deadline_s:
                raise again.error from None
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, MAX_PAUSE_S)


def _rewind(files: Mapping[str, Any] | None) -> None:
    for _, content, *_ in (files or {}).values():
        if hasattr(content, "seek"):
            content.seek(0)


def _error(response: httpx.Response, address: str) -> PenstockError:
    """The cluster's own sentences, in an error of the kind its status means."""
    try:
        texts = msgspec.json.decode(response.content, type=dict[str, list[str]])["errors"]
    except (msgspec.MsgspecError, KeyError):
        shown = response.text[:SHOWN].strip()
        return RestError(f"{address} answers {response.status_code}, and not as a penstock cluster does: {shown}")
    return _ERRORS.get(response.status_code, RestError)("\n".join(texts))


def _process(task_manager: str | None) -> str:
    return "/jobmanager" if task_manager is None else f"/taskmanagers/{_part(task_manager)}"


def _part(text: str) -> str:
    return quote(text, safe="")
