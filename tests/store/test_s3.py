"""What only a store behind a network can do wrong; and how it is reached. Against a real S3 server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from penstock.api.command_line import app
from penstock.runtime.configuration.config import Configuration
from penstock.state.errors import (
    ConfigurationError,
    ObjectStoreDenied,
    ObjectStoreError,
    ObjectStoreUnavailable,
)
from penstock.state.ids import JobId
from penstock.state.snapshots import FileHandle, KeyedHandle
from penstock.state.store.downloads import Downloads, measure
from penstock.state.store.job_log import JobLog
from penstock.state.store.object_store_options import s3_access
from penstock.state.store.objects import (
    Delete,
    Get,
    GetFile,
    GetPart,
    GetRange,
    List,
    ListDetails,
    Put,
    PutFile,
    StoreOp,
    run_program,
)
from penstock.state.store.obstore_objects import ObstoreObjects


@pytest.fixture(autouse=True)
def no_credentials_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def ops(tmp_path: Path) -> list[StoreOp]:
    (tmp_path / "file").write_bytes(b"1")
    return [
        Put("a/b", b"1"), Put("a/b", b"1", create_only=False), PutFile("a/b", tmp_path / "file"), Get("a/b"),
        GetRange("a/b", 0, 1), GetFile("a/b", tmp_path / "target"), GetPart("a/b", 0, 1, tmp_path / "target"),
        List("a/"), ListDetails("a/"), Delete(("a/b",)),
    ]  # fmt: skip


def refused(store: ObstoreObjects, expected: type[ObjectStoreError], tmp_path: Path) -> str:
    """Every op is; gives all that is said about it."""
    told = []
    for op in ops(tmp_path):
        with pytest.raises(expected) as caught:
            store.execute(op)
        told += traceback.format_exception(caught.value)
    with pytest.raises(ConfigurationError, match="cannot be used") as failed:
        store.probe()
    return "".join([*told, *traceback.format_exception(failed.value), str(failed.value), repr(store)])


# how it is reached -------------------------------------------------------------------------------------------------


def test_by_options(s3_server: Any, s3_location: str) -> None:
    ObstoreObjects(s3_location, s3_server.options).probe()
    assert ObstoreObjects(s3_location, s3_server.options).execute(List("")) == [], "the probe leaves nothing"


def test_by_environment(s3_server: Any, s3_location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    ObstoreObjects(s3_location).probe()
    ObstoreObjects(s3_location.replace("s3://", "s3a://")).probe()


@pytest.mark.parametrize("name", ["default", "work"])
def test_by_profile(s3_server: Any, s3_location: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["HOME"], ".aws")
    folder.mkdir(parents=True)
    (folder / "credentials").write_text(
        f"[{name}]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    section = name if name == "default" else f"profile {name}"
    (folder / "config").write_text(f"[{section}]\nregion = us-east-1\nendpoint_url = {s3_server.endpoint}\n")
    if name != "default":
        monkeypatch.setenv("AWS_PROFILE", name)
    ObstoreObjects(s3_location).probe()


def test_options_beat_the_environment(s3_server: Any, s3_location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of another")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of yet another")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "mars-north-1")
    ObstoreObjects(s3_location, s3_server.options).probe()


@pytest.mark.parametrize(
    ("location", "options", "why"),
    [
        ("s3://", {}, "bucket's name is missing"),
        ("s3:///checkpoints", {}, "bucket's name is missing"),
        ("s3://user:hush@bucket/x", {}, "bucket's name is missing or odd"),
        ("s3://bucket", {"s3.endpoint": "127.0.0.1:9000"}, r"\(s3.endpoint\) must be a URL like http"),
        ("s3://bucket", {"s3.endpoint": "http://user:hush@host"}, "holds a user or password"),
        ("s3://bucket", {"s3.endpoint": "http://host:99999"}, "must be a URL"),
        ("s3://bucket", {"s3.path.style.access": "maybe"}, "neither true nor false"),
        ("s3://bucket", {"s3.access-key": "k"}, "give s3.access-key without s3.secret-key"),
        ("s3://bucket", {"s3.secret-key": "hush"}, "give s3.secret-key without s3.access-key"),
    ],
)
def test_settings_that_cannot_be(location: str, options: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        ObstoreObjects(location, options)
    assert "hush" not in "".join(traceback.format_exception(caught.value)).replace(location, "")


def test_a_profile_that_is_not_there_or_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="AWS_PROFILE=nobody: neither"):
        ObstoreObjects("s3://bucket")
    folder = Path(os.environ["HOME"], ".aws")
    folder.mkdir(parents=True)
    (folder / "credentials").write_text("aws_secret_access_key hush\n")
    with pytest.raises(ConfigurationError, match="credentials cannot be read") as caught:
        ObstoreObjects("s3://bucket")
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_addressing() -> None:
    keys = {"s3.access-key": "k", "s3.secret-key": "hush"}
    amazon = s3_access("s3://bucket/x", keys, {})
    assert (amazon.path_style, amazon.region, amazon.endpoint) == (False, "us-east-1", None)
    assert s3_access("s3://bucket/x", {"s3.endpoint": "http://h:1/"}, {}).config()["endpoint"] == "http://h:1"
    hosted = {"s3.endpoint": "http://h:1", "s3.path.style.access": "false"}
    assert s3_access("s3://bucket/x", hosted, {}).config()["endpoint"] == "http://bucket.h:1"
    assert "hush" not in repr(amazon)


# refusals ----------------------------------------------------------------------------------------------------------


def test_a_wrong_secret(s3_server: Any, s3_location: str, tmp_path: Path) -> None:
    store = ObstoreObjects(s3_location, {**s3_server.options, "s3.secret-key": "wrong-and-hush"})
    told = refused(store, ObjectStoreDenied, tmp_path)
    assert "SignatureDoesNotMatch" in told
    assert "check s3.secret-key" in told
    for secret in ("hush", s3_server.access_key, "Signature<", "StringToSign"):
        assert secret not in told


def test_an_unknown_user(s3_server: Any, s3_location: str, tmp_path: Path) -> None:
    """This server says so with 404, which must not pass for a missing object."""
    store = ObstoreObjects(s3_location, {**s3_server.options, "s3.access-key": "nobody-we-know"})
    told = refused(store, ObjectStoreDenied, tmp_path)
    assert "the access key is not known" in told
    assert "nobody-we-know" not in told


def test_a_missing_bucket(s3_server: Any, tmp_path: Path) -> None:
    told = refused(ObstoreObjects("s3://no-such-bucket/x", s3_server.options), ObjectStoreDenied, tmp_path)
    assert "NoSuchBucket, the bucket does not exist: create it" in told


def test_a_wrong_region(s3_server: Any, s3_location: str, tmp_path: Path) -> None:
    store = ObstoreObjects(s3_location, {**s3_server.options, "s3.region": "eu-west-1"})
    told = refused(store, ObjectStoreDenied, tmp_path)
    assert "another region: set s3.region or AWS_REGION to us-east-1" in told


def test_nobody_listens(s3_server: Any, s3_location: str, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        store = ObstoreObjects(s3_location, {**s3_server.options, "s3.endpoint": endpoint})
        told = refused(store, ObjectStoreUnavailable, tmp_path)
    assert f"{endpoint} cannot be reached: connection refused" in told
    assert time.monotonic() - began < 30, "nothing is tried again below the programs"


def test_no_such_host(s3_server: Any, s3_location: str, tmp_path: Path) -> None:
    endpoint = "http://no-such-host.invalid:9000"
    store = ObstoreObjects(s3_location, {**s3_server.options, "s3.endpoint": endpoint})
    with pytest.raises(ConfigurationError, match=f"{endpoint} "):
        store.probe()


class Answering(BaseHTTPRequestHandler):
    """Something at the address, that is no object store or not a healthy one."""

    status, body = 503, b""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def answering() -> Iterator[tuple[type[Answering], dict[str, str]]]:
    handler = type("Handler", (Answering,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    yield handler, {"s3.endpoint": endpoint, "s3.access-key": "k", "s3.secret-key": "hush"}
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b"<Error><Code>SlowDown</Code></Error>", ObjectStoreUnavailable),
        (500, b"", ObjectStoreUnavailable),
        (429, b"", ObjectStoreUnavailable),
        (400, b"<Error><Code>RequestTimeout</Code></Error>", ObjectStoreUnavailable),
        (404, b"<html>not here</html>", ObjectStoreUnavailable),
        (403, b"<Error><Code>AccessDenied</Code></Error>", ObjectStoreDenied),
        (400, b"<Error><Code>ExpiredToken</Code></Error>", ObjectStoreDenied),
    ],
)
def test_what_can_be_tried_again(
    answering: Any, status: int, body: bytes, expected: type[ObjectStoreError], tmp_path: Path
) -> None:
    handler, options = answering
    handler.status, handler.body = status, body
    told = refused(ObstoreObjects("s3://bucket/x", options), expected, tmp_path)
    assert str(status) in told
    assert "hush" not in told


def test_a_store_that_accepts_and_says_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.state.store.obstore_objects._PROBE_TIMEOUT", timedelta(seconds=1))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = ObstoreObjects("s3://b-c-d/x", {"s3.endpoint": endpoint, "s3.access-key": "k", "s3.secret-key": "s"})
        with pytest.raises(ConfigurationError, match="did not answer in time"):
            store.probe()


def test_a_server_that_goes_and_comes_back(own_s3_server: Any) -> None:
    store = ObstoreObjects(own_s3_server.create_bucket("bucket") + "/x", own_s3_server.options)
    store.execute(Put("a/b", b"1"))
    own_s3_server.kill()
    with pytest.raises(ObjectStoreUnavailable, match="cannot be reached"):
        store.execute(Get("a/b"))
    own_s3_server.start()
    assert store.execute(Get("a/b")) == b"1"


# large ones --------------------------------------------------------------------------------------------------------


def test_large_files_take_little_memory(s3_server: Any, s3_location: str, tmp_path: Path) -> None:
    store = ObstoreObjects(s3_location, s3_server.options)
    source, target = tmp_path / "source", tmp_path / "target"
    block = os.urandom(1 << 20)
    with open(source, "wb") as file:
        file.writelines(number.to_bytes(4, "big") + block[4:] for number in range(300))
    store.execute(PutFile("warm/up", Path(__file__)))
    process, most, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        store.execute(PutFile("job/shared/1-large", source))
        store.execute(GetFile("job/shared/1-large", target))
        handle = KeyedHandle("rocksdb", 0, 1, {"parts": FileHandle("job/shared/1-large", *measure(source))})
        run_program(Downloads().fetch([(handle, tmp_path)]), store)
    finally:
        done.set()
        watcher.join()
    assert subprocess.run(["cmp", source, target]).returncode == 0
    assert subprocess.run(["cmp", source, tmp_path / "parts"]).returncode == 0
    assert most - before < 200 << 20, "less than the file: it goes in parts"


# races -------------------------------------------------------------------------------------------------------------

RACER = """
import sys, itertools, os
from penstock.state.errors import DeposedError
from penstock.state.ids import Generation, JobId
from penstock.state.store.job_log import Appended, JobLog, LeaderElected
from penstock.state.store.objects import run_program
from penstock.state.store.obstore_objects import ObstoreObjects
location, name = sys.argv[1:]
store, numbers = ObstoreObjects(location), itertools.count()
log = JobLog(JobId("job"), lambda: f"{name}-{next(numbers)}")
sys.stdin.readline()
won = []
while log.state.seq < 60:
    run_program(log.read(), store)
    answer = run_program(log.append(LeaderElected(Generation(log.state.generation + 1))), store)
    if isinstance(answer, Appended):
        won.append(answer.entry.seq)
