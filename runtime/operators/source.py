"""The source operator: splits to batches, timestamps and watermarks.

Every split has its own watermark generator; the subtask's watermark is the minimum over its active splits, and is
emitted behind the batch that advanced it. A split that has given nothing for the strategy's idleness does not hold
the others back, and a finished one never does. Time in which the subtask did not ask its reader (backpressure) does
not count as silence of a split.

A subtask that waits for a split has no say in the watermark only once it is idle: after the idleness; else, if the
source is unbounded, after a second. (At once would be wrong: while splits are being handed out at the start, the
subtasks that have theirs already would run ahead and make the others' records late.)

What a user's generator says takes effect behind the record that it said it of: there the batch is cut. Splits that are
too far ahead of those of other sources may be paused (source_alignment.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ...state.ids import CheckpointId
from ...state.snapshots import OperatorSnapshot, SplitSnapshot
from ...state.store.objects import Program
from ..batch import NO_TIMESTAMP, Batch
from ..changelog import ChangelogMode
from ..connector import NeedsSplit, NotReady, ReaderContext, ReaderEnd, Source, SplitBatch, SplitFinished
from ..elements import MAX_WATERMARK, Watermark, WatermarkStatus
from ..event_time.watermark_generators import SplitGenerator
from ..event_time.watermark_merge import WatermarkMerge
from ..event_time.watermarks import WatermarkStrategy
from ..records.record_types import RecordType
from .event_time import EventTime
from .operator import Firing, Operator, OperatorContext, RestoredState, immediate
from .source_alignment import SourceAlignment

WAITING_IDLE_MS = 1_000
_LONGEST_POLL_SHARE = 8
"""Between two polls that found something at most this part of the idleness counts as a split's silence."""


@dataclass(slots=True)
class _Split:
    generator: SplitGenerator
    heard_ms: int
    """When it gave something last, on the operator's own watch."""
    silent: bool = False
    """For the idleness."""

    @property
    def idle(self) -> bool:
        return self.silent or self.generator.idle


