"""How many rows go through the chain at once, so that one pass takes a few milliseconds (PROTOCOLS 19).

What a pass takes is wall time, because a function may wait for something. But the thread, too, may have waited, for a
processor or the interpreter's lock, and on a busy machine that is what most long passes are: small slices would make it
busier. So a pass shortens the next ones only when the rows of the pass before it were as slow.
"""

from __future__ import annotations

import math

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
        self._row_ns = math.inf
        """What a row of the last pass took."""

    def took(self, rows: int, duration_ns: int) -> None:
        expected_ns = self._row_ns * rows
        self._row_ns = duration_ns / max(1, rows)
        if min(duration_ns, expected_ns) > LONG_NS:
            self.rows = max(1, min(self.rows, rows) // 2)
        elif duration_ns < SHORT_NS and rows >= self.rows:
            self.rows = min(self._limit, self.rows * 2)
