"""The checkpoint coordinator: state in, decisions out."""

from __future__ import annotations

import pytest

from penstock.jobmanager.checkpoint_coordinator import (
    Abort,
    AckOutcome,
    Checkpoint,
    CheckpointCoordinator,
    CheckpointState,
    FailAttempt,
    Persist,
    Purpose,
    Trigger,
)
from penstock.jobmanager.options import CheckpointOptions
from penstock.runtime.elements import Savepoint
from penstock.state.errors import ProtocolError
from penstock.state.ids import Attempt, CheckpointId, VertexId
from penstock.state.snapshots import SubtaskSnapshot
from penstock.taskmanager.messages import SubtaskId

A, B = SubtaskId(VertexId("v"), 0), SubtaskId(VertexId("v"), 1)
SNAPSHOT = SubtaskSnapshot(VertexId("v"), 0, ())
ONE = CheckpointId(1)


def coordinator(**options: object) -> CheckpointCoordinator:
    built = CheckpointCoordinator(CheckpointOptions(interval_ms=100, timeout_ms=1_000, **options), [A, B])  # type: ignore[arg-type]
    built.begin_attempt(Attempt(1), ONE, 0)
    return built


def triggered(c: CheckpointCoordinator, now_ms: int) -> Checkpoint:
    (decision,) = c.tick(now_ms, ready=True)
    assert isinstance(decision, Trigger)
    return decision.checkpoint


def acknowledged(c: CheckpointCoordinator, checkpoint: Checkpoint) -> None:
    for subtask in (A, B):
        c.acknowledge(checkpoint.id, subtask, SNAPSHOT)


def complete(c: CheckpointCoordinator, checkpoint: Checkpoint, now_ms: int) -> list[object]:
    assert c.written(checkpoint, "name")
    return list(c.logged(checkpoint, now_ms))


def test_triggers_when_due_and_all_are_ready() -> None:
    c = coordinator()
    assert c.next_tick_ms(ready=True) == 100
    assert c.tick(99, ready=True) == []
    assert c.tick(100, ready=False) == []
    assert triggered(c, 150).id == 1
    assert c.tick(260, ready=True) == []  # one at a time
    assert c.next_tick_ms(ready=True) == 1_150


def test_four_ways_of_acknowledgement() -> None:
    c = coordinator()
    checkpoint = triggered(c, 100)
    assert c.acknowledge(CheckpointId(9), A, SNAPSHOT) == (AckOutcome.UNKNOWN, [])
    assert c.acknowledge(ONE, A, SNAPSHOT) == (AckOutcome.PENDING, [])
    assert c.acknowledge(ONE, A, SNAPSHOT) == (AckOutcome.DUPLICATE, [])
    assert c.acknowledge(ONE, B, SNAPSHOT) == (AckOutcome.COMPLETES, [Persist(checkpoint)])
    complete(c, checkpoint, 150)
    assert c.acknowledge(ONE, B, SNAPSHOT) == (AckOutcome.UNKNOWN, [])
    assert (c.completed, c.last_duration_ms) == (1, 50)


def test_times_out_and_may_not_be_completed_afterwards() -> None:
    c = coordinator()
    checkpoint = triggered(c, 100)
    c.acknowledge(ONE, A, SNAPSHOT)
    abort, trigger = c.tick(1_100, ready=True)
    assert isinstance(abort, Abort)
    assert "v[1]" in abort.reason
    assert "v[0]" not in abort.reason
    assert isinstance(trigger, Trigger)
    assert trigger.checkpoint.id == 2
    assert checkpoint.state is CheckpointState.ABORTED
    assert c.acknowledge(ONE, B, SNAPSHOT) == (AckOutcome.UNKNOWN, [])
    assert not c.written(checkpoint, "late")


