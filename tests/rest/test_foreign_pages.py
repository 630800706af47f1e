"""Web pages of others may not run code or cancel jobs on a cluster that the browser reaches."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from penstock.jobmanager.rest.app import RestOptions, create_app

if TYPE_CHECKING:
    from conftest import ViewsGateway

JOB = "0123456789abcdef0123456789abcdef"
HOST = "127.0.0.1:8081"
CHANGES = [
    ("POST", "/jars/upload"),
    ("POST", "/v1/jars/abc/run"),
    ("POST", "/jobs/graph"),
    ("POST", f"/jobs/{JOB}/suspend"),
    ("PATCH", f"/v1/jobs/{JOB}?mode=cancel"),
    ("DELETE", "/cluster"),
    ("DELETE", "/jars/abc"),
    ("GET", f"/v1/jobs/{JOB}/yarn-cancel"),
    ("GET", f"/jobs/{JOB}/yarn-stop"),
    ("GET", "/jars/abc/plan"),
    ("GET", f"/jobs/{JOB}/collected/numbers?after=3"),
]
FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:9000"},
    {"origin": "http://evil.example:8081", "host": "evil.example:8081"},
    {"origin": "http://[::"},
    {"sec-fetch-site": "cross-site"},
]


@pytest.fixture
def here(client: TestClient) -> TestClient:
    client.headers["host"] = HOST
    return client


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize("headers", FOREIGN)
def test_a_foreign_page_changes_nothing(
    here: TestClient, gateway: ViewsGateway, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = here.request(method, path, headers=headers, content=b"x" * 100 if method == "POST" else None)
    assert answer.status_code == 403, answer.text
    assert "rest.allowed-origins" in answer.json()["errors"][0]
    assert gateway.canceled == gateway.stopped == []
    assert (gateway.uploads, gateway.graphs, gateway.is_shut_down) == ({}, [], False)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": f"http://{HOST}"},
        {"origin": "http://localhost:8081", "host": "localhost:8081"},
        {"origin": f"http://{socket.gethostname()}:8081", "host": f"{socket.gethostname()}:8081"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_programs_and_own_pages_do(here: TestClient, gateway: ViewsGateway, headers: dict[str, str]) -> None:
    assert here.patch(f"/jobs/{JOB}", params={"mode": "cancel"}, headers=headers).status_code == 202
    assert here.get(f"/jobs/{JOB}/yarn-cancel", headers=headers).status_code == 202
    assert gateway.canceled == [JOB, JOB]


def test_everybody_reads(here: TestClient) -> None:
    answer = here.get(f"/jobs/{JOB}", headers={"origin": "https://evil.example"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.fixture
def allowing(gateway: ViewsGateway, options: RestOptions) -> Iterator[TestClient]:
    allowed = replace(options, allowed_origins=("https://Dashboard.example/", "http://other.example"))
    with TestClient(create_app(gateway, allowed)) as client:
        yield client


def test_some_pages_are_allowed(allowing: TestClient) -> None:
    path, good, bad = f"/jobs/{JOB}?mode=cancel", "https://dashboard.example", "https://dashboard.example.evil"
    assert allowing.patch(path, headers={"origin": good}).status_code == 202
    assert allowing.patch(path, headers={"origin": bad}).status_code == 403
