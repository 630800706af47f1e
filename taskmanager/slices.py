"""How many rows go through the chain at once, so that one pass takes a few milliseconds (PROTOCOLS 19)."""

from __future__ import annotations

FIRST_ROWS = 16
MAX_ROWS = 1_024
"""Row functions gain nothing from more (9 ns a record of overhead at 1,000)."""
MAX_COLUMNAR_ROWS = 65_536
LONG_NS = 10_000_000
SHORT_NS = 3_000_000


class SliceSizer:
    """Starts small, because nobody knows how slow a user's function is, and doubles while passes are short."""

    def __init__(self, columnar: bool) -> None:
        self._limit = MAX_COLUMNAR_ROWS if columnar else MAX_ROWS
        self.rows = self._limit if columnar else FIRST_ROWS

    def took(self, rows: int, duration_ns: int) -> None:
        if duration_ns > LONG_NS:
            self.rows = max(1, min(self.rows, rows) // 2)
        elif duration_ns < SHORT_NS and rows >= self.rows:
            self.rows = min(self._limit, self.rows * 2)
