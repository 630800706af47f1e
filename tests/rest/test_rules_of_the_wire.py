"""What holds for every path: prefix, content type, headers, errors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from penstock.jobmanager import gateway as gw
from penstock.state.errors import ConfigurationError, ObjectStoreDenied, PenstockError, ProtocolError

if TYPE_CHECKING:
    from conftest import ViewsGateway

JOB = "0123456789abcdef0123456789abcdef"
UNKNOWN = "f" * 32
JSON_TYPE = "application/json; charset=UTF-8"


def errors_of(answer: Any, status: int) -> str:
    """The texts, of an answer that is an error to the letter."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON_TYPE
    assert answer.headers["access-control-allow-origin"] == "*"
    assert list(answer.json()) == ["errors"]
    assert answer.json()["errors"]
    return "\n".join(answer.json()["errors"])


def test_every_path_answers_with_and_without_its_version(client: TestClient) -> None:
    bare, versioned = client.get("/jobs/overview"), client.get("/v1/jobs/overview")
    assert bare.status_code == 200
    assert bare.headers["content-type"] == JSON_TYPE
    assert bare.headers["access-control-allow-origin"] == "*"
    assert versioned.content == bare.content


def test_the_root_says_what_this_is_and_where_it_is_described(client: TestClient) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON_TYPE)
    found = answer.json()
    assert found["server"].startswith("penstock: ")
    for what in ("documentation", "openapi", "overview"):
        assert client.get(found[what]).status_code == 200, what
    assert errors_of(client.post("/"), 404) == "Not found: /"


@pytest.mark.parametrize("path", ["/v2/overview", "/v1/v1/overview", "/v1", "/v1/", "/nothing", "/jobs/", "/v1/jobs/"])
def test_unknown_paths_are_404(client: TestClient, path: str) -> None:
    assert errors_of(client.get(path), 404) == f"Not found: {path}"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_wrong_method_is_404(client: TestClient, method: str) -> None:
    assert errors_of(client.request(method, "/v1/overview"), 404) == "Not found: /v1/overview"


def test_head_is_404(client: TestClient) -> None:
    answer = client.head("/overview")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == JSON_TYPE


@pytest.mark.parametrize("job_id", ["1", JOB.upper(), JOB + "0", f"{JOB[:-1]}g", f"{JOB}%0A"])
def test_malformed_ids_are_400(client: TestClient, job_id: str) -> None:
    assert "job_id" in errors_of(client.get(f"/jobs/{job_id}"), 400)


def test_an_unknown_job_is_404(client: TestClient) -> None:
    assert errors_of(client.get(f"/v1/jobs/{UNKNOWN}"), 404) == f"there is no job {UNKNOWN}"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (gw.UnknownError("it is gone"), 404),
        (gw.RefusedError("not like this"), 400),
        (gw.ConflictError("it lives"), 409),
        (gw.UnavailableError("try again"), 503),
        (ConfigurationError("no such option"), 400),
        (PenstockError("no"), 400),
        (ObjectStoreDenied("the bucket refuses"), 503),
    ],
)
def test_errors_of_the_gateway_have_their_status(
    client: TestClient, gateway: ViewsGateway, error: Exception, status: int
) -> None:
    gateway.failure = error
    assert errors_of(client.get("/config"), status) == str(error)


@pytest.mark.parametrize("error", [RuntimeError("password=hunter2"), ProtocolError("slot hunter2")])
def test_an_unforeseen_exception_goes_to_the_log_and_not_to_the_client(
    client: TestClient, gateway: ViewsGateway, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    gateway.failure = error
    with caplog.at_level(logging.ERROR):
        text = errors_of(client.get("/v1/config"), 500)
    assert "hunter2" not in text
    request_id = text.removesuffix(".").rpartition(" ")[2]
    (record,) = (record for record in caplog.records if request_id in record.getMessage())
    assert "GET /v1/config" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_the_description_names_no_status_that_is_not_given(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"], (path, method)
            assert operation["description"], (path, method)
