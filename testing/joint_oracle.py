"""What must hold of results that come of several states at once: operator state, broadcast state beside keyed state,
two ways of one record. None of it can be computed from the records alone, because it depends on the order in which they
came; but the results must agree with each other, and with the moments at which states were restored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from .checkers import Violation
from .exactly_once import Visible, each_once
from .simulated_functions import Applied, Judged, Origin, Paired, Ticketed
from .simulated_workload import Workload

T = TypeVar("T")


def check_tickets(workload: Workload, visible: Visible) -> None:
    found: list[Ticketed] = visible.get("tickets", [])
    ids = (record.id for record in workload.records)
    each_once("records with tickets", (each.id for each in found), ids, workload.exactly_once)
    if not workload.exactly_once:
        return
    for pipeline in (False, True):
        own = [each for each in found if (workload.separate and each.key >= 100) is pipeline]
        _check_stamps(own)
        _check_shares(own)


def _check_stamps(found: list[Ticketed]) -> None:
    """Whoever has a ticket, its stamps go on."""
    tickets: defaultdict[str, list[int]] = defaultdict(list)
    for each in found:
        tickets[each.ticket].append(each.n)
    for ticket, stamps in tickets.items():
        each_once(f"stamps of ticket {ticket}", stamps, range(1, len(stamps) + 1), exactly=True)


def _check_shares(found: list[Ticketed]) -> None:
    """Everybody was told of all that had been seen before, by everybody."""
    for moment, own in _by_moment((each.origin, each) for each in found).items():
        seen = sum(1 for each in found if each.origin[:2] < moment)
        told = {each.before for each in own}
        if told != {seen}:
            raise Violation(f"{seen} records were seen before {_named(moment)}, and its subtasks were told {told}")


def check_judged(workload: Workload, visible: Visible) -> None:
    judged: list[Judged] = visible.get("judged", [])
    applied: list[Applied] = visible.get("applied", [])
    ids, exactly = (record.id for record in workload.judged), workload.exactly_once
    each_once("records beside rules", (each.id for each in judged), ids, exactly)
    each_once("rules", {each.rule for each in applied}, workload.rule_ids, exactly)
    if not exactly:
        return
    _check_visits(judged)
    for rule, own in _by_rule(applied).items():
        moments = _by_moment((each.origin, each) for each in own)
        if len(moments) > 1:
            raise Violation(f"rule {rule} was applied in {', '.join(map(_named, moments))}")
        subtasks = range(own[0].origin.parallelism)
        each_once(f"subtasks with rule {rule}", (each.origin.subtask for each in own), subtasks, exactly=True)
    _check_copies(applied)


def _check_visits(judged: list[Judged]) -> None:
    """A rule that comes visits all keys: state of a key and rules are of one moment."""
    keys: defaultdict[int, list[Judged]] = defaultdict(list)
    for each in judged:
        keys[each.key].append(each)
    for key, own in keys.items():
        each_once(f"records of key {key} beside rules", (each.n for each in own), range(1, len(own) + 1), exactly=True)
        unseen = {each.unseen for each in own}
        if len(unseen) > 1:
            ordered = [(each.n, each.unseen) for each in sorted(own, key=lambda one: one.n)]
            raise Violation(f"rules that had not visited key {key}, after each of its records: {ordered}")


def _check_copies(applied: list[Applied]) -> None:
    """Every subtask began with all rules that had been applied before."""
    for moment, own in _by_moment((each.origin, each) for each in applied).items():
        before = len({each.rule for each in applied if each.origin[:2] < moment})
        subtasks: defaultdict[int, list[int]] = defaultdict(list)
        for each in own:
            subtasks[each.origin.subtask].append(each.n)
        for subtask, numbers in subtasks.items():
            expected = range(before + 1, before + 1 + len(numbers))
            each_once(f"numbers of rules in subtask {subtask} of {_named(moment)}", numbers, expected, exactly=True)


def check_paired(workload: Workload, visible: Visible, *, late: bool) -> None:
    """`late`: some records came when event time had passed them."""
    found: list[Paired] = visible.get("paired", [])
    ids, exactly = (record.id for record in workload.records), workload.exactly_once
    each_once("records on two ways", (each.id for each in found), ids, exactly)
    alike = [each for each in found if each.first == each.second]
    if alike and exactly:
        raise Violation(f"twice on the same way: {alike[0]}")
    lonely = visible.get("lonely", [])
    if lonely and not late and exactly:
        raise Violation(f"{len(lonely)} came on one way only before event time did, for example {lonely[0]}")


def _by_moment(found: Iterable[tuple[Origin, T]]) -> dict[tuple[int, ...], list[T]]:
    moments: defaultdict[tuple[int, ...], list[T]] = defaultdict(list)
    for origin, each in found:
        moments[origin[:2]].append(each)
    return moments


def _by_rule(applied: list[Applied]) -> dict[int, list[Applied]]:
    rules: defaultdict[int, list[Applied]] = defaultdict(list)
    for each in applied:
        rules[each.rule].append(each)
    return rules


def _named(moment: tuple[int, ...]) -> str:
    life, attempt = moment
    return f"attempt {attempt}{f' of life {life}' if life else ''}"
