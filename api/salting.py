"""Keys that are spread over several subtasks.

What a key's records need together, in two steps: per key and salt first, where the records of a hot key meet in several
subtasks; then what that gives, per key. For what cannot be folded where the records are (two_phase=True does that
without a second key_by): functions with state and timers, windows that need every record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..runtime.records.fields import field_getter
from ..state.errors import PipelineError
from ..state.key_groups import MAX_KEY_GROUPS, key_group

Getter = Callable[[Any], Any] | str


class Salted:
    """What `salted` gives: record -> (key, salt)."""

    def __init__(self, key: Getter, buckets: int, by: Getter) -> None:
        self.key = key
        self.buckets = buckets
        self.by = by

    def __call__(self, record: Any) -> tuple[Any, int]:
        return _got(self.key, record), key_group(_got(self.by, record), self.buckets)


def _got(getter: Getter, record: Any) -> Any:
    return field_getter(record, getter)(record) if isinstance(getter, str) else getter(record)


def salted(key: Getter, buckets: int, *, by: Getter) -> Salted:
    """A key function for `key_by` that divides every key: record -> (key, salt), salt from 0 to buckets - 1.

        views = clicks.key_by(ps.salted(page_of, 16, by=user_of)).window(…).process(Visitors())
        views.key_by(lambda part: part.page).window(…).reduce(merged)

    `key`, `by`: functions of a record, or names of fields. Records that `by` is the same of have the same salt; it must
    have many values, and be a key itself (a str, an int, a tuple of them; no hash() of Python's, which is another one
    in every process). The salt is made of the record alone, as every key has to be: it is found where the record is
    sent and again where it arrives, and after a restore once more. A counter or a random number would send a record
    to one subtask and look its state up under another key. PipelineError for what cannot be a number of buckets.
    """
    if type(buckets) is not int or not 1 <= buckets <= MAX_KEY_GROUPS:
        raise PipelineError(f"salted: buckets is an int from 1 to {MAX_KEY_GROUPS}, not {buckets!r}")
    for what, getter in (("key", key), ("by", by)):
        if not callable(getter) and not isinstance(getter, str):
            raise PipelineError(f"salted: {what} is a function of a record or the name of a field, not {getter!r}")
    return Salted(key, buckets, by)
