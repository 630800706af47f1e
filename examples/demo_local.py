"""`make demo LOCAL=1`: the flights job runs in one process, is killed with SIGKILL on the way, continues from its last
checkpoint, and shows what it has found. Everything it writes is below `.penstock/demo` in the working directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flight_delays
from demo_results import JOB_NAME, console, flights_in, print_results, progress_line

import penstock as ps

DIRECTORY = Path(".penstock/demo")
KILL_AT = 0.4
"""Share of the flights after which the first process is killed."""


def run_job(restore: str | None) -> None:
    """The child process: runs the job and writes a line of JSON about it twice a second."""
    configuration = ps.Configuration(
        {"execution.target": "local", "state.checkpoints.dir": str(DIRECTORY / "checkpoints")}
    )
    if restore is not None:
        configuration.set("execution.state-recovery.path", restore)
    env = ps.StreamExecutionEnvironment(configuration)
    env.enable_checkpointing("1s")
    flight_delays.build(env, DIRECTORY / "flights", DIRECTORY / "results", bound="2h")
    job = env.execute_async(JOB_NAME)
    while True:
        try:
            job.result(timeout_s=0.5)
        except TimeoutError:
            report(job.status())
            continue
        report(job.status())
        return


def report(status: Any) -> None:
    source = status.vertices[0]
    progress = {
        "records": source.records_in,
        "watermark": source.watermark,
        "checkpoints": status.checkpoints.completed,
        "checkpoint": status.checkpoints.last_completed,
        "restored": status.checkpoints.restored,
        "state": status.state.value,
    }
    print("@" + json.dumps(progress), flush=True)


def watch(restore: str | None, kill_at_records: int | None) -> dict[str, Any]:
    """Run the child and show its progress. Its last report; SIGKILL once it has read so many records."""
    command = [sys.executable, __file__, "--child", *(["--restore", restore] if restore else [])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    began_s, last = time.monotonic(), {"records": 0, "checkpoints": 0}
    with console.status("starting") as line:
        for text in child.stdout:
            if not text.startswith("@"):
                continue
            before, last = last, json.loads(text[1:])
            if last["records"] != before["records"]:
                write = line.update if console.is_terminal else console.print
                seconds = time.monotonic() - began_s
                write(progress_line(last["records"], last["watermark"], last["checkpoints"], seconds))
            if kill_at_records is not None and last["records"] >= kill_at_records and last["checkpoints"] >= 2:
                child.send_signal(signal.SIGKILL)
                break
    code = child.wait()
    if kill_at_records is None and code != 0:
        raise SystemExit(f"the job failed with exit code {code}")
    return last


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--restore")
    parser.add_argument("--months", type=int, default=12, help="of the year, from January on")
    arguments = parser.parse_args()
    if arguments.child:
        run_job(arguments.restore)
        return
    began_s = time.monotonic()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    flights = flights_in(flight_delays.monthly_files(DIRECTORY / "flights", arguments.months))
    console.print(f"Running examples/flight_delays.py: {flights:,} flights of 2013.")
    killed = watch(None, int(KILL_AT * flights))
    console.print(
        f"Killed with SIGKILL after {killed['records']:,} flights and {killed['checkpoints']} checkpoints. "
        "Continuing with `-s latest`:"
    )
    finished = watch("latest", None)
    console.print(f"{finished['state']}, restored from checkpoint {finished['restored']}.\n")
    print_results(DIRECTORY / "results", flights)
    console.print(f"\nResults:     {os.path.relpath(DIRECTORY / 'results')}/{{delays,carriers,turnarounds,late}}")
    console.print(f"Checkpoints: {os.path.relpath(DIRECTORY / 'checkpoints')} (removed when the job finished)")
    console.print(f"Took {time.monotonic() - began_s:.0f} s.")


if __name__ == "__main__":
    main()
