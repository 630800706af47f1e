"""What the simulated job must have written, computed from its records alone, and whether it has.

With exactly-once every record is counted once and every window fires once. With at-least-once nothing is missing, but
some of it may be there several times.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from typing import Any

from .checkers import Violation
from .simulated_pipeline import BUCKET_MS, WINDOW_MS, Bucket, Counted, Pane, Reading, Workload

Visible = dict[str, list[Any]]


def check_output(workload: Workload, visible: Visible) -> None:
    """Violation names the first thing that is wrong."""
    if "running" in workload.branches:
        _check_running(workload, visible.get("running", []))
        _check_buckets(workload, visible.get("side", []))
    if "windows" in workload.branches:
        _check_panes(workload, visible.get("windows", []), visible.get("late", []))
    if "columns" in workload.branches:
        _check_totals(workload, visible.get("columns", []), visible.get("late columns", []))
    passed_on = [record._replace(value=record.value * 2) for record in workload.strands if isinstance(record, Reading)]
    _each_once("records of strands", visible.get("strands", []), passed_on, workload.exactly_once)


def _each_once(what: str, found: Iterable[Hashable], expected: Iterable[Hashable], exactly: bool) -> None:
    counts, wanted = Counter(found), set(expected)
    missing = wanted - counts.keys()
    if missing:
        raise Violation(f"{what}: {len(missing)} of {len(wanted)} are missing, for example {min(map(str, missing))}")
    unknown = counts.keys() - wanted
    if unknown:
        raise Violation(f"{what}: {len(unknown)} are wrong, for example {min(map(str, unknown))}")
    twice = [each for each, count in counts.items() if count > 1]
    if twice and exactly:
        raise Violation(f"{what}: {len(twice)} are there more than once, for example {min(map(str, twice))}")


def _check_running(workload: Workload, found: list[Counted]) -> None:
    values = {record.id: record.value * 2 for record in workload.records}
    _each_once("records in the running state", (each.id for each in found), values, workload.exactly_once)
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


def _check_buckets(workload: Workload, found: list[Bucket]) -> None:
    oracle = Counter((r.key, r.time - r.time % BUCKET_MS + BUCKET_MS - 1) for r in workload.records)
    if not workload.exactly_once:
        if not workload.late:
            _each_once("timers", ((b.key, b.end) for b in found), oracle, exactly=False)
    elif workload.late:
        _each_once("timers", ((b.key, b.end) for b in found), {(b.key, b.end) for b in found}, exactly=True)
        wrong = [b for b in found if not 0 < b.n <= oracle[b.key, b.end]]
        if wrong:
            raise Violation(f"timers: {wrong[0]} fired with {oracle[wrong[0].key, wrong[0].end]} records")
    else:
        _each_once("timers", found, (Bucket(key, end, n) for (key, end), n in oracle.items()), exactly=True)


def _window_of(record: Reading) -> tuple[int, int]:
    return record.key, record.time - record.time % WINDOW_MS


def _check_late(workload: Workload, late: list[Reading]) -> set[int]:
    if late and not workload.late:
        raise Violation(f"{len(late)} records are late, and none should be, for example {late[0]}")
    return {record.id for record in late}


def _check_panes(workload: Workload, found: list[Pane], late: list[Reading]) -> None:
    exactly = workload.exactly_once
    _each_once("windows", ((pane.key, pane.start) for pane in found), {(p.key, p.start) for p in found}, exactly)
    late_ids = _check_late(workload, late)
    ids = [i for pane in found for i in pane.ids] + [record.id for record in late]
    _each_once("records in windows and late", ids, (record.id for record in workload.records), exactly)
    if exactly:
        oracle: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for record in workload.records:
            if record.id not in late_ids:
                oracle[_window_of(record)].append(record.id)
        _each_once("windows", found, (Pane(*w, tuple(sorted(i))) for w, i in oracle.items()), exactly)


def _check_totals(workload: Workload, found: list[Any], late: list[Reading]) -> None:
    late_ids = _check_late(workload, late)
    if workload.exactly_once:
        known = (record.id for record in workload.records)
        _each_once("late records", (record.id for record in late), late_ids & set(known), exactly=True)
    oracle: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for record in workload.records:
        if record.id not in late_ids:
            oracle[_window_of(record)].append(record.value * 2)
    expected = {(*window, len(values), sum(values), max(values)) for window, values in oracle.items()}
    results = [(r["key"], r["window_start"], r["n"], r["total"], r["worst"]) for r in found]
    if workload.exactly_once:
        _each_once("windows of columns", results, expected, exactly=True)
    elif not workload.late:
        _each_once("windows of columns", (r[:2] for r in results), (e[:2] for e in expected), exactly=False)
