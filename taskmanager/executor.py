"""Helper threads: where programs over the object store and blocking calls run, so that a slot's thread never waits.

Threads are daemons: a call that never returns, of a sink for instance, keeps neither its owner nor the process.

A slot only knows the `Executor` interface. The answer always comes back on the owner's thread, exactly once, also
when the work was cancelled. The simulator has an executor of its own, which runs programs op by op in virtual time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..state.errors import PenstockError
from ..state.store.objects import ObjectStore, Program, carry_out

CLOSE_S = 10.0
"""What closing waits for work under way."""

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


class DaemonPool:
    """Threads are started as they are needed, and not ended before the pool is closed."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._outstanding = 0
        """Tasks that are not done."""
        self._closed = False

    def submit(self, task: Callable[[], None]) -> None:
        """RuntimeError: it is closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("helper threads have ended")
            self._outstanding += 1
            self._tasks.put(task)
            if len(self._threads) < min(self._outstanding, self._most):
                thread = threading.Thread(target=self._run, name=f"{self._name}_{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def close(self, timeout_s: float) -> None:
        """What was submitted is done first, as far as the time goes."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._tasks.put(None)
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            finally:
                with self._lock:
                    self._outstanding -= 1


class ThreadExecutor:
    """Programs on a pool of threads, against one store; answers are posted to the owner's loop."""

    def __init__(self, store: ObjectStore, post: Callable[[Callable[[], None]], None], threads: int = 4) -> None:
        self._store = store
        self._post = post
        self._pool = DaemonPool(threads, "penstock-io")

    def submit(self, program: Program[Any], done: Done) -> Work:
        work = _ThreadWork()
        self._pool.submit(lambda: self._answer(lambda: self._drive(program, work), done))
        return work

    def call(self, function: Callable[[], Any], done: Done) -> None:
        """A blocking function instead of a program."""
        self._pool.submit(lambda: self._answer(function, done))

    def shutdown(self, timeout_s: float = CLOSE_S) -> None:
        """Waits so long for what was submitted; the answers go nowhere."""
        self._pool.close(timeout_s)

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
                answer = carry_out(op, self._store, lambda: work.cancelled)
            except Exception as failure:
                error = failure
