"""Asynchronous I/O: calls to services beside the slot's thread, many at once (Flink's AsyncWaitOperator).

    record -> waiting -> under way -> results -> given out
                 ^           |
                 └─ pause <──┘  error or result that a retry strategy wants again

**Threads.** Only the function's own calls run elsewhere (calls.py). Answers come back as mail, which does nothing but
note them; everything else, users' predicates and timeout handlers included, happens when the task lets the operator go
on (`advance`), so it never happens while the task's outputs are blocked, nor while anything else is half done.

**Capacity.** At most `capacity` records have been called for and are not given out yet: under way, in a pause, or done
and held back by the order. What has come beyond waits here, and the task, which sees that the operator is `full`,
hands nothing more to the chain. So what waits is bounded by what one slice of input makes.

**Order.** result_queue.py. Watermarks and statuses of the input are held back like records.

**Time.** The timeout is of one record, from its first call on, over all retries and their pauses. When it is over the
call under way is cancelled and the function's timeout handler gives the results, or fails the job. What blocks its
thread, or does not heed a cancellation, goes on by itself; where too many do, the job fails, because nothing can be
called any more. A call that was answered in time is not timed out, however late the task gets to its answer.

**Checkpoints** hold the records whose results are not given out, in a list state: they are called for again after a
restore, before what comes then, at any parallelism; their order is kept where the parallelism is. The function gets
copies of records that can be changed, so that what it does to them on its own thread is not in the checkpoint.

**End of input** waits until nothing is left here; every record has its timeout, so it comes to an end.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from ...state.descriptors import ListStateDescriptor
from ...state.errors import RecordTypeError
from ..async_functions import AsyncRetryStrategy
from ..batch import Batch
from ..calls import Answer, Calls
from ..elements import Watermark
from ..functions import RuntimeContext, callable_of, close_function, open_function
from ..operator_state import CheckpointedFunction, FunctionInitializationContext, FunctionSnapshotContext
from ..records.record_types import RecordType
from ..units import format_duration
from .operator import OperatorContext, RestoredState
from .queueing import QueueingOperator
from .result_queue import Entry, ResultQueue
from .running import state_type
from .user_code import check_produced, raise_user_error, shown

MS = 1_000_000
MOST_THREADS = 64
"""Calls of a plain function under way at once: each needs a thread."""
MOST_OVERDUE = 64
"""Calls that have timed out and go on all the same."""
ROWS_AT_ONCE = 1_024
"""About so many results are given out before the task looks at its outputs and its mail again."""


@dataclass(frozen=True)
class AsyncSettings:
    """How an asynchronous operator works. `method`: of function objects."""

    method: str
    single: bool
    """Every call gives one result, and not an iterable of results."""
    asynchronous: bool
    """The function is `async def`."""
    ordered: bool
    capacity: int
    timeout_ms: int
    retry: AsyncRetryStrategy | None = None
    on_timeout: Callable[[Any], Any] | None = None
    """Instead of the function's own method `timeout`; gives what a call gives."""


