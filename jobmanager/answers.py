"""Answers of store programs, blocking calls and timers: each goes to the part that waits for it, found by its tag.
And what slots say that concerns one part alone.

An answer that comes too late, for an attempt or a checkpoint that is over, is recognised by the tag and dropped.
"""

from __future__ import annotations

from typing import Any

from ..state.store.job_log import LogRecord
from ..taskmanager import messages
from . import state_queries
from .attempt_setup import AttemptSetup, Step
from .ending import Ending
from .events import Tag
from .failures import as_ours
from .parts import Parts


class Answers:
    """Methods raise what fails the attempt."""

    def __init__(self, parts: Parts, setup: AttemptSetup, ending: Ending) -> None:
        self._parts = parts
        self._setup = setup
        self._ending = ending

    def done(self, tag: Tag, result: Any, now_ms: int) -> LogRecord | None:
        """The entry that is in the log now, if it was one."""
        parts = self._parts
        match tag:
            case ("log", number):
                record, commands = parts.journal.written(number, now_ms)
                parts.orders.give(*commands)
                return record
            case ("restore", attempt) if attempt == parts.graph.attempt and self._setup.step is Step.READING:
                self._setup.read(result, now_ms)
            case ("cleanup", attempt, _) if attempt == parts.graph.attempt:
                self._setup.cleaned()
            case ("metadata", attempt, checkpoint_id, savepoint_path):
                parts.checkpointing.metadata_written(attempt, checkpoint_id, savepoint_path, result, now_ms)
            case ("commit", operator_id, number, failures):
                parts.orders.give(*parts.commits.done(operator_id, number, failures, now_ms))
            case ("discover", attempt, operator_id) if attempt == parts.sources.attempt:
                parts.sources.discovered(operator_id, result, now_ms)
            case ("clear",):
                self._ending.cleared()
            case ("delete", number):
                parts.checkpointing.deletions.done(number)
        return None

    def told(self, message: messages.FromSlot, now_ms: int) -> None:
        parts = self._parts
        match message:
            case messages.TaskReport():
                parts.reports.received(message, now_ms)
            case messages.SplitRequest(subtask=subtask, operator_id=operator_id):
                parts.sources.request(subtask, operator_id)
            case messages.BarrierInjected():
                parts.checkpointing.injected(message)
            case messages.Decline():
                parts.checkpointing.declined(message, now_ms)
            case messages.StateRead():
                parts.queries.answered(message)
            case messages.ReportWatermark():
                parts.alignments.reported(message)

    def due(self, tag: Tag, now_ms: int) -> None:
        """The time of something that was to be looked at again."""
        parts = self._parts
        match tag:
            case ("ending", target):
                self._ending.overdue(target)
            case ("commit again" | "commit overdue", *_):
                parts.orders.give(*parts.commits.timer_fired(tag, now_ms))
            case ("log again", number):
                parts.orders.give(*parts.journal.again(number))
            case ("discover", attempt, operator_id) if attempt == parts.sources.attempt:
                parts.sources.discover(operator_id)
            case ("clear",):
                self._ending.cleared(overdue=True)
            case (state_queries.TAG, number):
                parts.queries.overdue(number)

    def failed(self, tag: Tag, error: Exception, now_ms: int) -> Exception | None:
        """Why the entry will never be in the log, if it was one."""
        parts = self._parts
        match tag:
            case ("log", number):
                final, commands = parts.journal.failed(number, error, now_ms)
                parts.orders.give(*commands)
                return final
            case ("restore", attempt) if attempt == parts.graph.attempt and self._setup.step is Step.READING:
                raise as_ours(error, "reading the checkpoint to restore")
            case ("cleanup", attempt, operator_id) if attempt == parts.graph.attempt:
                raise as_ours(error, f"cleaning up after earlier attempts, sink {operator_id}")
            case ("metadata", attempt, checkpoint_id, savepoint_path):
                parts.checkpointing.metadata_failed(attempt, checkpoint_id, savepoint_path, error, now_ms)
            case ("commit", operator_id, number, failures):
                parts.orders.give(*parts.commits.failed(operator_id, number, failures, error, now_ms))
            case ("discover", attempt, operator_id) if attempt == parts.sources.attempt:
                parts.sources.discovery_failed(operator_id, error)
            case ("delete", number):
                parts.checkpointing.deletions.failed(number)
            case ("clear",):  # what is left over can be deleted by hand
                self._ending.cleared()
        return None
