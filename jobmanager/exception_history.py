"""What went wrong in a job, as it is shown: the newest failures, each with what else failed because of it.

A *root* ends an attempt, or the job, or comes while the job ends. What fails of the same attempt while it is being
stopped is *concurrent* to its root: mostly a consequence of it (a connection that broke), sometimes the cause that
was told too late, so it is kept with the root and never hidden. Failures while an attempt is being stopped for
another reason than a failure are consequences of the request, and are not kept.

Everything is bounded: entries, concurrent failures of each, and the length of texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..runtime.configuration.options import CANCEL_TIMEOUT
from ..runtime.tracebacks import qualified_name, user_traceback
from ..state.errors import PenstockError, UserCodeError
from ..state.ids import Generation, SlotId
from ..taskmanager.messages import Failed, SlotAddress, SubtaskId
from .execution_graph import ExecutionGraph
from .slot_pool import SlotPool
from .views import NEVER, ExceptionView, vertex_hex

MAX_CONCURRENT = 16
"""Per root. When a node dies, each of its peers' subtasks says the same."""
MAX_NAMED = 8
"""Subtasks in one message."""
MAX_MESSAGE = 8_000
MAX_STACKTRACE = 64_000
"""Characters: a message can hold a whole record, a traceback of a recursion thousands of frames."""


class SlotLostError(PenstockError):
    """A slot is dead, and with it the subtasks that ran in it."""

    def __init__(self, slot: SlotId, reason: str, address: SlotAddress | None = None) -> None:
        super().__init__(f"slot {slot} was lost: {reason}")
        self.address = address
        """Where it was reached."""


class TasksHungError(PenstockError):
    """Subtasks of one slot were told to end and did not: the slot is given up, which ends its process."""

    def __init__(
        self, hung: Sequence[SubtaskId], graph: ExecutionGraph, timeout_ms: int, address: SlotAddress | None = None
    ) -> None:
        names = [_task_name(graph, subtask) for subtask in hung]
        who = names[0] if len(names) == 1 else f"one of {', '.join(names[:MAX_NAMED])}, in one slot,"
        super().__init__(
            f"{who} was told to end, and a function of it has not returned within {timeout_ms / 1_000:g} s: its "
            f"process was killed, without close(). Give calls that block a timeout below that, or raise "
            f"{CANCEL_TIMEOUT.key}"
        )
        self.subtask = hung[0] if len(hung) == 1 else None
        self.address = address


class MasterLostError(PenstockError):
    """The master before this one is gone without a word; what it had not logged is done again."""

    def __init__(self, generation: Generation, reason: str) -> None:
        super().__init__(
            f"the job's master (generation {generation - 1}) was lost: {reason}; "
            f"generation {generation} goes on from the last checkpoint"
        )


@dataclass(slots=True)
class _Entry:
    root: ExceptionView
    attempt: int
    concurrent: list[ExceptionView]


class ExceptionHistory:
    """Of one job, over all attempts of this master's life."""

    def __init__(self, graph: ExecutionGraph, pool: SlotPool, limit: int) -> None:
        """`limit`: so many roots are kept, the newest."""
        self._graph = graph
        self._pool = pool
        self._entries: deque[_Entry] = deque(maxlen=limit)

    def add(self, error: Exception, now_ms: int, failed: Failed | None = None, restart_delay_ms: int = NEVER) -> None:
        """A root. `failed`: what the subtask said, if it was one that failed."""
        shown = replace(self._shown(error, now_ms, failed), restart_delay_ms=restart_delay_ms)
        self._entries.append(_Entry(shown, self._graph.attempt, []))

    def add_concurrent(self, error: Exception, now_ms: int, failed: Failed | None = None) -> bool:
        """False if nothing of the current attempt has failed before."""
        if not self._entries or self._entries[-1].attempt != self._graph.attempt:
            return False
        concurrent = self._entries[-1].concurrent
        if len(concurrent) < MAX_CONCURRENT:
            concurrent.append(self._shown(error, now_ms, failed))
        return True

    def view(self) -> tuple[ExceptionView, ...]:
        """Newest first."""
        return tuple(replace(e.root, concurrent=tuple(e.concurrent)) for e in reversed(self._entries))

    def _shown(self, error: Exception, now_ms: int, failed: Failed | None) -> ExceptionView:
        shown = replace(exception_view(error, now_ms, failed), attempt=self._graph.attempt)
        address = error.address if isinstance(error, SlotLostError | TasksHungError) else None
        subtask = error.subtask if isinstance(error, TasksHungError) else None
        if failed is not None:
            subtask, slot = failed.subtask, self._graph.slot_or_none(failed.subtask)
            address = None if slot is None else self._pool.addresses.get(slot)
        if subtask is not None:
            shown = replace(
                shown,
                task=_task_name(self._graph, subtask),
                vertex=vertex_hex(subtask.vertex),
                subtask=subtask.index,
                operator=failed.operator if failed is not None else "",
            )
        if address is not None:
            shown = replace(shown, task_manager=address.task_manager, endpoint=f"{address.host}:{address.port}")
        return shown


def _task_name(graph: ExecutionGraph, subtask: SubtaskId) -> str:
    vertex = graph.vertices[subtask.vertex]
    return f"{vertex.name} ({subtask.index + 1}/{vertex.parallelism})"


def exception_view(error: Exception, now_ms: int, failed: Failed | None = None) -> ExceptionView:
    """The error alone, not where it was. Of a user's exception its own class and frames."""
    cause = (error.__cause__ if isinstance(error, UserCodeError) else None) or error
    name = failed.exception if failed is not None and failed.exception else qualified_name(cause)
    message = str(error)
    stacktrace = failed.traceback if failed is not None else user_traceback(error)
    return ExceptionView(
        timestamp_ms=now_ms,
        exception=name,
        message=_readable(message, MAX_MESSAGE),
        stacktrace=_readable(stacktrace or f"{name}: {message}", MAX_STACKTRACE),
    )


def _readable(text: str, limit: int) -> str:
    """Cut in the middle where it is too long; without what UTF-8 cannot say (paths can hold it)."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}\n… {len(text) - limit:,} characters are left out …\n{text[-limit // 2 :]}"
    return text.encode("utf-8", "replace").decode("utf-8")
