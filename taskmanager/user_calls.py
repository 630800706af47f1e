"""Calls of users' functions: on an event loop, or on threads (runtime/calls.py says what operators may expect).

Every operator of every subtask has its own loop, or threads: what one function blocks or breaks is its own, and goes
with its subtask. Loops and threads are started by the first call. Threads are daemons: a call that never returns keeps
neither its slot nor the process.

Answers are gathered, and one mail brings to the slot's thread whatever has come in until it gets there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ..runtime import logs
from ..runtime.calls import Answer, Answered, Calls
from ..state.errors import PenstockError
from .executor import DaemonPool

CLOSE_S = 0.5
"""What closing waits for calls to heed their cancellation."""

logger = logging.getLogger(__name__)
Mail = Callable[[], None]
Post = Callable[[Mail], None]


def user_calls(
    post: Post,
    context: logs.TaskContext | None,
    function: Callable[[Any], Any],
    answered: Answered,
    *,
    asynchronous: bool,
    threads: int,
) -> Calls:
    """`post`: runs mail on the slot's thread. `context`: on what the function logs."""
    answers = _Answers(post, answered)
    return LoopCalls(function, answers, context) if asynchronous else ThreadCalls(function, answers, context, threads)


class _Answers:
    """On their way to the slot's thread."""

    def __init__(self, post: Post, answered: Answered) -> None:
        self._post = post
        self._answered = answered
        self._waiting: deque[Answer] = deque()
        self._posted = False
        self._closed = False

    def add(self, answer: Answer) -> None:
        """From any thread. Without a lock: the mail that was posted last takes what was added before it ran, because
        it says so (`_posted`) first."""
        self._waiting.append(answer)
        if not self._posted:
            self._posted = True
            self._post(self._hand_over)

    def close(self) -> None:
        self._closed = True

    def _hand_over(self) -> None:
        self._posted = False
        answers = []
        while self._waiting:
            answers.append(self._waiting.popleft())
        if answers and not self._closed:
            self._answered(answers)


class LoopCalls:
    """`async def` functions, all on one event loop, on a thread of its own."""

    def __init__(self, function: Callable[[Any], Any], answers: _Answers, context: logs.TaskContext | None) -> None:
        self._function = function
        self._answers = answers
        self._context = context
        self._tasks: dict[int, asyncio.Task[Answer]] = {}
        """Only on the loop's thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="penstock-async", daemon=True)
        self._thread.start()

    def start(self, calls: Sequence[tuple[int, Any]]) -> None:
        self._loop.call_soon_threadsafe(self._begin, calls)

    def cancel(self, number: int) -> None:
        with suppress(RuntimeError):  # the loop has ended: users' code can do that, and so its calls have, too
            self._loop.call_soon_threadsafe(self._cancel, number)

    def close(self) -> None:
        self._answers.close()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2 * CLOSE_S)
        if self._thread.is_alive():
            logger.warning("an async function does not heed its cancellation: its thread goes on by itself")

    # on the loop's thread

    def _run(self) -> None:
        logs.set_context(self._context)
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_S))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def _begin(self, calls: Sequence[tuple[int, Any]]) -> None:
        for number, record in calls:
            task = self._tasks[number] = self._loop.create_task(self._call(number, record))
            task.add_done_callback(partial(self._ended, number))

    def _cancel(self, number: int) -> None:
        if number in self._tasks:
            self._tasks[number].cancel()

    async def _call(self, number: int, record: Any) -> Answer:
        try:
            return Answer(number, await self._function(record))
        except Exception as error:
            return Answer(number, error=error)
        except BaseException as error:  # cancelled, or an exit in users' code: the loop must go on
            return Answer(number, error=_as_error(error))

    def _ended(self, number: int, task: asyncio.Task[Answer]) -> None:
        del self._tasks[number]
        if task.cancelled():  # before its first step, which has not seen it then
            self._answers.add(Answer(number, error=_as_error(asyncio.CancelledError())))
        else:
            self._answers.add(task.result())


class ThreadCalls:
    """Plain functions, each call on a thread of a pool."""

    def __init__(
        self, function: Callable[[Any], Any], answers: _Answers, context: logs.TaskContext | None, threads: int
    ) -> None:
        self._function = function
        self._answers = answers
        self._context = context
        self._pool = DaemonPool(threads, "penstock-call")
        self._queued: set[int] = set()
        """Numbers of those that no thread has begun."""

    def start(self, calls: Sequence[tuple[int, Any]]) -> None:
        for number, record in calls:
            self._queued.add(number)
            self._pool.submit(partial(self._call, number, record))

    def cancel(self, number: int) -> None:
        """A thread cannot be interrupted: a call that has begun goes on."""

    def close(self) -> None:
        self._answers.close()
        self._queued.clear()
        self._pool.close(0)

    def _call(self, number: int, record: Any) -> None:
        try:
            self._queued.remove(number)
        except KeyError:  # closed
            return
        with logs.use_context(self._context):
            try:
                answer = Answer(number, self._function(record))
            except Exception as error:
                answer = Answer(number, error=error)
            except BaseException as error:  # an exit in users' code
                answer = Answer(number, error=_as_error(error))
        self._answers.add(answer)


def _as_error(error: BaseException) -> Exception:
    wrapped = PenstockError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
