"""What a cluster remembers of its jobs: enough for a new cluster to take all of them up again.

    cluster/jobs/<created>-<job>                 a job was taken: a sealed JobSubmission, create-only, written last
    cluster/graphs/<job>                         its packaged job graph
    cluster/ended/<created>-<job>                what became of it: a sealed EndedJob, create-only
    cluster/collected/<job>/<collector>/<n>-<id> records of `execute_and_collect` that were committed

A job with a record and no ending of the same name is to run. One that is submitted again to go on keeps its id and gets
another record, for which its endings before count for nothing, however late one is written or read. Nothing here
decides who runs a job: that is its log, which lies with its checkpoints (job_log.py). So a record may be read by any
number of dispatchers, and a master started twice is one that finds another leader. A job is forgotten record first, or
it would be found again, without its ending.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import ObjectNotFound
from ..ids import JobId
from .documents import seal, unseal
from .objects import Delete, Get, List, Program, Put, create_once, with_retries

RECORD_VERSION = 1
JOBS, GRAPHS, ENDED, COLLECTED = "cluster/jobs/", "cluster/graphs/", "cluster/ended/", "cluster/collected/"


@dataclass(frozen=True, slots=True)
class JobSubmission:
    """A job as it was submitted."""

    job_id: JobId
    job_name: str
    created_at_ms: int
    storage: str
    """Directory or URL of its log and checkpoints."""
    config: dict[str, str] = field(default_factory=dict)
    restore: str | None = None
    """The `_metadata` of another job's checkpoint that it starts from."""
    artefacts: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    archives: tuple[tuple[str, str], ...] = ()
    continues: int = 0
    """Generation at which the job's log stood, if it was there: a stop that was decided by then is over."""

    @property
    def life(self) -> str:
        """Tells this submission of the job from those before and after it."""
        return f"{self.created_at_ms:015}-{self.job_id}"


@dataclass(frozen=True, slots=True)
class EndedJob:
    life: str
    """Of the submission that has ended."""
    state: str
    ended_at_ms: int
    view: bytes
    """JSON of its last view (jobmanager/views.py); empty if it could not be made."""


def put_job(record: JobSubmission, graph: bytes, new_name: Callable[[], str]) -> Program[None]:
    """The record is written last: there is no job without its graph. One that is left of an earlier submission of the
    job is replaced."""
    yield from with_retries(Put(GRAPHS + record.job_id, graph, create_only=False))
    yield from create_once(JOBS + record.life, seal("job record", RECORD_VERSION, new_name(), record))


def get_graph(job_id: JobId) -> Program[bytes]:
    data: bytes = yield from with_retries(Get(GRAPHS + job_id))
    return data


def list_records() -> Program[list[JobSubmission]]:
    """Of all jobs that are not forgotten, oldest first."""
    names: list[str] = yield from with_retries(List(JOBS))
    records = []
    for name in names:
        try:
            data = yield from with_retries(Get(name))
        except ObjectNotFound:  # forgotten in this moment
            continue
        records.append(unseal(name, "job record", RECORD_VERSION, data, JobSubmission))
    return records


def put_ended(ended: EndedJob, new_name: Callable[[], str]) -> Program[None]:
    """The first word counts: a second one changes nothing."""
    yield from create_once(ENDED + ended.life, seal("ended job", RECORD_VERSION, new_name(), ended))


def get_ended(life: str) -> Program[EndedJob | None]:
    name = ENDED + life
    try:
        data = yield from with_retries(Get(name))
    except ObjectNotFound:
        return None
    return unseal(name, "ended job", RECORD_VERSION, data, EndedJob)


def list_ended() -> Program[frozenset[str]]:
    """The lives that have ended."""
    names: list[str] = yield from with_retries(List(ENDED))
    return frozenset(name.removeprefix(ENDED) for name in names)


def forget(record: JobSubmission) -> Program[None]:
    """Everything the cluster knows of a job that has ended; its checkpoints and its log are not touched."""
    yield from with_retries(Delete((JOBS + record.life,)))
    collected: list[str] = yield from with_retries(List(f"{COLLECTED}{record.job_id}/"))
    yield from with_retries(Delete((GRAPHS + record.job_id, ENDED + record.life, *collected)))


# collected records ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Records of one committable. Its id makes committing it twice, even by two masters at once, harmless."""

    number: int
    id: str


def put_page(job_id: JobId, collector: str, page: Page, data: bytes) -> Program[None]:
    yield from create_once(page_name(job_id, collector, page), data)


def list_pages(job_id: JobId, collector: str) -> Program[list[Page]]:
    """In order, each id once. Those that have been fetched are empty, or gone."""
    prefix = f"{COLLECTED}{job_id}/{collector}/"
    names: list[str] = yield from with_retries(List(prefix))
    pages: dict[str, Page] = {}
    for name in names:
        number, _, page_id = name.removeprefix(prefix).partition("-")
        pages.setdefault(page_id, Page(int(number), page_id))
    return list(pages.values())


def get_page(job_id: JobId, collector: str, page: Page) -> Program[bytes]:
    data: bytes = yield from with_retries(Get(page_name(job_id, collector, page)))
    return data


def empty_pages(job_id: JobId, collector: str, fetched: list[Page], keep: int) -> Program[None]:
    """Their records go at once; that they were there is remembered of the newest `keep`."""
    names = [page_name(job_id, collector, page) for page in fetched]
    for name in names[-keep:]:
        yield from with_retries(Put(name, b"", create_only=False))
    if len(names) > keep:
        yield from with_retries(Delete(tuple(names[:-keep])))


def page_name(job_id: JobId, collector: str, page: Page) -> str:
    return f"{COLLECTED}{job_id}/{collector}/{page.number:012}-{page.id}"
