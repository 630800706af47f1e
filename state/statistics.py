"""How much an operator remembers, as it is reported and shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class NamedState:
    """Of one state of an operator in one subtask, from the key groups that were looked through so far (survey.py)."""

    bytes: int
    """Keys and values as they are encoded, before RocksDB compresses them."""
    entries: int
    growth: float = 0.0
    """Bytes per second, over about the last minute; 0 until all key groups were looked through once."""
    largest: tuple[tuple[str, int], ...] = ()
    """Keys that hold most, shortened, and their bytes: largest first."""
    kind: str = ""
    """As descriptors call it."""
    type: str = ""
    """Of its values or elements, as one would write it."""
    keys: tuple[Any, ...] = ()
    """Of a map: what is known of its keys (key_signatures.py)."""


@dataclass(frozen=True, slots=True)
class StateStatistics:
    """Of one operator in one subtask. Cheap enough to be asked for once a second, and therefore estimates."""

    bytes: int = 0
    """As it is stored: encoded and, in RocksDB, compressed where it is in files. What the cache has not written yet, a
    checkpoint's interval at most, is not in it. Of a column store: its arrays, with the room they have to grow."""
    entries: int = 0
    """Rows: values, entries of maps, chunks of lists, timers; and changed cells in the cache, of which some have a row
    already. RocksDB counts a row that was written again and not compacted yet as several. Of a column store: keys."""
    timers: int = 0
    """That are registered: exactly while all are in memory, else about."""
    rocksdb: dict[str, int] = field(default_factory=dict)
    """Property without the leading 'rocksdb.' -> value; empty where there is no RocksDB."""
    growth: float | None = None
    """Of `bytes`, per second, over about the last minute; None: it is not known."""
    states: dict[str, NamedState] = field(default_factory=dict)
    """By their names; empty where they have none."""
    keys: tuple[Any, ...] = ()
    """What is known of the stream's keys (key_signatures.py)."""
