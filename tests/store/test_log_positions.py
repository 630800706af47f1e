"""Long logs: how their end is found, what may be deleted, and who slept for too long."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.state.errors import DamagedCheckpointError, DeposedError
from penstock.state.ids import Attempt, CheckpointId, Generation, JobId
from penstock.state.store.documents import seal, unseal
from penstock.state.store.job_log import (
    LOG_VERSION,
    AttemptStarted,
    CheckpointCompleted,
    Conflict,
    JobLog,
    LeaderElected,
    LogEntry,
    LogRecord,
    LogState,
    SubsumedUpTo,
    log_entry_name,
)
from penstock.state.store.log_positions import (
    LogHint,
    hint_name,
    is_milestone,
    last_milestone,
    newest,
    newest_after,
    next_milestone,
    read_hint,
    trim,
    write_hint,
)
from penstock.state.store.objects import Get, Put, StoreOp, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

JOB = JobId("job")


class Counted:
    """A store in memory that counts requests."""

    def __init__(self) -> None:
        self.objects = ObstoreObjects("memory://")
        self.ops: list[StoreOp] = []

    def execute(self, op: StoreOp) -> Any:
        self.ops.append(op)
        return self.objects.execute(op)


names = map(str, itertools.count())


def log() -> JobLog:
    return JobLog(JOB, lambda: next(names))


def records(count: int) -> list[LogRecord]:
    """Of a job that goes on and on."""
    found: list[LogRecord] = [LeaderElected(Generation(1)), AttemptStarted(Attempt(1))]
    for checkpoint in itertools.count(1):
        found.append(CheckpointCompleted(Attempt(1), CheckpointId(checkpoint), f"chk-{checkpoint}"))
        if checkpoint > 1:
            found.append(SubsumedUpTo(CheckpointId(checkpoint - 1)))
        if len(found) >= count:
            return found[:count]
    raise AssertionError


def long_log(count: int, *, summaries: bool = True) -> tuple[Counted, JobLog]:
    """A store and the log's writer, who leads."""
    store, writer = Counted(), log()
    for record in records(count):
        state = writer.state
        entry = LogEntry(state.seq + 1, writer.writer, record, state.summary if summaries else None)
        writer.state = state.apply(entry)
        data = seal("log entry", LOG_VERSION, str(entry.seq), entry)
        store.objects.execute(Put(log_entry_name(JOB, entry.seq), data))
    return store, writer


def trimmed(store: Counted, floor: int) -> None:
    run_program(trim(lambda seq: log_entry_name(JOB, seq), 0, floor), store)
    store.ops.clear()


def hint_at(store: Counted, seq: int) -> None:
    run_program(write_hint(JOB, LogHint(seq), next(names)), store)
    store.ops.clear()


def opened(store: Counted) -> JobLog:
    reader = log()
    run_program(reader.read_newest(), store)
    return reader


# positions -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**9))
def test_milestones_are_where_they_are_said_to_be(seq: int) -> None:
    after = next_milestone(seq)
    assert is_milestone(after)
    assert last_milestone(seq) <= seq < after
    assert last_milestone(after) == after
    assert is_milestone(last_milestone(seq))
    assert not any(map(is_milestone, range(seq + 1, min(after, seq + 1_000))))


def test_the_first_entries_and_powers_of_two_are_milestones() -> None:
    assert all(is_milestone(seq) for seq in range(128))
    assert [seq for seq in range(128, 140) if is_milestone(seq)] == [128, 130, 132, 134, 136, 138]
    assert all(is_milestone(1 << power) for power in range(40))


@given(st.integers(1, 2_000_000), st.integers(0, 2_000_000), st.data())
def test_the_end_is_found_however_much_is_deleted(end: int, old: int, data: st.DataObject) -> None:
    floor = last_milestone(min(old, end))
    asked = 0

    def stands(seq: int) -> Any:
        nonlocal asked
        asked += 1
        return seq <= end and (seq >= floor or is_milestone(seq))
        yield

    assert drive(newest(stands)) == end
    assert asked <= 2 * end.bit_length() + 4
    near = data.draw(st.integers(max(1, floor), end))
    assert drive(newest_after(stands, near)) == end


def drive(program: Any) -> Any:
    with pytest.raises(StopIteration) as stopped:
        next(program)
    return stopped.value.value


# reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hint", [None, 1, 130, 700, 998, 1_000, 1_001, 5_000])
@pytest.mark.parametrize("floor", [0, 512, 960])
def test_whatever_the_hint_says_the_end_is_the_same(hint: int | None, floor: int) -> None:
    store, writer = long_log(1_000)
    trimmed(store, floor)
    if hint is not None:
        hint_at(store, hint)
    reader = opened(store)
    assert reader.state == writer.state
    assert reader.state.completed == writer.state.completed != ()
    assert len(store.ops) < 60


