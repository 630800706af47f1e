"""Hints and deletions of a log's old entries: when the leader writes and deletes what."""

from __future__ import annotations

from typing import Any

from penstock.jobmanager.events import Command, RunProgram
from penstock.jobmanager.job_master import JobMaster
from penstock.jobmanager.log_care import HINT_EVERY, LogCare
from penstock.jobmanager.options import CheckpointOptions
from penstock.state.errors import ObjectNotFound
from penstock.state.ids import JobId
from penstock.state.store.job_log import log_entry_name
from penstock.state.store.log_positions import is_milestone, read_hint
from penstock.state.store.objects import Delete, Get, run_program
from penstock.state.store.obstore_objects import ObstoreObjects

JOB = JobId("job")
DAY_MS = 86_400_000


def deleted(commands: list[Command]) -> list[str]:
    names: list[str] = []
    for command in commands:
        if isinstance(command, RunProgram) and command.tag == ("trim",):
            for op in command.program:
                assert isinstance(op, Delete)
                names += op.names
    return names


def cared(entries: int, every_ms: int, care: LogCare, first: int = 1) -> list[str]:
    gone: list[str] = []
    for seq in range(first, first + entries):
        gone += deleted(care.written(seq, str(seq), seq * every_ms))
    return gone


def test_entries_are_deleted_when_they_have_stood_for_days() -> None:
    care = LogCare(JOB, 3 * DAY_MS)
    care.leads(1, 0)
    assert cared(3 * 1_440, 60_000, care) == [], "three days of an entry a minute"
    gone = cared(1_440, 60_000, care, first=3 * 1_440 + 1)
    assert gone
    numbers = [int(name.rpartition("/")[2]) for name in gone]
    assert numbers == sorted(set(numbers)), "none twice"
    assert max(numbers) < 1_441, "nothing of the last three days"
    assert min(numbers) == 129
    assert not any(map(is_milestone, numbers))


def test_a_master_deletes_nothing_before_it_has_led_for_so_long_and_goes_on_where_the_last_one_stopped() -> None:
    care = LogCare(JOB, DAY_MS)
    care.leads(100_000, 99_000)
    gone = cared(3 * 1_440, 60_000, care, first=100_000)
    numbers = [int(name.rpartition("/")[2]) for name in gone]
    assert 99_000 <= min(numbers) < 100_000 < max(numbers)
    short = LogCare(JOB, DAY_MS)
    short.leads(100_000, 99_000)
    assert cared(1_000, 60_000, short, first=100_000) == []


def test_a_hint_is_written_from_time_to_time() -> None:
    care, store = LogCare(JOB, DAY_MS), ObstoreObjects("memory://")
    care.leads(1, 0)
    written = []
    for seq in range(2, 3 * HINT_EVERY):
        for command in care.written(seq, str(seq), 0):
            assert isinstance(command, RunProgram)
            run_program(command.program, store)
            hint = run_program(read_hint(JOB), store)
            assert hint is not None
            written.append(hint.seq)
    assert written == [HINT_EVERY, 2 * HINT_EVERY]


def test_a_job_that_lives_long_keeps_a_short_log_and_can_be_restored(new_world: Any) -> None:
    options = {"checkpoints": CheckpointOptions(interval_ms=1_000), "log_kept_ms": 60_000}
    world = new_world(**options).run()
    world.pass_time(400_000)
    master: JobMaster = world.master
    end = master.log.state.seq
    assert end > 700
    standing = [seq for seq in range(1, end + 1) if stands(world.objects, seq)]
    assert len(standing) < 500
    assert all(seq in standing for seq in range(1, end + 1) if is_milestone(seq) or seq > end - 120)
    world.carry_out(master.abandon(world.now))
    world.settle()
    again = new_world(world.objects, **options)
    again.run()
    assert again.master.log.state.generation == 2
    assert again.master.status().checkpoints.restored == master.status().checkpoints.last_completed


def stands(objects: ObstoreObjects, seq: int) -> bool:
    try:
        objects.execute(Get(log_entry_name(JOB, seq)))
    except ObjectNotFound:
        return False
    return True
