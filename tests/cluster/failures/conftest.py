"""Jobs on a cluster: submitted over REST, disturbed in mid-stream, their output compared to what it must be.

start_golden   submits golden_job.py to a cluster: a Golden
golden         one on the module's cluster, which has short timeouts, in mid-stream; nothing of it may be left
new_job        any script on the module's cluster: a SubmittedJob that is not submitted yet; nothing of it may be left
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import pytest

from penstock.api.rest_client import RestClient
from penstock.jobmanager.gateway import RunRequest
from penstock.jobmanager.views import JobView
from penstock.state.errors import PenstockError

if TYPE_CHECKING:
    from conftest import Cluster, WaitFor

SCRIPT = Path(__file__).with_name("golden_job.py")
KEYS, LONG = 31, 1_000
"""As in the script."""
ROWS, RATE = 60_000, 250
"""Without the gate it runs for two minutes; with it, for a second or two."""
PATIENCE_S = 120.0
"""The machine may be busy with other things."""
SETTINGS: dict[str, object] = {
    "heartbeat__interval": "500 ms",
    "heartbeat__timeout": "5 s",
    "high_availability__lease_timeout": "6 s",
    "high_availability__beat_interval": "500 ms",
    "taskmanager__numberOfTaskSlots": 4,
}
ENDED = ("FINISHED", "CANCELED", "FAILED", "SUSPENDED")


@pytest.fixture(scope="session")
def golden_settings() -> dict[str, object]:
    """Of a cluster on which deaths are noticed soon."""
    return {"cluster__id": "golden", **SETTINGS}


@pytest.fixture(scope="module")
def cluster_settings(golden_settings: dict[str, object]) -> dict[str, object]:
    return golden_settings


class SubmittedJob:
    """A script that takes --gate, a file with which the rest of its input comes, and --out, where its output goes."""

    def __init__(self, cluster: Cluster, directory: Path, wait_for: WaitFor, script: Path) -> None:
        self.cluster, self.script, self._wait_for = cluster, script, wait_for
        self.gate, self.out = directory / "gate", directory / "out"
        self.rest = RestClient(cluster.address)
        self.job_id = ""

    def submit(
        self, *arguments: str, parallelism: int = 2, restore: str | None = None, config: dict[str, str] | None = None
    ) -> None:
        options = {
            "pipeline.name": f"{self.script.stem} {self.out.parent.name}",
            "execution.checkpointing.interval": "300 ms",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": "1000",
            "restart-strategy.fixed-delay.delay": "100 ms",
            **(config or {}),
        }
        given = ("--gate", str(self.gate), "--out", str(self.out), *arguments)
        artefact = self.rest.upload(self.script, self.script.name)
        request = RunRequest(artefact, arguments=given, parallelism=parallelism, restore=restore, config=options)
        self.job_id = self.rest.run(request).job_id

    # what is seen of it

    @property
    def view(self) -> JobView:
        return self.rest.job(self.job_id)

    def told(self) -> str:
        """All that is said of its failures."""
        return "\n".join(exception.message for exception in self.view.exceptions)

    def slots(self) -> list[psutil.Process]:
        """Processes that run its subtasks."""
        pids = [
            slot["pid"]
            for manager in self.rest.task_managers()
            for slot in self.cluster.get(f"/taskmanagers/{manager['id']}")["slots"]
            if slot["jobId"] == self.job_id
        ]
        return [psutil.Process(pid) for pid in pids]

    def masters(self) -> list[psutil.Process]:
        return self.cluster.actors("JobMaster")

    # waiting

    def until(self, condition: Callable[[JobView], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Of the job's view; masters may be dead for a while."""

        def holds() -> Any:
            try:
                view = self.view
            except PenstockError:
                return None
            if view.overview.state == "FAILED":
                pytest.fail(f"the job has failed: {view.exceptions[:1]}")
            return condition(view)

        try:
            return self._wait_for(holds, f"{what}; the job: {self._shown()}", timeout_s)
        except pytest.fail.Exception:
            pytest.fail(f"not within {timeout_s:.0f} s: {what}; the job: {self._shown()}")

    def _shown(self) -> str:
        try:
            view = self.view
        except PenstockError as error:
            return str(error)
        first = [f"{found.exception}: {found.message}" for found in view.exceptions[:3]]
        return f"{view.overview.state}, attempt {view.attempt}, generation {view.generation}, {first}"

    def in_mid_stream(self) -> Self:
        """It runs, and a checkpoint of this attempt, with records in it, is complete."""

        def flows(view: JobView) -> bool:
            done = view.checkpoints.latest_completed
            read = sum(subtask.metrics.records_out for subtask in view.vertices[0].subtasks) if view.vertices else 0
            running = view.overview.state == "RUNNING" and done is not None
            return running and done is not None and done.attempt == view.attempt and read > 0

        self.until(flows, "it is in mid-stream")
        return self

    def restarted(self, before: JobView) -> JobView:
        """It runs again, in a later attempt."""
        after: JobView = self.until(
            lambda view: view if view.attempt > before.attempt and view.overview.state == "RUNNING" else None,
            "it runs again",
        )
        return after

    # its end

    def ended(self) -> JobView:
        view: JobView = self.until(lambda view: view if view.overview.state in ENDED else None, "it ends")
        return view

    def finish(self) -> JobView:
        """The rest of its input comes; it finishes, and nothing of its output is pending."""
        self.gate.touch()
        view = self.ended()
        assert view.overview.state == "FINISHED"
        assert [path.name for path in self.out.rglob("_part-*.pending")] == []
        return view

    def rows_of(self, sink: str) -> list[dict[str, Any]]:
        """What can be seen in this directory of its output."""
        parts = (path.read_text().splitlines() for path in (self.out / sink).glob("part-*.json"))
        return [json.loads(line) for line in itertools.chain.from_iterable(parts)]


