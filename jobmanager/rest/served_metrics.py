"""Every name that /metrics serves: its kind, its labels, what it says. docs/metrics.md is this table in words.

Base units are in the names (_seconds, _bytes), counters end in _total; here both go without penstock_, and counters
without _total. What is not in this table cannot be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "summary", "histogram"]
JOB = ("pipeline", "job_id")
SUBTASK = (*JOB, "operator", "subtask")
NAMED = (*SUBTASK, "state")


@dataclass(frozen=True, slots=True)
class Served:
    kind: Kind
    labels: tuple[str, ...]
    text: str


def _counter(labels: tuple[str, ...], text: str) -> Served:
    return Served("counter", labels, text)


def _gauge(labels: tuple[str, ...], text: str) -> Served:
    return Served("gauge", labels, text)


CLUSTER = {
    "build_info": _gauge(("version",), "Version of penstock; always 1."),
    "leader": _gauge((), "Whether this job manager leads the cluster."),
    "task_managers": _gauge((), "Task managers that are heard."),
    "slots": _gauge(("state",), "Task slots: free, used."),
    "task_manager_memory_bytes": _gauge(("task_manager",), "Resident memory of a task manager and its slots."),
    "http_request_duration_seconds": Served(
        "histogram", ("method", "path", "status"), "Requests to REST, by the template of their path."
    ),
    "object_store_requests": _counter(
        (*JOB, "op", "code"),
        "Operations on object stores by a job's slots and master; without pipeline and job_id, by the dispatcher. "
        "Codes: ok, not_found, exists, denied, unavailable, error.",
    ),
    "object_store_bytes": _counter((*JOB, "op"), "Bytes of objects that such operations wrote or read."),
}
JOBS = {
    "job_state": _gauge((*JOB, "state"), "1 for the state a job is in, 0 for the others."),
    "job_restarts": _counter(JOB, "Restarts of a job."),
    "checkpoints": _counter((*JOB, "outcome"), "Checkpoints that ended: completed, failed."),
    "checkpoint_duration_seconds": _gauge(JOB, "Of the last completed checkpoint, from its trigger to the log."),
    "checkpoint_phase_seconds": _gauge(
        (*JOB, "phase"),
        "Of the last completed checkpoint, what the slowest subtask needed: start_delay (trigger to first barrier), "
        "align (first to last barrier), sync (the subtask stands still), async (writing and uploading); and complete, "
        "from the last acknowledgement to the log.",
    ),
    "checkpoint_bytes": _gauge((*JOB, "kind"), "Of the last completed checkpoint: written, full (all it refers to)."),
    "last_completed_checkpoint_timestamp_seconds": _gauge(JOB, "When the last checkpoint was completed."),
    "restore_duration_seconds": _gauge(
        JOB, "Of the subtasks that were restored last, the longest from deployment until its state was open."
    ),
}
SUBTASKS = {
    "records_in": _counter(SUBTASK, "Records that came in; of a source, that it read."),
    "records_out": _counter(SUBTASK, "Records that were sent."),
    "bytes_in": _counter(SUBTASK, "Bytes that came in over channels; of a source, that it read."),
    "bytes_out": _counter(SUBTASK, "Bytes that were sent over channels."),
    "batch_rows": Served("summary", SUBTASK, "Records of each batch that came in: their count and their sum."),
    "records_late": _counter(SUBTASK, "Records that came after their window was closed."),
    "records_from_future": _counter(
        SUBTASK, "Records that were put aside because their timestamp was too far ahead of the clock."
    ),
    "records_malformed": _counter(SUBTASK, "Records that could not be read."),
    "records_dead_letter": _counter(SUBTASK, "Records that were put aside."),
    "user_errors": _counter(SUBTASK, "Exceptions of user code."),
    "subtask_time_seconds": _counter((*SUBTASK, "state"), "Time by what the subtask did: busy, backpressured, idle."),
    "alignment_paused_seconds": _counter(
        SUBTASK, "Time in which splits of a source were not read, because others of its alignment group were behind."
    ),
    "record_latency_seconds": _gauge(
        SUBTASK, "From a source to here, of the newest latency marker: channels and their queues, not windows."
    ),
    "watermark_timestamp_seconds": _gauge(SUBTASK, "Event time that is complete."),
    "watermark_lag_seconds": _gauge(SUBTASK, "How far that is behind now."),
    "source_lag_records": _gauge(SUBTASK, "Records of its splits that wait for a source; only of sources that know."),
    "source_lag_seconds": _gauge(SUBTASK, "How far the event time of a source's last record is behind now."),
    "credits_available_bytes": _gauge(SUBTASK, "What may be sent at once, over all output channels."),
    "channel_queued_bytes": _gauge(
        (*SUBTASK, "direction"), "Waits in channels: in (received, not consumed), out (no credit)."
    ),
    "user_metric": _gauge((*SUBTASK, "metric"), "Other metrics of operators and of user code, by name."),
}
STATE = {
    "restored_bytes": _gauge(
        (*SUBTASK, "source"),
        "Files of state that the subtask began with: store (downloaded), local (from the machine).",
    ),
    "state_bytes": _gauge(SUBTASK, "Keyed state as it is stored; an estimate, without what the cache holds back."),
    "state_entries": _gauge(SUBTASK, "Rows of keyed state and changed cells in the cache; an estimate."),
    "state_growth_bytes": _gauge(SUBTASK, "Bytes a second by which keyed state grew in about the last minute."),
    "named_state_bytes": _gauge(NAMED, "Of one state, by its name, before compression; an estimate."),
    "named_state_entries": _gauge(NAMED, "Rows of one state; an estimate."),
    "named_state_growth_bytes": _gauge(NAMED, "Bytes a second by which one state grew in about the last minute."),
    "named_state_largest_key_bytes": _gauge(NAMED, "What the key holds that holds most, of those looked at."),
    "timers": _gauge(SUBTASK, "Timers that are registered; where not all are in memory, about."),
    "rocksdb_block_cache_bytes": _gauge(
        SUBTASK, "Block cache in use. One serves all operators of a slot, and each of them shows it: do not sum it up."
    ),
    "rocksdb_memtable_bytes": _gauge(SUBTASK, "Memtables."),
    "rocksdb_live_sst_bytes": _gauge(SUBTASK, "Table files of the present state."),
    "rocksdb_compaction_pending_bytes": _gauge(SUBTASK, "What compaction has yet to rewrite; an estimate."),
    "rocksdb_level0_files": _gauge(SUBTASK, "Table files that were not compacted yet."),
    "rocksdb_running_compactions": _gauge(SUBTASK, "Compactions that run now."),
    "rocksdb_write_stopped": _gauge(SUBTASK, "1: writing waits for compaction."),
    "rocksdb_write_limit_bytes": _gauge(SUBTASK, "Bytes a second to which writing is slowed down; 0: it is not."),
}
SERVED: dict[str, Served] = CLUSTER | JOBS | SUBTASKS | STATE
ROCKSDB = {
    "block-cache-usage": "rocksdb_block_cache_bytes",
    "cur-size-all-mem-tables": "rocksdb_memtable_bytes",
    "live-sst-files-size": "rocksdb_live_sst_bytes",
    "estimate-pending-compaction-bytes": "rocksdb_compaction_pending_bytes",
    "num-files-at-level0": "rocksdb_level0_files",
    "num-running-compactions": "rocksdb_running_compactions",
    "is-write-stopped": "rocksdb_write_stopped",
    "actual-delayed-write-rate": "rocksdb_write_limit_bytes",
}
"""RocksDB's property -> its name here."""


def full_name(name: str) -> str:
    """As Prometheus sees it."""
    return f"penstock_{name}{'_total' if SERVED[name].kind == 'counter' else ''}"
