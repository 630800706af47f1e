"""What the command line and the scripts it runs know of each other: flags go in, results of jobs come out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from ..jobmanager.job_states import JobState

if TYPE_CHECKING:
    from ..runtime.configuration.config import Configuration
    from ..runtime.graph.job_graph import JobGraph
    from .added_code import AddedCode
    from .job_client import JobResult
    from .steps import Step

flags: Mapping[str, object] = {}
"""Options set by `penstock run`'s flags; empty when the script runs by itself."""

results: list[JobResult] = []
"""Of the jobs that have ended in this process, in order. At most MAX_RESULTS, the newest."""

capturing: Callable[[JobGraph, Configuration, AddedCode, Sequence[Step]], NoReturn] | None = None
"""Set where a script is executed to learn its pipeline (capture.py): takes the pipeline, of these steps, in the place
of running it."""

continue_with = "PENSTOCK_RESTORE=latest"
"""How the user goes on with a job that was stopped: `penstock run` has a flag for it."""

submitted = False
"""Whether any job has been made of a pipeline in this process."""

MAX_RESULTS = 100
"""A script may run jobs in a loop for ever."""


def finished(result: JobResult) -> None:
    results.append(result)
    del results[:-MAX_RESULTS]


def say_stopped(result: JobResult) -> None:
    """Of a job that was asked to stop."""
    can_go_on = result.state is JobState.SUSPENDED
    say(f"stopped job {result.job_id}{f'; continue it with {continue_with}' if can_go_on else ''}")


def say(text: str) -> None:
    """To people: standard error, so that a pipeline's own output stays clean."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
