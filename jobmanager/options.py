"""What can be set about how a job is led, with the reason of every limit. config.py maps configuration keys to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .restarts import ExponentialDelay, RestartStrategy


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    interval_ms: int = 10_000
    """From trigger to trigger."""
    timeout_ms: int = 600_000
    """A checkpoint that is not complete after this long is aborted."""
    min_pause_ms: int = 0
    """Between the end of one and the trigger of the next."""
    max_concurrent: int = 1
    tolerable_failures: int | None = None
    """That many in a row are borne, one more fails the attempt. None: any number."""
    exactly_once: bool = True
    """False: at-least-once, gates do not block while they align."""
    unaligned_after_ms: int | None = None
    """So long after its trigger a barrier overtakes data; None: never."""
    retained: int = 1
    """Completed checkpoints that are kept; the last one always is."""
    retain_on_cancel: bool = True
    retain_on_finish: bool = False


@dataclass(frozen=True, slots=True)
class JobMasterOptions:
    checkpoints: CheckpointOptions | None = None
    """None: no state is kept; output is committed at the end of input."""
    restarts: RestartStrategy = field(default_factory=ExponentialDelay)
    failover_by_region: bool = True
    """A failure restarts the pipelined regions of what has failed (regions.py); False: always the whole job."""
    allow_non_restored_state: bool = False
    """State of operators that no longer exist is dropped instead of refused."""
    slot_timeout_ms: int = 300_000
    """All slots must be there after this long: a request that cannot be met stays pending in Ray without an error."""
    cancel_timeout_ms: int = 30_000
    """A subtask that has not answered a cancel by then hangs in user code: its slot is discarded."""
    commit_attempts: int = 8
    """Tries to commit the same committables before the job fails: it must not go on promising what it cannot keep."""
    commit_retry_ms: int = 500
    """Before the second try; doubles from try to try, at most 30 s."""
    commit_timeout_ms: int = 600_000
    """A commit that has not returned by then is a failed try, and is tried again."""
    stop_timeout_ms: int = 60_000
    """Bound of the last checkpoint and the last commits when the job is stopped or has failed."""
    cancel_commit_timeout_ms: int = 30_000
    """Bound of the last commits when the job is cancelled: what is not committed then stays recorded."""
    exceptions_kept: int = 16
    """Failures that are remembered to be shown."""
    savepoints_directory: str | None = None
    """Where savepoints go that name no place."""
    storage: str = ""
    """Of the checkpoints, as it stands in front of their names: to be shown."""
    submitted_at_ms: int | None = None
    """When the job was submitted, ms since the epoch; None: when this master starts."""
    continues: int = 0
    """Generation at which the log stood when the job was submitted: a stop that was decided by then is over."""
    log_kept_ms: int = 3 * 86_400_000
    """Entries of the job's log that this master has seen standing for so long may be deleted."""
    beat_interval_ms: int = 3_000
    lease_ms: int = 30_000
    """A candidate that sees no beat of the leader for this long takes over; the leader gives up after half of it."""


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """Where a job that has no checkpoint of its own starts from: another job's checkpoint (`-s path`)."""

    metadata_name: str
    """Object name of the `_metadata`, or a savepoint's path."""
