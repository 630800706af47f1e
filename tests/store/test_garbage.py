"""What `gc` finds, and what it never touches."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.api.command_line import app
from penstock.state.errors import ObjectStoreUnavailable
from penstock.state.ids import Attempt, CheckpointId, Generation, JobId, OperatorId, VertexId
from penstock.state.snapshots import CheckpointMetadata, FileHandle, KeyedHandle, OperatorSnapshot, SubtaskSnapshot
from penstock.state.store.artefacts import put_artefact
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.cluster_store import EndedJob, JobSubmission, get_graph, put_ended, put_job
from penstock.state.store.garbage import Findings, delete_garbage, find_garbage
from penstock.state.store.job_log import (
    AttemptStarted,
    CheckpointCompleted,
    Finished,
    JobLog,
    LeaderElected,
    LogRecord,
    SubsumedUpTo,
)
from penstock.state.store.job_registry import JobDescription, find_latest, register_job
from penstock.state.store.objects import Delete, List, ListDetails, Put, StoredObject, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

DAY = 86_400_000
NOW = 100 * DAY
names = itertools.count(1)


def new_name() -> str:
    return f"n{next(names)}"


class Dated:
    """A store in memory whose objects are of the day the test says."""

    def __init__(self) -> None:
        self.inner = ObstoreObjects("memory://", sleep=lambda seconds: None)
        self.now_ms = NOW - 50 * DAY
        self.written: dict[str, int] = {}

    def execute(self, op: StoreOp) -> Any:
        result = self.inner.execute(op)
        if isinstance(op, Put):
            self.written[op.name] = self.now_ms
        if isinstance(op, ListDetails):
            return [StoredObject(each.name, each.size_bytes, self.written.get(each.name, 0)) for each in result]
        return result

    def names(self) -> list[str]:
        found: list[str] = self.inner.execute(List(""))
        return found


@pytest.fixture
def store() -> Dated:
    return Dated()


def log(store: Dated, job: str, *records: LogRecord) -> None:
    log = JobLog(JobId(job), new_name)
    for record in records:
        run_program(log.append_as_leader(record) if log.leads else log.append(record), store)


BEGUN = (LeaderElected(Generation(1)), AttemptStarted(Attempt(1)))


def completed(store: Dated, job: str, number: int, attempt: int, *files: str) -> CheckpointCompleted:
    """A checkpoint with these shared files, to be logged."""
    handles = {}
    for file in files:
        name = f"{job}/shared/{attempt}-{file}"
        store.execute(Put(name, b"state", create_only=False))
        handles[file] = FileHandle(name, 5, "", True)
    keyed = KeyedHandle("rocksdb", 0, 127, handles)
    subtask = SubtaskSnapshot(VertexId("v"), 0, (OperatorSnapshot(OperatorId("op"), (keyed,)),))
    metadata = CheckpointMetadata(
        job, "name", Attempt(attempt), CheckpointId(number), 0, 0, {"v": 1}, {"v": 128}, (subtask,)
    )
    name = run_program(CheckpointStore(JobId(job), new_name).write_metadata(metadata), store)
    return CheckpointCompleted(Attempt(attempt), CheckpointId(number), name)


def register(store: Dated, job: str) -> None:
    run_program(register_job(JobDescription(JobId(job), "flights", 1), new_name), store)


def put(store: Dated, *written: str) -> None:
    for name in written:
        store.execute(Put(name, b"12345"))


def find(store: Dated, older_than_days: int = 7) -> Findings:
    return run_program(find_garbage(NOW, older_than_days * DAY), store)


def found(store: Dated) -> dict[str, str]:
    return {each.name: each.reason for each in find(store).candidates}


def test_an_empty_store(store: Dated) -> None:
    assert find(store) == Findings((), {}, 0, 0, frozenset(), NOW - 7 * DAY)


def test_a_job_that_ended_and_kept_nothing(store: Dated) -> None:
    register(store, "old")
    log(store, "old", *BEGUN, completed(store, "old", 1, 1, "a"), Finished("FINISHED"))
    put(store, "old/beat/1", "old/chk-9-1/left", "old/shared/1-left")
    everything = set(store.names())
    assert set(found(store)) == everything
    assert set(found(store).values()) == {"job old ended (FINISHED) and keeps no checkpoint"}
    assert run_program(delete_garbage(find(store)), store) == len(everything)
    assert store.names() == []


def test_it_is_kept_while_anything_of_it_is_young(store: Dated) -> None:
    register(store, "old")
    log(store, "old", *BEGUN)
    store.now_ms = NOW - 6 * DAY
    log_entry = JobLog(JobId("old"), new_name)
    run_program(log_entry.read(), store)
    run_program(log_entry.append(LeaderElected(Generation(2))), store)
    run_program(log_entry.append_as_leader(Finished("FAILED")), store)
    assert found(store) == {}
    assert len(find(store, older_than_days=5).candidates) == len(store.names())


def test_the_description_goes_first_and_an_interrupted_deletion_goes_on(store: Dated) -> None:
    register(store, "old")
    log(store, "old", *BEGUN, completed(store, "old", 1, 1, "a"), Finished("CANCELED"))
    order = [each.name for each in find(store).candidates]
    for most in range(1, len(order)):
        store.execute(Delete((order[most - 1],)))
        assert run_program(find_latest("flights", new_name), store) is None, "nobody finds half a job"
        assert sorted(found(store)) == sorted(order[most:])


def test_a_retained_checkpoint_stays_and_what_it_does_not_need_goes(store: Dated) -> None:
    register(store, "kept")
    first = completed(store, "kept", 1, 1, "a", "b")
    second = completed(store, "kept", 2, 1, "b", "c")
    log(store, "kept", *BEGUN, first, second, SubsumedUpTo(CheckpointId(1)), Finished("CANCELED", retained=True))
    put(store, "kept/beat/1", "kept/chk-3-1/aborted")
    assert set(found(store)) == {
        "kept/shared/1-a", "kept/chk-1-1/_metadata", "kept/chk-3-1/aborted", "kept/beat/1"
    }  # fmt: skip
    run_program(delete_garbage(find(store)), store)
    latest = run_program(find_latest("flights", new_name), store)
    assert latest is not None
    assert latest.state.last_completed == second
    assert found(store) == {}


def test_of_a_job_that_may_be_live_only_what_dead_attempts_left(store: Dated) -> None:
    register(store, "live")
    checkpoint = completed(store, "live", 1, 1, "needed")
    log(store, "live", LeaderElected(Generation(1)), AttemptStarted(Attempt(1)), checkpoint, AttemptStarted(Attempt(2)))
    put(store, "live/beat/1", "live/shared/1-left", "live/chk-2-1/left")
    put(store, "live/shared/2-uploading", "live/chk-3-2/aborted", "live/shared/3-of-an-attempt-begun-since")
    assert set(found(store)) == {"live/shared/1-left", "live/chk-2-1/left"}
    store.written["live/shared/1-left"] = NOW - DAY
    assert set(found(store)) == {"live/chk-2-1/left"}, "not yet that"


def test_a_job_whose_checkpoint_cannot_be_read_is_not_judged(store: Dated) -> None:
    checkpoint = completed(store, "odd", 1, 1, "a")
    log(store, "odd", LeaderElected(Generation(1)), AttemptStarted(Attempt(1)), checkpoint, AttemptStarted(Attempt(2)))
    put(store, "odd/shared/1-left", "other/log/00000000000000000001")
    store.execute(Delete((checkpoint.metadata_name,)))
    findings = find(store)
    assert findings.candidates == ()
    assert "odd/chk-1-1/_metadata is missing" in findings.kept["odd"]
    assert "was not written by penstock" in findings.kept["other"]


def test_one_that_never_began(store: Dated) -> None:
    register(store, "never")
    assert len(found(store)) == 1
    store.now_ms = NOW - DAY
    register(store, "beginning")
    assert len(found(store)) == 1, "one that may be beginning now"


def record(job: str, *artefacts: str) -> JobSubmission:
    return JobSubmission(JobId(job), "flights", 1, "memory://", artefacts=artefacts)


def test_what_a_cluster_is_to_run_is_kept(store: Dated) -> None:
    run_program(put_job(record("unended"), b"graph", new_name), store)
    register(store, "unended")
    log(store, "unended", *BEGUN, Finished("FINISHED"))
    register(store, "unbegun")
    run_program(put_job(record("unbegun"), b"graph", new_name), store)
    assert found(store) == {}
    run_program(put_ended(EndedJob(record("unended").life, "FINISHED", 1, b""), new_name), store)
    assert {each.partition("/")[0] for each in found(store)} == {"jobs", "unended"}


def test_what_a_cluster_left(store: Dated, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("print()")
    (tmp_path / "used.py").write_text("print(1)")
    used = run_program(put_artefact("used.py", tmp_path / "used.py", None, 1), store)
    orphan = run_program(put_artefact("code.py", tmp_path / "code.py", None, 1), store)
    run_program(put_job(record("job", used.id), b"graph", new_name), store)
    put(store, "cluster/graphs/gone", "cluster/collected/gone/c/1-a", "cluster/collected/job/c/1-a", "probe/x")
    put(store, "somebody/elses.txt", "README", "artefacts.txt")
    expected = [
        "cluster/graphs/gone", "cluster/collected/gone/c/1-a", "probe/x",
        f"artefacts/{orphan.id}", f"artefact-descriptions/{orphan.id}",
    ]  # fmt: skip
    assert sorted(found(store)) == sorted(expected)
    assert list(found(store))[-1].startswith("artefacts/"), "its description goes before it"
    store.written[f"artefact-descriptions/{orphan.id}"] = NOW
    assert sorted(found(store)) == sorted(expected[:3]), "an upload just now"


def test_what_a_continued_job_needs_again_stays(store: Dated) -> None:
    """It is continued after gc has looked: under the names that it had."""
    register(store, "job")
    put(store, "cluster/graphs/job", "cluster/graphs/other", "cluster/collected/job/c/1-a")
    put(store, "artefacts/abc_main.py", "artefact-descriptions/abc_main.py")
    findings = find(store)
    assert len(findings.candidates) == 6
    store.now_ms = NOW
    run_program(put_job(JobSubmission(JobId("job"), "n", 1, "/s", artefacts=("abc_main.py",)), b"new", new_name), store)
    assert run_program(delete_garbage(findings), store) == 1
    assert "cluster/graphs/other" not in store.names()
    assert run_program(get_graph(JobId("job")), store) == b"new"


def test_what_is_being_submitted_stays_before_its_record_is_there(store: Dated) -> None:
    put(store, "cluster/graphs/job", "artefacts/abc_main.py", "artefact-descriptions/abc_main.py")
    findings = find(store)
    for name in ("cluster/graphs/job", "artefact-descriptions/abc_main.py"):
        store.written[name] = NOW
    assert run_program(delete_garbage(findings), store) == 0


def test_a_store_that_fails_in_between_deletes_no_more_than_was_found(store: Dated) -> None:
    put(store, *(f"probe/{n}" for n in range(3)))
    findings = find(store)
    put(store, "probe/new")

    class Away(Dated):
        def execute(self, op: StoreOp) -> Any:
            raise ObjectStoreUnavailable("away")

    with pytest.raises(ObjectStoreUnavailable):
        run_program(delete_garbage(findings), Away())
    run_program(delete_garbage(findings), store)
    assert store.names() == ["probe/new"]


# the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    old = ObstoreObjects(tmp_path / "checkpoints")
    for name in ("probe/1", "probe/2", "mine.txt"):
        old.execute(Put(name, b"12345"))
        os.utime(tmp_path / "checkpoints" / name, (1, 1))
    old.execute(Put("probe/young", b"12345"))
    return tmp_path / "checkpoints"


def test_the_command_lists_and_deletes(directory: Path) -> None:
    listed = CliRunner().invoke(app, ["gc", str(directory), "--dry-run"])
    assert listed.exit_code == 0, listed.output
    assert "2 objects, 10 bytes: left by a check of the store" in listed.output
    assert "2 of 4 objects, 10 bytes would be deleted" in listed.output
    assert (directory / "probe" / "1").exists()
    done = json.loads(CliRunner().invoke(app, ["gc", str(directory), "--output", "json"]).output)
    assert (done["deleted"], done["garbage_bytes"], done["not_judged"]) == (2, 10, {})
    assert [each["name"] for each in done["garbage"]] == ["probe/1", "probe/2"]
    assert sorted(path.name for path in directory.rglob("*") if path.is_file()) == ["mine.txt", "young"]


def test_the_command_on_s3(s3_server: Any, s3_location: str) -> None:
    store = ObstoreObjects(s3_location, s3_server.options)
    store.execute(Put("probe/1", b"12345"))
    settings = [part for key, value in s3_server.options.items() for part in ("-c", f"{key}={value}")]
    command = ["gc", s3_location, "--older-than", "0s", *settings]
    assert "1 of 1 objects, 5 bytes deleted" in CliRunner().invoke(app, command).output
    assert store.execute(List("")) == []
    wrong = CliRunner().invoke(app, [*command, "-c", "s3.secret-key=hush"])
    assert wrong.exit_code == 1
    assert "SignatureDoesNotMatch" in wrong.output
    assert "hush" not in wrong.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["/no/such/directory"], "/no/such/directory is no directory"),
        ([".", "--older-than", "often"], "often"),
        ([".", "-c", "nonsense"], "key=value"),
    ],
)
def test_wrong_use(arguments: list[str], why: str) -> None:
    result = CliRunner().invoke(app, ["gc", *arguments])
    assert result.exit_code == 2
    assert why in result.output
