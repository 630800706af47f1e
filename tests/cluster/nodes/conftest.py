"""Jobs on clusters of several nodes: submitted over REST, looked at through it, and their output checked."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from penstock.jobmanager.startup import node_processes
from penstock.jobmanager.startup.ray_cluster import RayNode

if TYPE_CHECKING:
    from penstock.jobmanager.startup.ray_address import RayAddress
    from tests.cluster.conftest import Cluster, Namespace, WaitFor

SCRIPT = Path(__file__).with_name("keyed_counts.py")
NUMBERS, KEYS = 60_000, 50
LONG_S = 100.0
"""For what takes seconds on a machine that has nothing else to do."""


class Rest:
    """A cluster as its REST shows it. A dispatcher that is being restarted is not waited for."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, timeout=60.0)

    def ask(self, method: str, path: str, **content: Any) -> Any:
        answer = self._http.request(method, path, **content)
        assert answer.is_success, f"{method} {path}: {answer.text}"
        return answer.json()

    def text(self, path: str) -> str:
        return self._http.get(path).text

    def task_managers(self) -> list[dict[str, Any]]:
        """With their details."""
        found = self.ask("GET", "/taskmanagers")["taskmanagers"]
        answers = [self._http.get(f"/taskmanagers/{one['id']}") for one in found]
        return [answer.json() for answer in answers if answer.is_success]

    def pids(self, job_id: str) -> dict[str, list[int]]:
        """Task manager -> processes of this job's slots there."""
        return {
            one["id"]: [slot["pid"] for slot in one["slots"] if slot["jobId"] == job_id] for one in self.task_managers()
        }

    def cancel(self, job_id: str) -> None:
        self._http.patch(f"/jobs/{job_id}")

    def close(self) -> None:
        self._http.close()


