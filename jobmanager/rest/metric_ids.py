"""Metrics under Flink's ids, out of views.

    task scope        numRecordsIn                  of a subtask; with its index in front where a vertex is asked
    operator scope    <operator>.numRecordsIn       of one operator of its chain
    job scope         numRestarts
    process scope     Status.JVM.Memory.Heap.Used   of a task manager, of the job manager

Values are numbers here; where the wire wants strings, `as_text` writes them. In the names of operators the characters
that separate (space, dot, colon, comma) are underscores, as Flink has it: `get=` lists ids with commas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...runtime.elements import MAX_WATERMARK, MIN_WATERMARK
from ...state.statistics import NamedState
from ..views import NEVER, JobOverview, JobView, SubtaskView, TaskManagerView, VertexView
from .states import duration_ms, has_ended, job_state

BACKPRESSURED_MS = 100.0
"""Of a second. A subtask that could not send for more of it is backpressured."""
_SEPARATORS = str.maketrans(" .:,", "____")


def as_text(value: float) -> str:
    """Whole numbers without a fraction."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def safe_name(name: str) -> str:
    return name.translate(_SEPARATORS)


# of a vertex -----------------------------------------------------------------------------------------------------


def vertex_metrics(vertex: VertexView) -> dict[str, float]:
    """'<index>.<id>' -> value, for all its subtasks."""
    return {
        f"{subtask.index}.{name}": value
        for subtask in vertex.subtasks
        for name, value in subtask_metrics(vertex, subtask).items()
    }


def subtask_metrics(vertex: VertexView, subtask: SubtaskView) -> dict[str, float]:
    """Task scope, then operator scope."""
    return (
        _task_metrics(vertex, subtask)
        | _chain_metrics(vertex, subtask)
        | _state_metrics(vertex, subtask)
        | _own_metrics(vertex, subtask)
    )


def _task_metrics(vertex: VertexView, subtask: SubtaskView) -> dict[str, float]:
    one = subtask.metrics
    found: dict[str, float] = {
        "numRecordsIn": one.records_in,
        "numRecordsInPerSecond": one.records_in_rate,
        "numRecordsOut": one.records_out,
        "numRecordsOutPerSecond": one.records_out_rate,
        "numBytesIn": one.bytes_in,
        "numBytesInPerSecond": one.bytes_in_rate,
        "numBytesOut": one.bytes_out,
        "numBytesOutPerSecond": one.bytes_out_rate,
        "busyTimeMsPerSecond": one.busy_rate,
        "idleTimeMsPerSecond": one.idle_rate,
        "backPressuredTimeMsPerSecond": one.backpressured_rate,
        "accumulateBusyTimeMs": one.busy_ms,
        "accumulateIdleTimeMs": one.idle_ms,
        "accumulateBackPressuredTimeMs": one.backpressured_ms,
        "isBackPressured": float(one.backpressured_rate > BACKPRESSURED_MS),
        "Shuffle.Netty.Input.Buffers.inputQueueSize": one.details.queued_in_bytes,
        "Shuffle.Netty.Output.Buffers.outputQueueSize": one.details.queued_out_bytes,
    }
    if not vertex.is_source:
        found["currentInputWatermark"] = one.watermark
    return found


def _chain_metrics(vertex: VertexView, subtask: SubtaskView) -> dict[str, float]:
    """What goes into a chain goes into its first operator; what leaves it, leaves its last one."""
    if not vertex.operators:
        return {}
    one, first, last = subtask.metrics, safe_name(vertex.operators[0].name), safe_name(vertex.operators[-1].name)
    found: dict[str, float] = {
        f"{last}.numRecordsOut": one.records_out,
        f"{last}.numRecordsOutPerSecond": one.records_out_rate,
        f"{last}.currentOutputWatermark": one.watermark,
    }
    if not vertex.is_source:
        found |= {
            f"{first}.numRecordsIn": one.records_in,
            f"{first}.numRecordsInPerSecond": one.records_in_rate,
            f"{first}.currentInputWatermark": one.watermark,
        }
        return found
    if one.details.source_lag_records is not None:
        found[f"{first}.pendingRecords"] = one.details.source_lag_records
    if one.details.source_timestamp is not None:
        found[f"{first}.currentEmitEventTimeLag"] = one.reported_at_ms - one.details.source_timestamp
    if MIN_WATERMARK < one.watermark < MAX_WATERMARK:
        found[f"{first}.watermarkLag"] = one.reported_at_ms - one.watermark
    return found


