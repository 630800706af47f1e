"""What subtasks report, summed up."""

from __future__ import annotations

from typing import Any

from penstock.jobmanager.task_reports import SLOTS_APART, TaskReports
from penstock.state.ids import Attempt, SlotId, VertexId
from penstock.state.store.counted_objects import ObjectCounts
from penstock.taskmanager import messages as m
from penstock.taskmanager.messages import SubtaskId

SUBTASK = SubtaskId(VertexId("source"), 0)


def report(at_ms: int, objects: m.ProcessObjects | None = None) -> m.TaskReport:
    none: dict[str, Any] = dict.fromkeys(("records_in", "records_out", "bytes_in", "bytes_out", "watermark"), 0)
    none |= dict.fromkeys(("busy_ms", "idle_ms", "backpressured_ms"), 0.0)
    return m.TaskReport(Attempt(1), SUBTASK, at_ns=at_ms * 1_000_000, objects=objects, **none)


def test_object_stores_are_counted_over_all_slots_and_attempts() -> None:
    reports = TaskReports()

    def told(slot: str, puts: int) -> None:
        counts = ObjectCounts({"put": {"ok": puts}}, {"put": 10 * puts})
        reports.received(report(1, m.ProcessObjects(SlotId(slot), counts)), 0)

    told("slot-1", 2)
    told("slot-2", 3)
    told("slot-1", 4)
    assert reports.objects() == ObjectCounts({"put": {"ok": 7}}, {"put": 70})
    reports.forget([SUBTASK])
    reports.received(report(2), 0)
    assert reports.objects().requests == {"put": {"ok": 7}}, "slots die, what they did does not"
    for number in range(SLOTS_APART):
        told(f"later-{number}", 1)
    assert reports.objects().requests == {"put": {"ok": 7 + SLOTS_APART}}
    assert len(reports._objects) == SLOTS_APART
