"""Lookup join: every record with the rows that a service has of its key, asked for beside the slot's thread.

It is asynchronous I/O (operators/async_io.py, where order, capacity, time, and checkpoints are told) with a key in the
place of the record, and rows to be joined in the place of results. What a lookup finds may be cached, per subtask:

    all keys of a batch are cached and nothing is held back    results go out at once, as those of a map
    otherwise                                                  records with cached keys take their places among those
                                                               that wait for an answer, and need no call

What needs no call takes no room among the `capacity` calls, or it would keep those from starting that it waits for.

A record that waits for its call looks into the cache once more when its turn comes. Where its key is being called for
it waits for that call, whose rows are its own as well, whether the cache keeps them or not; if the call is timed out,
each that waited for it calls for itself, all at once. The cache is not in checkpoints.
What a timeout handler gives is not cached. A key of None is nothing to look up: there are no rows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..batch import Batch
from ..functions import Function, RuntimeContext, callable_of, close_function, open_function
from ..keys import KeySelector
from ..operators.async_io import AsyncOperator, AsyncSettings
from ..operators.operator import OperatorContext, RestoredState
from ..operators.result_queue import Entry
from ..operators.user_code import is_immutable, keys_by, raise_user_error, shown, taken_apart
from ..records.record_types import RecordType
from .functions import never_changes
from .lookup_cache import CachedRows, LookupCache, Rows

_MS = 1_000_000


class LookupJoinOperator(AsyncOperator):
    """Runs a LookupFunction, or a callable of a key, and joins what it gives."""

    def __init__(
        self,
        function: Any,
        selector: KeySelector,
        join: Callable[[Any, Any], Any] | Function | None,
        types: tuple[RecordType, RecordType],
        output_type: RecordType,
        settings: AsyncSettings,
        *,
        keeps_left: bool,
        cache: LookupCache | None,
    ) -> None:
        """types: of the stream and of the rows. keeps_left: a record without rows is joined with None."""
        super().__init__(function, types[0], output_type, settings)
        self.selector = selector
        self.join = join
        self.row_type = types[1]
        self.keeps_left = keeps_left
        self.cache = cache

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        self.context = context
        self._join = _pair if self.join is None else callable_of(self.join, "join")
        self._fixed = never_changes(self.row_type)
        self._keys: dict[int, Any] = {}
        """Of entries without results, by number."""
        self._sharing: dict[Any, list[Entry]] = {}
        """By key that is called for: entries that wait for that call. With a cache only."""
        self._alone: set[int] = set()
        """Numbers of entries that do not wait for the call of another one any more."""
        self._cached = CachedRows(self.cache or LookupCache())
        self._hits = context.metrics.counter("lookup_cache_hits_total")
        self._misses = context.metrics.counter("lookup_cache_misses_total")
        context.metrics.gauge("lookup_cache_rows", lambda: self._cached.rows)
        try:
            open_function(self.join, RuntimeContext(context))
        except Exception as error:
            raise_user_error(context, error, "in open()")
        super().open(context, restored)

    # what comes in

    def process_batch(self, batch: Batch, input_index: int) -> None:
        now_ns = self.context.clock.monotonic_ns()
        keys = keys_by(self.selector, batch, self.context)
        found = self._look(keys, now_ns)
        if self.unfinished or None in found:
            self._take(list(zip(batch.rows(), batch.timestamp_list(), strict=True)), keys, found)
            self._start(now_ns)
            return
        rows: list[Any] = []
        timestamps: list[int] = []
        for record, at, partners in zip(batch.rows(), batch.timestamp_list(), found, strict=True):
            results = self._joined(record, partners or ())
            rows += results
            timestamps += [at] * len(results)
        if rows:
            self.output.emit(Batch.of_rows(self.output_type, rows, timestamps))

    def _accept(self, records: Iterable[tuple[Any, int]]) -> None:
        """After a restore."""
        records = list(records)
        if records:
            batch = Batch.of_rows(self.input_type, [record for record, _ in records])
            keys = keys_by(self.selector, batch, self.context)
            self._take(records, keys, self._look(keys, self.context.clock.monotonic_ns()))

    def _look(self, keys: Sequence[Any], now_ns: int) -> list[Rows | None]:
        """What is known of each; None where a call is needed."""
        if self.cache is None:
            return [() if key is None else None for key in keys]
        get, now_ms = self._cached.get, now_ns // _MS
        found = [() if key is None else get(key, now_ms) for key in keys]
        misses = found.count(None)
        self._misses.inc(misses)
        self._hits.inc(len(found) - misses)
        return found

    def _take(self, records: Sequence[tuple[Any, int]], keys: Sequence[Any], found: Sequence[Rows | None]) -> None:
        for (record, at), key, rows in zip(records, keys, found, strict=True):
            entry = self._queue.add(record, at)
            if rows is None:
                self._keys[entry.number] = key
                self._waiting.append(entry)
            else:
                self._queue.complete(entry, self._joined(record, rows))

    # calls

    def _called_for(self) -> int:
        """What needed no call is held back as well, and leaves the calls before it their room: any number of such
        records may be behind one that waits for its call."""
        return len(self._under_way) + len(self._pauses)

    def _is_answered(self, entry: Entry) -> bool:
        """Another record of the key has been answered since it came, or is about to be."""
        if self.cache is None:
            return False
        key = self._keys[entry.number]
        rows = self._cached.get(key, self.context.clock.monotonic_ns() // _MS)
        if rows is None:
            return self._shares(entry, key)
        self._answer(entry, rows)
        return True

    def _shares(self, entry: Entry, key: Any) -> bool:
        """The call of another entry; otherwise its own call is one that others may share."""
        if entry.attempt or entry.number in self._alone:
            return False
        if key not in self._sharing:
            self._sharing[key] = []
            return False
        self._sharing[key].append(entry)
        return True

    def _answer(self, entry: Entry, rows: Rows) -> None:
        del self._keys[entry.number]
        self._alone.discard(entry.number)
        self._queue.complete(entry, self._joined(entry.record, rows))

    def _arguments(self, entries: Sequence[Entry]) -> list[Any]:
        return [self._keys[entry.number] for entry in entries]

    def _complete(self, entry: Entry, produced: list[Any], *, in_time: bool = True) -> None:
        key = self._keys[entry.number]
        self._answer(entry, produced)
        if self.cache is None:
            return
        sharing = self._sharing.pop(key, [])
        if not in_time:
            self._alone.update(other.number for other in sharing)
            self._waiting.extendleft(reversed(sharing))
            return
        for other in sharing:
            self._answer(other, produced)
        self._cached.put(key, produced, self.context.clock.monotonic_ns() // _MS)

    # results

    def _joined(self, record: Any, rows: Rows) -> list[Any]:
        if not rows:
            rows = (None,) if self.keeps_left else ()
        elif self.cache is not None and not self._fixed and not all(map(is_immutable, rows)):
            rows = self.row_type.copy_rows(list(rows))
        records = [record, *(taken_apart(record, self.input_type) for _ in rows[1:])]  # each result has its own
        try:
            return [self._join(own, row) for own, row in zip(records, rows, strict=False)]
        except Exception as error:
            raise_user_error(self.context, error, f"joining the record {shown(record)}")

    def close(self) -> None:
        try:
            super().close()
        finally:
            close_function(self.join)


def _pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left, right
