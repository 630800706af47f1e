"""Which jobs there are in a store: how a job is found again by its name (`-s latest`).

    jobs/<name>-<hash>/<created>-<job>      a sealed JobDescription, create-only

The listing of one name is short, and in the order of creation; what became of a job, its log says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from ..ids import JobId
from .documents import seal, unseal
from .job_log import JobLog, LogState
from .objects import Get, List, Program, create_once, with_retries

DESCRIPTION_VERSION = 1


@dataclass(frozen=True, slots=True)
class JobDescription:
    job_id: JobId
    job_name: str
    created_at_ms: int
    restored_from: str | None = None
    """The `_metadata` of another job's checkpoint, or the savepoint's path, that it starts from, as long as it has no
    checkpoint of its own."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job found in the store, with what its log says."""

    description: JobDescription
    state: LogState

    @property
    def job_id(self) -> JobId:
        return self.description.job_id


def register_job(description: JobDescription, new_name: Callable[[], str]) -> Program[None]:
    """Make the job findable by its name. Before its log's first entry; done again it changes nothing."""
    name = f"{_jobs_of(description.job_name)}{description.created_at_ms:015}-{description.job_id}"
    yield from create_once(name, seal("job", DESCRIPTION_VERSION, new_name(), description))


def list_jobs(job_name: str | None = None) -> Program[list[JobDescription]]:
    """Jobs of that name, or all, oldest first."""
    names: list[str] = yield from with_retries(List("jobs/" if job_name is None else _jobs_of(job_name)))
    jobs = []
    for name in names:
        data = yield from with_retries(Get(name))
        jobs.append(unseal(name, "job", DESCRIPTION_VERSION, data, JobDescription))
    jobs = [job for job in jobs if job_name in (None, job.job_name)]
    return sorted(jobs, key=lambda job: (job.created_at_ms, job.job_id))


def find_latest(job_name: str, new_name: Callable[[], str]) -> Program[JobRecord | None]:
    """What `-s latest` continues: the newest job of that name that has not ended, or ended (cancelled, failed) and
    retained its last checkpoint, or stopped with a savepoint. None: there is no such job.

    Left out are jobs that never began, and those that another one went on from and got to a checkpoint of its own:
    what came after theirs would be done a second time."""
    gone_on_from: set[str] = set()
    for description in reversed((yield from list_jobs(job_name))):
        log = JobLog(description.job_id, new_name)
        yield from log.read_newest()
        state, finished = log.state, log.state.finished
        if description.restored_from is not None and state.completed:
            gone_on_from |= {description.restored_from, description.restored_from.partition("/")[0]}
        if not state.seq or description.job_id in gone_on_from:
            continue
        if state.savepoint is not None and state.savepoint.path in gone_on_from:
            continue
        stopped = state.savepoint is not None  # and is finished, or has only to commit what the savepoint holds
        retained = finished is not None and finished.state != "FINISHED" and finished.retained and state.completed
        if finished is None or stopped or retained:
            return JobRecord(description, state)
    return None


def _jobs_of(job_name: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", job_name)[:60].strip("-")
    return f"jobs/{readable}-{xxhash.xxh64_hexdigest(job_name.encode())}/"
