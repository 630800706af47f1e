"""The client of the REST interface: addresses, retries, errors, and records that are fetched once."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from penstock.api.operations import awaited
from penstock.api.remote_job import RemoteJob
from penstock.api.rest_client import Accepted, RestClient, RestError, UnreachableError, base_url
from penstock.jobmanager.gateway import ConflictError, GraphRequest, RefusedError, UnavailableError, UnknownError
from penstock.state.errors import CheckpointError, ConfigurationError

JOB = "0123456789abcdef0123456789abcdef"
Answer = tuple[int, Any] | None


class Scripted:
    """A server whose answers are a function of the request; None breaks the connection."""

    def __init__(self, answer: Callable[[str, str], Answer]) -> None:
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                scripted.bodies.append(self.rfile.read(int(self.headers.get("content-length", 0))))
                scripted.requests.append((self.command, self.path))
                found = answer(self.command, self.path)
                if found is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                status, body = found
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = respond

            def log_message(self, format: str, *arguments: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[Scripted, RestClient]]]:
    made: list[Any] = []

    def make(answer: Callable[[str, str], Answer], patience_s: float = 20) -> tuple[Scripted, RestClient]:
        server = Scripted(answer)
        client = RestClient(server.address, patience_s=patience_s)
        made.extend((client, server))
        return server, client

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("localhost", "http://localhost:8081"),
        ("10.0.0.1:9000", "http://10.0.0.1:9000"),
        (" http://a.b/ ", "http://a.b:8081"),
        ("https://a.b/flows/", "https://a.b/flows"),
        ("[::1]:80", "http://[::1]:80"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert base_url(address) == url


@pytest.mark.parametrize("address", ["", "ftp://a", "http://", "http://a:port", "://"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a cluster"):
        base_url(address)


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    client = RestClient(f"127.0.0.1:{port}", patience_s=0.3)
    with pytest.raises(UnreachableError, match=rf"no cluster answers at http://127\.0\.0\.1:{port} .*PENSTOCK_ADDRESS"):
        client.jobs()
    client.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RefusedError), (404, UnknownError), (409, ConflictError), (413, RefusedError), (500, RestError)],
)
def test_errors_carry_the_clusters_own_sentences(scripted: Any, status: int, kind: type[Exception]) -> None:
    _, client = scripted(lambda method, path: (status, {"errors": ["this is wrong", "and this"]}))
    with pytest.raises(kind) as raised:
        client.job(JOB)
    assert str(raised.value) == "this is wrong\nand this"


def test_what_is_no_cluster(scripted: Any) -> None:
    _, client = scripted(lambda method, path: (404, b"<html>nginx</html>"))
    with pytest.raises(RestError, match="answers 404, and not as a penstock cluster does: <html>nginx"):
        client.overview()
    _, client = scripted(lambda method, path: (200, b"hello"))
    with pytest.raises(RestError, match="does not answer as a penstock cluster"):
        client.overview()


def test_a_cluster_that_is_not_ready_is_asked_again(scripted: Any) -> None:
    answers = iter([(503, {"errors": ["loading"]}), None, (200, {"jobs": []})])
    server, client = scripted(lambda method, path: next(answers))
    assert client.jobs() == []
    assert server.requests == [("GET", "/jobs/overview")] * 3


def test_patience_has_an_end(scripted: Any) -> None:
    server, client = scripted(lambda method, path: (503, {"errors": ["loading"]}), patience_s=0.5)
    with pytest.raises(UnavailableError, match="loading"):
        client.jobs()
    assert 2 <= len(server.requests) <= 5


def test_a_submission_whose_answer_is_lost_is_not_sent_again(scripted: Any) -> None:
    server, client = scripted(lambda method, path: None)
    with pytest.raises(UnreachableError, match="may have happened; `penstock list`"):
        client.submit(GraphRequest("job", b"graph", {}, {}))
    assert server.requests == [("POST", "/jobs/graph")]


@pytest.mark.parametrize("stop", [False, True])
def test_a_savepoint_whose_answer_is_lost_is_asked_for_again_under_the_same_id(scripted: Any, stop: bool) -> None:
    answers = iter([None, (202, {"request-id": "1" * 32})])
    server, client = scripted(lambda method, path: next(answers))
    assert client.begin_savepoint(JOB, "/kept", stop=stop, drain=stop) == "1" * 32
    assert server.requests == [("POST", f"/jobs/{JOB}/{'stop' if stop else 'savepoints'}")] * 2
    first, second = (json.loads(body) for body in server.bodies)
    assert first == second
    assert len(first["triggerId"]) == 32


def test_what_became_of_a_savepoint_is_asked_until_it_ends(scripted: Any) -> None:
    pending = {"status": {"id": "IN_PROGRESS"}, "operation": None}
    cause = {"class": "some.Error", "stack-trace": "some.Error: disk full", "serialized-throwable": ""}
    done = [{"location": "/kept/savepoint-1"}, {"failure-cause": cause}]
    ended = [{"status": {"id": "COMPLETED"}, "operation": operation} for operation in done]
    answers = iter([(200, pending), (200, ended[0]), (200, pending), (503, {"errors": ["later"]}), (200, ended[1])])
    _, client = scripted(lambda method, path: next(answers))
    assert awaited(lambda: client.savepoint(JOB, "1" * 32)).location == "/kept/savepoint-1"
    with pytest.raises(CheckpointError, match=r"^disk full$"):
        awaited(lambda: client.savepoint(JOB, "1" * 32))


def test_a_wait_for_a_savepoint_may_have_an_end(scripted: Any) -> None:
    pending = {"status": {"id": "IN_PROGRESS"}, "operation": None}
    _, client = scripted(lambda method, path: (200, pending))
    with pytest.raises(TimeoutError):
        awaited(lambda: client.savepoint(JOB, "1" * 32), timeout_s=0.2)


def test_a_submission_that_was_not_taken_is_sent_again(scripted: Any) -> None:
    taken = {"jobid": JOB, "jobName": "job", "notes": ["mind this"], "continued": True}
    answers = iter([(503, {"errors": ["starting"]}), (200, taken)])
    _, client = scripted(lambda method, path: next(answers))
    accepted = client.submit(GraphRequest("job", b"graph", {}, {}))
    assert accepted == Accepted(JOB, "job", ("mind this",), True)


def test_collected_records_come_once_and_in_order_whatever_breaks(scripted: Any) -> None:
    """Each answer is lost once, after the server has done its part."""
    pages = [pickle.dumps([number, number + 1]) for number in range(0, 6, 2)]
    fetched: list[int] = []
    lost: set[int] = set()

    def answer(method: str, path: str) -> Answer:
        after = int(path.partition("after=")[2].partition("&")[0])
        fetched.append(after)
        if after not in lost:
            lost.add(after)
            return None if after % 2 else (503, {"errors": ["the dispatcher is being restarted"]})
        shown = [b64encode(page).decode() for page in pages[after : after + 1]]
        return 200, {"pages": shown, "next": after + len(shown), "finished": not shown}

    _, client = scripted(answer)
    job = RemoteJob(client, Accepted(JOB, "job"))
    job.look_sometimes = lambda: None  # type: ignore[method-assign]
    rows, found = job.rows("collect 2"), []
    while (more := rows.more()) is not None:
        found += more
    assert found == list(range(6))
    assert fetched == [0, 0, 1, 1, 2, 2, 3, 3]
    assert rows.more() is None


def test_names_in_paths_are_quoted(scripted: Any) -> None:
    server, client = scripted(lambda method, path: (200, b"text"))
    assert client.log("host:1/../x", "a b.log") == b"text"
    assert server.requests == [("GET", "/taskmanagers/host%3A1%2F..%2Fx/logs/a%20b.log")]
