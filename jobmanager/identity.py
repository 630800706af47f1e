"""Which job a submission is: a new one, or an earlier one continued; and where its state comes from.

`-s latest` continues the newest job of the name that has not ended: same id, same log; one that stopped with a
savepoint goes on from that as a new job. `-s PATH` starts a new job from another one's checkpoint, or from a savepoint,
wherever it is. Otherwise a new job starts afresh.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..runtime import options
from ..runtime.config import Configuration
from ..state.checkpoint_store import metadata_name_of_path
from ..state.errors import CheckpointError, ConfigurationError
from ..state.ids import JobId, new_job_id, new_nonce
from ..state.job_registry import JobDescription, find_latest, register_job
from ..state.objects import ObjectStore, run_program
from ..state.savepoint_store import is_savepoint, located

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
    wanted = config.get(options.RESTORE)
    if wanted == LATEST:
        found = run_program(find_latest(job_name, new_nonce), store)
        if found is None:
            raise CheckpointError(
                f"there is no job '{job_name}' in {location} that could be continued; run without -s to start afresh"
            )
        state = found.state
        if state.finished is None and state.savepoint is None:
            return Identity(found.job_id, found.description.restored_from, True, state.generation)
        if state.savepoint is not None:
            wanted = state.savepoint.path
        elif state.last_completed is not None:  # cancelled or failed: a new job goes on from what it left
            wanted = f"{location}/{state.last_completed.metadata_name}"
        else:
            return Identity(found.job_id, found.description.restored_from, True, state.generation)
    if wanted is not None and config.get(options.CHECKPOINT_INTERVAL) == 0:
        raise ConfigurationError(f"{options.RESTORE.key} needs checkpoints, but they are switched off")
    origin = None if wanted is None else _origin(wanted, location)
    job_id = job_id or new_job_id()
    created_at_ms = time.time_ns() // 1_000_000
    run_program(register_job(JobDescription(job_id, job_name, created_at_ms, origin), new_nonce), store)
    return Identity(job_id, origin, continued=False)


def _origin(path: str, location: str) -> str:
    """ConfigurationError if it is neither a checkpoint of this storage nor a savepoint."""
    return located(path) if is_savepoint(path) else metadata_name_of_path(path, location)
