"""What a subtask has under way on helper threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..runtime import logs
from ..state.store.objects import Program
from .executor import Done, Executor, Work


class Works:
    """Programs that were submitted and have not answered. `ended` is called with each answer, on the slot's thread, and
    hands it on or drops it."""

    def __init__(
        self,
        executor: Executor,
        context: logs.TaskContext,
        ended: Callable[[Done, Any, Exception | None], None],
    ) -> None:
        self._executor = executor
        self._context = context
        self._ended = ended
        self._works: dict[int, Work] = {}
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._works)

    def submit(self, program: Program[Any], done: Done) -> Work:
        number = self._next
        self._next += 1

        def answered(result: Any, error: Exception | None) -> None:
            with logs.use_context(self._context):
                del self._works[number]
                self._ended(done, result, error)

        work = self._works[number] = self._executor.submit(program, answered)
        return work

    def cancel(self) -> None:
        """All of them: each answers still."""
        for work in self._works.values():
            work.cancel()
