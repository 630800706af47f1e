"""The program of a subtask's snapshot: what it measures, and that it is the operators' programs otherwise."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from penstock.state.descriptors import ListStateDescriptor
from penstock.state.errors import DamagedCheckpointError, ObjectStoreUnavailable
from penstock.state.ids import Attempt, CheckpointId, JobId, OperatorId, VertexId
from penstock.state.operator_state import INLINE_BYTES, OperatorStateBackend
from penstock.state.snapshots import FileHandle, KeyedHandle, OperatorSnapshot, SplitSnapshot, SubtaskSnapshot
from penstock.state.store.checkpoint_store import CheckpointStore, Uploads
from penstock.state.store.downloads import Downloads
from penstock.state.store.objects import Pause, Program, Put, StoreOp, run_program, with_retries
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.store.packing import SubtaskUploads
from penstock.taskmanager.failures import failed
from penstock.taskmanager.messages import RestoreOperator, SubtaskId
from penstock.taskmanager.snapshotting import Arrival, fetch_restored, subtask_snapshot
from penstock.testing.clock import ManualClock

OLD = FileHandle("job/shared/1-old", 1_000, "00", shared=True)
VERTEX, CHECKPOINT, OPERATOR = VertexId("v"), CheckpointId(2), OperatorId("op")


class Flaky:
    """Every put fails once, after it was done."""

    def __init__(self) -> None:
        self.objects = ObstoreObjects("memory://")
        self.failed: set[str] = set()

    def execute(self, op: StoreOp) -> object:
        if isinstance(op, Pause):
            return None
        answer = self.objects.execute(op)
        if isinstance(op, Put) and op.name not in self.failed:
            self.failed.add(op.name)
            raise ObjectStoreUnavailable("timeout")
        return answer


def keyed(uploads: Uploads, path: Path) -> Program[OperatorSnapshot]:
    new = yield from uploads.put_file(path, shared=True)
    small = yield from uploads.put_bytes(b"manifest")
    handle = KeyedHandle("rocksdb", 0, 127, {"old.sst": OLD, "new.sst": new, "MANIFEST": small}, b"meta")
    return OperatorSnapshot(OperatorId("count"), keyed=(handle,))


def inline() -> Program[OperatorSnapshot]:
    return OperatorSnapshot(
        OperatorId("source"), operator_state=b"12345", splits=(SplitSnapshot("s", b"123", b"1"),), committables=(b"1",)
    )
    yield  # a program that writes nothing


def snapshot(programs: list[Program[OperatorSnapshot]], uploads: SubtaskUploads) -> Program[SubtaskSnapshot]:
    arrival = Arrival(1.0, 2.0, 3.0, 77)
    return subtask_snapshot(SubtaskId(VERTEX, 0), CHECKPOINT, programs, uploads, arrival, ManualClock())


def subtask_uploads() -> SubtaskUploads:
    names = iter(map(str, range(100)))
    return SubtaskUploads(partial(CheckpointStore(JobId("job"), lambda: next(names)).uploads, Attempt(1)))


@pytest.mark.parametrize("store", [Flaky(), ObstoreObjects("memory://")], ids=["flaky", "steady"])
def test_what_is_written_and_what_is_referred_to_are_told_apart(store: Flaky | ObstoreObjects, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x" * 300)
    uploads = subtask_uploads()
    taken = run_program(snapshot([keyed(uploads.of(CHECKPOINT), tmp_path / "new"), inline()], uploads), store)
    in_metadata = len(b"meta") + 5 + 4 + 1
    assert taken.uploaded_bytes == 300 + len(b"manifest") + in_metadata
    assert taken.state_bytes == taken.uploaded_bytes + OLD.size_bytes
    assert (taken.align_ms, taken.sync_ms, taken.start_delay_ms, taken.processed_bytes) == (1.0, 2.0, 3.0, 77)
    assert [operator.operator_id for operator in taken.operators] == ["count", "source"]


def test_operator_state_counts_and_is_fetched_again_or_its_damage_is_named(tmp_path: Path) -> None:
    objects, uploads = ObstoreObjects("memory://"), subtask_uploads()
    backend = OperatorStateBackend("op")
    backend.get_list_state(ListStateDescriptor("numbers", int)).add_all([1, 2])
    backend.get_list_state(ListStateDescriptor("text", str)).add("x" * INLINE_BYTES)

    def written() -> Program[OperatorSnapshot]:
        return OperatorSnapshot(OPERATOR, lists=(yield from backend.snapshot(lambda: uploads.of(CHECKPOINT))))

    taken = run_program(snapshot([written()], uploads), objects)
    (file,) = taken.files()
    numbers, _text = taken.operators[0].lists
    assert taken.state_bytes == taken.uploaded_bytes == file.size_bytes + len(numbers.inline)
    restore = (RestoreOperator(OPERATOR, taken.operators),)
    restored = run_program(fetch_restored(restore, (), Downloads(), tmp_path), objects).operators[OPERATOR]
    assert [(each.name, len(each.elements)) for each in restored.lists] == [("numbers", 2), ("text", 1)]
    assert restored.found
    run_program(with_retries(Put(file.name, b"x" * file.size_bytes, create_only=False)), objects)
    with pytest.raises(DamagedCheckpointError, match=rf"{file.name}.* is damaged: its checksum does not fit"):
        run_program(fetch_restored(restore, (), Downloads(), tmp_path), objects)


def test_a_program_that_is_given_up_ends_the_operators() -> None:
    ended = []

    def writing() -> Program[OperatorSnapshot]:
        try:
            yield Put("a", b"")
        finally:
            ended.append("writing")
        return OperatorSnapshot(OperatorId("a"))

    program = snapshot([writing()], subtask_uploads())
    next(program)
    program.close()
    assert ended == ["writing"]


def test_the_failure_of_a_task_names_the_class_of_the_users_exception() -> None:
    class PriceError(Exception):
        pass

    message = failed(Attempt(1), SubtaskId(VERTEX, 0), "map", PriceError("no"))
    assert message.exception == f"{__name__}.{PriceError.__qualname__}"
    assert failed(Attempt(1), SubtaskId(VERTEX, 0), "map", ValueError("no")).exception == "ValueError"
