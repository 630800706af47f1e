"""What the oracles are made of: whether what was found is what was expected, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from .checkers import Violation

Visible = dict[str, list[Any]]
"""Name of the sink -> what is committed, in any order."""


def each_once(what: str, found: Iterable[Hashable], expected: Iterable[Hashable], exactly: bool) -> None:
    """Violation names the first that is missing, wrong, or (`exactly`) there more than once."""
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