print(*won)
"""


def test_processes_that_race_for_a_job_s_log(s3_server: Any, s3_location: str) -> None:
    environment = {**os.environ, **s3_server.environment}
    command = [sys.executable, "-c", RACER, s3_location]
    racers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for name in "abc"
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {
        name: [int(seq) for seq in racer.communicate()[0].split()] for name, racer in zip("abc", racers, strict=True)
    }
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    log = JobLog(JobId("job"), lambda: "reader")
    entries = run_program(log.read(), ObstoreObjects(s3_location, s3_server.options))
    assert len(entries) >= 60
    for name, seqs in won.items():
        assert seqs == [entry.seq for entry in entries if entry.writer == f"{name}-0"], "the log and the writer agree"
    assert sum(map(len, won.values())) == len(entries), "every entry has one writer"


# what is shown -----------------------------------------------------------------------------------------------------


def test_configuration_is_shown_without_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = Configuration({"s3.access-key": "hush-1", "s3.secret-key": "hush-2", "s3.endpoint": "http://h:1"})
    assert config.get_string("s3.secret-key") == "hush-2"
    settings = [part for key, value in config.to_dict().items() for part in ("-c", f"{key}={value}")]
    printed = [CliRunner().invoke(app, ["config", *settings, "-o", form]).output for form in ("text", "json")]
    for shown in (repr(config), *printed):
        assert "http://h:1" in shown
        assert "******" in shown
        assert "hush" not in shown
