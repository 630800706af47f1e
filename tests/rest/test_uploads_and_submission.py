"""Code that is uploaded, run, deleted; graphs that are submitted; records that are fetched; what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from penstock.jobmanager.gateway import GraphRequest, RefusedError, RunRequest, Submitted
from penstock.jobmanager.rest.app import RestOptions, create_app
from penstock.jobmanager.rest.artefacts import checked_name
from penstock.state.ids import JobId

JOB = "0123456789abcdef0123456789abcdef"
ARTEFACT = f"{'0' * 64}_job.py"
LIMIT = 2**20
ViewsGateway = Any


def uploaded(client: TestClient, name: str = "job.py", content: bytes = b"print(1)", field: str = "jarfile") -> Any:
    return client.post("/jars/upload", files={field: (name, content)})


def error(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["errors"]
    return str(answer.json()["errors"][0])


def test_an_upload_is_listed_run_and_deleted(client: TestClient, gateway: ViewsGateway, options: RestOptions) -> None:
    assert uploaded(client).json() == {"filename": ARTEFACT, "status": "success"}
    assert gateway.uploads[ARTEFACT].read_bytes() == b"print(1)"
    (file,) = client.get("/jars").json()["files"]
    assert (file["id"], file["name"], file["entry"]) == (ARTEFACT, "job.py", [{"name": "job.py", "description": None}])
    answer = client.post(f"/v1/jars/{ARTEFACT}/run")
    assert answer.json() == {
        "jobid": JOB, "applicationId": JOB, "jobName": "clicks", "notes": ["operator parse has no uid"],
        "continued": False,
    }  # fmt: skip
    assert gateway.runs == [RunRequest(ARTEFACT)]
    assert client.delete(f"/jars/{ARTEFACT}").json() == {}
    assert client.get("/jars").json()["files"] == []
    assert list(options.upload_directory.iterdir()) == []  # type: ignore[union-attr]


def test_what_is_in_the_body_wins_over_the_query(client: TestClient, gateway: ViewsGateway) -> None:
    uploaded(client)
    body = {
        "entryClass": "jobs/main.py",
        "programArgsList": ["--in", "a b"],
        "parallelism": 2,
        "jobId": JOB,
        "allowNonRestoredState": True,
        "savepointPath": "latest",
        "claimMode": "NO_CLAIM",
        "flinkConfiguration": {"parallelism.default": "3"},
        "requirements": "requirements.txt",
        "versions": {"python": "3.11"},
        "user": "ada",
        "interactive": True,
        "somethingNew": [1],
    }
    client.post(f"/jars/{ARTEFACT}/run?parallelism=7&entry-class=other.py", json=body)
    client.post(f"/jars/{ARTEFACT}/run?parallelism=7&entry-class=other.py", json={"parallelism": None})
    client.post(f"/jars/{ARTEFACT}/run?program-args=--in%20'a%20b'", json=dict.fromkeys(body))
    client.get(f"/jars/{ARTEFACT}/plan?programArg=x&programArg=y,z")
    assert gateway.runs == [
        RunRequest(
            ARTEFACT, "jobs/main.py", ("--in", "a b"), 2, JOB, "latest", True, {"parallelism.default": "3"},
            "requirements.txt", {"python": "3.11"}, "ada", True,
        ),
        RunRequest(ARTEFACT, "other.py", parallelism=7),
        RunRequest(ARTEFACT, arguments=("--in", "a b")),
        RunRequest(ARTEFACT, arguments=("x", "y,z")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [{"parallelism": 0}, {"parallelism": "two"}, {"jobId": "1"}, {"programArgsList": "a"}, {"programArgs": "'"}, [1]],
)
def test_a_body_that_is_not_what_it_should_be_is_400(client: TestClient, gateway: ViewsGateway, body: Any) -> None:
    uploaded(client)
    error(client.post(f"/jars/{ARTEFACT}/run", json=body), 400)
    assert gateway.runs == []


def test_a_body_that_is_no_json_is_400(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    assert "JSON" in error(client.post("/jars/x/run", content=b"{,", headers=headers), 400)


@pytest.mark.parametrize("name", ["../job.py", "/etc/job.py", "a\\b.py", "..", ".hidden.py", "n" * 201, " "])
def test_names_that_could_lead_elsewhere_are_refused(client: TestClient, gateway: ViewsGateway, name: str) -> None:
    error(uploaded(client, name), 400)
    assert gateway.uploads == {}


@pytest.mark.parametrize("name", [None, "", "a\nb.py", "a\x00.py", " a.py", "\ud800.py", "é" * 101])
def test_names_that_are_no_names_are_refused(name: str | None) -> None:
    with pytest.raises(RefusedError):
        checked_name(name)


def test_an_upload_without_its_field_is_400(client: TestClient) -> None:
    assert "jarfile" in error(uploaded(client, field="file"), 400)
    assert "jarfile" in error(client.post("/jars/upload", data={"jarfile": "no file"}), 400)
    error(client.post("/jars/upload", content=b"PK", headers={"content-type": "application/java-archive"}), 400)
    broken = {"content-type": "multipart/form-data; boundary=x"}
    error(client.post("/jars/upload", content=b"--y\r\nnothing", headers=broken), 400)
    error(client.post("/jars/upload", content=b"", headers={"content-type": "multipart/form-data"}), 400)


def test_what_is_too_large_is_413_and_leaves_nothing(
    client: TestClient, gateway: ViewsGateway, options: RestOptions
) -> None:
    assert uploaded(client, content=b"x" * LIMIT).status_code == 200
    gateway.uploads.clear()
    for size in (LIMIT + 1, LIMIT * 3):  # of the file alone; of the request
        assert "rest.server.max-content-length" in error(uploaded(client, content=b"x" * size), 413)

    def chunks() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="jarfile"; filename="a.py"\r\n\r\n'
        yield from [b"x" * LIMIT] * 4

    headers = {"content-type": "multipart/form-data; boundary=b"}
    error(client.post("/jars/upload", content=chunks(), headers=headers), 413)
    error(client.post("/jars/x/run", json={"user": "x" * 2 * LIMIT}), 413)
    error(client.post("/nothing", content=b"x" * 2 * LIMIT), 413)
    assert gateway.uploads == {}
    assert list(options.upload_directory.iterdir()) == []  # type: ignore[union-attr]


def test_a_cluster_can_refuse_code(gateway: ViewsGateway, options: RestOptions) -> None:
    with TestClient(create_app(gateway, replace(options, web_submit=False))) as client:
        assert client.get("/config").json()["features"]["web-submit"] is False
        assert "web.submit.enable" in error(uploaded(client), 403)
        error(client.post(f"/jars/{ARTEFACT}/run"), 403)
        error(client.post("/jobs/graph", data={"request": "{}"}, files={"graph": b"x"}), 403)


def test_so_many_scripts_and_no_more_are_run_at_a_time(gateway: ViewsGateway, options: RestOptions) -> None:
    with TestClient(create_app(gateway, replace(options, max_scripts=1))) as client:
        uploaded(client)
        answers = []

        def run(request: RunRequest) -> Submitted:
            answers.append(client.post(f"/jars/{ARTEFACT}/run"))  # while this one is at work
            return Submitted(JobId(JOB), "clicks")

        gateway.run = run
        assert client.post(f"/jars/{ARTEFACT}/run").status_code == 200
        assert client.get(f"/jars/{ARTEFACT}/plan").status_code == 200
    assert "try again" in error(answers[0], 503)


# graphs ----------------------------------------------------------------------------------------------------------


def test_a_graph_arrives_as_it_was_sent(client: TestClient, gateway: ViewsGateway) -> None:
    request = {
        "jobName": "clicks",
        "config": {"parallelism.default": "2"},
        "versions": {"python": "3.11"},
        "artefacts": [ARTEFACT],
        "pythonPath": ["src"],
        "requirements": ["numpy>=2"],
    }
    graph = bytes(range(256)) * 2_000
    answer = client.post("/jobs/graph", files={"request": (None, json.dumps(request)), "graph": ("graph", graph)})
    assert (answer.status_code, answer.json()["jobid"], answer.json()["jobName"]) == (200, JOB, "clicks")
    assert gateway.graphs == [
        GraphRequest(
            "clicks", graph, {"parallelism.default": "2"}, {"python": "3.11"}, (ARTEFACT,), ("src",), ("numpy>=2",)
        )
    ]


@pytest.mark.parametrize("request_part", ["", "{", "[]", "{}", '{"jobName": 1, "config": {}, "versions": {}}'])
def test_a_graph_whose_request_is_broken_is_400(client: TestClient, gateway: ViewsGateway, request_part: str) -> None:
    files = {"request": (None, request_part), "graph": ("graph", b"x")}
    assert "request" in error(client.post("/jobs/graph", files=files), 400)
    assert gateway.graphs == []


# collected records -----------------------------------------------------------------------------------------------


def test_collected_records_come_in_pages(client: TestClient, gateway: ViewsGateway) -> None:
    gateway.polls.set()
    answer = client.get(f"/jobs/{JOB}/collected/numbers?after=4&wait=5000").json()
    assert answer == {"pages": [base64.b64encode(b"\x80\x05page").decode()], "next": 5, "finished": False}
    assert gateway.waits_s == [5.0]
    error(client.get(f"/jobs/{JOB}/collected/other"), 404)
    error(client.get(f"/jobs/{JOB}/collected/numbers?wait=10001"), 400)


def test_requests_that_wait_do_not_take_every_thread(client: TestClient, gateway: ViewsGateway) -> None:
    """Two may wait; the others are answered at once, and so is everything else."""
    path = f"/jobs/{JOB}/collected/numbers?wait=10000"
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(client.get, path) for _ in range(6)]
        try:
            answered_early = list(islice(as_completed(waiting, timeout=60), 4))
            assert [future.result().status_code for future in answered_early] == [200] * 4
            assert client.get("/config").status_code == 200
        finally:
            gateway.polls.set()
        assert [future.result().status_code for future in waiting] == [200] * 6
    assert sorted(gateway.waits_s) == [0.0] * 4 + [10.0] * 2


# logs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["jobmanager", "taskmanagers/node-1"])
def test_logs_are_text(client: TestClient, process: str) -> None:
    names = [log["name"] for log in client.get(f"/{process}/logs").json()["logs"]]
    assert names == ["penstock.log", "penstock.log.1", "penstock.out"]
    for path, text in (
        ("logs/penstock.log.1", "line of penstock.log.1\n"),
        ("log", "line of penstock.log\n"),
        ("stdout", "line of penstock.out\n"),
    ):
        answer = client.get(f"/{process}/{path}")
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "path",
    ["jobmanager/logs/nothing", "jobmanager/logs/..%2f..%2fetc%2fpasswd", "jobmanager/logs/..", "taskmanagers/no/logs",
     "taskmanagers/no", "taskmanagers/no/metrics", "taskmanagers/no/thread-dump", "taskmanagers/no/log"],
)  # fmt: skip
def test_logs_and_processes_that_are_not_there_are_404(client: TestClient, path: str) -> None:
    error(client.get(f"/{path}"), 404)


def test_uploads_may_wait_in_the_systems_directory(gateway: ViewsGateway, options: RestOptions, tmp_path: Path) -> None:
    with TestClient(create_app(gateway, replace(options, upload_directory=None))) as client:
        assert uploaded(client).status_code == 200