class Job:
    """keyed_counts.py, as it runs on a cluster."""

    def __init__(self, rest: Rest, job_id: str, out: Path, gate: Path, wait_for: WaitFor) -> None:
        self.rest, self.id, self.out, self.gate = rest, job_id, out, gate
        self._wait_for = wait_for

    def ask(self, path: str = "") -> Any:
        return self.rest.ask("GET", f"/jobs/{self.id}{path}")

    @property
    def state(self) -> str:
        state: str = self.ask()["state"]
        return state

    def exceptions(self) -> list[dict[str, Any]]:
        """Newest first."""
        entries: list[dict[str, Any]] = self.ask("/exceptions")["exceptionHistory"]["entries"]
        return entries

    def reasons(self) -> str:
        """Of all its failures."""
        return "\n".join(entry["stacktrace"] for entry in self.exceptions())

    def checkpoints(self) -> dict[str, int]:
        counts: dict[str, int] = self.ask("/checkpoints")["counts"]
        return counts

    def slots(self) -> dict[str, list[int]]:
        """Task manager -> processes that run it."""
        return {name: pids for name, pids in self.rest.pids(self.id).items() if pids}

    def task_manager_on(self, node: RayNode) -> str:
        """That runs some of it."""
        own = {process.pid for process in processes_of(node)}
        return next(name for name, pids in self.slots().items() if own.intersection(pids))

    def until_it_runs(self, checkpoints: int = 1, timeout_s: float = LONG_S) -> Job:
        """And so many checkpoints more are complete."""
        self._wait_for(lambda: self.state == "RUNNING", "the job runs", timeout_s)
        wanted = self.checkpoints()["completed"] + checkpoints
        self._wait_for(lambda: self.checkpoints()["completed"] >= wanted, "checkpoints are completed", timeout_s)
        return self

    def until_it_is_restored(self, times: int = 1, timeout_s: float = LONG_S) -> Job:
        """From a checkpoint, so many times in all; and runs on, and has completed a further one."""
        self._wait_for(lambda: self.checkpoints()["restored"] >= times, "the job is restored", timeout_s)
        return self.until_it_runs(1, timeout_s)

    def finish(self, timeout_s: float = LONG_S) -> None:
        """As fast as it goes from here on; its output must be exact, and nothing else may be there."""
        self.gate.touch()
        ended = self._wait_for(self.ended, "the job ends", timeout_s)
        assert ended == "FINISHED", self.reasons()
        self.check()

    def ended(self) -> str | None:
        """How, if it has."""
        state = self.state
        return state if state in ("FINISHED", "FAILED", "CANCELED") else None

    def cancel(self) -> None:
        """Whatever has become of it, and of its cluster: the next test's job shall not meet it."""
        with contextlib.suppress(httpx.HTTPError):
            self.rest.cancel(self.id)

    def check(self) -> None:
        """Every number once, every key's count without a gap; no file that is not whole."""
        assert [str(path) for path in self.out.rglob("*") if path.name.startswith((".", "_"))] == []
        rows = [json.loads(line) for file in self.out.rglob("*.json*") for line in file.read_text().splitlines()]
        numbers = Counter(row["number"] for row in rows)
        doubled = [number for number, times in numbers.items() if times > 1]
        lost = [number for number in range(NUMBERS) if number not in numbers]
        assert (len(doubled), len(lost), len(rows)) == (0, 0, NUMBERS), (doubled[:10], lost[:10])
        counts: dict[int, list[int]] = {}
        for row in rows:
            assert row["number"] % KEYS == row["key"]
            counts.setdefault(row["key"], []).append(row["nth"])
        assert all(sorted(nths) == list(range(1, NUMBERS // KEYS + 1)) for nths in counts.values())


SubmitJob = Callable[..., Job]


@pytest.fixture
def submit(tmp_path: Path, wait_for: WaitFor) -> Any:
    """Call it with a cluster, and with options of the job (names as `cluster_config` takes them)."""
    opened: list[Rest] = []
    jobs: list[Job] = []

    def start(cluster: Cluster, parallelism: int = 2, **options: object) -> Job:
        rest = Rest(cluster.address)
        opened.append(rest)
        with SCRIPT.open("rb") as file:
            uploaded = rest.ask("POST", "/jars/upload", files={"jarfile": (SCRIPT.name, file)})
        out, gate = tmp_path / "out", tmp_path / "gate"
        settings = {
            "execution.checkpointing.interval": "500ms",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": "20",
            "restart-strategy.fixed-delay.delay": "500ms",
            **{name.replace("__", ".").replace("_", "-"): str(value) for name, value in options.items()},
        }
        body = {
            "programArgsList": [str(out), str(gate), str(NUMBERS), str(KEYS)],
            "parallelism": parallelism,
            "flinkConfiguration": settings,
        }
        artefact = uploaded["filename"].rpartition("/")[2]
        job = Job(rest, rest.ask("POST", f"/jars/{artefact}/run", json=body)["jobid"], out, gate, wait_for)
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.cancel()
    for one in opened:
        one.close()


@pytest.fixture
def root() -> None:
    """Skips where namespaces cannot be made; in CI it fails."""
    if os.geteuid() != 0 and os.environ.get("CI") == "true":
        pytest.fail("namespaces need root")
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")


def processes_of(node: RayNode) -> list[psutil.Process]:
    return node_processes.members(str(node.directory), node.pid)


@pytest.fixture
def kill_node() -> Callable[[RayNode], None]:
    """All processes of a node, at once, as when its machine loses power."""

    def kill(node: RayNode) -> None:
        for process in [psutil.Process(node.pid), *processes_of(node)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    return kill


@pytest.fixture
def node_behind_the_link(namespace: Namespace, short_directory: Path, wait_for: WaitFor) -> Iterator[Any]:
    """Call it with the cluster's `reach` and a number of slots: `penstock cluster join` in the namespace, which brings
    the node back whenever it dies. Options as `cluster_config` takes them."""
    started: list[subprocess.Popen[bytes]] = []

    def join(reach: RayAddress, slots: int = 2) -> None:
        command = [sys.executable, "-m", "penstock.api.command_line", "cluster", "join", reach.address]
        options = ["--host", namespace.address, "--slots", str(slots), "-c", "cluster.id=behind"]
        environment = {**os.environ, "RAY_AUTH_TOKEN": reach.token or ""}
        directory = ["-c", f"io.tmp.dirs={short_directory}"]
        started.append(subprocess.Popen([*namespace.prefix, *command, *options, *directory], env=environment))

    yield join
    namespace.heal()
    for process in started:
        process.terminate()
        process.wait(60)
    left = [process for process in psutil.process_iter() if _is_in(process, namespace)]
    assert left == []


def _is_in(process: psutil.Process, namespace: Namespace) -> bool:
    try:
        return Path(f"/proc/{process.pid}/ns/net").samefile(f"/run/netns/{namespace.name}")
    except OSError:
        return False
