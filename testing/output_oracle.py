"""What the simulated job must have written, computed from its records alone, and whether it has.

With exactly-once every record is counted once and every window fires once, and once more for each record that is late
but not too late. With at-least-once nothing is missing, but some of it may be there several times.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from .checkers import Violation
from .exactly_once import Visible, each_once
from .joint_oracle import check_judged, check_paired, check_tickets
from .simulated_functions import BUCKET_MS, Bucket, Counted, Pane, Reading
from .simulated_workload import WINDOW_MS, Workload, readings


def check_output(workload: Workload, visible: Visible, *, drained: bool) -> None:
    """Violation names the first thing that is wrong. `drained`: the job was stopped after event time had ended, and
    what was read later is late."""
    late, branches = workload.late or drained, workload.branches
    too_late, too_late_columns = visible.get("late", []), visible.get("late columns", [])
    if workload.two_phase and drained:  # neither says what came after the end of event time
        in_time = {i for pane in visible.get("windows", []) for i in pane.ids}
        too_late = too_late_columns = [record for record in workload.records if record.id not in in_time]
    if "running" in branches:
        _check_running(workload, visible.get("running", []))
        _check_buckets(workload, visible.get("side", []), late)
    if "windows" in branches:
        _check_panes(workload, visible.get("windows", []), too_late, late)
    if "columns" in branches:
        _check_totals(workload, visible.get("columns", []), too_late_columns, late)
    if "tickets" in branches:
        check_tickets(workload, visible)
    if "judged" in branches:
        check_judged(workload, visible)
    if "paired" in branches:
        check_paired(workload, visible, late=late)
    if "restamped" in branches:
        _check_panes(workload, visible.get("restamped", []), visible.get("late again", []), late=True)
    passed_on = [record._replace(value=record.value * 2) for record in readings(workload.strands)]
    each_once("records of strands", visible.get("strands", []), passed_on, workload.exactly_once)


def check_drained(workload: Workload, visible: Visible, *, again: bool) -> None:
    """The job was stopped after event time had ended: nothing that was read is waiting for it. `again`: as another job
    that it had begun from."""
    expected = {record.id for record in workload.records}
    done: dict[str, set[int]] = {}
    whole = not (workload.two_phase and again)
    """Windows have all that was read, or say what is too late for them."""
    for branch in workload.branches:
        if branch in ("running", "tickets", "paired"):
            done[branch] = {each.id for each in visible.get(branch, [])}
    for panes, late in (("windows", "late"), ("restamped", "late again")):
        if panes in workload.branches and (whole or panes != "windows"):
            done[panes] = {i for pane in visible.get(panes, []) for i in pane.ids}
            done[panes] |= {record.id for record in visible.get(late, [])}
    for (one, ids), (other, others) in pairwise(done.items()):
        if ids != others:
            differ = sorted(ids ^ others)
            raise Violation(
                f"drained, of {len(expected)} records {len(ids)} are in {one} and {len(others)} in {other}; not in "
                f"both is {differ[0]}, for example"
            )
    if not done or not workload.exactly_once:
        return
    other, ids = next(iter(done.items()))
    if "columns" in workload.branches and whole:
        _check_count("columns", _in_columns(visible), other, len(ids))
    if "running" in workload.branches and not (again or workload.late):
        _check_count("side", sum(bucket.n for bucket in visible.get("side", [])), other, len(ids))


def _check_count(one: str, found: int, other: str, expected: int) -> None:
    if found != expected:
        raise Violation(f"drained, {found} records are in {one}, and {expected} in {other}")


def _in_columns(visible: Visible) -> int:
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    for row in visible.get("columns", []):
        window = row["key"], row["window_start"]
        counts[window] = max(counts[window], row["n"])
    return sum(counts.values()) + len(visible.get("late columns", []))


def _check_running(workload: Workload, found: list[Counted]) -> None:
    values = {record.id: record.value * 2 for record in workload.records}
    each_once("records in the running state", (each.id for each in found), values, workload.exactly_once)
    if not workload.exactly_once:
        return
    by_key: defaultdict[int, list[Counted]] = defaultdict(list)
    for each in found:
        by_key[each.key].append(each)
    for key, counted in by_key.items():
        total = 0
        for n, each in enumerate(sorted(counted, key=lambda one: one.n), start=1):
            total += values[each.id]
            if (each.n, each.total) != (n, total):
                raise Violation(f"the running state of key {key} is {each}, and should be at {n} with {total}")


def _check_buckets(workload: Workload, found: list[Bucket], late: bool) -> None:
    oracle = Counter((r.key, r.time - r.time % BUCKET_MS + BUCKET_MS - 1) for r in workload.records)
    if not workload.exactly_once:
        if not late:
            each_once("timers", ((b.key, b.end) for b in found), oracle, exactly=False)
    elif late:
        each_once("timers", ((b.key, b.end) for b in found), {(b.key, b.end) for b in found}, exactly=True)
        wrong = [b for b in found if not 0 < b.n <= oracle[b.key, b.end]]
        if wrong:
            raise Violation(f"timers: {wrong[0]} fired with {oracle[wrong[0].key, wrong[0].end]} records")
    else:
        each_once("timers", found, (Bucket(key, end, n) for (key, end), n in oracle.items()), exactly=True)


def _window_of(record: Reading) -> tuple[int, int]:
    return record.key, record.time - record.time % WINDOW_MS


def _check_late(found: list[Reading], late: bool) -> set[int]:
    if found and not late:
        raise Violation(f"{len(found)} records are late, and none should be, for example {found[0]}")
    return {record.id for record in found}


def _by_window(records: Iterable[Reading], late_ids: set[int]) -> dict[tuple[int, int], list[Reading]]:
    windows: defaultdict[tuple[int, int], list[Reading]] = defaultdict(list)
    for record in records:
        if record.id not in late_ids:
            windows[_window_of(record)].append(record)
    return windows


def _check_panes(workload: Workload, found: list[Pane], too_late: list[Reading], late: bool) -> None:
    exactly = workload.exactly_once
    late_ids = _check_late(too_late, late)
    panes: defaultdict[tuple[int, int], list[Pane]] = defaultdict(list)
    for pane in found:
        panes[pane.key, pane.start].append(pane)
    if exactly:
        last = [_last_of(own, fires_again=workload.lateness_ms > 0) for own in panes.values()]
    else:
        last = found
    ids = [i for pane in last for i in pane.ids] + [record.id for record in too_late]
    each_once("records in windows and late", ids, (record.id for record in workload.records), exactly)
    if exactly:
        oracle = _by_window(workload.records, late_ids)
        expected = (Pane(*window, tuple(sorted(r.id for r in records))) for window, records in oracle.items())
        each_once("windows", last, expected, exactly)


def _last_of(panes: list[Pane], *, fires_again: bool) -> Pane:
    """Of one window. Each time that it fires it has what it had before, and more."""
    panes = sorted(panes, key=lambda pane: len(pane.ids))
    if len(panes) > 1 and not fires_again:
        raise Violation(f"a window fired {len(panes)} times: {panes[0]}, {panes[1]}")
    for before, after in pairwise(panes):
        if not set(before.ids) < set(after.ids):
            raise Violation(f"a window fired with {before}, and with {after}")
    return panes[-1]


def _check_totals(workload: Workload, found: list[Any], too_late: list[Reading], late: bool) -> None:
    late_ids = _check_late(too_late, late)
    results = [(r["key"], r["window_start"], r["n"], r["total"], r["worst"]) for r in found]
    if not workload.exactly_once:
        if not late:
            windows = _by_window(workload.records, late_ids)
            each_once("windows of columns", (r[:2] for r in results), windows, exactly=False)
        return
    known = {record.id for record in workload.records}
    each_once("late records", (record.id for record in too_late), late_ids & known, exactly=True)
    if workload.lateness_ms:
        each_once("windows of columns", (r[:3] for r in results), {r[:3] for r in results}, exactly=True)
        results = list({r[:2]: r for r in sorted(results, key=lambda r: r[2])}.values())
    values = {window: [r.value * 2 for r in own] for window, own in _by_window(workload.records, late_ids).items()}
    expected = ((*window, len(own), sum(own), max(own)) for window, own in values.items())
    each_once("windows of columns", results, expected, exactly=True)
