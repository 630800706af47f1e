"""All that a checkpoint holds, over what may become of a job: {heap, rocksdb} x {aligned, unaligned} x {a slot is
killed, the job master is killed, it goes on at parallelism 1, 2, 3, 7}. The output is what plain Python makes of the
input, each once.

A course is one job's. It begins at parallelism 2; whenever a checkpoint is complete, a process of it is killed, or it
is cancelled and goes on from what it left: at another parallelism, and with aligned checkpoints instead of unaligned
ones, or the other way round. So a course meets all six of what may happen, three after either alignment, and what goes
wrong shows in its output, to which everything before has contributed. In two courses any two properties meet: they are
in every run of the tests. Four are the whole product; `make matrix` takes them with either process killed first.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import NewJob, SubmittedJob

    from penstock.jobmanager.views import CheckpointsView, CheckpointView, JobView
    from penstock.state.ids import CheckpointId

pytestmark = pytest.mark.timeout(600)

SCRIPT = Path(__file__).with_name("matrix_job.py")
BACKENDS, ALIGNMENTS, PROCESSES = ("heap", "rocksdb"), ("aligned", "unaligned"), ("slot", "job master")
PARALLELISMS = (2, 7, 3, 1, 2)
"""Of a course's runs. In each of the first two a process is killed; the last one reads the input to its end."""
WINDOW = {"aligned": "6 kB", "unaligned": "16 kB"}
"""Of a channel: small, so that records wait in outputs, and aligned barriers not for long."""

Meeting = tuple[str, str, str]
"""State backend, alignment of the checkpoint that is restored, and why it is."""


@dataclass(frozen=True)
class Run:
    """A part of a course, at one parallelism."""

    backend: str
    alignment: str
    parallelism: int
    killed: str | None


@dataclass(frozen=True)
class Course:
    backend: str
    first_alignment: str
    first_killed: str

    def __str__(self) -> str:
        return f"{self.backend} {self.first_alignment} {self.first_killed}"

    def runs(self) -> list[Run]:
        """In the order of time; two neighbours differ in alignment."""
        one, two = self.first_alignment, other(ALIGNMENTS, self.first_alignment)
        killed = (self.first_killed, other(PROCESSES, self.first_killed), None, None, None)
        parts = zip((one, two, one, two, one), PARALLELISMS, killed, strict=True)
        return [Run(self.backend, *part) for part in parts]

    def meetings(self) -> set[Meeting]:
        runs = self.runs()
        killed = {(run.backend, run.alignment, run.killed) for run in runs if run.killed is not None}
        return killed | {(run.backend, run.alignment, at(then.parallelism)) for run, then in itertools.pairwise(runs)}


def at(parallelism: int) -> str:
    return f"at {parallelism}"


def other(both: tuple[str, str], one: str) -> str:
    return both[1 - both.index(one)]


PAIRWISE = [Course("heap", "unaligned", "job master"), Course("rocksdb", "aligned", "job master")]
WHOLE = list(itertools.starmap(Course, itertools.product(BACKENDS, ALIGNMENTS, PROCESSES)))
COURSES = [pytest.param(one, id=str(one), marks=() if one in PAIRWISE else pytest.mark.matrix) for one in WHOLE]


def test_any_two_properties_meet_and_in_the_whole_any_three() -> None:
    events = [*PROCESSES, *map(at, (1, 2, 3, 7))]
    product = set(itertools.product(BACKENDS, ALIGNMENTS, events))
    assert pairs(PAIRWISE) == {pair for meeting in product for pair in itertools.combinations(meeting, 2)}
    assert set().union(*(course.meetings() for course in WHOLE)) == product


def pairs(courses: list[Course]) -> set[tuple[str, ...]]:
    met = itertools.chain.from_iterable(course.meetings() for course in courses)
    return {pair for meeting in met for pair in itertools.combinations(meeting, 2)}


@pytest.fixture(scope="module")
def cluster_settings(golden_settings: dict[str, object]) -> dict[str, object]:
    return {**golden_settings, "cluster__id": "matrix", "taskmanager__numberOfTaskSlots": max(PARALLELISMS)}


@pytest.mark.parametrize("course", COURSES)
def test_killed_and_continued(course: Course, new_job: NewJob) -> None:
    job, (*disturbed, last) = new_job(SCRIPT), course.runs()
    left = None
    for run in disturbed:
        left = disturb(job, run, left)
    submit(job, last, left)
    end = job.finish()
    assert end.restarts == 0
    check_restored(end, last, left)
    check_output(job)


def disturb(job: SubmittedJob, run: Run, left: CheckpointId | None) -> CheckpointId:
    """It goes on from what it left, something is killed, and it is cancelled: what it leaves then."""
    submit(job, run, left)
    before = in_mid_stream(job, run)
    check_restored(before, run, left)
    if run.killed is not None:
        (job.masters() if run.killed == "job master" else job.slots())[0].kill()
        after = job.restarted(before)
        assert (after.generation > before.generation) == (run.killed == "job master")
        in_mid_stream(job, run)
    job.rest.cancel(job.job_id)
    latest = job.ended().checkpoints.latest_completed
    assert latest is not None
    assert is_unaligned(latest) == (run.alignment == "unaligned")
    return latest.id


def submit(job: SubmittedJob, run: Run, left: CheckpointId | None) -> None:
    config = {
        "state.backend.type": run.backend,
        "execution.checkpointing.unaligned.enabled": str(run.alignment == "unaligned").lower(),
        "execution.checkpointing.aligned-checkpoint-timeout": "0 ms",
        "taskmanager.memory.network.channel-window": WINDOW[run.alignment],
    }
    job.submit(parallelism=run.parallelism, restore=None if left is None else "latest", config=config)


