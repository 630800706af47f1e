"""What users and clients get wrong is told in clear sentences, and the cluster goes on serving."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.api.rest_client import RestClient
from penstock.jobmanager.gateway import GraphRequest
from penstock.runtime.versions import own_versions

if TYPE_CHECKING:
    from conftest import Cluster, Project, WaitFor
    from s3_server import S3Server

UNKNOWN = "f" * 32
UPLOAD_LIMIT = 512 * 1024
ENDS = "import penstock as ps\nenv = ps.StreamExecutionEnvironment()\nenv.from_sequence(1, 5).print()\n"


@pytest.fixture(scope="module")
def cluster_settings() -> dict[str, object]:
    return {
        "cluster__id": "bad-input",
        "taskmanager__numberOfTaskSlots": 2,
        "slot__request__timeout": "2 s",
        "jobmanager__capture_timeout": "6 s",
        "rest__server__max_content_length": UPLOAD_LIMIT,
    }


@pytest.fixture
def project(near_project: Project) -> Project:
    return near_project


@pytest.fixture(autouse=True)
def still_serving(cluster: Cluster, rest: RestClient, wait_for: WaitFor) -> Iterator[None]:
    """After each test the same dispatcher answers, and its log knows of no error of its own."""
    before = cluster.actor("Dispatcher").pid
    yield
    wait_for(lambda: rest.overview()["taskmanagers"] == 1, "its task manager answers")
    assert cluster.actor("Dispatcher").pid == before
    log = rest.log(None, "jobmanager.log").decode()
    assert "goes on after an error" not in log
    assert "failed: " not in log


# scripts -------------------------------------------------------------------------------------------------------------

SCRIPTS = {
    "fails while building": (
        ENDS + "def prepare():\n    raise ValueError('no such table')\nprepare()\nenv.execute()\n",
        ["job.py failed before env.execute(): ValueError: no such table", "in prepare"],
    ),
    "has a syntax error": ("def broken(:\n", ["SyntaxError", "job.py"]),
    "never calls execute": (ENDS, ["ended without running a pipeline", "env.execute()"]),
    "builds nothing": ("import penstock as ps\nps.StreamExecutionEnvironment().execute()\n", ["pipeline"]),
    "needs a missing module": ("import a_module_nobody_has\n", ["'a_module_nobody_has'", "--requirements"]),
    "hangs": (
        "import threading\nprint('connecting', flush=True)\nthreading.Event().wait()\n",
        ["within 6s", "jobmanager.capture-timeout", "connecting"],
    ),
    "exits": ("import sys\nsys.exit('give me a table')\n", ["ended itself before env.execute(): give me a table"]),
    "dies": ("import os\nos.abort()\n", ["died of SIGABRT"]),
    "asks": ("input('sure? ')\n", ["standard input is empty"]),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_a_script_that(what: str, project: Project) -> None:
    text, expected = SCRIPTS[what]
    project.write("job.py", text)
    told = project.penstock("submit", "job.py")
    assert told.code == 1
    assert told.out == ""
    assert all(part in told.err for part in expected), told.err
    assert "Traceback (most recent call last)" not in told.err.partition("job.py")[0]


def test_a_script_that_prints_megabytes(project: Project) -> None:
    """Its job runs; the end of what it said is a note."""
    prints = "for n in range(60_000):\n    print('line', n, 'x' * 80)\n"
    project.write("job.py", ENDS + prints + "env.execute('chatty')\n")
    told = project.penstock("submit", "job.py")
    assert told.code == 0, told.err
    assert "line 59999" in told.err
    assert len(told.all) < 20_000


def test_a_script_that_is_not_there(project: Project) -> None:
    told = project.penstock("submit", "job.py")
    assert (told.code, told.err.strip()) == (2, "error: there is no file job.py")


# bodies that are not what they say -----------------------------------------------------------------------------------


def errors_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert list(document) == ["errors"]
    return "\n".join(document["errors"])


@pytest.fixture
def http(cluster: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.address, trust_env=False, timeout=60) as client:
        yield client


def upload(http: httpx.Client, name: str, content: bytes) -> httpx.Response:
    return http.post("/jars/upload", files={"jarfile": (name, content, "application/octet-stream")})


def test_an_archive_that_is_none(http: httpx.Client) -> None:
    assert "neither a Python file nor a zip archive" in errors_of(upload(http, "code.zip", b"not a zip"), 400)
    assert "neither a Python file nor a zip archive" in errors_of(upload(http, "code.jar", b"PK\3\4 half"), 400)


def test_a_body_that_is_no_json(http: httpx.Client) -> None:
    artefact = upload(http, "job.py", ENDS.encode()).json()["filename"]
    path, kind = f"/jars/{artefact}/run", {"content-type": "application/json"}
    assert "JSON" in errors_of(http.post(path, content=b"{broken", headers=kind), 400)
    assert errors_of(http.post(path, content=b"[1, 2]", headers=kind), 400)
    assert errors_of(http.post(path, json={"parallelism": "many"}), 400)
    assert errors_of(http.post(path, content=b"\xff\xfe\x00", headers=kind), 400)


def test_a_form_without_its_file(http: httpx.Client) -> None:
    assert "jarfile" in errors_of(http.post("/jars/upload", files={"other": ("x.py", b"")}), 400)
    assert "jarfile" in errors_of(http.post("/jars/upload", content=b"not a form"), 400)
    assert errors_of(http.post("/jars/upload", content=b"x", headers={"content-type": "multipart/form-data"}), 400)
    assert "graph" in errors_of(http.post("/jobs/graph", data={"request": "{}"}), 400)


@pytest.mark.parametrize("name", ["../../evil.py", "/etc/evil.py", "..\\evil.py", ".hidden.py", "é" * 120 + ".py"])
def test_a_file_name_that_leads_elsewhere(http: httpx.Client, name: str) -> None:
    answer = upload(http, name, ENDS.encode())
    assert "name" in errors_of(answer, 400)


def test_an_archive_whose_members_lead_elsewhere(http: httpx.Client, cluster: Cluster) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("main.py", ENDS)
        file.writestr("../../evil.py", "")
    answer = upload(http, "code.zip", content.getvalue())
    if answer.status_code == 200:
        answer = http.post(f"/jars/{answer.json()['filename']}/run")
    assert "lies outside of the archive" in errors_of(answer, 400)
    assert not list(cluster.files.directory.rglob("evil.py"))


def test_an_upload_that_is_too_large(http: httpx.Client, project: Project) -> None:
    assert "512" in errors_of(upload(http, "job.py", b"#" * 4 * UPLOAD_LIMIT), 413)
    project.write("job.py", ENDS)
    (project.directory / "data.bin").write_bytes(hashlib.shake_256(b"noise").digest(2 * UPLOAD_LIMIT + 2**20))
    told = project.penstock("submit", "job.py")
    assert told.code == 1
    assert "too large" in told.err
    assert "rest.server.max-content-length" in told.err


# what is not there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", f"/jobs/{UNKNOWN}", UNKNOWN),
        ("GET", f"/jobs/{UNKNOWN}/view", UNKNOWN),
        ("GET", f"/jobs/{UNKNOWN}/checkpoints", UNKNOWN),
        ("GET", f"/jobs/{UNKNOWN}/exceptions", UNKNOWN),
        ("PATCH", f"/jobs/{UNKNOWN}?mode=cancel", UNKNOWN),
        ("POST", f"/jobs/{UNKNOWN}/suspend", UNKNOWN),
        ("GET", f"/jobs/{UNKNOWN}/collected/x?after=0&wait=0", UNKNOWN),
        ("POST", "/jars/nothing/run", "nothing"),
        ("POST", f"/jars/{'0' * 64}_job.py/run", "job.py"),
        ("GET", f"/jars/{'0' * 64}_job.py/plan", "job.py"),
        ("DELETE", "/jars/..%2F..%2Fcluster", ""),
        ("POST", "/jars/..%2F..%2Fcluster/run", ""),
        ("GET", "/taskmanagers/taskmanager-0", "taskmanager-0"),
        ("GET", "/taskmanagers/taskmanager-0/logs", "taskmanager-0"),
        ("GET", "/taskmanagers/dispatcher/thread-dump", "dispatcher"),
        ("GET", "/jobmanager/logs/..%2Ftoken", ""),
        ("GET", "/jobmanager/logs/nothing.log", "nothing.log"),
    ],
)
def test_what_is_not_there(http: httpx.Client, method: str, path: str, named: str) -> None:
    assert named in errors_of(http.request(method, path), 404)


@pytest.mark.parametrize("verb", ["describe", "cancel", "checkpoints", "logs"])
def test_a_job_that_is_not_there(project: Project, verb: str) -> None:
    told = project.penstock(verb, "nobodys-job")
    assert told.code == 2
    assert "there is no job 'nobodys-job'" in told.err or "nobodys-job has no such file" in told.err


# what the cluster cannot do ------------------------------------------------------------------------------------------


def test_too_many_slots(project: Project) -> None:
    project.write("job.py", ENDS + "env.execute('wide')\n")
    told = project.penstock("run", "job.py", "-p", "5", "-c", "restart-strategy.type=none")
    assert told.code == 1, told.err
    for part in ("slot.request.timeout", "2 of 2 are free", "taskmanager.numberOfTaskSlots"):
        assert part in told.err, told.err
    described = project.penstock("describe", "wide")
    assert "slot.request.timeout" in described.out
    listed = project.penstock("list", "--all", "--output", "json")
    assert [row["state"] for row in json.loads(listed.out) if row["job_name"] == "wide"] == ["FAILED"]


def graph_request(**changes: Any) -> GraphRequest:
    return replace(GraphRequest("by hand", b"\x80\x05no graph", {}, own_versions()), **changes)


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [("python", "3.9", "3.9"), ("cloudpickle", "1.0.0", "cloudpickle"), ("penstock", "0.0.1", "penstock")],
)
def test_versions_that_differ(rest: RestClient, name: str, version: str, expected: str) -> None:
    with pytest.raises(Exception, match="do not fit together") as refused:
        rest.submit(graph_request(versions={**own_versions(), name: version}))
    assert expected in str(refused.value)


def test_a_version_that_may_differ_is_a_note(rest: RestClient, wait_for: WaitFor) -> None:
    accepted = rest.submit(graph_request(job_name="old arrow", versions={**own_versions(), "pyarrow": "1.0.0"}))
    assert any("pyarrow is 1.0.0 at the client" in note for note in accepted.notes)
    ended(rest, accepted.job_id, wait_for)


def ended(rest: RestClient, job_id: str, wait_for: WaitFor) -> Any:
    return wait_for(
        lambda: (view := rest.job(job_id)).overview.state in ("FAILED", "CANCELED", "FINISHED") and view,
        "the job's end",
    )


def test_a_graph_that_cannot_be_read(rest: RestClient, wait_for: WaitFor) -> None:
    view = ended(rest, rest.submit(graph_request()).job_id, wait_for)
    assert view.overview.state == "FAILED"
    assert "could not be loaded" in view.exceptions[0].message


def test_a_graph_whose_module_is_not_on_the_cluster(rest: RestClient, wait_for: WaitFor) -> None:
    graph = b"\x80\x05\x8c\x0aabsent_mod\x94\x8c\x05Thing\x94\x93\x94."  # absent_mod.Thing
    view = ended(rest, rest.submit(graph_request(job_name="module missing", graph=graph)).job_id, wait_for)
    assert view.overview.state == "FAILED"
    assert "absent_mod" in view.exceptions[0].message


def test_requirements_that_cannot_be_installed(project: Project) -> None:
    project.write("job.py", ENDS + "env.execute('needs')\n")
    project.write("broken/pyproject.toml", "[build-system]\nrequires = []\nbuild-backend = 'nothing_there'\n")
    project.write("requirements.txt", "./broken\n")
    told = project.penstock("submit", "job.py", "--requirements", "requirements.txt")
    assert told.code == 1
    assert "requirements" in told.err
    assert "cannot be installed" in told.err
    assert len(told.err) < 5_000


# jobs and their checkpoints --------------------------------------------------------------------------------------

LONG = """
import penstock as ps, time
env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 10**9).map(lambda n: time.sleep(0.002)).print()
env.execute('long')
"""


def test_names_of_live_jobs_are_taken_and_ended_jobs_stay_ended(
    project: Project, rest: RestClient, wait_for: WaitFor
) -> None:
    project.write("job.py", LONG)
    first = project.penstock("submit", "job.py")
    assert first.code == 0, first.err
    job_id = first.out.strip()
    again = project.penstock("submit", "job.py")
    assert again.code == 1
    assert f"job {job_id} of the name 'long' is running" in again.err
    assert "pipeline.allow-duplicate-names" in again.err
    assert project.penstock("cancel", job_id, "--yes").code == 0
    assert rest.job(job_id).overview.state == "CANCELED"
    told = project.penstock("cancel", job_id, "--yes")
    assert told.code in (0, 1)
    assert "CANCELED" in told.all
    done = project.penstock("cancel", "long")
    assert done.code in (1, 2)


def test_nothing_to_continue(project: Project) -> None:
    project.write("job.py", ENDS + "env.execute('never ran before')\n")
    told = project.penstock("submit", "job.py", "-s", "latest")
    assert told.code == 1
    assert "never ran before" in told.err


@pytest.mark.parametrize("path", ["/nowhere/job/chk-1/_metadata", "relative/chk-1", "s3:///", "/etc/passwd"])
def test_a_checkpoint_that_is_not_there(project: Project, path: str) -> None:
    project.write("job.py", ENDS + "env.execute('restores nothing')\n")
    told = project.penstock("submit", "job.py", "-s", path)
    assert told.code in (1, 2)
    assert path.rstrip("/") in told.err or "checkpoint" in told.err


def test_a_checkpoint_directory_that_cannot_be_written(project: Project) -> None:
    project.write("job.py", ENDS + "env.execute('stores nothing')\n")
    told = project.penstock("submit", "job.py", "-c", "execution.checkpointing.dir=/proc/nothing")
    assert told.code == 1
    assert "/proc/nothing" in told.err
    relative = project.penstock("submit", "job.py", "-c", "execution.checkpointing.dir=here")
    assert "relative" in relative.err


# object stores and ports -----------------------------------------------------------------------------------------

SECRET = "not-the-right-secret-key"


@pytest.fixture(params=["wrong key", "no bucket", "nobody there"])
def bad_store(request: pytest.FixtureRequest, s3_server: S3Server) -> tuple[dict[str, str], str]:
    """Options of a location that cannot be used, and what its error must say."""
    options = dict(s3_server.options)
    location, said = s3_server.create_bucket("bad-input") + "/checkpoints", ""
    match request.param:
        case "wrong key":
            options["s3.secret-key"], said = SECRET, "the secret key does not fit"
        case "no bucket":
            location, said = "s3://there-is-no-such-bucket/checkpoints", "there-is-no-such-bucket"
        case _:
            options["s3.endpoint"], said = "http://127.0.0.1:9", "127.0.0.1:9"
    return {**options, "execution.checkpointing.dir": location}, said


def test_a_store_that_cannot_be_used_at_submission(project: Project, bad_store: tuple[dict[str, str], str]) -> None:
    options, said = bad_store
    project.write("job.py", ENDS + "env.execute('stored elsewhere')\n")
    flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    told = project.penstock("submit", "job.py", *flags)
    assert told.code == 1, told.all
    assert said in told.err
    assert "s3" in told.err
    assert options["s3.secret-key"] not in told.all
    assert len(told.err) < 2_000


@pytest.mark.parametrize(
    "bad_store",
    ["wrong key", *(pytest.param(what, marks=pytest.mark.long) for what in ("no bucket", "nobody there"))],
    indirect=True,
)
def test_a_cluster_whose_store_cannot_be_used(
    lonely_project: Project, short_directory: Path, bad_store: tuple[dict[str, str], str]
) -> None:
    options, said = bad_store
    options["high-availability.storageDir"] = options.pop("execution.checkpointing.dir")
    options.update({"cluster.id": "no-store", "io.tmp.dirs": str(short_directory), "rest.port": "0"})
    flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    told = lonely_project.penstock("cluster", "start", "-d", *flags)
    assert told.code == 1, told.all
    assert said in told.err
    assert "high-availability.storageDir" in told.err
    assert "\x1b" not in told.err
    assert len(told.err) < 1_000
    assert options["s3.secret-key"] not in told.all
    status = lonely_project.penstock("cluster", "status", "-c", f"io.tmp.dirs={short_directory}")
    assert "no-store" not in status.out


def test_a_port_that_is_taken(lonely_project: Project, short_directory: Path, cluster: Cluster) -> None:
    port = cluster.address.rpartition(":")[2]
    told = lonely_project.penstock(
        "cluster", "start", "--port", port, "-c", f"io.tmp.dirs={short_directory}", "-c", "cluster.id=second"
    )
    assert told.code == 1
    for part in (f"port {port}", "in use", "rest.port", "--port"):
        assert part in told.err, told.err
