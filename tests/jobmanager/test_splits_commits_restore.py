"""Split assignment over barriers, commits in order, and who takes over what of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.jobmanager.commits import Commits
from penstock.jobmanager.events import RunBlocking, SetTimer
from penstock.jobmanager.options import JobMasterOptions
from penstock.jobmanager.restore import plan_restore
from penstock.jobmanager.splits import Assignment, SplitCoordinator
from penstock.runtime.connector import Committer, ReaderContext, Source, SourceReader, SplitEnumerator
from penstock.runtime.graph.job_graph import ChainedOperator, JobGraph, Vertex
from penstock.runtime.records.record_types import OPAQUE, RecordType
from penstock.state.errors import IncompatibleStateError
from penstock.state.ids import Attempt, CheckpointId, OperatorId, VertexId
from penstock.state.key_groups import KeyGroupRange
from penstock.state.snapshots import CheckpointMetadata, KeyedHandle, OperatorSnapshot, SplitSnapshot, SubtaskSnapshot
from penstock.taskmanager.messages import SubtaskId

ONE, TWO = CheckpointId(1), CheckpointId(2)
OP = OperatorId("op")


class Letters(SplitEnumerator[str]):
    """Hands out single letters; the end is reached when none is left."""

    def __init__(self, left: list[str] | None) -> None:
        self.left = left or []
        self.restored = left is not None

    def discover(self) -> list[str]:
        return [] if self.restored else ["a", "b", "c"]

    def discovered(self, found: list[str]) -> None:
        self.left += found

    def next_splits(self, subtask: int, parallelism: int) -> list[str] | None:
        return [self.left.pop(0)] if self.left else None

    def snapshot(self) -> bytes:
        return "".join(self.left).encode()


class LetterSource(Source[str]):
    bounded = True
    record_type: RecordType = OPAQUE

    def create_enumerator(self, restored: bytes | None) -> Letters:
        return Letters(None if restored is None else list(restored.decode()))

    def create_reader(self, context: ReaderContext) -> SourceReader[str]:
        raise NotImplementedError

    def split_id(self, split: str) -> str:
        return split

    def encode_split(self, split: str) -> bytes:
        return split.encode()

    def decode_split(self, state: bytes) -> str:
        return state.decode()


def splits(restored: bytes | None = None) -> SplitCoordinator:
    return SplitCoordinator(LetterSource(), OP, 2, restored)


def given_split(subtask: int, split: str) -> Assignment:
    return Assignment(subtask, (SplitSnapshot(split, split.encode()),))


def test_requests_wait_for_discovery_in_their_order() -> None:
    c = splits()
    assert c.requested(1) == []
    assert c.requested(0) == []
    assert c.discovered(c.discovery()()) == [given_split(1, "a"), given_split(0, "b")]
    assert c.requested(0) == [given_split(0, "c")]
    assert c.requested(0) == [Assignment(0, (), last=True)]


def test_nothing_is_assigned_between_the_snapshot_and_the_last_barrier() -> None:
    c = splits()
    c.discovered(["a", "b", "c"])
    c.snapshot(ONE)
    assert c.requested(0) == []
    assert c.injected(ONE, 0) == []
    assert c.injected(ONE, 1) == [given_split(0, "a")]
    assert c.injected(ONE, 1) == []


READERS = (0, 1)


class Readers:
    """Two readers that never come to the end of a split, the checkpoints, and the failures of one reader alone."""

    def __init__(self) -> None:
        self.coordinator = splits()
        self.coordinator.discovered(list("abcdefgh"))
        self.held: list[list[str]] = [[], []]
        self.completed: list[list[str]] = [[], []]
        self.under_way: dict[CheckpointId, dict[int, list[str]]] = {}
        self.triggered = 0

    def take(self, assignments: list[Assignment]) -> None:
        for assignment in assignments:
            self.held[assignment.subtask] += [split.split_id for split in assignment.splits]

    def ask(self, reader: int) -> None:
        self.take(self.coordinator.requested(reader))

    def trigger(self, reader: int) -> None:
        self.triggered += 1
        self.coordinator.snapshot(CheckpointId(self.triggered))
        self.under_way[CheckpointId(self.triggered)] = {}

    def inject(self, reader: int) -> None:
        checkpoint = next((each for each, injected in self.under_way.items() if reader not in injected), None)
        if checkpoint is not None:
            self.under_way[checkpoint][reader] = list(self.held[reader])
            self.take(self.coordinator.injected(checkpoint, reader))

    def complete(self, reader: int) -> None:
        """The oldest that all have injected; older ones are subsumed."""
        whole = next((each for each, injected in self.under_way.items() if len(injected) == 2), None)
        if whole is not None:
            self.completed = [self.under_way[whole][each] for each in READERS]
            self.coordinator.completed(whole)
            for older in [each for each in self.under_way if each < whole]:
                self.abort(older)
            del self.under_way[whole]

    def abort(self, checkpoint: CheckpointId) -> None:
        del self.under_way[checkpoint]
        self.take(self.coordinator.released(checkpoint))

    def fail(self, reader: int) -> None:
        """What is under way ends; the reader goes back to the last completed checkpoint."""
        self.coordinator.failed(reader)
        for checkpoint in list(self.under_way):
            self.abort(checkpoint)
        self.held[reader] = list(self.completed[reader])
        self.take(self.coordinator.restarted(reader))


ACTIONS = st.tuples(st.sampled_from(["ask", "trigger", "inject", "complete", "fail"]), st.sampled_from(READERS))


@given(st.lists(ACTIONS, max_size=60))
def test_a_split_is_in_one_place_whoever_fails(actions: list[tuple[str, int]]) -> None:
    readers = Readers()
    for action, reader in actions:
        getattr(readers, action)(reader)
        left: list[str] = readers.coordinator._enumerator.left  # type: ignore[attr-defined]
        assert sorted([*left, *readers.held[0], *readers.held[1]]) == list("abcdefgh")


def test_a_reader_that_has_failed_waits_for_nothing() -> None:
    c = splits()
    c.requested(0)
    c.requested(1)
    c.failed(0)
    assert c.discovered(["a", "b"]) == [given_split(1, "a")]


def test_every_checkpoint_under_way_holds_assignments_back() -> None:
    c = splits()
    c.discovered(["a"])
    c.snapshot(ONE)
    c.snapshot(TWO)
    c.requested(1)
    assert c.released(ONE) == []
    assert c.released(TWO) == [given_split(1, "a")]


@given(st.lists(st.sampled_from(["ask 0", "ask 1", "trigger", "inject 0", "inject 1", "abort"]), max_size=30))
def test_a_split_is_in_the_enumerators_snapshot_or_was_assigned_before_it(actions: list[str]) -> None:
    c = splits()
    c.discovered(list("abcdefgh"))
    assigned: list[str] = []
    frozen: dict[CheckpointId, tuple[set[str], set[str]]] = {}
    waiting: dict[CheckpointId, set[int]] = {}
    for action in actions:
        answers: list[Assignment] = []
        word, _, number = action.partition(" ")
        if word == "ask":
            answers = c.requested(int(number))
        elif word == "trigger":
            checkpoint = CheckpointId(len(frozen) + 1)
            left = set(splits(c.snapshot(checkpoint))._enumerator.left)  # type: ignore[attr-defined]
            frozen[checkpoint], waiting[checkpoint] = (left, set(assigned)), {0, 1}
        elif waiting:
            oldest = min(waiting)
            if word == "inject":
                waiting[oldest].discard(int(number))
                answers = c.injected(oldest, int(number))
            else:
                waiting[oldest] = set()
                answers = c.released(oldest)
            if not waiting[oldest]:
                del waiting[oldest]
        assert not (answers and waiting)
        assigned += [split.split_id for answer in answers for split in answer.splits]
    for left, before in frozen.values():
        assert not left & before
        assert left | before == set("abcdefgh")


# commits


class Recorder(Committer):
    def __init__(self) -> None:
        self.committed: list[bytes] = []

    def commit(self, committables: Sequence[bytes]) -> None:
        self.committed += committables


def commits(**options: Any) -> tuple[Commits, Recorder]:
    recorder = Recorder()
    return Commits({OP: ("files", recorder)}, JobMasterOptions(**options)), recorder


def test_one_checkpoint_at_a_time_and_in_order() -> None:
    c, recorder = commits()
    first, overdue = c.add({OP: (b"1",)}, 1_000)
    assert isinstance(first, RunBlocking)
    assert overdue == SetTimer(601_000, ("commit overdue", OP, 0, 0))
    assert c.add({OP: (b"1", b"2")}, 1_000) == []
    assert c.pending() == {"op": (b"1", b"2")}
    first.call()
    second, _ = c.done(OP, first.tag[2], 0, 1_000)
    assert c.done(OP, first.tag[2], 0, 1_000) == []
    assert isinstance(second, RunBlocking)
    second.call()
    assert c.done(OP, second.tag[2], 0, 1_000) == []
    assert (recorder.committed, c.idle, c.pending()) == ([b"1", b"2"], True, {})


def test_a_failed_commit_is_tried_again_with_growing_pauses_until_the_budget_is_spent() -> None:
    c, _ = commits(commit_attempts=3, commit_retry_ms=10)
    c.add({OP: (b"1",)}, 0)
    for failures, pause_ms in enumerate((10, 20)):
        timer = ("commit again", OP, 0)
        assert c.failed(OP, 0, failures, OSError("busy"), 1_000) == [SetTimer(1_000 + pause_ms, timer)]
        again, _ = c.timer_fired(timer, 2_000)
        assert isinstance(again, RunBlocking)
        assert again.tag == ("commit", OP, 0, failures + 1)
    assert c.failed(OP, 0, 2, OSError("busy"), 1_000) == []
    assert str(c.failure) == "sink files: committing failed 3 times, last with busy"
    assert c.pending() == {"op": (b"1",)}


def test_a_commit_that_does_not_return_is_a_failed_try_and_its_late_answer_is_dropped() -> None:
    c, _ = commits(commit_attempts=2, commit_retry_ms=10, commit_timeout_ms=5_000)
    c.add({OP: (b"1",)}, 0)
    overdue = ("commit overdue", OP, 0, 0)
    assert c.timer_fired(overdue, 5_000) == [SetTimer(5_010, ("commit again", OP, 0))]
    assert c.timer_fired(overdue, 5_000) == []
    assert c.done(OP, 0, 0, 5_005) == c.failed(OP, 0, 0, OSError("late"), 5_005) == []
    c.timer_fired(("commit again", OP, 0), 5_010)
    assert c.timer_fired(("commit overdue", OP, 0, 1), 10_010) == []
    assert str(c.failure) == "sink files: committing failed 2 times, last with it has not returned within 5 s"


def test_a_commit_that_has_returned_is_not_overdue() -> None:
    c, _ = commits()
    c.add({OP: (b"1",)}, 0)
    c.done(OP, 0, 0, 10)
    assert c.timer_fired(("commit overdue", OP, 0, 0), 600_000) == []
    assert (c.idle, c.failure) == (True, None)


def test_a_sink_without_committer_has_nothing_to_commit() -> None:
    c, _ = commits()
    assert c.add({OperatorId("print"): (b"x",)}, 0) == []
    assert c.idle


# restore


def operator(name: str) -> ChainedOperator:
    return ChainedOperator(OperatorId(name), name, None, "all at once", b"", None, is_source=True, is_sink=True)


def job(parallelism: int, *names: str, max_parallelism: int = 128) -> JobGraph:
    vertex = Vertex(VertexId("new"), "v", tuple(map(operator, names)), parallelism, max_parallelism)
    return JobGraph("job", (vertex,), ())


def checkpoint(*subtasks: OperatorSnapshot, max_parallelism: int = 128, **more: Any) -> CheckpointMetadata:
    return CheckpointMetadata(
        job_id="j",
        job_name="job",
        attempt=Attempt(1),
        checkpoint_id=ONE,
        triggered_at_ms=0,
        completed_at_ms=1,
        parallelism={"old": len(subtasks)},
        max_parallelism={"old": max_parallelism},
        subtasks=tuple(SubtaskSnapshot(VertexId("old"), i, (s,)) for i, s in enumerate(subtasks)),
        **more,
    )


def keyed(index: int, parallelism: int) -> tuple[KeyedHandle, ...]:
    groups = KeyGroupRange.of_subtask(index, parallelism, 128)
    return (KeyedHandle("heap", groups.first, groups.last, {}, str(index).encode()),)


def split(name: str) -> SplitSnapshot:
    return SplitSnapshot(name, name.encode())


def old(parallelism: int) -> list[OperatorSnapshot]:
    return [
        OperatorSnapshot(
            OP, keyed(i, parallelism), b"%d" % i, watermark=10 * i + 5, idle=i > 0, splits=(split(f"s{i}"),),
            committables=(b"c%d" % i,),
        )
        for i in range(parallelism)
    ]  # fmt: skip


def test_at_the_same_parallelism_everyone_takes_over_its_own() -> None:
    plan = plan_restore(checkpoint(*old(2)), job(2, "op"), allow_non_restored_state=False)
    for i in range(2):
        (restored,) = plan.subtasks[SubtaskId(VertexId("new"), i)]
        (snapshot,) = restored.snapshots
        assert (snapshot.keyed, snapshot.operator_state) == (keyed(i, 2), b"%d" % i)
        assert (snapshot.watermark, snapshot.idle, snapshot.splits) == (10 * i + 5, i > 0, (split(f"s{i}"),))
        assert snapshot.committables == ()


def test_committables_of_earlier_checkpoints_come_first_and_once() -> None:
    metadata = checkpoint(*old(2), pending_commits={"op": (b"earlier", b"c1")})
    plan = plan_restore(metadata, job(2, "op"), allow_non_restored_state=False)
    assert plan.committables == {OP: (b"earlier", b"c1", b"c0")}


@given(st.integers(1, 9), st.integers(1, 9))
def test_rescaling_loses_and_doubles_nothing(before: int, after: int) -> None:
    plan = plan_restore(checkpoint(*old(before)), job(after, "op"), allow_non_restored_state=False)
    states: list[bytes] = []
    for i in range(after):
        (restored,) = plan.subtasks[SubtaskId(VertexId("new"), i)]
        groups = KeyGroupRange.of_subtask(i, after, 128)
        handles = {int(h.meta) for s in restored.snapshots for h in s.keyed}
        wanted = {g * before // 128 for g in range(groups.first, groups.last + 1)}
        assert handles == wanted
        states += [s.operator_state for s in restored.snapshots if s.operator_state is not None]
        if before != after:
            assert {s.watermark for s in restored.snapshots} == {5}
            assert {s.idle for s in restored.snapshots} == {False}
    assert sorted(states) == [b"%d" % i for i in range(before)]
    shares = [[s for r in parts for o in r.snapshots for s in o.splits] for parts in plan.subtasks.values()]
    assert sorted(s.split_id for share in shares for s in share) == [f"s{i}" for i in range(before)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_another_max_parallelism_is_refused_only_for_keyed_state() -> None:
    with pytest.raises(IncompatibleStateError, match="op: its keyed state was written at max parallelism 64"):
        plan_restore(checkpoint(*old(1), max_parallelism=64), job(1, "op"), allow_non_restored_state=False)
    unkeyed = OperatorSnapshot(OP, operator_state=b"x")
    plan_restore(checkpoint(unkeyed, max_parallelism=64), job(1, "op"), allow_non_restored_state=False)


def test_state_of_a_missing_operator_is_refused_unless_allowed() -> None:
    with pytest.raises(IncompatibleStateError, match="does not have: op"):
        plan_restore(checkpoint(*old(1)), job(1, "other"), allow_non_restored_state=False)
    plan = plan_restore(checkpoint(*old(1)), job(1, "other"), allow_non_restored_state=True)
    assert plan.subtasks == {}


def test_an_operator_that_left_nothing_may_disappear() -> None:
    only_time = OperatorSnapshot(OP, watermark=7)
    assert plan_restore(checkpoint(only_time), job(1, "other"), allow_non_restored_state=False).subtasks == {}
