"""Savepoints, stops, checkpoints and disposals on request: fields, status codes, and what is asked of the gateway."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from penstock.jobmanager import views

if TYPE_CHECKING:
    from conftest import ViewsGateway

JOB = "0123456789abcdef0123456789abcdef"
UNKNOWN = "f" * 32
TRIGGER = "c" * 32
DIRECTORY = "/savepoints/savepoint-012345-000000000001"
REQUEST_ID = re.compile("[0-9a-f]{32}")


def begun(client: TestClient, path: str, body: Any, status: int = 202) -> str:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["request-id"]
    request: str = answer.json()["request-id"]
    assert REQUEST_ID.fullmatch(request)
    return request


def status(client: TestClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("path", "body", "stop", "drain"),
    [
        ("savepoints", {"target-directory": "/savepoints"}, False, False),
        ("savepoints", {"target-directory": "/savepoints", "cancel-job": True, "formatType": "NATIVE"}, True, False),
        ("stop", {"targetDirectory": "/savepoints", "formatType": "CANONICAL"}, True, False),
        ("stop", {"targetDirectory": "/savepoints", "drain": True}, True, True),
        ("v1 stop", {"targetDirectory": "/savepoints", "drain": None, "somethingNew": 1}, True, False),
    ],
)
def test_a_savepoint_and_its_place(
    client: TestClient, gateway: ViewsGateway, path: str, body: Any, stop: bool, drain: bool
) -> None:
    prefix = "/v1" if path.startswith("v1 ") else ""
    request = begun(client, f"{prefix}/jobs/{JOB}/{path.removeprefix('v1 ')}", body)
    assert gateway.savepoints == [(JOB, request, "/savepoints", stop, drain)]
    assert status(client, f"{prefix}/jobs/{JOB}/savepoints/{request}") == {
        "status": {"id": "COMPLETED"},
        "operation": {"location": DIRECTORY},
    }


def test_one_that_is_under_way_and_one_that_failed(client: TestClient) -> None:
    slow = begun(client, f"/jobs/{JOB}/savepoints", {"target-directory": "/slow"})
    answer = status(client, f"/jobs/{JOB}/savepoints/{slow}")
    assert answer == {"status": {"id": "IN_PROGRESS"}, "operation": None}
    failed = begun(client, f"/jobs/{JOB}/stop", {"targetDirectory": "/full"})
    answer = status(client, f"/jobs/{JOB}/savepoints/{failed}")
    assert answer["status"] == {"id": "COMPLETED"}
    cause = answer["operation"]["failure-cause"]
    assert (list(answer["operation"]), set(cause)) == (
        ["failure-cause"],
        {"class", "stack-trace", "serialized-throwable"},
    )
    assert cause["class"].endswith("CheckpointError")
    assert "disk full" in cause["stack-trace"]


@pytest.mark.parametrize(("path", "directory"), [("savepoints", "target-directory"), ("stop", "targetDirectory")])
def test_the_same_trigger_again_begins_nothing(
    client: TestClient, gateway: ViewsGateway, path: str, directory: str
) -> None:
    for _ in range(2):
        body = {directory: "/savepoints", "triggerId": TRIGGER}
        assert begun(client, f"/jobs/{JOB}/{path}", body) == TRIGGER
    assert len(gateway.savepoints) == 1


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (f"/jobs/{JOB}/savepoints", {}, 400),
        (f"/jobs/{JOB}/savepoints", {"target-directory": ""}, 400),
        (f"/jobs/{JOB}/savepoints", {"target-directory": 1}, 400),
        (f"/jobs/{JOB}/savepoints", {"target-directory": "/s", "triggerId": "1"}, 400),
        (f"/jobs/{JOB}/savepoints", {"target-directory": "/s", "formatType": "OTHER"}, 400),
        (f"/jobs/{JOB}/stop", {}, 400),
        (f"/jobs/{JOB}/stop", {"targetDirectory": "/s", "drain": "perhaps"}, 400),
        (f"/jobs/{UNKNOWN}/stop", {"targetDirectory": "/s"}, 404),
        (f"/jobs/{UNKNOWN}/savepoints", {"target-directory": "/s"}, 404),
        (f"/jobs/{UNKNOWN}/checkpoints", {}, 404),
        (f"/jobs/{JOB}/checkpoints", {"checkpointType": "OTHER"}, 400),
        ("/savepoint-disposal", {}, 400),
        ("/savepoint-disposal", {"savepoint-path": "/etc"}, 400),
    ],
)
def test_what_cannot_be_asked(client: TestClient, path: str, body: Any, code: int) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == code, answer.text
    assert list(answer.json()) == ["errors"]


def test_a_body_is_not_needed(client: TestClient) -> None:
    assert client.post(f"/jobs/{JOB}/checkpoints").status_code == 202
    assert client.post(f"/jobs/{JOB}/stop").status_code == 400, "there is no directory for it"


@pytest.mark.parametrize(
    "path",
    [
        f"/jobs/{JOB}/savepoints/{UNKNOWN}",
        f"/jobs/{UNKNOWN}/savepoints/{TRIGGER}",
        f"/jobs/{JOB}/checkpoints/{UNKNOWN}",
        f"/savepoint-disposal/{UNKNOWN}",
    ],
)
def test_unknown_triggers_are_404(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "body", [{}, {"checkpointType": "FULL"}, {"checkpointType": "CONFIGURED", "triggerId": TRIGGER}]
)
def test_a_checkpoint_on_request(client: TestClient, body: Any) -> None:
    request = begun(client, f"/v1/jobs/{JOB}/checkpoints", body)
    answer = status(client, f"/v1/jobs/{JOB}/checkpoints/{request}")
    assert answer == {"status": {"id": "COMPLETED"}, "operation": {"checkpointId": 7}}


@pytest.mark.parametrize("what", ["savepoints", "checkpoints"])
def test_a_trigger_that_a_new_master_may_know_soon_is_503(client: TestClient, gateway: ViewsGateway, what: str) -> None:
    view = gateway.views[JOB]
    gateway.views[JOB] = replace(view, overview=replace(view.overview, state="CREATED"))
    assert client.get(f"/jobs/{JOB}/{what}/{UNKNOWN}").status_code == 503


def test_a_disposal(client: TestClient, gateway: ViewsGateway) -> None:
    request = begun(client, "/savepoint-disposal", {"savepoint-path": DIRECTORY}, status=200)
    assert gateway.disposals[request].path == DIRECTORY
    assert status(client, f"/savepoint-disposal/{request}") == {"status": {"id": "COMPLETED"}, "operation": {}}
    gone = begun(client, "/savepoint-disposal", {"savepoint-path": f"/gone{DIRECTORY}"}, status=200)
    cause = status(client, f"/savepoint-disposal/{gone}")["operation"]["failure-cause"]
    assert "there is no savepoint" in cause["stack-trace"]
    gateway.disposals[gone] = replace(gateway.disposals[gone], state=views.OperationState.IN_PROGRESS)
    assert status(client, f"/savepoint-disposal/{gone}") == {"status": {"id": "IN_PROGRESS"}, "operation": None}


def test_savepoints_among_checkpoints(client: TestClient, gateway: ViewsGateway) -> None:
    view = gateway.views[JOB]
    known = view.checkpoints
    assert known.latest_completed is not None
    taken = replace(known.latest_completed, id=5, is_savepoint=True, stops_job=True, external_path=DIRECTORY)
    plain = replace(taken, id=4, stops_job=False)
    restored = views.RestoredView(9, 1, DIRECTORY, is_savepoint=True)
    known = replace(known, latest_savepoint=taken, history=(plain, *known.history[1:]), latest_restored=restored)
    gateway.views[JOB] = replace(view, checkpoints=known)
    latest = status(client, f"/jobs/{JOB}/checkpoints")["latest"]
    assert (latest["completed"]["id"], latest["completed"]["checkpoint_type"]) == (3, "CHECKPOINT")
    assert latest["completed"]["savepointFormat"] is None
    assert latest["savepoint"]["checkpoint_type"] == "SYNC_SAVEPOINT"
    assert latest["savepoint"]["savepointFormat"] == "CANONICAL"
    assert latest["savepoint"]["external_path"] == DIRECTORY
    assert latest["restored"]["is_savepoint"] is True
    shown = [status(client, f"/jobs/{JOB}/checkpoints/details/{number}") for number in (4, 5)]
    assert [one["checkpoint_type"] for one in shown] == ["SAVEPOINT", "SYNC_SAVEPOINT"]
    assert {one["is_savepoint"] for one in shown} == {True}