def _state_metrics(vertex: VertexView, subtask: SubtaskView) -> dict[str, float]:
    """RocksDB's properties under their own names; and each state's size, growth and largest keys."""
    names = {operator.id: safe_name(operator.name) for operator in vertex.operators}
    found: dict[str, float] = {}
    for operator, state in subtask.metrics.details.states.items():
        if operator in names:
            name = names[operator]
            found |= {f"{name}.rocksdb.{key}": number for key, number in state.rocksdb.items()}
            for key, named in state.states.items():
                found |= _named_state(f"{name}.state.{safe_name(key)}", named)
    return found


def _named_state(prefix: str, state: NamedState) -> dict[str, float]:
    sizes = {"bytes": state.bytes, "entries": state.entries, "growth": state.growth}
    largest = {f"largestKeys.{safe_name(key)}": nbytes for key, nbytes in state.largest}
    return {f"{prefix}.{name}": number for name, number in (sizes | largest).items()}


def _own_metrics(vertex: VertexView, subtask: SubtaskView) -> dict[str, float]:
    return {
        f"{safe_name(operator)}.{metric}": value
        for (operator, metric), value in operator_counters(vertex, subtask).items()
    }


def operator_counters(vertex: VertexView, subtask: SubtaskView) -> dict[tuple[str, str], float]:
    """(operator's name, metric) -> value. A name may hold dots itself, so the chain's operators decide."""
    names = sorted((operator.name for operator in vertex.operators), key=len, reverse=True)
    found = {}
    for key, value in subtask.metrics.counters.items():
        name = next((name for name in names if key.startswith(f"{name}.")), key.partition(".")[0])
        found[name, key[len(name) + 1 :]] = value
    return found


# of a job --------------------------------------------------------------------------------------------------------


def job_metrics(view: JobView, now_ms: int) -> dict[str, float]:
    job, checkpoints = view.overview, view.checkpoints
    running_ms, restarting_ms = _times(job, view.timestamps, now_ms)
    last, restored = checkpoints.latest_completed, checkpoints.latest_restored
    found: dict[str, float] = {
        "uptime": running_ms,
        "downtime": restarting_ms,
        "runningTime": running_ms,
        "restartingTime": restarting_ms,
        "numRestarts": view.restarts,
        "numberOfCompletedCheckpoints": checkpoints.completed,
        "numberOfFailedCheckpoints": checkpoints.failed,
        "numberOfInProgressCheckpoints": checkpoints.in_progress,
        "totalNumberOfCheckpoints": checkpoints.triggered,
        "lastCheckpointDuration": last.duration_ms if last else NEVER,
        "lastCheckpointSize": last.checkpointed_bytes if last else NEVER,
        "lastCheckpointFullSize": last.state_bytes if last else NEVER,
        "lastCheckpointCompletedTimestamp": last.triggered_ms + last.duration_ms if last else NEVER,
        "lastCheckpointRestoreTimestamp": restored.restored_ms if restored else NEVER,
    }
    return found


def job_texts(view: JobView) -> dict[str, str]:
    """Metrics of a job that are no numbers."""
    last = view.checkpoints.latest_completed
    return {"lastCheckpointExternalPath": last.external_path if last and last.external_path else "n/a"}


