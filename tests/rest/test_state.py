"""Keyed state of a running job: what can be asked, and how what is wrong is told. Over a real job: tests/api."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from penstock.jobmanager.gateway import ConflictError, StateQuestion, UnavailableError
from penstock.jobmanager.rest.app import create_app
from penstock.jobmanager.rest.parameters import RestOptions
from penstock.state.errors import KeyTypeError

ViewsGateway = Any
JOB = "/v1/jobs/0123456789abcdef0123456789abcdef"
SUMS = f"{JOB}/state/op-3/all sums"


def test_which_states_there_are(client: TestClient) -> None:
    assert client.get(f"{JOB}/state").json() == {
        "states": [
            {
                "operator": "op-3", "operator-name": "write", "name": "all sums", "kind": "list", "key": "str",
                "map-key": None, "type": "int", "entries": 9, "bytes": 700,
            }
        ]
    }  # fmt: skip


def test_a_value_and_what_was_asked(client: TestClient, gateway: ViewsGateway) -> None:
    assert client.get(SUMS, params={"key": "alice"}).json() == {
        "operator": "op-3", "subtask": 1, "name": "all sums", "kind": "list", "namespace": 0, "found": True,
        "value": [1, 2, 3], "truncated": False,
    }  # fmt: skip
    client.get(f"{JOB}/state/op-3/a%2Fb", params={"key": '["a/b"]', "map-key": "7", "namespace": -5})
    assert gateway.questions == [
        StateQuestion("op-3", "all sums", "alice"),
        StateQuestion("op-3", "a/b", '["a/b"]', "7", -5),
    ]


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        (SUMS, {}, 400),
        (SUMS, {"key": "x", "namespace": "yesterday"}, 400),
        (SUMS, {"key": "x", "namespace": 2**63}, 400),
        (SUMS, {"key": "x" * 17_000}, 400),
        (f"{JOB}/state/op-3/nothing", {"key": "x"}, 404),
        (f"{JOB}/state/op-3", {"key": "x"}, 404),
        (SUMS.replace("0123", "ffff"), {"key": "x"}, 404),
        (f"/v1/jobs/{'f' * 32}/state", {}, 404),
    ],
)
def test_what_is_wrong_is_told(client: TestClient, path: str, query: dict[str, str], status: int) -> None:
    answer = client.get(path, params=query)
    assert (answer.status_code, list(answer.json())) == (status, ["errors"])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyTypeError("no such key"), 400),
        (ConflictError("it has ended"), 409),
        (UnavailableError("try again"), 503),
    ],
)
def test_errors_of_the_job(client: TestClient, gateway: ViewsGateway, error: Exception, status: int) -> None:
    def fail(job_id: str, question: StateQuestion) -> Any:
        raise error

    gateway.read_state = fail
    answer = client.get(SUMS, params={"key": "x"})
    assert (answer.status_code, answer.json()) == (status, {"errors": [str(error)]})


def test_questions_that_wait_do_not_take_every_thread(gateway: ViewsGateway) -> None:
    asked, go = threading.Semaphore(0), threading.Event()
    answer = gateway.read_state

    def wait(job_id: str, question: StateQuestion) -> Any:
        asked.release()
        assert go.wait(30)
        return answer(job_id, question)

    gateway.read_state = wait
    with TestClient(create_app(gateway, RestOptions(max_questions=2))) as client:
        codes: list[int] = []
        waiting = [
            threading.Thread(target=lambda: codes.append(client.get(SUMS, params={"key": "x"}).status_code))
            for _ in range(2)
        ]
        for thread in waiting:
            thread.start()
            assert asked.acquire(timeout=30)
        refused = client.get(SUMS, params={"key": "x"})
        assert (refused.status_code, refused.json()["errors"]) == (
            503, ["2 questions for keyed state wait already; try again"],
        )  # fmt: skip
        go.set()
        for thread in waiting:
            thread.join(30)
        assert codes == [200, 200]
        assert client.get(SUMS, params={"key": "x"}).status_code == 200
