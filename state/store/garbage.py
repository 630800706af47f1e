"""What a store holds that nobody needs any more, and why: `penstock gc` lists it, or deletes it.

While jobs run they clean up after themselves (checkpoint_store.py: subsume, sweep, clear). Left is what nobody came to
delete: processes were killed, a delete failed, a job was never started again, its cluster is gone. Everything here is
decided from a listing and from the logs of the jobs; what is not understood is kept.

| what                                           | is garbage when                                                   |
|------------------------------------------------|-------------------------------------------------------------------|
| all of a job                                   | its log says Finished without a retained checkpoint, and is old   |
| state of a job that ended and retained one     | no retained checkpoint refers to it                               |
| beats of a job that ended                      | always                                                            |
| state of any other job                         | written by an attempt before the log's last one, and no retained  |
|                                                | checkpoint refers to it                                           |
| all of a job that never began                  | it has no log, no cluster has it to run                           |
| cluster/graphs, cluster/collected of a job     | no cluster record names the job                                   |
| artefacts                                      | no cluster record names them                                      |
| probes                                         | always                                                            |
| files of a savepoint without a document        | nobody can finish it any more (unfinished_savepoints.py)          |

And everything only when it, and for a whole job all of it, was last written longer ago than a given age. The age is
what protects what is about to be referred to: a job being submitted, an upload under way. It is measured with the
store's times against this machine's clock.

A job whose log does not say Finished may be live, however old (PROTOCOLS 2: no clock says that it is dead). Of it only
that is taken which its own master would sweep (PROTOCOLS 4), and it may be live between the look and the deletion, too:
what is unreferenced when its log is read stays so. Suppose that a checkpoint m, which is logged later, refers to such
an object. Its attempt is the log's last one or a later one (the log takes no other), the object's is an older one; so
it was not written for m, and some subtask re-used it: from a completed checkpoint t < m that it restored, or was told
of (PROTOCOLS 7). Say that t is in the log that was read, and n the last completion there, t <= n < m. If n is not t,
the subtask knew neither of n's completion nor of an abortion, which is told of no checkpoint that completes; then it
re-uses only what all its snapshots since t have under the same name, and n's is one of them. So n refers to the object;
but n is retained, and nothing retained does. If t was logged after the look, the same holds of t in place of m, and so
on, down to one that was logged before.

A folder is a job's if it is called like one, or has entries of a log, or a description: a store may hold other things,
which may be called like a part of ours. Of a savepoint nothing is garbage, however its operators are called.

Logs, descriptions and retained checkpoints of ended jobs stay until the job has none: to be deleted by hand, or
continued.

Between the look and the deletion a job may be continued, which has the name that it had. So what names a job or an
artefact is read again just before each batch of deletions: what was taken up, or written, since then stays.

Deletion of a whole job begins with its description, so that nobody finds half a job, and goes through its log from
the first entry on: what is left when it is interrupted is a job that never began, and garbage again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import CheckpointError, ProtocolError
from ..ids import Attempt, JobId
from ..savepoints.unfinished_savepoints import LEFT, claim, directory_of, find_unfinished, in_savepoint
from .artefacts import CONTENTS, DESCRIPTIONS
from .checkpoint_store import DELETE_BATCH, CheckpointStore, attempt_of, objects_of
from .cluster_store import COLLECTED, GRAPHS, list_ended, list_records
from .job_log import JobLog, LogState
from .log_positions import hint_name
from .objects import Delete, ListDetails, Program, StoredObject, with_retries

_PROBES, _DESCRIPTIONS = "probe/", "jobs/"
_NOT_JOBS = frozenset({"jobs", "cluster", "artefacts", "artefact-descriptions", "probe"})
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_ENTRY = re.compile(r"log/\d{20}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One object that is garbage."""

    name: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in a store."""

    candidates: tuple[Candidate, ...]
    """In the order in which they may be deleted."""
    kept: dict[str, str]
    """Job -> why it could not be judged."""
    objects: int
    """In the store."""
    bytes: int
    to_run: frozenset[JobId]
    """Jobs that a cluster had to run."""
    limit_ms: int
    """What was written since then is no garbage."""
    broken: dict[str, str] = field(default_factory=dict)
    """Savepoint -> why nobody can restore it. Only its owner disposes of it."""

    @property
    def candidate_bytes(self) -> int:
        return sum(candidate.size_bytes for candidate in self.candidates)


@dataclass(slots=True)
class _Job:
    """Objects of one job, as listed."""

    log: list[StoredObject] = field(default_factory=list)
    beats: list[StoredObject] = field(default_factory=list)
    state: list[StoredObject] = field(default_factory=list)
    descriptions: list[StoredObject] = field(default_factory=list)
    hints: list[StoredObject] = field(default_factory=list)

    def all(self) -> list[StoredObject]:
        return [*self.descriptions, *self.state, *self.beats, *self.hints, *self.log]


def find_garbage(now_ms: int, older_than_ms: int) -> Program[Findings]:
    """Deletes nothing. ObjectStoreError."""
    listed: list[StoredObject] = yield from with_retries(ListDetails(""))
    limit_ms = now_ms - older_than_ms
    records = yield from list_records()
    ended = yield from list_ended()
    to_run = frozenset(record.job_id for record in records if record.life not in ended)
    found: list[Candidate] = []
    kept: dict[str, str] = {}
    for job_id, job in sorted(_jobs(listed).items()):
        try:
            found += yield from _of_job(JobId(job_id), job, limit_ms, to_run=job_id in to_run)
        except (CheckpointError, ProtocolError) as error:
            kept[job_id] = str(error).partition("\n")[0]
    known = {record.job_id for record in records}
    used = {artefact for record in records for artefact in record.artefacts}
    found += _of_cluster(listed, limit_ms, known, used)
    left, broken = yield from find_unfinished(listed, limit_ms)
    found += _candidates(left, LEFT)
    nbytes = sum(each.size_bytes for each in listed)
    return Findings(tuple(found), kept, len(listed), nbytes, to_run, limit_ms, broken)


def delete_garbage(findings: Findings) -> Program[int]:
    """Returns how many objects. What is deleted in part is found again the next time."""
    names, deleted = [candidate.name for candidate in findings.candidates], 0
    for start in range(0, len(names), DELETE_BATCH):
        still = yield from _still_garbage(names[start : start + DELETE_BATCH], findings)
        if still:
            yield from with_retries(Delete(still))
        deleted += len(still)
    return deleted


def _still_garbage(names: list[str], findings: Findings) -> Program[tuple[str, ...]]:
    """Those that nobody has come to need since they were found."""
    tries = {directory for name in names if (directory := directory_of(name)) is not None}
    finished = tries - (yield from claim(tries))
    names = [name for name in names if directory_of(name) not in finished]
    young: set[str] = set()
    for folder in (GRAPHS, COLLECTED, DESCRIPTIONS, CONTENTS):
        if any(name.startswith(folder) for name in names):
            listed: list[StoredObject] = yield from with_retries(ListDetails(folder))
            young |= {each.name for each in listed if each.modified_at_ms >= findings.limit_ms}
    records = yield from list_records()
    ended = yield from list_ended()
    known = {record.job_id for record in records}
    taken_up = {record.job_id for record in records if record.life not in ended} - findings.to_run
    used = {artefact for record in records for artefact in record.artefacts}
    used |= {name.removeprefix(DESCRIPTIONS) for name in young if name.startswith(DESCRIPTIONS)}

    def needed(name: str) -> bool:
        for folder, by in ((GRAPHS, known), (COLLECTED, known), (DESCRIPTIONS, used), (CONTENTS, used)):
            if name.startswith(folder):
                return name in young or name.removeprefix(folder).partition("/")[0] in by
        return _job_of(name) in taken_up

    return tuple(name for name in names if not needed(name))


def _job_of(name: str) -> str:
    """Whose it is; of a description, whose it describes."""
    top, _, rest = name.partition("/")
    return rest.rpartition("/")[2].partition("-")[2] if name.startswith(_DESCRIPTIONS) else top


# jobs -------------------------------------------------------------------------------------------------------------


def _jobs(listed: Iterable[StoredObject]) -> dict[str, _Job]:
    jobs: dict[str, _Job] = defaultdict(_Job)
    for each in listed:
        if in_savepoint(each.name):
            continue
        top, _, rest = each.name.partition("/")
        folder = rest.partition("/")[0]
        if each.name.startswith(_DESCRIPTIONS):
            created, _, job_id = each.name.rpartition("/")[2].partition("-")
            if created.isdigit() and job_id:
                jobs[job_id].descriptions.append(each)
        elif top in _NOT_JOBS:
            continue
        elif attempt_of(each.name) is not None:
            jobs[top].state.append(each)
        elif _ENTRY.fullmatch(rest):
            jobs[top].log.append(each)
        elif folder == "beat":
            jobs[top].beats.append(each)
        elif each.name == hint_name(JobId(top)):
            jobs[top].hints.append(each)
    return {name: job for name, job in jobs.items() if job.log or job.descriptions or _JOB_ID.fullmatch(name)}


def _of_job(job_id: JobId, job: _Job, limit_ms: int, *, to_run: bool) -> Program[list[Candidate]]:
    """`to_run`: a cluster has a record of it and none of its end. Without its log it would be run again."""
    state = yield from _log_of(job_id)
    finished = state.finished
    untouched = not to_run and all(each.modified_at_ms < limit_ms for each in job.all())
    if state.seq == 0:
        return _candidates(job.all(), f"job {job_id} never began, or is deleted in part") if untouched else []
    if finished is not None and not (finished.retained and state.completed):
        why = f"job {job_id} ended ({finished.state}) and keeps no checkpoint"
        return _candidates(job.all(), why) if untouched else []
    needed = yield from _needed(state)
    before: Attempt | None = None if finished is not None else state.attempt
    old = [each for each in job.state if each.name not in needed and each.modified_at_ms < limit_ms]
    left = [each for each in old if before is None or (attempt_of(each.name) or 0) < before]
    if finished is None:
        return _candidates(left, f"left by an earlier attempt of job {job_id}; no retained checkpoint needs it")
    beats = [each for each in job.beats if each.modified_at_ms < limit_ms]
    why = f"job {job_id} ended ({finished.state}); the checkpoint it keeps does not need it"
    return _candidates([*left, *beats], why)


def _log_of(job_id: JobId) -> Program[LogState]:
    log = JobLog(job_id, lambda: "gc")
    yield from log.read_newest()
    return log.state


def _needed(state: LogState) -> Program[set[str]]:
    """Objects of all checkpoints that the log retains. DamagedCheckpointError: then nothing of the job is judged."""
    needed: set[str] = set()
    for completed in state.completed:
        metadata = yield from CheckpointStore.read_metadata(completed.metadata_name)
        needed.update(objects_of(metadata))
    return needed


# clusters ----------------------------------------------------------------------------------------------------------


def _of_cluster(listed: list[StoredObject], limit_ms: int, known: set[JobId], used: set[str]) -> Iterator[Candidate]:
    contents = []
    # what is described anew is used anew, though its content is old
    used = used | {each.name.removeprefix(DESCRIPTIONS) for each in listed if each.modified_at_ms >= limit_ms}
    for each in listed:
        name = each.name
        if each.modified_at_ms >= limit_ms:
            continue
        if name.startswith(_PROBES):
            yield Candidate(name, each.size_bytes, "left by a check of the store")
        elif name.startswith(GRAPHS) and name.removeprefix(GRAPHS) not in known:
            yield Candidate(name, each.size_bytes, "graph of a job that no cluster has a record of")
        elif name.startswith(COLLECTED) and name.removeprefix(COLLECTED).partition("/")[0] not in known:
            yield Candidate(name, each.size_bytes, "collected records of a job that no cluster has a record of")
        elif name.startswith(DESCRIPTIONS) and name.removeprefix(DESCRIPTIONS) not in used:
            yield Candidate(name, each.size_bytes, "no job uses this artefact")
        elif name.startswith(CONTENTS) and name.removeprefix(CONTENTS) not in used:
            contents.append(Candidate(name, each.size_bytes, "no job uses this artefact"))
    yield from contents  # after their descriptions: an artefact is there when its description is


def _candidates(objects: Iterable[StoredObject], reason: str) -> list[Candidate]:
    return [Candidate(each.name, each.size_bytes, reason) for each in objects]
