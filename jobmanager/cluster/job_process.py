"""The process of one job master: from a submission in the cluster's store to the job's ending there.

    LOADING    install the job's code, read its graph, open its store
    LEADING    the loop of the job master (master_loop.py) runs; questions from outside are answered on its thread
    ENDED      the ending is in the cluster's store: the job's last view

An ending is written by whom the job's log gives the right to, and by nobody else: this may be a second master, started
beside one that was silent for a while and leads. So

- the log says Finished: that is the ending. What fails while loading and will fail again (code that cannot be imported,
  a graph that cannot be read) ends the job as FAILED, but through the log, too (last_word.py). A job that ran before
  could be loaded then: the process ends, and only after a number of them (dispatcher.py) the job does;
- this master leads and the job was suspended: so is the ending, unless it is the cluster that stops: then there is
  none, and the next cluster takes the job up;
- everything else ends the process and not the job: deposed, a store that does not answer or refuses. The dispatcher
  starts the next one.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import msgspec

from ...connectors.collect import keep_collected
from ...runtime.configuration import cluster_options
from ...runtime.configuration.config import Configuration
from ...runtime.directories import CODE, node_directory
from ...runtime.graph.job_graph import JobGraph
from ...state.errors import ObjectStoreDenied, ObjectStoreUnavailable, PenstockError
from ...state.ids import Generation, JobId, new_nonce
from ...state.serialization import pickling
from ...state.store.cluster_store import EndedJob, JobSubmission, get_graph, put_ended
from ...state.store.counted_objects import CountedObjects, ObjectCounter, summed
from ...state.store.job_log import JobLog
from ...state.store.located_objects import LocatedObjects
from ...state.store.objects import ObjectStore, run_program
from ...state.store.obstore_objects import ObstoreObjects
from ...taskmanager.processes.leases import JobLease
from ...taskmanager.processes.user_code import UserCode, set_up
from ..events import CancelRequested, CheckpointRequested, SavepointRequested, StopRequested
from ..gateway import StateAnswer, StateQuestion, UnavailableError
from ..job_master import JobMaster
from ..job_states import JobState
from ..leadership import Leadership
from ..master_loop import MasterLoop, SlotGateway
from ..options import JobMasterOptions, RestoreRequest
from ..process_identity import is_dead, this_process
from ..settings import job_master_options
from ..views import JobOverview, JobView
from .collected import CollectedPages
from .last_word import end_as_failed
from .unloaded import failed_to_load, without_master

T = TypeVar("T")
ANSWER_TIMEOUT_S = 10.0
CHECK_S = 0.5
"""How often slots that fell silent are looked for."""
TROUBLED = frozenset({JobState.RESTARTING, JobState.FAILING, JobState.FAILED})
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0)
"""Between tries of a store that does not answer; after them the process gives up. With the retries of the programs
themselves about a minute."""

logger = logging.getLogger(__name__)


class WatchedSlots(SlotGateway, Protocol):
    """Slots of other processes: they can fall silent."""

    def bind(self, loop: MasterLoop) -> None: ...

    def check(self, now_ms: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class JobProcessSettings:
    submission: JobSubmission
    number: int
    """Which master of the job it is."""
    cluster: Configuration
    cluster_storage: str
    cluster_secret: bytes
    gives_up: bool = True
    """What cannot be loaded has failed, even if it ran before: the dispatcher has had it tried often enough."""


class JobProcess:
    """`run` on a thread of its own; the other methods from any thread."""

    def __init__(
        self,
        settings: JobProcessSettings,
        make_slots: Callable[[Callable[[Generation], JobLease]], WatchedSlots],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`sleep` takes seconds: how it waits for a store while it loads."""
        self._settings = settings
        self._submission = settings.submission
        self._make_slots = make_slots
        self._sleep = sleep
        self._counter = ObjectCounter()
        objects = ObstoreObjects(settings.cluster_storage, settings.cluster.to_dict())
        self._objects: ObjectStore = CountedObjects(objects, self._counter)
        self._loop: MasterLoop | None = None
        self._last: JobView | None = None
        self._remembered = True
        """Whether an ending is written if the job is suspended."""
        self.ended = threading.Event()
        """Nothing follows, and the ending is in the store where there is one."""

    # questions, from any thread

    def overview(self) -> JobOverview | None:
        """None: still loading."""
        view = self._last
        if view is not None:
            return view.overview
        loop = self._loop
        if loop is None:
            return None
        return loop.ask(lambda: loop.master.overview(loop.now_ms()), ANSWER_TIMEOUT_S)

    def view(self) -> JobView | None:
        loop = self._loop
        if self._last is not None or loop is None:
            return self._last
        view = loop.ask(lambda: loop.master.view(loop.now_ms()), ANSWER_TIMEOUT_S)
        return replace(view, objects=summed([view.objects, self._counter.counts()]))

    def cancel(self) -> None:
        self._own_loop().post(CancelRequested())

    def stop(self, remember: bool) -> None:
        """After a last checkpoint. `remember`: as an ended job, not to be taken up by the next cluster."""
        loop = self._own_loop()
        self._remembered = remember
        loop.post(StopRequested(remember))

    def savepoint(self, request: str, target: str, stop: bool, drain: bool) -> None:
        """Take one, and perhaps stop with it. From here on the view shows by `request` what becomes of it."""
        self._own_loop().tell(SavepointRequested(request, target, stop, drain), ANSWER_TIMEOUT_S)

    def checkpoint(self, request: str) -> None:
        """Take one now; likewise."""
        self._own_loop().tell(CheckpointRequested(request), ANSWER_TIMEOUT_S)

    def read_state(self, question: StateQuestion) -> StateAnswer:
        """The gateway's errors, and others that say what is wrong with the question."""
        return self._own_loop().query(question, ANSWER_TIMEOUT_S)

    def _own_loop(self) -> MasterLoop:
        """UnavailableError: the job is not this master's, as far as is known."""
        loop = self._loop
        if loop is None:
            raise UnavailableError(f"job {self._submission.job_id} is still being loaded; try again")
        log = loop.master.log
        if log.state.leader not in (None, log.writer):
            raise UnavailableError(f"another master of job {self._submission.job_id} leads it; try again")
        return loop

    # the life of the process

    def run(self) -> None:
        """To the job's end. Raises an error of a store, or what is a bug: the process shall end then."""
        try:
            loop, slots = self._load()
        except (ObjectStoreUnavailable, ObjectStoreDenied):
            raise
        except Exception as error:
            logger.exception("job %s cannot be loaded", self._submission.job_id)
            if not self._settings.gives_up and self._ran_before():
                raise
            self._end(self._fail(error))
            return
        self._loop = loop
        self._lead(loop, slots)
        self._require_word(loop)
        self._end(loop.master.view(loop.now_ms()))  # what follows may wait for user code that hangs
        loop.close()
        slots.close()

    def _ran_before(self) -> bool:
        """So its code and graph are good, and what kept them from being loaded may pass. An error of the store."""
        log = JobLog(self._submission.job_id, new_nonce)
        run_program(log.read_newest(), self._job_store())
        return log.state.attempt > 0 and log.state.finished is None

    def _fail(self, error: Exception) -> JobView:
        submission, options = self._submission, self._options()
        log = JobLog(submission.job_id, new_nonce)
        leader = Leadership(
            submission.job_id, log, lease_ms=options.lease_ms, beat_interval_ms=options.beat_interval_ms,
            process=this_process(), is_dead=is_dead,
        )  # fmt: skip
        finished = end_as_failed(leader, log, self._job_store())
        if log.leads:
            return failed_to_load(submission, error, _now_ms())
        return without_master(submission, JobState(finished.state), _now_ms())

    def _require_word(self, loop: MasterLoop) -> None:
        """Raises unless this master may say what became of the job."""
        assert loop.ended is not None, "the loop ends with the job"
        state, failure, log = loop.ended.state, loop.ended.failure, loop.master.log
        if state is JobState.DEPOSED or log.state.finished is not None:
            return
        if not log.leads or isinstance(failure, ObjectStoreUnavailable):
            raise failure or PenstockError(f"job {self._submission.job_id} is not this master's to end")

    def _load(self) -> tuple[MasterLoop, WatchedSlots]:
        submission, settings = self._submission, self._settings
        directory = node_directory(settings.cluster, "jobmanager")
        set_up(self._code(), directory / CODE, settings.cluster.to_dict())
        packaged = self._patiently(lambda: run_program(get_graph(submission.job_id), self._objects))
        graph: JobGraph = pickling.loads(packaged)
        store = self._job_store()
        master = JobMaster(
            graph,
            job_id=submission.job_id,
            options=self._options(),
            new_name=new_nonce,
            restore=None if submission.restore is None else RestoreRequest(submission.restore),
            process=this_process(),
        )
        keep_collected(CollectedPages(self._objects, submission.job_id))
        slots = self._make_slots(self._lease)
        loop = MasterLoop(master, store, slots)
        slots.bind(loop)
        return loop, slots

    def _job_store(self) -> ObjectStore:
        submission = self._submission
        config = {**self._settings.cluster.to_dict(), **submission.config}
        root = ObstoreObjects(submission.storage, config)
        located = LocatedObjects(root, lambda location: ObstoreObjects(location, config))
        return CountedObjects(located, self._counter)

    def _options(self) -> JobMasterOptions:
        cluster, submission = self._settings.cluster, self._submission
        return replace(
            job_master_options(Configuration.from_dict(submission.config)),
            slot_timeout_ms=2 * cluster.get(cluster_options.SLOT_REQUEST_TIMEOUT),
            lease_ms=cluster.get(cluster_options.LEASE),
            beat_interval_ms=cluster.get(cluster_options.BEAT),
            storage=submission.storage,
            submitted_at_ms=submission.created_at_ms,
            continues=submission.continues,
        )

    def _patiently(self, call: Callable[[], T]) -> T:
        for pause_s in PAUSES_S:
            try:
                return call()
            except ObjectStoreUnavailable as error:
                logger.warning("the store does not answer, and is asked again in %g s: %s", pause_s, error)
            self._sleep(pause_s)
        return call()

    def _lead(self, loop: MasterLoop, slots: WatchedSlots) -> None:
        loop.start()
        state, next_check_s = JobState.CREATED, 0.0
        while loop.ended is None:
            if not loop.turn():
                loop.wait()
            if loop.master.state is not state:
                state = loop.master.state
                self._tell(loop.master)
            if time.monotonic() >= next_check_s:
                next_check_s = time.monotonic() + CHECK_S
                slots.check(loop.now_ms())

    def _tell(self, master: JobMaster) -> None:
        """The job's state, to its log."""
        now, job = master.status(), self._submission
        about = f"attempt {now.attempt}, generation {master.log.state.generation}"
        if now.last_failure is not None and now.state in TROUBLED:
            logger.warning(
                "job %s (%s) is %s: %s: %s", job.job_id, job.job_name, now.state.value, about, now.last_failure
            )
        else:
            logger.info("job %s (%s) is %s: %s", job.job_id, job.job_name, now.state.value, about)

    def _end(self, view: JobView) -> None:
        state = JobState(view.overview.state)
        if state is JobState.DEPOSED or (state is JobState.SUSPENDED and not self._remembered):
            logger.info("job %s: this master ends, the job does not", view.overview.id)
        else:
            ending = EndedJob(self._submission.life, state.value, view.overview.ended_ms, msgspec.json.encode(view))
            self._patiently(lambda: run_program(put_ended(ending, new_nonce), self._objects))
            logger.info("job %s has ended as %s", view.overview.id, state.value)
        self._last = view
        self.ended.set()

    def _code(self) -> UserCode:
        submission = self._submission
        return UserCode(
            artefacts=submission.artefacts,
            artefact_storage=self._settings.cluster_storage,
            python_path=submission.python_path,
            requirements=submission.requirements,
            archives=submission.archives,
        )

    def _lease(self, generation: Generation) -> JobLease:
        submission = self._submission
        return JobLease(
            job_id=submission.job_id,
            job_name=submission.job_name,
            generation=generation,
            storage=submission.storage,
            code=self._code(),
            config={**self._settings.cluster.to_dict(), **submission.config},
            secret=job_secret(self._settings.cluster_secret, submission.job_id),
        )


def job_secret(cluster_secret: bytes, job_id: JobId) -> bytes:
    """What slots of one job prove to each other. Another job's slots cannot connect."""
    return hmac.new(cluster_secret, job_id.encode(), hashlib.sha256).digest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
