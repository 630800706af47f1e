"""Helper threads: where programs over the object store and blocking calls run, so that a slot's thread never waits.

A slot only knows the `Executor` interface. The answer always comes back on the owner's thread, exactly once, also
when the work was cancelled. The simulator has an executor of its own, which runs programs op by op in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from ..state.errors import PenstockError
from ..state.objects import ObjectStore, Program

Done = Callable[[Any, Exception | None], None]
"""Called with (result, None) or (None, error)."""


class WorkCancelledError(PenstockError):
    """The work was given up before it was through."""


class Work(Protocol):
    """A program under way."""

    def cancel(self) -> None:
        """Give up at the next store operation; `done` is still called, with WorkCancelledError unless it is through."""
        ...


class Executor(Protocol):
    """Runs programs somewhere else; answers on the owner's thread."""

    def submit(self, program: Program[Any], done: Done) -> Work: ...


class _ThreadWork:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ThreadExecutor:
    """Programs on a pool of threads, against one store; answers are posted to the owner's loop."""

    def __init__(self, store: ObjectStore, post: Callable[[Callable[[], None]], None], threads: int = 4) -> None:
        self._store = store
        self._post = post
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="penstock-io")

    def submit(self, program: Program[Any], done: Done) -> Work:
        work = _ThreadWork()
        self._pool.submit(self._answer, lambda: self._drive(program, work), done)
        return work

    def call(self, function: Callable[[], Any], done: Done) -> None:
        """A blocking function instead of a program."""
        self._pool.submit(self._answer, function, done)

    def shutdown(self) -> None:
        """Waits for what was submitted; the answers go nowhere."""
        self._pool.shutdown(wait=True)

    def _answer(self, function: Callable[[], Any], done: Done) -> None:
        try:
            result, error = function(), None
        except Exception as failure:
            result, error = None, failure
        except BaseException as failure:  # a panic of compiled code, an exit in a user's: somebody waits for the answer
            result, error = None, PenstockError(f"{type(failure).__name__}: {failure}")
            error.__cause__ = failure
        self._post(lambda: done(result, error))

    def _drive(self, program: Program[Any], work: _ThreadWork) -> Any:
        """run_program, but looking at the cancellation before every op."""
        answer: Any = None
        error: Exception | None = None
        while True:
            if work.cancelled:
                program.close()
                raise WorkCancelledError("cancelled")
            try:
                op = program.send(answer) if error is None else program.throw(error)
            except StopIteration as stop:
                return stop.value
            answer, error = None, None
            try:
                answer = self._store.execute(op)
            except Exception as failure:
                error = failure