@pytest.mark.parametrize(("tolerated", "fails"), [(0, True), (1, False), (None, False)])
def test_tolerable_failures(tolerated: int | None, fails: bool) -> None:
    c = coordinator(tolerable_failures=tolerated)
    triggered(c, 100)
    decisions = c.decline(ONE, A, "disk full", 120)
    assert isinstance(decisions[0], Abort)
    assert any(isinstance(d, FailAttempt) and "disk full" in d.reason for d in decisions) is fails
    assert c.decline(ONE, B, "again", 121) == []


def test_a_success_forgives() -> None:
    c = coordinator(tolerable_failures=1)
    for round_ms in (100, 300, 500):
        failing = triggered(c, round_ms)
        assert len(c.decline(failing.id, A, "no", round_ms)) == 1
        good = triggered(c, round_ms + 100)
        acknowledged(c, good)
        complete(c, good, round_ms + 110)


def test_min_pause_counts_from_the_end() -> None:
    c = coordinator(min_pause_ms=500)
    checkpoint = triggered(c, 100)
    acknowledged(c, checkpoint)
    complete(c, checkpoint, 180)
    assert c.next_tick_ms(ready=True) == 680
    assert c.tick(679, ready=True) == []
    assert triggered(c, 680).id == 2


def test_a_completion_on_its_way_into_the_log_survives_its_attempt() -> None:
    c = coordinator()
    checkpoint = triggered(c, 100)
    acknowledged(c, checkpoint)
    c.written(checkpoint, "name")
    assert c.undecided
    assert c.end_attempt("failed") == []
    with pytest.raises(ProtocolError, match="undecided"):
        c.begin_attempt(Attempt(2), ONE, 200)
    c.logged(checkpoint, 200)
    c.begin_attempt(Attempt(2), CheckpointId(2), 200)
    assert triggered(c, 300).id == 2


def test_ids_grow_over_attempts_and_the_ended_one_triggers_nothing() -> None:
    c = coordinator()
    checkpoint = triggered(c, 100)
    assert c.end_attempt("failed") == [Abort(checkpoint, "failed")]
    assert c.tick(10_000, ready=True) == []
    assert c.next_tick_ms(ready=True) is None
    c.begin_attempt(Attempt(2), ONE, 10_000)
    assert triggered(c, 10_100).id == 2


def test_completions_are_persisted_one_at_a_time_and_subsume_older_ones() -> None:
    c = coordinator(max_concurrent=3)
    first, second, third = triggered(c, 100), triggered(c, 200), triggered(c, 300)
    assert c.tick(400, ready=True) == []
    acknowledged(c, third)
    acknowledged(c, second)  # waits for the third, which makes it superfluous
    assert complete(c, third, 400) == [
        Abort(first, "subsumed by checkpoint 3"),
        Abort(second, "subsumed by checkpoint 3"),
    ]


def test_the_next_in_line_is_persisted() -> None:
    c = coordinator(max_concurrent=2)
    first, second = triggered(c, 100), triggered(c, 200)
    acknowledged(c, first)
    acknowledged(c, second)
    assert complete(c, first, 300) == [Persist(second)]


def test_metadata_that_cannot_be_written_makes_room_for_the_next() -> None:
    c = coordinator(max_concurrent=2)
    first, second = triggered(c, 100), triggered(c, 200)
    acknowledged(c, first)
    acknowledged(c, second)
    abort, persist = c.not_written(first, OSError("gone"), 250)
    assert isinstance(abort, Abort)
    assert persist == Persist(second)


def test_the_wanted_checkpoint_comes_at_once_alone_and_last() -> None:
    c = coordinator()
    running = triggered(c, 100)
    c.want(Purpose.FINAL, 110)
    assert c.tick(110, ready=True) == []  # the one under way goes first
    acknowledged(c, running)
    complete(c, running, 120)
    final = triggered(c, 120)
    assert final.purpose is Purpose.FINAL
    acknowledged(c, final)
    complete(c, final, 130)
    assert c.tick(10_000, ready=True) == []
    assert c.next_tick_ms(ready=True) is None


