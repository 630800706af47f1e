"""Jobs that come and go leave nothing that grows: processes, memory, files.

What stays of each on purpose is its log and its place in the list of names, in the store; `penstock gc` removes those
after days. `make long` runs 13 jobs one after the other; SUBMISSIONS=50 (`make soak`) as many.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.jobmanager.gateway import RunRequest

if TYPE_CHECKING:
    from conftest import Cluster, Project, WaitFor

    from penstock.api.rest_client import RestClient

SUBMISSIONS = int(os.environ.get("SUBMISSIONS", "13"))
SETTLED = 10
"""By then every limit has been met: the remembered jobs, the logs of ended slots and processes."""
REMEMBERED = 5
MEMORY_SLACK = 1.15
OF_RAY = 300
"""Files of Ray's session: some for each process that lives, and for twenty that have ended."""
OF_A_PROCESS = 2
"""Its .log and .out: they go when the next process ends."""
AT_REST = 20
"""Looks without a change."""
JOB = """
import sys
import penstock as ps
env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 2000).key_by(lambda n: n % 7).sum().print()
env.execute("job " + sys.argv[1])
"""


@pytest.fixture(scope="module")
def cluster_settings() -> dict[str, object]:
    return {
        "cluster__id": "many",
        "taskmanager__numberOfTaskSlots": 2,
        "jobstore__max_capacity": REMEMBERED,
    }


@dataclass(frozen=True)
class Size:
    processes: int
    memory_bytes: int
    """Of all processes, what they share with none (USS)."""
    files: Counter[str]
    """Of the cluster's processes."""
    stored: Counter[str]
    """Of the cluster's store."""


def count(directory: Path) -> Counter[str]:
    """Files by their folder; numbers and ids in names do not tell folders apart."""
    found: Counter[str] = Counter()
    for folder, _folders, files in os.walk(directory):  # which does not mind that something goes meanwhile
        name = os.path.relpath(folder, directory)
        found[re.sub(r"job-\d+-\w+", "job", re.sub(r"[0-9a-f]{12,}", "…", name))] += len(files)
    return +found


def of_ray(files: Counter[str]) -> int:
    return sum(number for folder, number in files.items() if folder.startswith("ray"))


@pytest.mark.long
@pytest.mark.timeout(60 + 40 * SUBMISSIONS)
def test_nothing_grows(cluster: Cluster, project: Project, rest: RestClient, wait_for: WaitFor) -> None:
    artefact = rest.upload(project.write("job.py", JOB), "job.py")
    sizes: list[Size] = []
    for number in range(1, SUBMISSIONS + 1):
        run_to_its_end(rest, RunRequest(artefact, arguments=(str(number),), parallelism=2), wait_for)
        if number in (SETTLED, SUBMISSIONS):
            sizes.append(settled(cluster, wait_for))
    before, after = sizes
    assert after.processes == before.processes
    assert after.memory_bytes < MEMORY_SLACK * before.memory_bytes
    assert of_ray(after.files) < OF_RAY
    grown = own(after.files) - own(before.files)
    assert [folder for folder in grown if not folder.endswith("/logs")] == []
    assert grown.total() <= OF_A_PROCESS
    assert but_on_purpose(after.stored) == but_on_purpose(before.stored)
    assert after.stored["…/log"] <= 6 * SUBMISSIONS
    assert len(rest.jobs()) == REMEMBERED


def run_to_its_end(rest: RestClient, request: RunRequest, wait_for: WaitFor) -> None:
    job_id = rest.run(request).job_id
    ends = ("FINISHED", "FAILED", "CANCELED", "SUSPENDED")
    wait_for(lambda: rest.job(job_id).overview.state in ends, "the end of the job", 100)
    assert rest.job(job_id).overview.state == "FINISHED", rest.job(job_id)


def settled(cluster: Cluster, wait_for: WaitFor) -> Size:
    """The warm slots are there again, and what has ended is gone."""
    seen: list[tuple[int, int]] = []

    def at_rest() -> bool:
        seen.append((len(cluster.processes()), own(count(cluster.files.directory)).total()))
        return not cluster.actors("JobMaster") and len(seen) >= AT_REST and len(set(seen[-AT_REST:])) == 1

    wait_for(at_rest, "a cluster at rest", 100)
    processes = cluster.processes()
    memory = sum(process.memory_full_info().uss for process in processes)
    return Size(len(processes), memory, count(cluster.files.directory), count(cluster.storage))


def own(files: Counter[str]) -> Counter[str]:
    return Counter({folder: number for folder, number in files.items() if not folder.startswith("ray")})


def but_on_purpose(stored: Counter[str]) -> dict[str, int]:
    """But for what a job leaves in the store for days: its log, its place in the list of names."""
    return {folder: number for folder, number in stored.items() if folder != "…/log" and not folder.startswith("jobs/")}
