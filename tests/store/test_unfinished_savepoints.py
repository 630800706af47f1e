"""What `gc` finds of savepoints: files that nobody finished go, and nothing of a savepoint ever does."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.api.command_line import app
from penstock.state.errors import CheckpointError, DamagedCheckpointError
from penstock.state.ids import Attempt, CheckpointId, JobId, OperatorId, VertexId
from penstock.state.savepoints.savepoint_store import (
    SavepointUploads,
    dispose,
    read_savepoint,
    savepoint_path,
    write_savepoint,
)
from penstock.state.savepoints.unfinished_savepoints import LEFT
from penstock.state.snapshots import CheckpointMetadata, FileHandle, KeyedHandle, OperatorSnapshot, SubtaskSnapshot
from penstock.state.store.garbage import Findings, delete_garbage, find_garbage
from penstock.state.store.objects import Delete, List, Program, Put, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

JOB = JobId("0123456789abcdef" * 2)
DAY = 86_400_000
numbers = itertools.count(1)


def new_name() -> str:
    return f"{next(numbers):032x}"[::-1]


@pytest.fixture
def store() -> ObstoreObjects:
    return ObstoreObjects("memory://", sleep=lambda seconds: None)


class Tried:
    """A savepoint of which the files are written, and no document."""

    def __init__(self, store: ObstoreObjects, tmp_path: Path, target: str = "savepoints", uid: str = "orders") -> None:
        self.store, self.path = store, savepoint_path(target, JOB, new_name())
        uploads = SavepointUploads(self.path, JOB, Attempt(1), CheckpointId(1), new_name)
        local = tmp_path / "rows.parquet"
        local.write_bytes(b"rows")
        self.files: list[FileHandle] = [
            run_program(uploads.put_file(local, name=f"{uid}/{state}/1"), store)
            for state in ("totals", "shared", "log")
        ]
        self.files.append(run_program(uploads.put_bytes(b"elements"), store))

    def finish(self) -> str:
        handles = {file.name: file for file in self.files}
        operator = OperatorSnapshot(OperatorId("op"), (KeyedHandle("canonical", 0, 127, handles),))
        subtask = SubtaskSnapshot(VertexId("v"), 0, (operator,))
        metadata = CheckpointMetadata(
            JOB, "name", Attempt(1), CheckpointId(1), 0, 0, {"v": 1}, {"v": 128}, (subtask,)
        )  # fmt: skip
        return run_program(write_savepoint(self.path, metadata, new_name()), self.store)

    def names(self) -> list[str]:
        return sorted(file.name for file in self.files)


@pytest.fixture
def tried(store: ObstoreObjects, tmp_path: Path) -> Callable[..., Tried]:
    return lambda **where: Tried(store, tmp_path, **where)


def find(store: ObstoreObjects, days: float = 8, older_than_days: float = 7) -> Findings:
    """As if looked so many days later."""
    now_ms = time.time_ns() // 1_000_000 + int(days * DAY)
    return run_program(find_garbage(now_ms, int(older_than_days * DAY)), store)


def names(store: ObstoreObjects) -> list[str]:
    found: list[str] = store.execute(List(""))
    return found


@pytest.mark.parametrize("target", ["savepoints", "/", "savepoint-prod-eu", "savepoint-012345-0123456789ab"])
@pytest.mark.parametrize("uid", ["orders", "log", "beat", "shared", "chk-1-1", "savepoint-012345-0123456789ab"])
def test_nothing_of_a_savepoint_is_garbage(store: Any, tried: Callable[..., Tried], target: str, uid: str) -> None:
    savepoint = tried(target=target, uid=uid)
    savepoint.finish()
    assert find(store).candidates == ()
    assert find(store).broken == {}


def test_what_nobody_finished_goes_when_it_is_old(store: Any, tried: Callable[..., Tried]) -> None:
    savepoint = tried()
    assert find(store, days=6).candidates == ()
    findings = find(store)
    assert [each.name for each in findings.candidates] == savepoint.names()
    assert {each.reason for each in findings.candidates} == {LEFT}
    assert run_program(delete_garbage(findings), store) == 4
    assert names(store) == [f"{savepoint.path}/_metadata"]
    with pytest.raises(DamagedCheckpointError, match="was never finished, and penstock gc has deleted"):
        run_program(read_savepoint(savepoint.path), store)
    with pytest.raises(CheckpointError, match=r"penstock gc has deleted .*savepoint-012345"):
        savepoint.finish()


def test_what_stands_for_it_goes_the_next_time(store: Any, tried: Callable[..., Tried]) -> None:
    savepoint = tried()
    run_program(delete_garbage(find(store)), store)
    assert find(store, days=6).candidates == (), "its writer may still be asleep"
    late = f"{savepoint.path}/late"
    store.execute(Put(late, b"1"))
    assert [each.name for each in find(store).candidates] == [late]
    run_program(delete_garbage(find(store)), store)
    run_program(delete_garbage(find(store)), store)
    assert names(store) == []


def test_one_that_is_finished_after_the_look_stays(store: Any, tried: Callable[..., Tried]) -> None:
    savepoint, other = tried(), tried()
    findings = find(store)
    savepoint.finish()
    assert run_program(delete_garbage(findings), store) == 4
    assert names(store) == sorted([*savepoint.names(), f"{savepoint.path}/_metadata", f"{other.path}/_metadata"])
    run_program(read_savepoint(savepoint.path), store)


@pytest.mark.parametrize("steps", range(12))
def test_whoever_is_first_at_the_document_s_name_decides(store: Any, tried: Callable[..., Tried], steps: int) -> None:
    """Its master finishes it between any two operations of the collector: it has all files, or has failed."""
    savepoint = tried()
    collecting, answer, taken = collect(), None, False
    for _ in range(steps):
        try:
            answer = execute(store, collecting, collecting.send(answer))
        except StopIteration:
            break
    try:
        savepoint.finish()
        taken = True
    except CheckpointError:
        pass
    try:
        while True:
            answer = execute(store, collecting, collecting.send(answer))
    except StopIteration:
        pass
    assert (set(savepoint.names()) <= set(names(store))) == taken
    assert set(savepoint.names()).isdisjoint(names(store)) or taken


def collect() -> Program[int]:
    """Whatever its age."""
    return (yield from delete_garbage((yield from find_garbage(1 << 60, 0))))


def execute(store: ObstoreObjects, program: Program[Any], op: Any) -> Any:
    try:
        return store.execute(op)
    except Exception as error:
        return execute(store, program, program.throw(error))


def test_one_that_nobody_can_restore_is_told_and_left_to_its_owner(store: Any, tried: Callable[..., Tried]) -> None:
    savepoint, damaged = tried(), tried()
    savepoint.finish()
    store.execute(Delete((savepoint.names()[0],)))
    store.execute(Put(damaged.finish(), b"{}", create_only=False))
    findings = find(store)
    assert findings.candidates == ()
    assert findings.broken[savepoint.path] == f"1 of its files are missing, {savepoint.names()[0]} for one"
    assert "_metadata is damaged" in findings.broken[damaged.path]
    assert find(store, days=6).broken == {}
    run_program(dispose(savepoint.path), store)
    assert set(find(store).broken) == {damaged.path}


@pytest.mark.parametrize(
    "name", ["app/log/today.txt", "photos/shared/1-cat.jpg", "app/beat/1", "app/chk-1-1/mine", "app/log-hint"]
)
def test_what_is_called_a_little_like_a_job_s_objects_is_somebody_elses(store: Any, name: str) -> None:
    store.execute(Put(name, b"mine"))
    assert find(store).candidates == ()


def test_what_came_after_all_of_a_job_was_deleted_is_still_known_as_its(store: Any) -> None:
    store.execute(Put(f"{JOB}/shared/1-late", b"1"))
    assert [each.name for each in find(store).candidates] == [f"{JOB}/shared/1-late"]


def test_the_command_on_a_directory_of_savepoints(tmp_path: Path) -> None:
    there = ObstoreObjects(tmp_path / "there")
    left, kept = Tried(there, tmp_path, target="flights"), Tried(there, tmp_path, target="flights")
    kept.finish()
    there.execute(Delete((kept.names()[0],)))
    for file in (tmp_path / "there").rglob("*"):
        os.utime(file, (1, 1))
    listed = CliRunner().invoke(app, ["gc", str(tmp_path / "there"), "--dry-run"]).output
    assert f"4 objects, 20 bytes: {LEFT}" in listed
    assert f"savepoint {kept.path} cannot be restored: 1 of its files are missing" in listed
    done = json.loads(CliRunner().invoke(app, ["gc", str(tmp_path / "there"), "--output", "json"]).output)
    assert (done["deleted"], list(done["broken_savepoints"])) == (4, [kept.path])
    assert not any((tmp_path / "there" / name).exists() for name in left.names())
    inside = CliRunner().invoke(app, ["gc", str(tmp_path / "there" / kept.path)])
    assert inside.exit_code == 2
    assert "is a savepoint" in inside.output