def check_restored(view: JobView, run: Run, left: CheckpointId | None) -> None:
    restored = view.checkpoints.latest_restored
    assert (restored.id if restored else None) == left
    assert {vertex.parallelism for vertex in view.vertices} == {run.parallelism}


def in_mid_stream(job: SubmittedJob, run: Run) -> JobView:
    """Its newest checkpoint is of this attempt, and has records that were under way, if any ever has."""
    job.in_mid_stream()
    if run.alignment == "unaligned":
        job.until(lambda view: holds_in_flight(view.checkpoints), "a checkpoint holds records that were under way")
    view = job.view
    if run.alignment == "aligned":
        assert [found.id for found in view.checkpoints.history if is_unaligned(found)] == []
    return view


def holds_in_flight(checkpoints: CheckpointsView) -> bool:
    return checkpoints.latest_completed is not None and is_unaligned(checkpoints.latest_completed)


def is_unaligned(checkpoint: CheckpointView) -> bool:
    """Records were under way, and are in it."""
    subtasks = itertools.chain.from_iterable(checkpoint.acknowledged.values())
    return any(subtask.unaligned and subtask.persisted_bytes for subtask in subtasks)


# the golden answer --------------------------------------------------------------------------------------------------


def load(path: Path) -> Any:
    """The script as a module, for what it says of its input."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


GIVEN = load(SCRIPT)
EVENTS = [GIVEN.event_of(number) for number in range(GIVEN.NUMBERS)]
RULES = [GIVEN.rule_of(number) for number in range(GIVEN.RULES)]
AMOUNTS = [event.value * max((r.at, r.factor) for r in RULES if r.at <= event.at)[1] for event in EVENTS]
LATE = {number for number in range(GIVEN.NUMBERS) if number % GIVEN.LATE_EVERY == 0}
"""May be late, or not: that depends on who was faster. No other event ever is."""

Windows = dict[tuple[int, int], list[int]]


def windows_of(numbers: set[int]) -> Windows:
    """Key and span -> numbers."""
    found: Windows = defaultdict(list)
    for event in (EVENTS[number] for number in sorted(numbers)):
        found[event.key, event.at // GIVEN.SPAN_MS].append(event.number)
    return found


def check_output(job: SubmittedJob) -> None:
    check_priced(job.rows_of("priced"))
    check_closed(job.rows_of("closed"))
    span = GIVEN.SPAN_MS
    rows = [
        {"key": key, "start": at * span, "numbers": own, "amount": amount(own)}
        for (key, at), own in windows_of(on_time(job.rows_of("late rows"))).items()
    ]
    check_windows(job.rows_of("rows"), rows)
    columns = [
        {"key": key, "window_start": at * span, "window_end": (at + 1) * span,
         "n": len(own), "total": amount(own), "least": min(own), "most": max(own)}
        for (key, at), own in windows_of(on_time(job.rows_of("late columns"))).items()
    ]  # fmt: skip
    check_windows(job.rows_of("columns"), columns)


def check_priced(found: list[dict[str, Any]]) -> None:
    """Every event once, with the right factor; every key was seen once, twice, and so on."""
    numbers = Counter(row["number"] for row in found)
    missing, doubled = set(range(GIVEN.NUMBERS)) - set(numbers), [n for n, times in numbers.items() if times > 1]
    assert (len(missing), len(doubled)) == (0, 0), f"missing {sorted(missing)[:10]}, doubled {sorted(doubled)[:10]}"
    wrong = [row for row in found if (row["key"], row["at"], row["amount"]) != expected(row["number"])]
    assert wrong[:5] == []
    seen: dict[int, list[int]] = defaultdict(list)
    for row in found:
        seen[row["key"]].append(row["seen"])
    assert {key for key, times in seen.items() if sorted(times) != list(range(1, len(times) + 1))} == set()


def expected(number: int) -> tuple[int, int, int]:
    return EVENTS[number].key, EVENTS[number].at, AMOUNTS[number]


def check_closed(found: list[dict[str, Any]]) -> None:
    """Late events close their span again: what is told of it adds up."""
    told: Counter[tuple[int, int, str]] = Counter()
    for row in found:
        told.update({(row["key"], row["span"], what): row[what] for what in ("count", "total")})
    due: Counter[tuple[int, int, str]] = Counter()
    for (key, span), own in windows_of(set(range(GIVEN.NUMBERS))).items():
        due.update({(key, span, "count"): len(own), (key, span, "total"): sum(EVENTS[n].value for n in own)})
    assert told == due
    given = Counter((row["key"], number) for row in found for number in row["numbers"])
    assert given == Counter((event.key, event.number) for event in EVENTS)


def on_time(late: list[dict[str, Any]]) -> set[int]:
    """The others; late ones are right, too. (Where everything is slow enough, none is.)"""
    numbers = [row["number"] for row in late]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) - LATE == set()
    assert [row for row in late if (row["key"], row["at"], row["amount"]) != expected(row["number"])] == []
    return set(range(GIVEN.NUMBERS)) - set(numbers)


def amount(numbers: list[int]) -> int:
    return sum(AMOUNTS[number] for number in numbers)


def check_windows(found: list[dict[str, Any]], due: list[dict[str, Any]]) -> None:
    """Each once, as it must be."""
    ours, theirs = Counter(map(repr, found)), Counter(map(repr, due))
    assert (list(theirs - ours)[:5], list(ours - theirs)[:5]) == ([], [])
