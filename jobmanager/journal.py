"""The master's pen: entries go into the job's log one at a time, in the order in which they were decided.

An append whose outcome is unknown (the store did not answer) is tried again until the log says which it was: nothing
that follows is written before, and nothing that depends on it is done (PROTOCOLS 1, 3). So whoever asks for an entry
hears of it once it is written, or the master hears that it is deposed, or that the store refuses for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..state.errors import ObjectStoreUnavailable
from ..state.store.job_log import Finished, JobLog, LogRecord, SavepointTaken
from .events import Command, RunProgram, SetTimer
from .log_care import LogCare

RETRY_MS = 1_000
"""On top of the retries of the program itself. The leader's own end, when it cannot beat, bounds them."""


class Journal:
    """Methods answer the commands to carry out."""

    def __init__(self, log: JobLog, care: LogCare, new_name: Callable[[], str]) -> None:
        self._log = log
        self._care = care
        self._new_name = new_name
        self._waiting: deque[LogRecord] = deque()
        """The first is being written."""
        self._number = 0

    @property
    def idle(self) -> bool:
        return not self._waiting

    @property
    def savepoint(self) -> SavepointTaken | None:
        """With which the job has stopped, as the log says."""
        return self._log.state.savepoint

    def leads(self) -> None:
        """This master, from the last entry of the log on."""
        self._care.leads(self._log.state.seq, self._log.trimmed)

    def append(self, record: LogRecord) -> list[Command]:
        """Behind the end of the job nothing is written: where the end could not wait for a slow store, what follows
        from the entries before it is void."""
        if self._waiting and isinstance(self._waiting[-1], Finished):
            return []
        self._waiting.append(record)
        return self._write() if len(self._waiting) == 1 else []

    def written(self, number: int, now_ms: int) -> tuple[LogRecord | None, list[Command]]:
        """The entry that is in the log now, and what comes next. None: an answer that was not waited for."""
        if number != self._number or not self._waiting:
            return None, []
        record = self._waiting.popleft()
        self._number += 1
        commands = self._care.written(self._log.state.seq, self._new_name(), now_ms)
        return record, [*commands, *(self._write() if self._waiting else [])]

    def failed(self, number: int, error: Exception, now_ms: int) -> tuple[Exception | None, list[Command]]:
        """An error that trying again does not help, or None and when to try again."""
        if number != self._number:
            return None, []
        if isinstance(error, ObjectStoreUnavailable):
            return None, [SetTimer(now_ms + RETRY_MS, ("log again", number))]
        return error, []

    def again(self, number: int) -> list[Command]:
        return self._write() if number == self._number and self._waiting else []

    def stop(self) -> None:
        """Nothing is written any more. What is on its way may still arrive in the log."""
        self._waiting.clear()
        self._number += 1

    def _write(self) -> list[Command]:
        return [RunProgram(("log", self._number), self._log.append_as_leader(self._waiting[0]))]