def test_with_a_hint_that_is_near_a_long_log_is_opened_with_few_requests() -> None:
    store, writer = long_log(3_000)
    hint_at(store, 2_980)
    assert opened(store).state == writer.state
    assert len(store.ops) <= 16
    store.objects.execute(Put(hint_name(JOB), b"{", create_only=False))
    store.ops.clear()
    assert run_program(read_hint(JOB), store) is None
    assert opened(store).state == writer.state
    assert len(store.ops) < 40


def test_the_log_of_an_older_version_is_read_from_its_beginning() -> None:
    store, writer = long_log(300, summaries=False)
    hint_at(store, 290)
    assert opened(store).state == writer.state


def test_reading_everything_goes_over_to_the_newest_where_entries_are_deleted() -> None:
    store, writer = long_log(600)
    reader = log()
    assert len(run_program(reader.read(), store)) == 600
    trimmed(store, 512)
    again = log()
    run_program(again.read(), store)
    assert again.state == reader.state == writer.state


def test_a_log_with_a_hole_where_there_can_be_none_is_damaged() -> None:
    store, _writer = long_log(300, summaries=False)
    trimmed(store, 256)
    with pytest.raises(DamagedCheckpointError, match="00129 is missing, and later ones stand"):
        run_program(log().read(), store)


# sleeping --------------------------------------------------------------------------------------------------------


def asleep_at(seq: int, store: Counted, writer: JobLog) -> JobLog:
    """The leader, as it was when the log had so many entries."""
    sleeper = log()
    sleeper.writer = writer.writer
    while sleeper.state.seq < seq:
        name = log_entry_name(JOB, sleeper.state.seq + 1)
        entry = unseal(name, "log entry", LOG_VERSION, store.objects.execute(Get(name)), LogEntry)
        sleeper.state = sleeper.state.apply(entry)
    return sleeper


@pytest.mark.parametrize("slept_at", [130, 131, 200, 383, 510, 511])
def test_a_leader_that_slept_until_its_place_was_deleted_is_deposed(slept_at: int) -> None:
    store, writer = long_log(512)
    sleeper = asleep_at(slept_at, store, writer)
    usurper = log()
    run_program(usurper.read_newest(), store)
    run_program(usurper.append(LeaderElected(Generation(2))), store)
    run_program(usurper.append(AttemptStarted(Attempt(2))), store)
    trimmed(store, 512)
    completion = CheckpointCompleted(Attempt(1), CheckpointId(9_999), "too late")
    with pytest.raises(DeposedError):
        run_program(sleeper.append_as_leader(completion), store)
    assert opened(store).state == usurper.state, "what it wrote into the hole is not in the log"
    hint_at(store, slept_at + 1)
    assert opened(store).state == usurper.state, "not even with a hint at it"


def test_a_reader_that_slept_reads_on_at_the_end() -> None:
    store, writer = long_log(512)
    sleeper = asleep_at(150, store, writer)
    trimmed(store, 512)
    assert run_program(sleeper.read_newest(), store)
    assert sleeper.state == writer.state


def test_an_append_that_was_overtaken_at_once_counts() -> None:
    """Another's entry behind ours, where milestones are close: the log goes on, nothing is deleted."""
    store, writer = long_log(132)
    rival = log()

    class Overtaking:
        def execute(self, op: StoreOp) -> Any:
            answer = store.execute(op)
            if isinstance(op, Put) and op.name == log_entry_name(JOB, 133):
                run_program(rival.read_newest(), store)
                run_program(rival.append(LeaderElected(Generation(2))), store)
            return answer

    completion = CheckpointCompleted(Attempt(1), CheckpointId(9_999), "in time")
    entry = run_program(writer.append_as_leader(completion), Overtaking())
    assert (entry.seq, entry.record) == (133, completion)
    assert not writer.leads
    assert rival.state.last_completed == completion


def test_a_conflict_gives_what_stands_there() -> None:
    store, writer = long_log(200)
    late = log()
    run_program(late.read_newest(), store)
    completion = CheckpointCompleted(Attempt(1), CheckpointId(9_999), "x")
    run_program(writer.append_as_leader(completion), store)
    answer = run_program(late.append(LeaderElected(Generation(2))), store)
    assert isinstance(answer, Conflict)
    assert [entry.record for entry in answer.entries] == [completion]


def test_the_state_after_an_entry_is_told_by_the_entry() -> None:
    _store, writer = long_log(50)
    (last,) = writer.state.history[-1:]
    assert LogState.at(last) == writer.state
