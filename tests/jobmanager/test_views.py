"""What can be seen of a job: states and their times, rates, checkpoints, failures, configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from penstock.jobmanager import events
from penstock.jobmanager.job_view import failed_view
from penstock.jobmanager.options import CheckpointOptions
from penstock.jobmanager.restarts import NoRestart
from penstock.jobmanager.views import CheckpointView, ExceptionView, JobView, SubtaskDetails, vertex_hex
from penstock.runtime.configuration.masking import MASK, masked
from penstock.state.errors import ObjectStoreDenied
from penstock.state.ids import Attempt, CheckpointId, JobId, SlotId, VertexId
from penstock.state.statistics import StateStatistics
from penstock.state.store.cluster_store import JobSubmission
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SlotAddress, SubtaskId

NewWorld = Any
SOURCE, SINK = VertexId("source"), VertexId("sink")
ALL = [SubtaskId(vertex, index) for vertex in (SOURCE, SINK) for index in (0, 1)]


def view(world: Any) -> JobView:
    """And it survives being written down, as the views of ended jobs are."""
    seen: JobView = world.master.view(world.now)
    assert msgspec.json.decode(msgspec.json.encode(seen), type=JobView) == seen
    return seen


def report(subtask: SubtaskId, at_ms: int, **values: Any) -> m.TaskReport:
    counted = dict.fromkeys(("records_in", "records_out", "bytes_in", "bytes_out", "watermark"), 0)
    times = dict.fromkeys(("busy_ms", "idle_ms", "backpressured_ms"), 0.0)
    return m.TaskReport(Attempt(1), subtask, at_ns=at_ms * 1_000_000, **{**counted, **times, **values})


def addressed(world: Any) -> Any:
    """Run it in slots of two task managers."""
    world.settle()
    for number in (1, 2):
        address = SlotAddress(f"tm-{number}", "10.0.0.1", 6120 + number, "")
        world.tell(events.SlotOffered(SlotId(f"slot-{number}"), address))
    world.settle()
    return world


# life ------------------------------------------------------------------------------------------------------------


def test_states_have_the_times_at_which_they_were_last_entered(new_world: NewWorld) -> None:
    world = new_world(storage="s3://bucket/x")
    world.now = 500
    addressed(world)
    seen = view(world)
    assert seen.timestamps == {"CREATED": 0, "STARTING": 500, "RUNNING": 500}
    assert (seen.overview.started_ms, seen.overview.modified_ms, seen.overview.ended_ms) == (0, 500, -1)
    assert (seen.attempt, seen.generation, seen.restarts, seen.as_of_ms) == (1, 1, 0, 500)
    world.pass_time(700)
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    seen = view(world)
    assert seen.timestamps == {"CREATED": 0, "RESTARTING": 1_200, "STARTING": 2_200, "RUNNING": 2_200}
    assert (seen.overview.state, seen.restarts) == ("RUNNING", 1)
    world.tell(events.CancelRequested())
    world.settle()
    seen = view(world)
    assert (seen.overview.state, seen.overview.ended_ms) == ("CANCELED", 2_200)


def test_subtasks_have_their_attempts_times_slots_and_addresses(new_world: NewWorld) -> None:
    world = new_world()
    world.mute = {m.Running}
    world.now = 100
    addressed(world)
    sink = view(world).vertices[1]
    assert (sink.id, sink.name, sink.parallelism) == (vertex_hex("sink"), "write", 2)
    subtask = sink.subtasks[1]
    assert (subtask.state, subtask.attempt, subtask.slot) == ("INITIALIZING", 1, "slot-2")
    assert (subtask.task_manager, subtask.endpoint) == ("tm-2", "10.0.0.1:6122")
    assert subtask.timestamps == {"CREATED": 100, "SCHEDULED": 100, "DEPLOYING": 100, "INITIALIZING": 100}
    world.now = 900
    world.tell(events.SlotMessage(SlotId("slot-2"), m.Running(Attempt(1), ALL[3])))
    assert view(world).vertices[1].subtasks[1].timestamps["RUNNING"] == 900
    assert view(world).overview.subtask_states == {"INITIALIZING": 3, "RUNNING": 1}
    world.mute = set()
    world.now = 1_000
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    again = view(world).vertices[1].subtasks[1]
    assert (again.attempt, again.timestamps["CREATED"], again.timestamps["RUNNING"]) == (2, 2_000, 2_000)


def test_a_job_without_slots_can_be_seen(new_world: NewWorld) -> None:
    world = new_world()
    subtask = view(world).vertices[0].subtasks[0]
    assert (subtask.state, subtask.slot, subtask.endpoint, subtask.timestamps) == ("CREATED", "", "", {})


def test_the_graph_is_shown_with_ids_of_32_hex_digits(new_world: NewWorld) -> None:
    seen = view(new_world().run())
    ids = [vertex.id for vertex in seen.vertices]
    assert all(len(each) == 32 and int(each, 16) for each in ids)
    assert len(set(ids)) == 2
    (edge,) = seen.edges
    assert (edge.source, edge.target, edge.ship_strategy) == (ids[0], ids[1], "REBALANCE")
    assert [vertex.is_source for vertex in seen.vertices] == [True, False]
    assert seen.overview.bounded
    assert vertex_hex(ids[0]) == ids[0]


def test_the_submission_counts_as_the_start_where_it_is_known(new_world: NewWorld) -> None:
    world = new_world(submitted_at_ms=-5_000).run()
    assert world.master.overview(world.now).started_ms == -5_000


# rates -----------------------------------------------------------------------------------------------------------


def test_rates_are_measured_over_the_reports_own_times(new_world: NewWorld) -> None:
    world = new_world().run()
    slot = world.slot_of(ALL[0])

    def told(at_ms: int, **values: Any) -> Any:
        world.tell(events.SlotMessage(slot, report(ALL[0], at_ms, **values)))
        return view(world).vertices[0].subtasks[0].metrics

    first = told(7_000, records_out=500, busy_ms=1_500.0, idle_ms=500.0)
    assert (first.records_out_rate, first.busy_rate, first.idle_rate) == (250.0, 750.0, 250.0), "since its start"
    world.now = 5_000  # late on its way: nothing of that is in the rates
    second = told(8_000, records_out=1_500, busy_ms=1_700.0, idle_ms=600.0, backpressured_ms=700.0)
    assert (second.records_out_rate, second.records_out, second.reported_at_ms) == (1_000.0, 1_500, 5_000)
    assert (second.busy_rate, second.idle_rate, second.backpressured_rate) == (200.0, 100.0, 700.0)
    third = told(8_001, records_out=1_501, busy_ms=1_701.0, idle_ms=600.0, backpressured_ms=700.0)
    assert third.records_out_rate == pytest.approx(1_001 / 1.001), "a millisecond is too short for a rate"


def test_a_slot_that_is_silent_is_seen_to_be(new_world: NewWorld) -> None:
    world = new_world().run()
    world.now = 2_000
    world.tell(events.SlotMessage(world.slot_of(ALL[0]), report(ALL[0], 1, records_out=5, busy_ms=1_000.0)))
    world.now = 60_000
    seen = view(world)
    assert (seen.as_of_ms, seen.vertices[0].subtasks[0].metrics.reported_at_ms) == (60_000, 2_000)
    assert seen.vertices[0].subtasks[1].metrics.reported_at_ms == -1


# what is passed on as it is -----------------------------------------------------------------------------------------


def test_details_arrive_as_they_were_reported(new_world: NewWorld) -> None:
    world = new_world().run()
    details = SubtaskDetails(batches_in=3, source_lag_records=4, states={"op": StateStatistics(1, 2, 3, {"x": 4})})
    world.tell(events.SlotMessage(world.slot_of(ALL[0]), report(ALL[0], 1, details=details)))
    shown = view(world).vertices[0].subtasks
    assert (shown[0].metrics.details, shown[1].metrics.details) == (details, SubtaskDetails())


# checkpoints -----------------------------------------------------------------------------------------------------


def measured(world: Any, subtask: SubtaskId, checkpoint: int, **values: Any) -> m.Acknowledge:
    acknowledgement = world.acknowledgement(subtask, world.attempt, CheckpointId(checkpoint))
    return replace(acknowledgement, snapshot=replace(acknowledgement.snapshot, **values))


def hold_acknowledgements(world: Any) -> None:
    world.mute = {m.Acknowledge}
    world.pass_time(1_000)


def test_a_checkpoint_under_way_shows_who_has_acknowledged(new_world: NewWorld) -> None:
    world = new_world().run()
    hold_acknowledgements(world)
    world.now += 300
    acknowledgement = measured(
        world, ALL[2], 1, uploaded_bytes=10, state_bytes=70, start_delay_ms=20.4, align_ms=30.0, sync_ms=4.0,
        async_ms=5.0, processed_bytes=99,
    )  # fmt: skip
    world.tell(events.SlotMessage(world.slot_of(ALL[2]), acknowledgement))
    checkpoints = view(world).checkpoints
    (pending,) = checkpoints.history
    assert (pending.id, pending.status, pending.triggered_ms, pending.latest_ack_ms) == (1, "IN_PROGRESS", 1_000, 1_300)
    assert pending.expected_subtasks == {vertex_hex("source"): 2, vertex_hex("sink"): 2}
    ((only,),) = pending.acknowledged.values()
    assert (only.index, only.ack_ms, only.start_delay_ms, only.align_ms, only.sync_ms, only.async_ms) == (
        0, 1_300, 20, 30, 4, 5,
    )  # fmt: skip
    assert (only.checkpointed_bytes, only.state_bytes, only.processed_bytes) == (10, 70, 99)
    assert (checkpoints.triggered, checkpoints.in_progress, checkpoints.latest_completed) == (1, 1, None)
    world.tell(events.SlotMessage(world.slot_of(ALL[2]), acknowledgement))
    assert view(world).checkpoints.history[0].acknowledged == pending.acknowledged, "told twice, counted once"


@pytest.mark.parametrize(("told_ms", "shown_ms"), [(-5_000.0, 0), (3_600_000.0, 290)])
def test_clocks_that_differ_do_not_make_impossible_delays(new_world: NewWorld, told_ms: float, shown_ms: int) -> None:
    world = new_world().run()
    hold_acknowledgements(world)
    world.now += 300
    acknowledgement = measured(world, ALL[2], 1, start_delay_ms=told_ms, sync_ms=10.0)
    world.tell(events.SlotMessage(world.slot_of(ALL[2]), acknowledgement))
    ((only,),) = view(world).checkpoints.history[0].acknowledged.values()
    assert only.start_delay_ms == shown_ms


def test_completed_checkpoints_have_a_path_sums_and_are_discarded_in_the_end(new_world: NewWorld) -> None:
    world = new_world(storage="s3://bucket/x/").run()
    hold_acknowledgements(world)
    world.now += 200
    for number, subtask in enumerate(ALL):
        world.tell(events.SlotMessage(world.slot_of(subtask), measured(world, subtask, 1, uploaded_bytes=number)))
    world.settle()
    latest = view(world).checkpoints.latest_completed
    assert latest is not None
    assert (latest.status, latest.duration_ms, latest.checkpointed_bytes) == ("COMPLETED", 200, 6)
    assert latest.external_path == "s3://bucket/x/job/chk-1-1/_metadata"
    world.mute = set()
    world.pass_time(1_000)
    second, first = view(world).checkpoints.history[:2]
    assert [(second.id, second.discarded), (first.id, first.discarded)] == [(2, False), (1, True)]


def test_the_history_is_bounded_and_counts_go_on(new_world: NewWorld) -> None:
    world = new_world().run()
    world.pass_time(15_000)
    checkpoints = view(world).checkpoints
    ids = [shown.id for shown in checkpoints.history]
    assert (len(ids), ids) == (10, sorted(ids, reverse=True))
    assert ids[0] == checkpoints.completed >= 14
    assert checkpoints.triggered == checkpoints.completed + checkpoints.failed + checkpoints.in_progress


def test_failed_checkpoints_keep_their_message_and_restored_ones_their_path(new_world: NewWorld) -> None:
    world = new_world(storage="/data").run()
    world.pass_time(1_000)
    hold_acknowledgements(world)
    decline = m.Decline(world.attempt, ALL[2], CheckpointId(2), "disk full")
    world.tell(events.SlotMessage(world.slot_of(ALL[2]), decline))
    failed = view(world).checkpoints.latest_failed
    assert failed is not None
    assert (failed.id, failed.failure, failed.failure_ms) == (2, "declined by sink[0]: disk full", 2_000)
    world.mute = set()
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    restored = view(world).checkpoints.latest_restored
    assert restored is not None
    assert (restored.id, restored.external_path, restored.restored_ms) == (1, "/data/job/chk-1-1/_metadata", 3_000)
    assert view(world).checkpoints.restored_count == 1


def test_checkpoints_that_die_with_their_attempt_count_as_failed(new_world: NewWorld) -> None:
    world = new_world().run()
    hold_acknowledgements(world)
    world.fail_task(ALL[0])
    checkpoints = view(world).checkpoints
    assert (checkpoints.triggered, checkpoints.failed, checkpoints.in_progress) == (1, 1, 0)
    assert isinstance(checkpoints.latest_failed, CheckpointView)
    assert checkpoints.latest_failed.failure == "the attempt has ended"


def test_a_job_without_checkpoints_shows_none(new_world: NewWorld) -> None:
    world = new_world(checkpoints=None).run()
    world.drain()
    seen = view(world)
    assert (seen.overview.state, seen.checkpoint_config, seen.checkpoints.triggered) == ("FINISHED", None, 0)


# failures --------------------------------------------------------------------------------------------------------


def newest(world: Any) -> ExceptionView:
    return view(world).exceptions[0]


def test_a_failure_is_shown_with_its_task_and_where_it_was(new_world: NewWorld) -> None:
    world = addressed(new_world())
    world.now = 400
    failed = m.Failed(Attempt(1), ALL[3], "map", "no \udcff", "the user's frames", None, "shop.PriceError")
    world.tell(events.SlotMessage(SlotId("slot-2"), failed))
    shown = newest(world)
    assert (shown.exception, shown.message, shown.stacktrace) == ("shop.PriceError", "no ?", "the user's frames")
    assert (shown.task, shown.vertex, shown.subtask) == ("write (2/2)", vertex_hex("sink"), 1)
    assert (shown.operator, shown.task_manager, shown.endpoint) == ("map", "tm-2", "10.0.0.1:6122")
    assert (shown.timestamp_ms, shown.attempt, shown.restart_delay_ms) == (400, 1, 1_000)


def test_what_fails_while_the_attempt_is_stopped_is_kept_with_its_root(new_world: NewWorld) -> None:
    world = addressed(new_world())
    world.mute = {m.Canceled}
    world.fail_task(ALL[0], ValueError("the cause"))
    late = m.Failed(Attempt(1), ALL[1], "map", "connection lost", "", None, "OSError")
    world.tell(events.SlotMessage(SlotId("slot-2"), late))
    world.lose(SlotId("slot-2"))
    (root,) = view(world).exceptions
    assert (root.exception, root.message, len(root.concurrent)) == ("ValueError", "the cause", 2)
    assert [each.exception for each in root.concurrent] == [
        "OSError",
        "penstock.jobmanager.exception_history.SlotLostError",
    ]
    world.mute = set()


def test_failures_that_are_no_subtasks(new_world: NewWorld) -> None:
    world = addressed(new_world())
    world.lose(SlotId("slot-1"))
    shown = newest(world)
    assert (shown.task, shown.subtask, shown.message) == ("", -1, "slot slot-1 was lost: died")
    assert (shown.task_manager, shown.endpoint) == ("tm-1", "10.0.0.1:6121"), "where it was"
    world.pass_time(1_000)
    world.tell(events.SlotsDenied("the cluster is full"))
    assert newest(world).message == "no slots: the cluster is full"
    assert len(view(world).exceptions) == 2


def test_an_unreadable_checkpoint_is_shown(new_world: NewWorld) -> None:
    world = new_world().run()
    world.pass_time(1_000)
    world.held = {"restore"}
    world.fail_task(ALL[0])
    world.pass_time(1_000)
    world.fail_held("restore", ObjectStoreDenied("forbidden"))
    assert (newest(world).exception, newest(world).message) == (
        "penstock.state.errors.ObjectStoreDenied", "forbidden",
    )  # fmt: skip
    assert (world.state.value, newest(world).restart_delay_ms) == ("FAILING", -1)


def test_the_newest_failures_are_kept(new_world: NewWorld) -> None:
    world = new_world(exceptions_kept=2).run()
    for number in range(3):
        world.fail_task(ALL[0], ValueError(str(number)))
        world.pass_time(1_000)
    assert [shown.message for shown in view(world).exceptions] == ["2", "1"]


def test_a_hanging_cancel_of_a_cancelled_job_is_no_failure_of_it(new_world: NewWorld) -> None:
    world = new_world().run()
    world.mute = {m.Canceled}
    world.tell(events.CancelRequested())
    world.settle()
    world.tell(events.SlotMessage(SlotId("slot-1"), m.Failed(Attempt(1), ALL[0], "map", "interrupted", "")))
    assert (world.state.value, view(world).exceptions) == ("CANCELING", ())


def test_the_last_failure_of_a_job_is_shown_once(new_world: NewWorld) -> None:
    world = new_world(restarts=NoRestart()).run()
    world.fail_task(ALL[0])
    world.settle()
    seen = view(world)
    assert (seen.overview.state, len(seen.exceptions), seen.exceptions[0].restart_delay_ms) == ("FAILED", 1, -1)


# configuration ---------------------------------------------------------------------------------------------------


def test_the_configuration_of_checkpoints_and_restarts(new_world: NewWorld) -> None:
    world = new_world(checkpoints=CheckpointOptions(interval_ms=5_000, tolerable_failures=2), storage="/data")
    seen = view(world)
    assert seen.checkpoint_config is not None
    config = seen.checkpoint_config
    assert (config.interval_ms, config.tolerable_failures, config.state_backend) == (5_000, 2, "rocksdb")
    assert (config.storage, config.exactly_once, config.max_concurrent) == ("/data", True, 1)
    assert seen.restart_strategy == "fixed delay of 1s, 3 restarts"


def test_secrets_are_masked() -> None:
    shown = masked(
        {
            "s3.secret-key": "x", "s3.access-key": "x", "ssl.Password": "x", "fs.azure.account.key": "x",
            "sink.url": "postgres://me:word@db:1/x", "state.checkpoints.dir": "s3://bucket/path", "parallelism": "2",
            "pipeline.global-job-parameters": "user:ann,db.password:word, api-key = k",
        }
    )  # fmt: skip
    assert [key for key, value in shown.items() if value == MASK] == [
        "s3.secret-key", "s3.access-key", "ssl.Password", "fs.azure.account.key",
    ]  # fmt: skip
    assert shown["sink.url"] == f"postgres://{MASK}@db:1/x"
    assert shown["pipeline.global-job-parameters"] == f"user:ann,db.password:{MASK}, api-key = {MASK}"
    assert (shown["state.checkpoints.dir"], shown["parallelism"]) == ("s3://bucket/path", "2")


def test_a_job_that_cannot_be_loaded_can_be_seen() -> None:
    submission = JobSubmission(JobId("0" * 32), "job", 5, "/data", {"s3.secret-key": "x"})
    seen = failed_view(submission, ImportError("no module named shop"), 9)
    assert msgspec.json.decode(msgspec.json.encode(seen), type=JobView) == seen
    assert (seen.overview.state, seen.overview.started_ms, seen.overview.ended_ms) == ("FAILED", 5, 9)
    assert (seen.exceptions[0].exception, seen.config) == ("ImportError", {"s3.secret-key": MASK})
