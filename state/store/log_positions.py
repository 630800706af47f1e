"""Where in a job's log to begin to read, and which of its entries may be deleted.

A log grows by some entries a minute, for years. Two things keep that bearable, and neither decides anything:

- Every entry carries what held before it (LogSummary), so any entry is a place to begin.
- Entries whose number has at most MILESTONE_BITS significant bits are *milestones*, and are never deleted: all up to
  127, every second one up to 254, ... about 64 for each doubling. Other entries may be deleted once they lie below a
  milestone that has stood for days (jobmanager/log_care.py). So a log is: milestones, then everything.

That makes the end findable without a listing and without knowing anything: double until a power of two is missing,
halve among milestones, halve among the entries after the last milestone. `newest` does it in 2 log2(n) requests, 40
for a million entries. A *hint* (an object that names a recent number) makes it a handful. The hint may be old, missing,
damaged or wrong: it is only where the search begins.

Wherever the search ends, reading goes on by asking for the next number until there is none (PROTOCOLS 1), and the end
is believed only if the next milestone does not stand either. If it does, the reader stands where entries were deleted:
it has slept for days, or followed an old hint. The same question is asked after every append: an entry that was written
into such a hole is not in the log, and its writer is deposed. So a deletion can never split the log, whoever slept for
however long: milestones are there before anything below them is deleted, and stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import DamagedCheckpointError, ObjectNotFound
from ..ids import JobId
from .documents import seal, unseal
from .objects import Delete, Get, Program, Put, with_retries

MILESTONE_BITS = 7
"""Part of the format: all readers and writers of a log must agree."""
HINT_VERSION = 1
MAX_TRIMMED = 20_000
"""Entries that one program should delete."""
DELETE_BATCH = 1_000
"""Objects per delete op: what S3 takes in one request."""

Stands = Callable[[int], Program[bool]]
"""Whether there is an entry of that number."""


def spacing(seq: int) -> int:
    """Between the milestones around a number."""
    return 1 << max(0, seq.bit_length() - MILESTONE_BITS)


def is_milestone(seq: int) -> bool:
    return seq % spacing(seq) == 0


def last_milestone(seq: int) -> int:
    """The highest up to this number."""
    return seq - seq % spacing(seq)


def next_milestone(seq: int) -> int:
    """The lowest above this number."""
    return last_milestone(seq) + spacing(seq)


# searching --------------------------------------------------------------------------------------------------------


def newest(stands: Stands) -> Program[int]:
    """An entry at the end of the log, or near it if it grows meanwhile. The first entry stands."""
    low = 1
    while (yield from stands(2 * low)):
        low *= 2
    low = yield from _last(stands, low, 2 * low, spacing(low))
    return (yield from _last(stands, low, next_milestone(low), 1))


def newest_after(stands: Stands, known: int) -> Program[int]:
    """The same from an entry that stands; quick if the end is near. Wrong where entries after it are deleted."""
    low, step = known, 1
    while (yield from stands(known + step)):
        low, step = known + step, 2 * step
    return (yield from _last(stands, low, known + step, 1))


def _last(stands: Stands, low: int, high: int, step: int) -> Program[int]:
    """The highest that stands among low, low + step, ... below high. `low` stands, `high` does not."""
    while high - low > step:
        middle = low + (high - low) // (2 * step) * step
        if (yield from stands(middle)):
            low = middle
        else:
            high = middle
    return low


# the hint ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogHint:
    seq: int
    """An entry that stood when this was written."""
    trimmed: int = 0
    """What may be deleted below this number is deleted, more or less."""


def hint_name(job_id: JobId) -> str:
    return f"{job_id}/log-hint"


def write_hint(job_id: JobId, hint: LogHint, nonce: str) -> Program[None]:
    """Overwrites the last one. Not tried again: there will be another."""
    yield Put(hint_name(job_id), seal("log hint", HINT_VERSION, nonce, hint), create_only=False)


def read_hint(job_id: JobId) -> Program[LogHint | None]:
    name = hint_name(job_id)
    try:
        data = yield from with_retries(Get(name))
        return unseal(name, "log hint", HINT_VERSION, data, LogHint)
    except (ObjectNotFound, DamagedCheckpointError):
        return None


# trimming ---------------------------------------------------------------------------------------------------------


def trim(name_of: Callable[[int], str], first: int, floor: int) -> Program[None]:
    """Delete what is no milestone from `first` to below `floor`: not above a milestone, with a summary, that stands."""
    names = [name_of(seq) for seq in range(max(1, first), floor) if not is_milestone(seq)]
    for start in range(0, len(names), DELETE_BATCH):
        yield from with_retries(Delete(tuple(names[start : start + DELETE_BATCH])))