def test_a_final_checkpoint_that_fails_is_tried_again() -> None:
    c = coordinator()
    c.want(Purpose.FINAL, 10)
    triggered(c, 10)
    c.decline(ONE, A, "no", 20)
    assert c.tick(500, ready=True) == []
    assert triggered(c, 1_020).purpose is Purpose.FINAL


def test_without_checkpoints_only_the_final_barrier() -> None:
    c = CheckpointCoordinator(None, [A, B])
    c.begin_attempt(Attempt(1), ONE, 0)
    assert c.tick(10**9, ready=True) == []
    c.want(Purpose.FINAL, 10**9)
    final = triggered(c, 10**9)
    assert not final.persist
    acknowledged(c, final)
    c.collected(final)
    assert c.tick(2 * 10**9, ready=True) == []


def test_an_illegal_move_names_the_checkpoint() -> None:
    c = coordinator()
    with pytest.raises(ProtocolError, match="checkpoint 1 of attempt 1 cannot become COMPLETED: TRIGGERED"):
        c.logged(triggered(c, 100), 110)


def test_a_trigger_that_is_due_waits_for_no_time_when_subtasks_are_not_ready() -> None:
    """Simulator seed 18: a subtask had failed while the job was being suspended, and the timer fired for ever."""
    c = coordinator()
    c.want(Purpose.STOP, 500)
    assert c.tick(500, ready=False) == []
    assert c.next_tick_ms(ready=False) is None


def test_nothing_follows_a_savepoint_with_which_the_job_stops() -> None:
    """A request that came too late made the master look at the clock, and a checkpoint was triggered."""
    c = coordinator()
    c.want_savepoint(Savepoint("savepoints/savepoint-job-1", stop=True))
    checkpoint = triggered(c, 0)
    assert checkpoint.purpose is Purpose.SAVEPOINT
    acknowledged(c, checkpoint)
    assert c.written(checkpoint, "name")
    assert c.tick(500, ready=True) == [], "it is under way"
    assert c.taken(checkpoint) == []
    assert c.tick(10_000, ready=True) == []
    assert c.next_tick_ms(ready=True) is None


def test_a_plain_savepoint_does_not_change_when_checkpoints_are_taken() -> None:
    c = coordinator()
    c.want_savepoint(Savepoint("savepoints/savepoint-job-1"))
    savepoint = triggered(c, 50)
    acknowledged(c, savepoint)
    assert c.written(savepoint, "name")
    assert c.taken(savepoint) == []
    assert c.next_tick_ms(ready=True) == 100
    assert triggered(c, 100).purpose is Purpose.PERIODIC


def test_no_checkpoint_begins_while_a_savepoint_is_under_way() -> None:
    """Simulator seed 4 in a storm: it was complete before the savepoint was, which then held its pending commits."""
    c = coordinator(max_concurrent=3)
    c.want_savepoint(Savepoint("savepoints/savepoint-job-1"))
    savepoint = triggered(c, 50)
    acknowledged(c, savepoint)
    assert c.tick(100, ready=True) == []
    assert c.written(savepoint, "name")
    assert c.tick(110, ready=True) == []
    assert c.taken(savepoint) == []
    assert triggered(c, 120).purpose is Purpose.PERIODIC


def test_a_checkpoint_that_is_slower_than_the_savepoint_with_which_the_job_stops_is_given_up() -> None:
    """Simulator seed 61 in a storm: its completion would have been illegal behind the savepoint's entry in the log."""
    c = coordinator(max_concurrent=2)
    slow = triggered(c, 100)
    c.want_savepoint(Savepoint("savepoints/savepoint-job-1", stop=True))
    savepoint = triggered(c, 110)
    acknowledged(c, savepoint)
    assert c.written(savepoint, "name")
    acknowledged(c, slow)
    assert [(type(each), each.checkpoint) for each in c.taken(savepoint)] == [(Abort, slow)]