class SourceOperator(Operator):
    """Polled by its task. The task sets `wake`, which readers call when they have something again."""

    def __init__(self, source: Source[Any], strategy: WatermarkStrategy, output_type: RecordType) -> None:
        self.source = source
        self.strategy = strategy
        self.output_type = output_type
        guard = strategy.future_guard
        own_tags = [] if guard is None or guard.tag is None else [guard.tag.name]
        self.side_tags = source.side_tags | frozenset(own_tags)
        self.wake: Callable[[], None] = lambda: None
        self._idle_ms = strategy.idleness_ms
        self._reader: Any = None

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return self.source.changelog_mode

    def in_batch_mode(self) -> Self:
        operator = self.flagged_for_batch_mode()
        operator.strategy = self.strategy.without_watermarks()
        operator._idle_ms = None
        return operator

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._splits: dict[str, _Split] = {}
        self._paused: set[str] = set()
        """Splits that are not to be read, to be aligned with others."""
        self._merge = WatermarkMerge()
        self._event_time = EventTime(self.strategy, context)
        self._alignment: SourceAlignment | None = None
        if self.strategy.alignment is not None:
            self._alignment = SourceAlignment(
                self.strategy.alignment, context.report_watermark, context.clock, context.metrics
            )
        self._asked = False
        self._ended = False
        self._waiting = False
        self._watch_ms = 0
        self._looked_ms = context.clock.now_ms()
        self._waiting_since_ms: int | None = None
        self.last_timestamp = NO_TIMESTAMP
        """Of the record that was emitted last."""
        self._reader = self.source.create_reader(
            ReaderContext(context.subtask, context.parallelism, context.clock, context.metrics, lambda: self.wake())
        )
        context.operator_state.initialize(self._reader)
        self._take(restored.splits)

    # splits

    def add_splits(self, splits: Sequence[SplitSnapshot], last: bool) -> None:
        """The enumerator's answer. last: no more will come."""
        self._asked = False
        self._take(splits)
        if last:
            self._reader.no_more_splits()

    def _take(self, splits: Sequence[SplitSnapshot]) -> None:
        if not splits:
            return
        self._waiting_since_ms = None
        generators = {split.split_id: self._event_time.generator(split.watermark_state) for split in splits}
        self._splits.update({split_id: _Split(each, self._watch_ms) for split_id, each in generators.items()})
        self._give_out(self._merge.add({split_id: each.watermark for split_id, each in generators.items()}))
        for split_id, generator in generators.items():
            self._give_out(self._merge.set_idle(split_id, generator.idle))
        self._reader.add_splits([self.source.decode_split(split.state) for split in splits])
        if self._alignment is not None:
            self._alignment.report(self._merge.lowest())
            self._align(self._alignment)

    # polling

    def poll(self, max_rows: int) -> NotReady | ReaderEnd | None:
        """Emit what the reader has next. None: ask again; NotReady: later; ReaderEnd: all is read and emitted."""
        if self._ended:
            return ReaderEnd()
        self._look_at_the_clock()
        self._by_the_clock()
        result = NotReady() if self._all_paused() else self._reader.poll(max_rows)
        self._waiting = isinstance(result, (NotReady, NeedsSplit))
        match result:
            case SplitBatch(split_id, batch, side):
                self._emit(split_id, batch)
                if side is not None:
                    self.output.emit_side(*side)
            case SplitFinished(split_id):
                self._splits.pop(split_id, None)
                self._paused.discard(split_id)
                self._give_out(self._merge.remove(split_id))
            case NeedsSplit():
                return self._wait_for_split()
            case ReaderEnd():
                self._ended = True
                self._give_out([Watermark(MAX_WATERMARK)])
                if self._alignment is not None:
                    self._alignment.report(None)
        self._mark_idle()
        if self._alignment is not None:
            self._align(self._alignment)
        return result if isinstance(result, (NotReady, ReaderEnd)) else None

    def _emit(self, split_id: str, batch: Batch) -> None:
        split = self._splits[split_id]
        timed = self._event_time.timed(batch)
        if len(batch) and not len(timed):  # who gives only what comes from the future gives nothing
            return
        split.heard_ms = self._watch_ms
        if not len(timed):
            return
        split.silent = False
        self._give_out(self._merge.set_idle(split_id, split.idle))
        given = 0
        for rows, watermark, idle in self._event_time.marks(split.generator, timed):
            changes = self._merge.update(split_id, watermark, idle)
            if changes:
                self.output.emit(timed.slice(given, rows - given))
                given = rows
                self._give_out(changes)
        self.output.emit(timed.slice(given, len(timed) - given))
        self.last_timestamp = timed.last_timestamp()

    def _wait_for_split(self) -> NotReady:
        if not self._asked:
            self._asked = True
            self.context.request_input()
        if self._waiting_since_ms is None and not self._splits:
            self._waiting_since_ms = self._watch_ms
        self._mark_idle()
        return NotReady()

    def _give_out(self, elements: Sequence[Watermark | WatermarkStatus]) -> None:
        for element in elements:
            if isinstance(element, Watermark):
                self.output.emit_watermark(element)
            else:
                self.output.emit_status(element)

    def lag_records(self) -> int | None:
        """As SourceReader's, while it is open."""
        lag: int | None = self._reader.lag_records()
        return lag

    # idleness

    def _look_at_the_clock(self) -> None:
        now_ms = self.context.clock.now_ms()
        passed_ms = max(0, now_ms - self._looked_ms)
        if not self._waiting and self._idle_ms is not None:
            passed_ms = min(passed_ms, max(1, self._idle_ms // _LONGEST_POLL_SHARE))
        self._watch_ms += passed_ms
        self._looked_ms = now_ms

    def _silences(self) -> list[tuple[str | None, int]]:
        """(split, or None for the wait for one; the time on the watch from which on it is idle)."""
        silences: list[tuple[str | None, int]] = []
        if self._idle_ms is not None:
            heard = [(id_, s) for id_, s in self._splits.items() if not s.silent and id_ not in self._paused]
            silences = [(id_, split.heard_ms + self._idle_ms) for id_, split in heard]
        wait_ms = self._idle_ms if self._idle_ms is not None or self.source.bounded else WAITING_IDLE_MS
        if self._waiting_since_ms is not None and wait_ms is not None and not self._merge.idle:
            silences.append((None, self._waiting_since_ms + wait_ms))
        return silences

    def _mark_idle(self) -> None:
        for split_id, from_ms in self._silences():
            if from_ms <= self._watch_ms and split_id is None:
                self._give_out(self._merge.no_inputs())
            elif from_ms <= self._watch_ms and split_id is not None:
                self._splits[split_id].silent = True
                self._give_out(self._merge.set_idle(split_id, True))

    # by the clock

    def _by_the_clock(self) -> None:
        """Ask users' generators, save those of silent splits (as Flink's WatermarksWithIdleness); report."""
        if self._event_time.is_due(self._looked_ms):
            for split_id, split in self._splits.items():
                if not split.silent:
                    self._event_time.ask(split.generator)
                    self._give_out(self._merge.update(split_id, split.generator.watermark, split.idle))
        if self._alignment is not None:
            self._alignment.look(self._merge.lowest(), self._looked_ms)

    def next_processing_timer(self) -> int | None:
        """Only while nothing comes; otherwise polling looks after it."""
        if not self._waiting:
            return None
        due_ms = [self._looked_ms + max(0, from_ms - self._watch_ms) for _, from_ms in self._silences()]
        if self._splits and self._event_time.due_ms is not None:
            due_ms.append(self._event_time.due_ms)
        if self._alignment is not None:
            due_ms.append(self._alignment.reports.next_ms(self.context.clock.now_ms()))
        return min(due_ms, default=None)

    def advance_processing_time(self, now_ms: int) -> Firing:
        self._look_at_the_clock()
        self._mark_idle()
        self._by_the_clock()
        yield from ()

    # alignment

    def align(self, lowest: int | None) -> None:
        """The master's answer to a report: the lowest watermark of the group; None: nobody holds the others back."""
        if self._alignment is not None:
            self._look_at_the_clock()
            self._alignment.announced(lowest)
            self._align(self._alignment)

    def _align(self, alignment: SourceAlignment) -> None:
        lowest = self._merge.lowest()
        if self._reader.pauses_splits:
            ahead = {id_ for id_, split in self._splits.items() if split.generator.watermark > alignment.allowed}
        else:
            ahead = set(self._splits) if lowest is not None and lowest > alignment.allowed else set()
        if ahead != self._paused:
            resumed = self._paused - ahead
            if self._reader.pauses_splits:
                self._reader.pause_splits(frozenset(ahead))
            for split_id in resumed:
                self._splits[split_id].heard_ms = self._watch_ms
            self._paused = ahead
            alignment.pauses(bool(ahead))

    def _all_paused(self) -> bool:
        """Nothing is to be read. (A split that is given out then would be read, wherever it stands.)"""
        return bool(self._paused) and len(self._paused) == len(self._splits)

    # checkpoints

    def snapshot(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot]:
        splits = []
        for split in self._reader.snapshot():
            split_id = self.source.split_id(split)
            generator = self._splits[split_id].generator
            splits.append(
                SplitSnapshot(split_id, self.source.encode_split(split), self._event_time.snapshot(generator))
            )
        return immediate(
            OperatorSnapshot(
                self.context.operator_id, watermark=self._merge.watermark, idle=self._merge.idle, splits=tuple(splits)
            )
        )

    def checkpoint_completed(self, checkpoint_id: CheckpointId) -> None:
        self._reader.checkpoint_completed(checkpoint_id)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