class Golden(SubmittedJob):
    """One run of the golden job."""

    def __init__(self, cluster: Cluster, directory: Path, wait_for: WaitFor, rows: int) -> None:
        super().__init__(cluster, directory, wait_for, SCRIPT)
        self.rows = rows

    def moved(self, cluster: Cluster) -> Golden:
        """The cluster was started again."""
        self.cluster, self.rest = cluster, RestClient(cluster.address)
        return self

    def finish(self) -> JobView:
        """It finishes, and its output is right."""
        view = super().finish()
        self.check_output()
        return view

    def check_output(self) -> None:
        """No number is lost or doubled, no state was lost or counted twice, every timer fired once."""
        half = self.rows // 2
        counted = self.rows_of("counted")
        doubled = [number for number, times in Counter(row["number"] for row in counted).items() if times > 1]
        missing = set(range(self.rows)) - {row["number"] for row in counted}
        assert (len(missing), len(doubled)) == (0, 0), f"missing {sorted(missing)[:10]}, doubled {sorted(doubled)[:10]}"
        seen: defaultdict[int, list[int]] = defaultdict(list)
        for row in counted:
            assert row["key"] == row["number"] % KEYS
            seen[row["key"]].append(row["seen"])
        assert {key for key, counts in seen.items() if sorted(counts) != list(range(1, len(counts) + 1))} == set()
        came = Counter((number % KEYS, (number % half // LONG + 1) * LONG) for number in range(self.rows))
        fired = [((row["key"], row["at"]), row["came"]) for row in self.rows_of("quiet")]
        assert len(fired) == len(came)
        assert dict(fired) == dict(came)


def nothing_is_left_of_jobs(cluster: Cluster, wait_for: WaitFor) -> None:
    """In a cluster that goes on: no master, no slot that is let, no process that runs nothing, no copy of state."""
    wait_for(lambda: not cluster.actors("JobMaster"), "no master is left", PATIENCE_S)
    wait_for(lambda: _all_free(cluster), "all slots are free", PATIENCE_S)
    warm = 2
    wait_for(lambda: len(cluster.actors("Slot")) == warm, f"{warm} blank slots are there", PATIENCE_S)
    nodes = [cluster.files.directory / manager["id"] for manager in cluster.get("/taskmanagers")["taskmanagers"]]
    assert all((node / "local").is_dir() for node in nodes)
    wait_for(lambda: not any(list((node / "local").iterdir()) for node in nodes), "no copies are left", PATIENCE_S)


def _all_free(cluster: Cluster) -> bool:
    overview = cluster.get("/overview")
    return bool(overview["slots-total"] == overview["slots-available"] == cluster.slots)


NewGolden = Callable[..., Golden]


@pytest.fixture
def start_golden(tmp_path: Path, wait_for: WaitFor) -> NewGolden:
    """Call it with a cluster; `rows`, `config` (of the job), and arguments of the script."""

    def start(cluster: Cluster, *arguments: str, rows: int = ROWS, config: dict[str, str] | None = None) -> Golden:
        golden = Golden(cluster, tmp_path, wait_for, rows)
        golden.submit("--rows", str(rows), "--rate", str(RATE), *arguments, config=config)
        return golden

    return start


@pytest.fixture
def clean_jobs(cluster: Cluster, wait_for: WaitFor) -> Iterator[None]:
    """Nothing of a test's jobs may be left in the module's cluster."""
    yield
    rest = RestClient(cluster.address)
    for job in rest.jobs():
        if job.is_live:  # the test has failed
            rest.cancel(job.id)
    nothing_is_left_of_jobs(cluster, wait_for)


@pytest.fixture
def golden(cluster: Cluster, start_golden: NewGolden, clean_jobs: None) -> Golden:
    """In mid-stream on the module's cluster."""
    return start_golden(cluster).in_mid_stream()


NewJob = Callable[[Path], SubmittedJob]


@pytest.fixture
def new_job(cluster: Cluster, tmp_path: Path, wait_for: WaitFor, clean_jobs: None) -> NewJob:
    """Call it with a script."""
    return lambda script: SubmittedJob(cluster, tmp_path, wait_for, script)
