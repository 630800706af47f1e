"""Versions that client, job manager and slots must share, because pickled functions and Arrow data pass between them.

Compared before a job starts, so that a difference is one clear sentence and not an unpickling error in a slot.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("penstock", "cloudpickle", "pyarrow", "numpy", "msgspec", "polars")
"""Whose versions are told and compared, besides Python's."""

_MUST_AGREE = {"python": 2, "penstock": 0, "cloudpickle": 1}
"""Name -> how many leading numbers of the version must be equal; 0: the whole version. Others may differ, with a
warning."""
_REASONS = {
    "python": "functions are sent as bytecode, which only the same Python runs",
    "penstock": "client and cluster exchange its objects",
    "cloudpickle": "functions are pickled with it",
}


@dataclass(frozen=True, slots=True)
class Differences:
    """Sentences for the user."""

    errors: tuple[str, ...] = ()
    """Nothing can run."""
    warnings: tuple[str, ...] = ()
    """It may go well."""


def own_versions() -> dict[str, str]:
    """Of this process: 'python' (major.minor) and PACKAGES, as far as they are installed."""
    return dict(_installed())


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    found = [("python", f"{sys.version_info.major}.{sys.version_info.minor}")]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def differences(theirs: Mapping[str, str], ours: Mapping[str, str], *, them: str = "the client") -> Differences:
    """What does not agree, of what both sides tell: a client that tells nothing differs in nothing. `them`: who the
    first is, for the sentences; the second is the cluster."""
    errors, warnings = [], []
    for name in ("python", *PACKAGES):
        if name not in theirs or name not in ours:
            continue
        numbers = _MUST_AGREE.get(name, 0)
        if _leading(theirs[name], numbers) == _leading(ours[name], numbers):
            continue
        sentence = f"{name} is {theirs[name]} at {them} and {ours[name]} on the cluster"
        if name in _MUST_AGREE:
            errors.append(f"{sentence}: {_REASONS[name]}; install the cluster's version")
        else:
            warnings.append(sentence)
    return Differences(tuple(errors), tuple(warnings))


def _leading(number: str, count: int) -> list[str]:
    parts = number.split(".")
    return parts[:count] if count else parts
