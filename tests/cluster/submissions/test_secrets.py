"""Keys that options hold are nowhere but where they must be: no log, no answer, no output, no argument has them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from penstock.api.rest_client import RestClient

if TYPE_CHECKING:
    from conftest import Cluster, Project, Told, WaitFor
    from s3_server import S3Server

OWN_SECRET = f"own{secrets.token_hex(12)}"
"""Of the job alone."""
JOB = """
import logging, os
import penstock as ps
def tell(n):
    if n == 3:
        logging.getLogger("shop").warning("s3.secret-key=%s password: %s", os.environ["SHOWN"], os.environ["SHOWN"])
        raise ValueError("boom")
    return n
env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 5).map(tell).print()
env.execute("has secrets")
"""


@pytest.fixture(scope="module")
def cluster_settings(s3_server: S3Server) -> dict[str, object]:
    """Everything of the cluster is in S3."""
    named = {name.replace(".", "__").replace("-", "_"): value for name, value in s3_server.options.items()}
    storage = f"{s3_server.create_bucket('secrets')}/cluster"
    return {"cluster__id": "secrets", "taskmanager__numberOfTaskSlots": 1, "env__log__level": "debug", **named,
            "high_availability__storageDir": storage}  # fmt: skip


@pytest.fixture
def known(s3_server: S3Server, cluster: Cluster) -> list[str]:
    """All that must not be shown."""
    files = cluster.files
    return [s3_server.secret_key, s3_server.access_key, OWN_SECRET, files.secret(), files.secret("token")]


def paths(rest: RestClient, job_id: str) -> list[str]:
    """All that a GET answers, of the cluster and of the job."""
    manager = rest.task_managers()[0]["id"]
    vertices = [vertex.id for vertex in rest.job(job_id).vertices]
    own = ["", "/view", "/config", "/plan", "/checkpoints", "/checkpoints/config", "/exceptions", "/accumulators"]
    return [
        *("/config", "/overview", "/jobs", "/jobs/overview", "/jars", "/taskmanagers", "/metrics", "/openapi.json"),
        *("/jobmanager/config", "/jobmanager/environment", "/jobmanager/logs", "/jobmanager/metrics"),
        *("/jobmanager/thread-dump", "/jobmanager/log", "/jobmanager/stdout"),
        *(f"/jobs/{job_id}{path}" for path in own),
        *(f"/jobs/{job_id}/vertices/{vertex}" for vertex in vertices),
        *(f"/taskmanagers/{manager}{path}" for path in ("", "/logs", "/log", "/stdout", "/thread-dump", "/metrics")),
        *(f"/jobmanager/logs/{row.name}" for row in rest.logs(None)),
        *(f"/taskmanagers/{manager}/logs/{row.name}" for row in rest.logs(manager)),
    ]


@pytest.mark.timeout(300)
def test_nothing_shows_them(
    project: Project, cluster: Cluster, rest: RestClient, known: list[str], wait_for: WaitFor
) -> None:
    project.write("job.py", JOB.replace('os.environ["SHOWN"]', repr(known[0])))
    flags = ("-c", f"s3.secret-key={known[0]}", "-c", "restart-strategy.type=none")
    submitted = project.penstock(
        "submit", "job.py", *flags, "-c", f"pipeline.global-job-parameters=password:{OWN_SECRET}"
    )
    assert submitted.code == 0, submitted.err
    job_id = submitted.out.strip()
    wait_for(lambda: rest.job(job_id).overview.state == "FAILED", "the job's end")
    outputs: list[Told] = [submitted]
    for verb in ("describe", "checkpoints", "logs"):
        outputs += [project.penstock(verb, job_id), project.penstock(verb, job_id, "--output", "json")]
    outputs.append(project.penstock("logs", job_id, "--stdout"))
    outputs.append(project.penstock("list", "--all", "--output", "json"))
    assert [told.err for told in outputs if any(secret in told.all for secret in known)] == []
    with httpx.Client(base_url=cluster.address, trust_env=False, timeout=60) as http:
        answers = {path: http.get(path).text for path in paths(rest, job_id)}
    assert "has secrets" in answers["/jobs/overview"]
    assert [path for path, text in answers.items() if any(secret in text for secret in known)] == []
    assert holding(cluster.files.directory, known) == []
    arguments = [
        " ".join(process.cmdline()) for process in [*cluster.processes(), psutil.Process(cluster.supervisor_pid)]
    ]
    assert [line for line in arguments if any(secret in line for secret in known)] == []


def holding(directory: Path, known: list[str]) -> list[str]:
    """Files that have one of them, but for the cluster's keys and the user's own code, which only the user reads."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file() and path.name not in ("token", "secret") and "code" not in path.parts:
            content = path.read_bytes()
            if any(secret.encode() in content for secret in known):
                found.append(path.relative_to(directory).as_posix())
    return found


def test_the_keys_of_the_cluster_are_for_their_user_alone(cluster: Cluster) -> None:
    for name in ("token", "secret"):
        status = (cluster.files.directory / name).stat()
        assert status.st_mode & 0o077 == 0
        assert status.st_uid == os.getuid()
