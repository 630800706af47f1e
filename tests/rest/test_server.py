"""The server on a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from penstock.jobmanager.rest.app import RestOptions, create_app
from penstock.jobmanager.rest.server import RunningServer, start
from penstock.state.errors import ConfigurationError

ViewsGateway = Any


@pytest.fixture
def server(gateway: ViewsGateway, options: RestOptions) -> Iterator[RunningServer]:
    running = start(create_app(gateway, options), "127.0.0.1", 0)
    yield running
    running.stop()


def test_it_serves_on_a_port_of_its_own_until_it_is_stopped(server: RunningServer) -> None:
    assert server.port > 0
    assert httpx.get(f"{server.url}/v1/overview").json()["taskmanagers"] == 1
    server.stop()
    assert not server.is_alive
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/overview")
    server.stop()


def test_a_busy_port_is_named_with_the_option(server: RunningServer, gateway: ViewsGateway) -> None:
    with pytest.raises(ConfigurationError, match=rf"port {server.port} on 127.0.0.1 is in use.*--port or rest.port"):
        start(create_app(gateway), "127.0.0.1", server.port)


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [("192.0.2.1", 0, "rest.bind-address"), ("no such host", 0, "not known"), ("127.0.0.1", 70_000, "rest.port")],
)
def test_an_address_that_cannot_be_had_says_why(gateway: ViewsGateway, host: str, port: int, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        start(create_app(gateway), host, port)


def test_a_port_is_free_again_at_once(server: RunningServer, gateway: ViewsGateway) -> None:
    httpx.get(f"{server.url}/overview")
    server.stop()
    again = start(create_app(gateway), "127.0.0.1", server.port)
    try:
        assert httpx.get(f"{again.url}/overview").status_code == 200
    finally:
        again.stop()


def test_a_request_that_waits_does_not_hold_up_the_end(server: RunningServer, gateway: ViewsGateway) -> None:
    job = next(iter(gateway.views))
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(httpx.get(f"{server.url}/jobs/{job}/collected/numbers?wait=10000", timeout=30))
        except httpx.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert gateway.asked.wait(30)
    server.stop()
    assert not server.is_alive
    gateway.polls.set()
    thread.join(30)
    assert len(answers) == 1


def test_an_upload_that_is_too_large_is_told_so(server: RunningServer, options: RestOptions) -> None:
    content = b"x" * 16 * options.upload_limit_bytes
    answer = httpx.post(f"{server.url}/jars/upload", files={"jarfile": ("a.py", content)}, timeout=30)
    assert answer.status_code == 413
    assert "rest.server.max-content-length" in answer.json()["errors"][0]
    assert list(options.upload_directory.iterdir()) == []  # type: ignore[union-attr]


def test_what_is_no_http_does_not_stop_it(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01\x00\xee\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{server.url}/overview").status_code == 200


def test_head_and_options_are_unknown(server: RunningServer) -> None:
    for method in ("HEAD", "OPTIONS"):
        answer = httpx.request(method, f"{server.url}/overview")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/json; charset=UTF-8"
