"""`make demo`: a cluster is started on this machine, the flights job is submitted to it over REST, one of its slots is
killed with SIGKILL on the way, and the job goes on from its last checkpoint; then its results are shown.

Everything is seen through REST, as any other program would see it. Everything it writes is below `.penstock/demo` in
the working directory. `make demo LOCAL=1` is the form without a cluster (demo_local.py).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import flight_delays
import httpx
from demo_results import JOB_NAME, console, flights_in, print_results, progress_line

import penstock as ps
from penstock.jobmanager.startup.embedded_cluster import EmbeddedCluster

DIRECTORY = Path(".penstock/demo").absolute()
KILL_AT = 0.4
"""Share of the flights after which a slot is killed."""
SCRIPT = Path(flight_delays.__file__)
POLL_S = 0.5
TIMEOUT_S = 900.0


class Rest:
    """The cluster, as its REST shows it."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, timeout=30.0)

    def ask(self, method: str, path: str, **content: Any) -> Any:
        answer = self._http.request(method, path, **content)
        if answer.is_error:
            raise SystemExit(f"{method} {path}: {' '.join(answer.json()['errors'])}")
        return answer.json()

    def submit(self, script: Path, arguments: list[str]) -> str:
        """Upload the script and run it: the id of the job."""
        with script.open("rb") as file:
            uploaded = self.ask("POST", "/jars/upload", files={"jarfile": (script.name, file)})
        artefact = uploaded["filename"].rpartition("/")[2]
        body = {
            "programArgsList": arguments,
            "parallelism": 2,
            "flinkConfiguration": {"execution.checkpointing.interval": "1s", "pipeline.name": JOB_NAME},
        }
        job_id: str = self.ask("POST", f"/jars/{artefact}/run", json=body)["jobid"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        job = self.ask("GET", f"/jobs/{job_id}")
        checkpoints = self.ask("GET", f"/jobs/{job_id}/checkpoints")
        watermarks, records = [], 0
        if job["vertices"]:  # otherwise it is still being loaded
            records = job["vertices"][0]["metrics"]["read-records"]
            watermarks = self.ask("GET", f"/jobs/{job_id}/vertices/{job['vertices'][-1]['id']}/watermarks")
        return {
            "state": job["state"],
            "records": records,
            "watermark": min((int(mark["value"]) for mark in watermarks), default=-(2**63)),
            "checkpoints": checkpoints["counts"]["completed"],
            "restored": (checkpoints["latest"]["restored"] or {}).get("id"),
        }

    def slot_pid(self, job_id: str) -> int:
        """Of a process that runs subtasks of the job."""
        for task_manager in self.ask("GET", "/taskmanagers")["taskmanagers"]:
            for slot in self.ask("GET", f"/taskmanagers/{task_manager['id']}")["slots"]:
                if slot["jobId"] == job_id:
                    pid: int = slot["pid"]
                    return pid
        raise SystemExit("no slot runs the job")


def watch(rest: Rest, job_id: str, kill_at: int) -> dict[str, Any]:
    """Show the job's progress to its end; kill a slot once it has read so many records. Its last progress."""
    began_s, shown, killed = time.monotonic(), -1, False
    with console.status("starting") as line:
        while time.monotonic() - began_s < TIMEOUT_S:
            now = rest.job(job_id)
            if now["records"] != shown and now["state"] == "RUNNING":
                shown = now["records"]
                write = line.update if console.is_terminal else console.print
                line_now = progress_line(shown, now["watermark"], now["checkpoints"], time.monotonic() - began_s)
                write(f"{line_now}{'   (since the restart)' if killed else ''}")
            if not killed and now["records"] >= kill_at and now["checkpoints"] >= 2:
                killed = True
                pid = rest.slot_pid(job_id)
                os.kill(pid, signal.SIGKILL)
                console.print(f"Killed the slot with process id {pid} with SIGKILL, after {now['records']:,} flights.")
                show_recovery(rest, job_id)
                began_s = time.monotonic()
            if now["state"] in ("FINISHED", "FAILED", "CANCELED"):
                return now
            time.sleep(POLL_S)
    raise SystemExit(f"the job has not finished within {TIMEOUT_S:.0f} s")


def show_recovery(rest: Rest, job_id: str) -> None:
    """Until the job runs again."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < TIMEOUT_S:
        history = rest.ask("GET", f"/jobs/{job_id}/exceptions")["exceptionHistory"]["entries"]
        now = rest.job(job_id)
        if history and now["state"] == "RUNNING":
            console.print(
                f"  {history[0]['stacktrace'].splitlines()[-1]}\n"
                f"It runs again {time.monotonic() - began_s:.1f} s later, from checkpoint {now['restored']}."
            )
            return
        time.sleep(POLL_S / 10)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--months", type=int, default=12, help="of the year, from January on")
    arguments = parser.parse_args()
    began_s = time.monotonic()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    data = flight_delays.monthly_files(DIRECTORY / "flights", arguments.months)
    flights = flights_in(data)
    configuration = ps.Configuration(
        {
            "cluster.id": "demo",
            "high-availability.storageDir": str(DIRECTORY / "cluster"),
            "taskmanager.numberOfTaskSlots": 2,
            "taskmanager.warm-slots": 1,
        }
    )
    with console.status("starting a cluster"):
        cluster = EmbeddedCluster.start(configuration)
    try:
        for note in cluster.notes:
            console.print(f"note: {note}")
        rest = Rest(cluster.address)
        job_id = rest.submit(SCRIPT, ["--data", str(data), "--out", str(DIRECTORY / "results")])
        console.print(f"A cluster runs at {cluster.address} since {time.monotonic() - began_s:.0f} s.")
        console.print(f"Running examples/flight_delays.py on it: {flights:,} flights of 2013.")
        finished = watch(rest, job_id, int(KILL_AT * flights))
        console.print(f"{finished['state']}, restored from checkpoint {finished['restored']}.\n")
        if finished["state"] != "FINISHED":
            raise SystemExit(1)
        print_results(DIRECTORY / "results", flights)
        console.print(f"\nResults: {os.path.relpath(DIRECTORY / 'results')}/{{delays,carriers,turnarounds,late}}")
        console.print("While it ran, this is where it could be seen, also with `penstock list --address …`:")
        for path in ("/jobs/overview", f"/jobs/{job_id}", f"/jobs/{job_id}/checkpoints", "/taskmanagers", "/metrics"):
            console.print(f"  {cluster.address}{path}")
    finally:
        cluster.stop()
    console.print(f"Took {time.monotonic() - began_s:.0f} s.")


if __name__ == "__main__":
    main()
