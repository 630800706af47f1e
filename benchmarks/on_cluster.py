"""A cluster for benchmarks, driven over REST, and what its processes use. Imported by benchmarks; prints nothing."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import psutil

import penstock as ps
from penstock.jobmanager.startup.embedded_cluster import EmbeddedCluster

T = TypeVar("T")

JOBS = Path(__file__).parent / "jobs"
TIMEOUT_S = 180.0
SAMPLE_S = 0.05


class BenchmarkCluster:
    """A context: a cluster of its own on this machine, in a directory that is gone afterwards."""

    def __init__(self, **options: object) -> None:
        """Options with __ for . in their names."""
        self.directory = Path(tempfile.mkdtemp(prefix="pb-"))
        self._options = {name.replace("__", ".").replace("_", "-"): value for name, value in options.items()}
        self.start_s = 0.0

    def __enter__(self) -> BenchmarkCluster:
        own = {
            "cluster.id": f"bench-{self.directory.name}",
            "io.tmp.dirs": str(self.directory / "t"),
            "high-availability.storageDir": str(self.directory / "store"),
            "taskmanager.numberOfTaskSlots": 2,
            "rest.port": 0,
        }
        began_s = time.monotonic()
        self._cluster = EmbeddedCluster.start(ps.Configuration({**own, **self._options}))
        self.start_s = time.monotonic() - began_s
        self._http = httpx.Client(base_url=self._cluster.address, timeout=30.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._http.close()
        self._cluster.stop(at_once=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def ask(self, method: str, path: str, **content: Any) -> Any:
        answer = self._http.request(method, path, **content)
        answer.raise_for_status()
        return answer.json()

    def upload(self, script: str) -> str:
        """One of benchmarks/jobs; answers the artefact's name."""
        with (JOBS / script).open("rb") as file:
            answer = self.ask("POST", "/jars/upload", files={"jarfile": (script, file)})
        name: str = answer["filename"].rpartition("/")[2]
        return name

    def run(
        self, artefact: str, arguments: list[str], *, parallelism: int = 2, config: Mapping[str, str] | None = None
    ) -> str:
        """The job's id."""
        body = {
            "programArgsList": arguments,
            "parallelism": parallelism,
            "flinkConfiguration": {"pipeline.allow-duplicate-names": "true", **(config or {})},
        }
        job_id: str = self.ask("POST", f"/jars/{artefact}/run", json=body)["jobid"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.ask("GET", f"/jobs/{job_id}")
        return job

    def until(self, condition: Callable[[], T], what: str, pause_s: float = SAMPLE_S) -> T:
        """Its first value that is not false."""
        deadline_s, never = time.monotonic() + TIMEOUT_S, threading.Event()
        while not (value := condition()):
            if time.monotonic() > deadline_s:
                raise SystemExit(f"not within {TIMEOUT_S:.0f} s: {what}")
            never.wait(pause_s)
        return value

    def until_state(self, job_id: str, state: str, pause_s: float = SAMPLE_S) -> None:
        def reached() -> bool:
            now = self.job(job_id)["state"]
            if now == "FAILED" and state != now:
                raise SystemExit(f"the job failed: {self.ask('GET', f'/jobs/{job_id}/exceptions')}")
            return bool(now == state)

        self.until(reached, f"the job is {state}", pause_s)

    def records(self, job_id: str) -> int:
        """Read by its source."""
        vertices = self.job(job_id)["vertices"]
        return int(vertices[0]["metrics"]["read-records"]) if vertices else 0

    def cancel(self, job_id: str) -> None:
        self._http.patch(f"/jobs/{job_id}", params={"mode": "cancel"}).raise_for_status()
        self.until_state(job_id, "CANCELED")

    def slots(self, job_id: str = "") -> list[int]:
        """Process ids of the slots that are let to the job; of blank ones."""
        return [
            slot["pid"]
            for manager in self.ask("GET", "/taskmanagers")["taskmanagers"]
            for slot in self.ask("GET", f"/taskmanagers/{manager['id']}")["slots"]
            if slot["jobId"] == job_id
        ]

    def master(self) -> int:
        """Process id of the newest job master."""
        masters = [
            (child.create_time(), child.pid)
            for child in psutil.Process(self._cluster.supervisor_pid).children(recursive=True)
            if _title(child).startswith("ray::JobMaster")
        ]
        return max(masters)[1]

    def until_warm(self, count: int) -> list[int]:
        """So many blank slots are ready."""
        return self.until(lambda: (found := self.slots()) and len(found) >= count and found, "blank slots") or []


class CpuMeter:
    """CPU seconds of processes while it runs, those that end meanwhile included (to SAMPLE_S): a context."""

    def __init__(self, pids: list[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._began = {process.pid: _cpu_s(process) for process in self._processes}
        self._last = dict(self._began)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> CpuMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            for process in self._processes:
                try:
                    self._last[process.pid] = max(self._last[process.pid], _cpu_s(process))
                except psutil.Error:
                    continue
            if self._stop.wait(SAMPLE_S):
                return

    def add(self, pid: int) -> None:
        """Count this process too, from now on."""
        process = psutil.Process(pid)
        self._began[pid] = self._last[pid] = _cpu_s(process)
        self._processes.append(process)

    @property
    def seconds(self) -> float:
        return sum(last - self._began[pid] for pid, last in self._last.items())


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