def _times(job: JobOverview, timestamps: Mapping[str, int], now_ms: int) -> tuple[int, int]:
    """Ms since it has been running, and since it has not been because it restarts; of an ended job -1 and 0."""
    if has_ended(job):
        return NEVER, 0
    running_ms = timestamps.get("RUNNING", NEVER)
    if job_state(job.state) == "RUNNING":
        return max(duration_ms(running_ms, NEVER, now_ms), 0), 0
    stopped_ms = timestamps.get("RESTARTING", NEVER)
    return 0, max(duration_ms(stopped_ms, NEVER, now_ms), 0) if stopped_ms > running_ms else 0


# of processes ----------------------------------------------------------------------------------------------------


_NO_JAVA = (
    "Memory.NonHeap.Used", "Memory.NonHeap.Committed", "Memory.NonHeap.Max", "Memory.Metaspace.Used",
    "Memory.Metaspace.Committed", "Memory.Metaspace.Max", "Memory.Direct.Count", "Memory.Direct.MemoryUsed",
    "Memory.Direct.TotalCapacity", "Memory.Mapped.Count", "Memory.Mapped.MemoryUsed", "Memory.Mapped.TotalCapacity",
)  # fmt: skip
_NO_POOLS = (
    "Status.Shuffle.Netty.UsedMemory", "Status.Shuffle.Netty.TotalMemory", "Status.Shuffle.Netty.AvailableMemory",
    "Status.Flink.Memory.Managed.Used", "Status.Flink.Memory.Managed.Total",
)  # fmt: skip
_MEASURED = {"threads.count": "Status.JVM.Threads.Count", "memory.virtual_bytes": "Status.JVM.Memory.Mapped.MemoryUsed"}
_COLLECTIONS = re.compile(r"gc\.(generation\d)\.collections")
NS_PER_SECOND = 1_000_000_000


def process_metrics(measured: Mapping[str, float], memory_bytes: float) -> dict[str, float]:
    """A process's own measurements (process_metrics.py) and, in their terms, what Flink has for a Java process.

    Resident memory stands for the heap and the machine's for its limit; pools that Python does not have are 0: cards
    of a dashboard that find an id missing stay empty.
    """
    resident = measured.get("memory.rss_bytes", 0.0)
    found = dict.fromkeys((*(f"Status.JVM.{name}" for name in _NO_JAVA), *_NO_POOLS), 0.0)
    found["Status.JVM.Memory.Heap.Used"] = found["Status.JVM.Memory.Heap.Committed"] = resident
    found["Status.JVM.Memory.Heap.Max"] = memory_bytes
    cpu_s = measured.get("cpu.user_seconds", 0.0) + measured.get("cpu.system_seconds", 0.0)
    found["Status.JVM.CPU.Time"] = cpu_s * NS_PER_SECOND
    for name, value in measured.items():
        if name in _MEASURED:
            found[_MEASURED[name]] = value
        elif match := _COLLECTIONS.fullmatch(name):
            found |= {
                f"Status.JVM.GarbageCollector.{match[1]}.Count": value,
                f"Status.JVM.GarbageCollector.{match[1]}.Time": 0.0,
                f"Status.JVM.GarbageCollector.{match[1]}.TimeMsPerSecond": 0.0,
            }
    return {**found, **measured}


def task_manager_metrics(view: TaskManagerView) -> dict[str, float]:
    """Memory is that of its slots too."""
    measured = {**view.metrics, "memory.rss_bytes": float(view.process_memory_bytes)}
    return process_metrics(measured, view.memory_bytes)


def cluster_metrics(jobs: int, task_managers: int, slots: int, free_slots: int) -> dict[str, float]:
    """Of the job manager, beside its process's own."""
    return {
        "numRunningJobs": jobs,
        "numRegisteredTaskManagers": task_managers,
        "taskSlotsTotal": slots,
        "taskSlotsAvailable": free_slots,
    }
