"""The leader keeps its job's log quick to read and bounded: hints, and deletions (state/store/log_positions.py). Pure.

What is deleted has been in the log for `log_kept_ms`, by this master's own time: no clock of another process, and no
time that was written down, is trusted (PROTOCOLS 2). So a master that leads for less than that deletes nothing, and the
entries are there for whoever wants to know what happened. That no log can split by it does not depend on any time.

All of it is optional. A program that fails is forgotten: a hint that is old costs requests, an entry that is left over
costs its room.
"""

from __future__ import annotations

from collections import deque
from functools import partial

from ..state.ids import JobId
from ..state.store.job_log import log_entry_name
from ..state.store.log_positions import MAX_TRIMMED, LogHint, last_milestone, trim, write_hint
from .events import Command, RunProgram

HINT_EVERY = 64
"""Entries between two hints: so many requests at most for who begins at one."""
LOOKS = 24
"""How often, within the time for which entries are kept, it is noted how long the log is."""


class LogCare:
    """Of a master that leads."""

    def __init__(self, job_id: JobId, kept_ms: int) -> None:
        self._job_id = job_id
        self._kept_ms = kept_ms
        self._first = 0
        """The first entry that this master has seen written: it and all later ones say what held before them."""
        self._hinted = 0
        self._trimmed = 0
        self._lengths: deque[tuple[int, int]] = deque(maxlen=LOOKS + 2)
        """(time, length of the log then)."""

    def leads(self, seq: int, trimmed: int) -> None:
        """From this entry on; `trimmed`: as the last leader's hint says."""
        self._first, self._trimmed = seq, trimmed

    def written(self, seq: int, nonce: str, now_ms: int) -> list[Command]:
        """The log ends with this entry of ours."""
        commands = self._trim(seq, now_ms)
        if seq - self._hinted >= HINT_EVERY:
            self._hinted = seq
            hint = write_hint(self._job_id, LogHint(seq, self._trimmed), nonce)
            commands.append(RunProgram(("log hint",), hint))
        return commands

    def _trim(self, seq: int, now_ms: int) -> list[Command]:
        if self._lengths and now_ms - self._lengths[-1][0] < self._kept_ms // LOOKS:
            return []
        self._lengths.append((now_ms, seq))
        old = 0
        while self._lengths and self._lengths[0][0] <= now_ms - self._kept_ms:
            old = self._lengths.popleft()[1]
        floor = last_milestone(old)
        if floor < self._first or floor <= self._trimmed:
            return []
        first, self._trimmed = self._trimmed, min(floor, self._trimmed + MAX_TRIMMED)
        return [RunProgram(("trim",), trim(partial(log_entry_name, self._job_id), first, self._trimmed))]
