"""Which job a submission is: a new one, or an earlier one continued; and where its state comes from.

`-s latest` continues the newest job of the name that has not ended: same id, same log; one that stopped with a
savepoint goes on from that as a new job. `-s PATH` starts a new job from another one's checkpoint, or from a savepoint,
wherever it is. Otherwise a new job starts afresh.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..runtime.configuration import options
from ..runtime.configuration.config import Configuration
from ..state.errors import CheckpointError, ConfigurationError
from ..state.ids import JobId, new_job_id, new_nonce
from ..state.savepoints.savepoint_store import is_savepoint, located, read_savepoint
from ..state.snapshots import CheckpointMetadata
from ..state.store.checkpoint_store import CheckpointStore, metadata_name_of_path
from ..state.store.job_registry import JobDescription, JobRecord, find_latest, register_job
from ..state.store.objects import ObjectStore, run_program

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Identity:
    job_id: JobId
    origin: str | None
    """The `_metadata` that it is restored from, as long as its own log has no checkpoint."""
    continued: bool
    """An earlier job goes on."""
    generation: int = 0
    """At which its log stands: what was decided by then to stop it is over."""


def identify(
    job_name: str, config: Configuration, store: ObjectStore, location: str, job_id: JobId | None = None
) -> Identity:
    """Registers a new job under its name. `job_id`: of a new one, if it is given from outside. CheckpointError,
    ConfigurationError: what was asked for is not there, or cannot be."""
    origin, continued = _find(job_name, config, store, location)
    if continued is not None:
        return Identity(continued.job_id, origin, True, continued.state.generation)
    job_id = job_id or new_job_id()
    created_at_ms = time.time_ns() // 1_000_000
    run_program(register_job(JobDescription(job_id, job_name, created_at_ms, origin), new_nonce), store)
    return Identity(job_id, origin, continued=False)


def restored_metadata(
    job_name: str, config: Configuration, store: ObjectStore, location: str
) -> CheckpointMetadata | None:
    """Of what a job that is submitted like this would begin with; None: with nothing. It is not registered. Besides
    what `identify` raises, DamagedCheckpointError."""
    origin, continued = _find(job_name, config, store, location)
    completed = None if continued is None else continued.state.last_completed
    name = origin if completed is None else completed.metadata_name
    if name is None:
        return None
    return run_program(read_savepoint(name) if is_savepoint(name) else CheckpointStore.read_metadata(name), store)


def _find(
    job_name: str, config: Configuration, store: ObjectStore, location: str
) -> tuple[str | None, JobRecord | None]:
    """Where the state comes from as long as the job's own log has no checkpoint, and the job that goes on, if one
    does."""
    wanted = config.get(options.RESTORE)
    if wanted == LATEST:
        found = run_program(find_latest(job_name, new_nonce), store)
        if found is None:
            raise CheckpointError(
                f"there is no job '{job_name}' in {location} that could be continued; run without -s to start afresh"
            )
        state = found.state
        if state.finished is None and state.savepoint is None:
            return found.description.restored_from, found
        if state.savepoint is not None:
            wanted = state.savepoint.path
        elif state.last_completed is not None:  # cancelled or failed: a new job goes on from what it left
            wanted = f"{location}/{state.last_completed.metadata_name}"
        else:
            return found.description.restored_from, found
    if wanted is not None and config.get(options.CHECKPOINT_INTERVAL) == 0:
        raise ConfigurationError(f"{options.RESTORE.key} needs checkpoints, but they are switched off")
    return (None if wanted is None else _origin(wanted, location)), None


def _origin(path: str, location: str) -> str:
    """ConfigurationError if it is neither a checkpoint of this storage nor a savepoint."""
    return located(path) if is_savepoint(path) else metadata_name_of_path(path, location)
