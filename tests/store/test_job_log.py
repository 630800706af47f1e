"""The job's log: what may follow what, who may write, and what is not an entry."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec
import pytest
import xxhash

from penstock.state.errors import DamagedCheckpointError, DeposedError, ProtocolError
from penstock.state.ids import Attempt, CheckpointId, Generation, JobId
from penstock.state.store.job_log import (
    Appended,
    AttemptStarted,
    CheckpointCompleted,
    Conflict,
    Finished,
    JobLog,
    LeaderElected,
    LogRecord,
    StopDecided,
    SubsumedUpTo,
    log_entry_name,
)
from penstock.state.store.objects import Get, Put, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

JOB = JobId("job")


def names(prefix: str) -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{prefix}{next(numbers)}"


@pytest.fixture
def store() -> ObstoreObjects:
    return ObstoreObjects("memory://", sleep=lambda seconds: None)


def leader(number: int) -> LeaderElected:
    return LeaderElected(Generation(number))


def attempt(number: int) -> AttemptStarted:
    return AttemptStarted(Attempt(number))


def completed(attempt: int, checkpoint: int) -> CheckpointCompleted:
    return CheckpointCompleted(Attempt(attempt), CheckpointId(checkpoint), f"job/chk-{checkpoint}-{attempt}/_metadata")


def subsumed(checkpoint: int) -> SubsumedUpTo:
    return SubsumedUpTo(CheckpointId(checkpoint))


def written(store: ObstoreObjects, *records: LogRecord, writer: str = "a") -> JobLog:
    log = JobLog(JOB, names(writer))
    run_program(log.read(), store)
    for record in records:
        assert isinstance(run_program(log.append(record), store), Appended)
    return log


LIFE = (
    leader(1), attempt(1), completed(1, 1), completed(1, 2), subsumed(1), attempt(2), completed(2, 4), subsumed(2),
    StopDecided("cancel"), completed(2, 5), subsumed(4), Finished("CANCELED", retained=True),
)  # fmt: skip


def test_another_reader_sees_the_same_life(store: ObstoreObjects) -> None:
    writer = written(store, *LIFE)
    reader = JobLog(JOB, names("b"))
    entries = run_program(reader.read(), store)
    assert [entry.record for entry in entries] == list(LIFE)
    assert [entry.seq for entry in entries] == list(range(1, len(LIFE) + 1))
    assert reader.state == writer.state
    state = reader.state
    assert (state.generation, state.attempt, state.subsumed) == (1, 2, 4)
    assert state.completed == (completed(2, 5),)
    assert state.last_completed == completed(2, 5)
    assert state.stopping == StopDecided("cancel")
    assert state.finished == Finished("CANCELED", retained=True)
    assert writer.leads
    assert not reader.leads


def test_reading_goes_on_where_it_stopped(store: ObstoreObjects) -> None:
    writer = written(store, leader(1))
    reader = JobLog(JOB, names("b"))
    assert len(run_program(reader.read(), store)) == 1
    run_program(writer.append(attempt(1)), store)
    assert [entry.record for entry in run_program(reader.read(), store)] == [attempt(1)]
    assert run_program(reader.read(), store) == []


@pytest.mark.parametrize(
    ("before", "illegal", "why"),
    [
        ((), attempt(1), "None leads"),
        ((), leader(2), "generation 0 is the last"),
        ((leader(1),), leader(1), "generation 1 is the last"),
        ((leader(1),), attempt(2), "the last attempt is 0"),
        ((leader(1),), completed(1, 1), "attempt 0"),
        ((leader(1), attempt(1), attempt(2)), completed(1, 1), "attempt 2 of generation 1 runs"),
        ((leader(1), attempt(1), leader(2)), completed(1, 1), "attempt 1 of generation 1 runs, 2 leads"),
        ((leader(1), attempt(1), completed(1, 3)), completed(1, 3), "checkpoint 3 is completed"),
        ((leader(1), attempt(1), completed(1, 3)), completed(1, 2), "checkpoint 3 is completed"),
        ((leader(1), attempt(1), completed(1, 3)), subsumed(3), "the last one to restore"),
        ((leader(1), attempt(1)), subsumed(1), "None is the last one to restore"),
        ((leader(1), attempt(1), completed(1, 1), completed(1, 2), subsumed(1)), subsumed(1), "1 is subsumed already"),
        ((leader(1), StopDecided("cancel")), attempt(1), "being cancelled"),
        ((leader(1), Finished("FINISHED")), leader(2), "the job has ended"),
        ((leader(1), Finished("FINISHED")), attempt(1), "the job has ended"),
    ],
)
def test_an_illegal_entry_is_not_written(
    store: ObstoreObjects, before: tuple[LogRecord, ...], illegal: LogRecord, why: str
) -> None:
    log = written(store, *before)
    with pytest.raises(ProtocolError, match=why):
        run_program(log.append(illegal), store)
    assert run_program(log.read(), store) == []


def test_a_stopped_job_can_be_continued(store: ObstoreObjects) -> None:
    log = written(store, leader(1), attempt(1), StopDecided("stop"))
    assert log.state.stopping == StopDecided("stop")
    run_program(log.append(leader(2)), store)
    run_program(log.append(attempt(2)), store)
    assert log.state.stopping is None


def test_takeover_and_completion_race_for_one_key(store: ObstoreObjects) -> None:
    old = written(store, leader(1), attempt(1))
    new = written(store, writer="b")
    answer = run_program(new.append(leader(2)), store)
    assert isinstance(answer, Appended)
    assert answer.entry.seq == 3
    lost = run_program(old.append(completed(1, 1)), store)
    assert lost == Conflict((answer.entry,))
    assert not old.leads
    with pytest.raises(DeposedError, match="generation 2 has taken over"):
        run_program(old.append_as_leader(completed(1, 1)), store)
    assert new.state.completed == ()


def test_the_completion_may_win_the_race(store: ObstoreObjects) -> None:
    old = written(store, leader(1), attempt(1))
    new = written(store, writer="b")
    run_program(old.append_as_leader(completed(1, 1)), store)
    answer = run_program(new.append(leader(2)), store)
    assert isinstance(answer, Conflict)
    assert [entry.record for entry in answer.entries] == [completed(1, 1)]
    assert isinstance(run_program(new.append(leader(2)), store), Appended)
    assert new.state.last_completed == completed(1, 1), "nobody leads without knowing it"


def test_an_entry_of_somebody_who_does_not_lead_is_refused_with_the_history(store: ObstoreObjects) -> None:
    written(store, leader(1), attempt(1))
    usurper = JobLog(JOB, names("x"))
    run_program(usurper.read(), store)
    usurper.writer = "a1"  # the name that the leader goes by
    run_program(usurper.append(attempt(2)), store)
    usurper.state = usurper.state.__class__()
    name = log_entry_name(JOB, 3)
    forged = run_get(store, name).replace(b'"a1"', b'"x1"')
    replace(store, name, reseal(forged))
    with pytest.raises(ProtocolError, match=r"(?s)entry 3: a1 leads.*LeaderElected.*AttemptStarted.*by x1"):
        run_program(JobLog(JOB, names("r")).read(), store)


def run_get(store: ObstoreObjects, name: str) -> bytes:
    data: bytes = store.execute(Get(name))
    return data


def replace(store: ObstoreObjects, name: str, data: bytes) -> None:
    store.execute(Put(name, data, create_only=False))


def reseal(data: bytes) -> bytes:
    """The checksum made to fit again."""
    head, _, document = data.partition(b'"document":')
    old = msgspec.json.decode(data)["checksum"].encode()
    return head.replace(old, xxhash.xxh3_128_hexdigest(document[:-1]).encode()) + b'"document":' + document


def every_truncation(data: bytes) -> list[bytes]:
    return [data[:size] for size in range(len(data))]


def every_flipped_byte(data: bytes) -> list[bytes]:
    return [data[:i] + bytes([data[i] ^ 4]) + data[i + 1 :] for i in range(len(data))]


def test_a_torn_or_altered_entry_is_named(store: ObstoreObjects) -> None:
    written(store, leader(1), attempt(1))
    name = log_entry_name(JOB, 2)
    good = run_get(store, name)
    nonce = good.index(b'"nonce":"') + len(b'"nonce":"')
    for bad in (*every_truncation(good), *every_flipped_byte(good), b"\xff\xfe", b"null", b"{}"):
        if len(bad) == len(good) and bad[nonce : nonce + 2] != good[nonce : nonce + 2]:
            continue  # another nonce is no damage: it says only who wrote it
        replace(store, name, bad)
        with pytest.raises(DamagedCheckpointError, match=name):
            run_program(JobLog(JOB, names("r")).read(), store)


def test_an_entry_of_a_later_format_is_refused(store: ObstoreObjects) -> None:
    written(store, leader(1))
    name = log_entry_name(JOB, 1)
    replace(store, name, run_get(store, name).replace(b'"version":1', b'"version":2'))
    with pytest.raises(DamagedCheckpointError, match="format version 2; this penstock reads a log entry of version 1"):
        run_program(JobLog(JOB, names("r")).read(), store)


def test_an_entry_at_another_place_is_refused(store: ObstoreObjects) -> None:
    written(store, leader(1), attempt(1))
    replace(store, log_entry_name(JOB, 3), run_get(store, log_entry_name(JOB, 2)))
    with pytest.raises(ProtocolError, match="entry 3 is expected"):
        run_program(JobLog(JOB, names("r")).read(), store)
