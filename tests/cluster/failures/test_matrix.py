"""All that a checkpoint holds, over what may become of a job: {heap, rocksdb} x {aligned, unaligned} x {a slot, the job
master is killed} x {goes on at parallelism 1, 2, 3, 7}. The output is what plain Python makes of the input, each once.

Every run does both: the job is killed at parallelism 2, goes on by itself, is cancelled, and another one goes on from
what it left. In PAIRWISE, eight, any two of these properties meet. A full run of the tests takes four
of those, in which any value of a property is; `make matrix` takes all thirty-two.
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

pytestmark = pytest.mark.timeout(400)

SCRIPT = Path(__file__).with_name("matrix_job.py")
BEFORE = 2
"""Parallelism before it goes on at another one."""
WINDOW = {"aligned": "6 kB", "unaligned": "16 kB"}
"""Of a channel: small, so that records wait in outputs, and aligned barriers not for long."""


@dataclass(frozen=True)
class Case:
    backend: str
    alignment: str
    killed: str
    parallelism: int

    def __str__(self) -> str:
        return f"{self.backend} {self.alignment} {self.killed} {self.parallelism}"

    def properties(self) -> list[tuple[str, object]]:
        return [("b", self.backend), ("a", self.alignment), ("k", self.killed), ("p", self.parallelism)]


WHOLE = list(
    itertools.starmap(
        Case, itertools.product(("heap", "rocksdb"), ("aligned", "unaligned"), ("slot", "master"), (1, 2, 3, 7))
    )
)
PAIRWISE = [
    Case("heap", "aligned", "slot", 1),
    Case("rocksdb", "unaligned", "master", 1),
    Case("heap", "unaligned", "slot", 2),
    Case("rocksdb", "aligned", "master", 2),
    Case("heap", "aligned", "master", 3),
    Case("rocksdb", "unaligned", "slot", 3),
    Case("heap", "unaligned", "master", 7),
    Case("rocksdb", "aligned", "slot", 7),
]
IN_EVERY_RUN = [PAIRWISE[0], PAIRWISE[3], PAIRWISE[5], PAIRWISE[6]]
CASES = [pytest.param(case, id=str(case), marks=() if case in IN_EVERY_RUN else pytest.mark.matrix) for case in WHOLE]


def pairs(cases: list[Case]) -> set[tuple[Any, ...]]:
    return {pair for case in cases for pair in itertools.combinations(case.properties(), 2)}


def test_any_two_properties_meet() -> None:
    assert pairs(PAIRWISE) == pairs(WHOLE)


@pytest.fixture(scope="module")
def cluster_settings(golden_settings: dict[str, object]) -> dict[str, object]:
    return {**golden_settings, "cluster__id": "matrix", "taskmanager__numberOfTaskSlots": 7}


@pytest.mark.parametrize("case", CASES)
def test_killed_and_continued(case: Case, new_job: NewJob) -> None:
    job = new_job(SCRIPT)
    submit(job, case, BEFORE)
    before = in_mid_stream(job, case)
    (job.masters() if case.killed == "master" else job.slots())[0].kill()
    after = job.restarted(before)
    assert (after.generation > before.generation) == (case.killed == "master")
    in_mid_stream(job, case)
    job.rest.cancel(job.job_id)
    left = job.ended().checkpoints
    assert left.latest_completed is not None
    assert is_unaligned(left.latest_completed) == (case.alignment == "unaligned")

    submit(job, case, case.parallelism, restore="latest")
    restored = in_mid_stream(job, case).checkpoints.latest_restored
    assert restored is not None
    assert restored.id == left.latest_completed.id
    end = job.finish()
    assert end.restarts == 0
    assert {vertex.parallelism for vertex in end.vertices} == {case.parallelism}
    check_output(job)


def submit(job: SubmittedJob, case: Case, parallelism: int, restore: str | None = None) -> None:
    config = {
        "state.backend.type": case.backend,
        "execution.checkpointing.unaligned.enabled": str(case.alignment == "unaligned").lower(),
        "execution.checkpointing.aligned-checkpoint-timeout": "0 ms",
        "taskmanager.memory.network.channel-window": WINDOW[case.alignment],
    }
    job.submit(parallelism=parallelism, restore=restore, config=config)


def in_mid_stream(job: SubmittedJob, case: Case) -> JobView:
    """Its newest checkpoint is of this attempt, and has records that were under way, if any ever has."""
    job.in_mid_stream()
    if case.alignment == "unaligned":
        job.until(lambda view: holds_in_flight(view.checkpoints), "a checkpoint holds records that were under way")
    view = job.view
    if case.alignment == "aligned":
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
