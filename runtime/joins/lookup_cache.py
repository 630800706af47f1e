"""What lookups have found, kept for a while: by key, the least recently used goes first. Pure: time is handed in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from ...state.errors import ConfigurationError
from ..units import parse_duration_ms

Rows = Sequence[Any]


@dataclass(frozen=True)
class LookupCache:
    """How much of what was looked up a subtask keeps, and how long (Flink's partial cache). Records whose key
    is being looked up share that call.

    max_rows: over all keys; a key without rows counts as one. expire_after_write, expire_after_access: durations from
    the lookup, or from the last use on; None: no limit. cache_missing: remember of a key that there is nothing.
    ConfigurationError for numbers and durations that are none."""

    max_rows: int = 10_000
    expire_after_write: str | int | timedelta | None = None
    expire_after_access: str | int | timedelta | None = None
    cache_missing: bool = True

    def __post_init__(self) -> None:
        if type(self.max_rows) is not int or self.max_rows < 1:
            raise ConfigurationError(f"LookupCache: max_rows is an int from 1 on, not {self.max_rows!r}")
        for name in ("expire_after_write", "expire_after_access"):
            limit = getattr(self, name)
            if limit is not None and parse_duration_ms(limit) < 1:
                raise ConfigurationError(f"LookupCache: {name} is at least 1 ms, not {limit!r}")


class _Found(NamedTuple):
    rows: Rows
    written_ms: int
    used_ms: int


class CachedRows:
    """The cache of one subtask."""

    def __init__(self, cache: LookupCache) -> None:
        never = 1 << 62
        self._max_rows = cache.max_rows
        self._missing = cache.cache_missing
        self._write_ms = never if cache.expire_after_write is None else parse_duration_ms(cache.expire_after_write)
        access = cache.expire_after_access
        self._access_ms = None if access is None else parse_duration_ms(access)
        self._found: OrderedDict[Any, _Found] = OrderedDict()
        self.rows = 0
        """As max_rows counts them."""

    def get(self, key: Any, now_ms: int) -> Rows | None:
        """What there is of the key; None: that is not known."""
        found = self._found.get(key)
        if found is None:
            return None
        access_ms = self._access_ms
        if now_ms - found.written_ms >= self._write_ms or (
            access_ms is not None and now_ms - found.used_ms >= access_ms
        ):
            self._remove(key)
            return None
        self._found.move_to_end(key)
        if access_ms is not None:
            self._found[key] = found._replace(used_ms=now_ms)
        return found.rows

    def put(self, key: Any, rows: Rows, now_ms: int) -> None:
        if key in self._found:
            self._remove(key)
        weight = max(1, len(rows))
        if weight > self._max_rows or not (rows or self._missing):
            return
        self._found[key] = _Found(rows, now_ms, now_ms)
        self.rows += weight
        while self.rows > self._max_rows:
            self._remove(next(iter(self._found)))

    def _remove(self, key: Any) -> None:
        self.rows -= max(1, len(self._found.pop(key).rows))