class AsyncOperator(QueueingOperator, CheckpointedFunction):
    """Calls a function for every record, and gives out what it gives."""

    stateful = True

    def __init__(self, function: Any, input_type: RecordType, output_type: RecordType, settings: AsyncSettings) -> None:
        self.function = function
        self.input_type = input_type
        self.output_type = output_type
        self.settings = settings
        self._calls: Calls | None = None

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._queue = ResultQueue(ordered=self.settings.ordered)
        self._waiting: deque[Entry] = deque()
        self._under_way: dict[int, Entry] = {}
        self._overdue: set[int] = set()
        """Numbers of calls that have timed out and were not answered since."""
        self._answers: list[Answer] = []
        """Not looked at yet."""
        self._deadlines: deque[Entry] = deque()
        """In order of their deadlines; also some that are done."""
        self._pauses: list[tuple[int, int, Entry]] = []
        """(end in monotonic ns, number, entry), a heap; also some that are done."""
        self._retries = context.metrics.counter("async_retries_total")
        self._timeouts = context.metrics.counter("async_timeouts_total")
        context.metrics.gauge("async_records_held", lambda: len(self._queue))
        context.operator_state.initialize(self)
        try:
            open_function(self.function, RuntimeContext(context))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    # what comes in

    def process_batch(self, batch: Batch, input_index: int) -> None:
        self._accept(zip(batch.rows(), batch.timestamp_list(), strict=True))
        self._start(self.context.clock.monotonic_ns())

    def _accept(self, records: Iterable[tuple[Any, int]]) -> None:
        self._waiting.extend(self._queue.add(record, timestamp) for record, timestamp in records)

    @property
    def full(self) -> bool:
        return len(self._queue) >= self.settings.capacity

    # what is going on

    def next_due_ns(self) -> int | None:
        if self._answers or self._queue.ready or (self._waiting and self._room() > 0):
            return 0
        _drop_done(self._deadlines)
        while self._pauses and self._pauses[0][2].results is not None:
            heapq.heappop(self._pauses)
        ends = [self._deadlines[0].deadline_ns] if self._deadlines else []
        return min([*ends, self._pauses[0][0]] if self._pauses else ends, default=None)

    def advance(self, now_ns: int) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            self._answered(answer, now_ns)
        self._time_out_until(now_ns)
        while self._pauses and self._pauses[0][0] <= now_ns:
            entry = heapq.heappop(self._pauses)[2]
            if entry.results is None:
                self._waiting.appendleft(entry)
        self._give_out()
        self._start(now_ns)

    def _room(self) -> int:
        """How many more may be called for now."""
        room = self.settings.capacity - self._called_for()
        return room if self.settings.asynchronous else min(room, MOST_THREADS - len(self._under_way))

    def _called_for(self) -> int:
        """Records that have been called for and are not given out."""
        return len(self._queue) - len(self._waiting)

    def _start(self, now_ns: int) -> None:
        calls: list[Entry] = []
        room = self._room()
        while self._waiting and len(calls) < room:
            entry = self._waiting.popleft()
            if self._is_answered(entry):
                continue
            if not entry.attempt:
                entry.deadline_ns = now_ns + self.settings.timeout_ms * MS
                self._deadlines.append(entry)
            entry.attempt += 1
            self._under_way[entry.number] = entry
            calls.append(entry)
        if calls:
            numbers = [entry.number for entry in calls]
            self._running_calls().start(list(zip(numbers, self._arguments(calls), strict=True)))

    def _arguments(self, entries: Sequence[Entry]) -> list[Any]:
        """What the function is called with."""
        return self.input_type.copy_rows([entry.record for entry in entries])

    def _running_calls(self) -> Calls:
        if self._calls is None:
            settings = self.settings
            function = callable_of(self.function, settings.method)
            make = _asynchronous if settings.asynchronous else _plain
            self._calls = self.context.calls(
                make(function, settings.single), self._note,
                asynchronous=settings.asynchronous, threads=MOST_THREADS + MOST_OVERDUE,
            )  # fmt: skip
        return self._calls

    def _note(self, answers: Sequence[Answer]) -> None:
        """As mail: nothing here may fail."""
        self._answers.extend(answers)

    # what becomes of a call

    def _answered(self, answer: Answer, now_ns: int) -> None:
        entry = self._under_way.pop(answer.number, None)
        if entry is None:
            self._overdue.discard(answer.number)
            return
        pause_ms = self._pause_ms(entry, answer)
        if pause_ms is not None:
            self._retries.inc()
            entry.error = answer.error
            heapq.heappush(self._pauses, (now_ns + pause_ms * MS, entry.number, entry))
        elif answer.error is not None:
            after = f", call {entry.attempt} for it" if entry.attempt > 1 else ""
            raise_user_error(self.context, answer.error, f"on the record {shown(entry.record)}{after}")
        else:
            self._complete(entry, answer.result)

    def _is_answered(self, entry: Entry) -> bool:
        """It needs no call any more, and has its results."""
        return False

    def _complete(self, entry: Entry, produced: list[Any], *, in_time: bool = True) -> None:
        """produced: what the function has given, or, not in time, the handler of its timeout."""
        self._queue.complete(entry, produced)

    def _pause_ms(self, entry: Entry, answer: Answer) -> int | None:
        """Before the next call; None: this answer counts."""
        retry = self.settings.retry
        if retry is None:
            return None
        try:
            if answer.error is not None:
                again = retry.repeats_error(answer.error)
            else:
                again = retry.repeats_result(answer.result[0] if self.settings.single else answer.result)
            return retry.delay_ms(entry.attempt) if again else None
        except Exception as error:
            raise_user_error(self.context, error, f"in the retry strategy, on the record {shown(entry.record)}")

    def _time_out_until(self, now_ns: int) -> None:
        timed_out = False
        while self._deadlines and (self._deadlines[0].results is not None or self._deadlines[0].deadline_ns <= now_ns):
            entry = self._deadlines.popleft()
            if entry.results is None:
                self._time_out(entry)
                timed_out = True
        if timed_out:  # of what waits, that which is to be called again: it has been counted as called for
            self._waiting = deque(entry for entry in self._waiting if entry.results is None)

    def _time_out(self, entry: Entry) -> None:
        self._timeouts.inc()
        if self._under_way.pop(entry.number, None) is not None:
            self._overdue.add(entry.number)
            self._running_calls().cancel(entry.number)
        try:
            self._complete(entry, self._late_results(entry), in_time=False)
            if len(self._overdue) >= MOST_OVERDUE:
                raise TimeoutError(
                    f"{len(self._overdue)} calls have timed out and go on all the same; give what the function waits "
                    "for a timeout of its own"
                )
        except Exception as error:
            timeout = f"{self.settings.timeout_ms} ms have passed since its first call"
            last = "" if entry.error is None else f", the last error was {_named(entry.error)}"
            doing = f"on the record {shown(entry.record)}: {timeout}, there were {entry.attempt} of them{last}"
            raise_user_error(self.context, error, doing)

    def _late_results(self, entry: Entry) -> list[Any]:
        handler = self.settings.on_timeout or getattr(self.function, "timeout", None)
        if handler is None:
            within = format_duration(self.settings.timeout_ms)
            raise TimeoutError(f"gave no result within timeout={within}; raise timeout=, or give on_timeout=")
        return _results(handler(self._arguments([entry])[0]), single=self.settings.single)

    # what goes out

    def _give_out(self) -> None:
        entries, marks = self._queue.take(ROWS_AT_ONCE)
        rows = [row for entry in entries for row in entry.results or ()]
        timestamps = [entry.timestamp for entry in entries for _ in entry.results or ()]
        if rows:
            self.output.emit(Batch.of_rows(self.output_type, rows, timestamps))
        for mark in marks:
            if isinstance(mark, Watermark):
                self.output.emit_watermark(mark)
            else:
                self.output.emit_status(mark)

    # checkpoints

    def initialize_state(self, context: FunctionInitializationContext) -> None:
        record: Any = state_type(self.input_type)
        element: Any = None if record is None else tuple[record, int]
        descriptor: ListStateDescriptor[tuple[Any, int]] = ListStateDescriptor("held records", element)
        self._held = context.get_operator_state_store().get_list_state(descriptor)
        self._accept(self._held.get())
        self._held.clear()

    def snapshot_state(self, context: FunctionSnapshotContext) -> None:
        self._held.update((entry.record, entry.timestamp) for entry in self._queue.entries())

    def close(self) -> None:
        try:
            if self._calls is not None:
                self._calls.close()
        finally:
            close_function(self.function)


def _drop_done(entries: deque[Entry]) -> None:
    while entries and entries[0].results is not None:
        entries.popleft()


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


# run beside the slot's thread


def _plain(function: Callable[[Any], Any], single: bool) -> Callable[[Any], list[Any]]:
    """A generator is drained where it may block."""
    return lambda record: _results(function(record), single=single)


def _asynchronous(function: Callable[[Any], Any], single: bool) -> Callable[[Any], Any]:
    async def call(record: Any) -> list[Any]:
        return _results(await function(record), single=single)

    return call


def _results(produced: Any, *, single: bool) -> list[Any]:
    if isawaitable(produced):
        if hasattr(produced, "close"):
            produced.close()
        raise RecordTypeError("the function gave something to be awaited; declare it with `async def`")
    if single:
        return [produced]
    if produced is None:
        return []
    check_produced(produced)
    return list(produced)
