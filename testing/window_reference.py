"""Windows as one would explain them: one record at a time, everything in dicts, nothing folded, shared or numbered.

What a window operator gives out, in whatever way it does it, must be what `WindowReference` has fired: the same results
with the same timestamps, as often, and the same late records. It follows the life of a window in Flink's documentation
word by word. Assigners, triggers and evictors are the real ones, given contexts over dicts.

    reference = WindowReference(SlidingEventTimeWindows("10s", "2s"), CountTrigger(3), on_fire=print)
    reference.record("key", record, timestamp)
    reference.advance(watermark, event_time=True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..runtime.metrics import MetricGroup
from ..runtime.windows.assigner import MergingWindowAssigner, WindowAssigner
from ..runtime.windows.evictors import Evictor, EvictorContext, TimestampedValue
from ..runtime.windows.trigger import OnMergeContext, Trigger, TriggerResult
from ..runtime.windows.windows import MAX_TIMESTAMP


@dataclass
class WindowReference:
    """A window operator for all keys. `on_fire` is told of every firing: key, window, elements."""

    assigner: WindowAssigner
    trigger: Trigger
    on_fire: Callable[[Any, Any, list[Any]], None]
    evictor: Evictor | None = None
    lateness: int = 0
    watermark: int = -(2**63)
    now_ms: int = 0
    contents: dict[Any, list[TimestampedValue]] = field(default_factory=dict)
    state: dict[Any, Any] = field(default_factory=dict)
    timers: dict[bool, set[Any]] = field(default_factory=lambda: {True: set(), False: set()})
    """(time, key, window), of event time and of the clock."""
    open: dict[Any, list[Any]] = field(default_factory=dict)
    """Of a key, where windows merge."""
    late: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.event_time = self.assigner.is_event_time
        self.merging = isinstance(self.assigner, MergingWindowAssigner)
        if not self.event_time:
            self.lateness = 0

    def cleanup(self, window: Any) -> int:
        last: int = window.max_timestamp()
        return min(last + self.lateness, MAX_TIMESTAMP)

    def is_over(self, window: Any) -> bool:
        return self.event_time and self.cleanup(window) <= self.watermark

    def record(self, key: Any, record: Any, timestamp: int) -> None:
        in_time = False
        for assigned in self.assigner.assign_windows(record, timestamp if self.event_time else self.now_ms):
            window = self.merged(key, assigned) if self.merging else assigned
            if self.is_over(window):
                continue
            in_time = True
            self.contents.setdefault((key, window), []).append(TimestampedValue(record, timestamp))
            self.act(key, window, self.trigger.on_element(record, timestamp, window, _Context(self, key, window)))
            if self.cleanup(window) < MAX_TIMESTAMP:
                self.timers[self.event_time].add((self.cleanup(window), key, window))
        if self.event_time and not in_time and timestamp + self.lateness <= self.watermark:
            self.late.append(record)

    def merged(self, key: Any, window: Any) -> Any:
        known = self.open.setdefault(key, [])
        actual = window
        assert isinstance(self.assigner, MergingWindowAssigner)
        for members, result in self.assigner.merge_windows([*known] if window in known else [*known, window]):
            old = [member for member in members if member in known]
            if window in members:
                actual = result
            if old == [result]:
                continue
            moved = [element for member in old for element in self.contents.pop((key, member), [])]
            context = _Context(self, key, result, old)
            self.trigger.on_merge(result, context)
            for member in old:
                known.remove(member)
                self.trigger.clear(member, _Context(self, key, member))
                self.timers[self.event_time].discard((self.cleanup(member), key, member))
            known.append(result)
            if moved:
                self.contents[key, result] = moved
        if actual not in known and not self.is_over(actual):
            known.append(actual)
        return actual

    def act(self, key: Any, window: Any, result: TriggerResult) -> None:
        kept = self.contents.get((key, window), [])
        if result.is_fire() and kept:
            self.fire(key, window, kept)
        if result.is_purge():
            self.contents.pop((key, window), None)

    def fire(self, key: Any, window: Any, kept: list[TimestampedValue]) -> None:
        context = _Context(self, key, window)
        if self.evictor is not None:
            self.evictor.evict_before(kept, len(kept), window, context)
        self.on_fire(key, window, [element.value for element in kept])
        if self.evictor is not None:
            self.evictor.evict_after(kept, len(kept), window, context)

    def advance(self, time: int, event_time: bool) -> None:
        """To a watermark, or a time of the clock: its timers are due when their ms is over."""
        if event_time:
            self.watermark = time
        else:
            self.now_ms = time
            time -= 1
        timers = self.timers[event_time]
        while timers and min(timers, key=lambda timer: timer[0])[0] <= time:
            due_ms, key, window = timer = min(timers, key=lambda timer: timer[0])
            timers.remove(timer)
            self.on_timer(due_ms, key, window, event_time)

    def on_timer(self, time: int, key: Any, window: Any, event_time: bool) -> None:
        if self.merging and window not in self.open.get(key, []):
            return
        context = _Context(self, key, window)
        on_time = self.trigger.on_event_time if event_time else self.trigger.on_processing_time
        self.act(key, window, on_time(time, window, context))
        if event_time == self.event_time and time == self.cleanup(window):
            self.contents.pop((key, window), None)
            self.trigger.clear(window, context)
            if self.merging:
                self.open[key].remove(window)
        elif self.cleanup(window) < MAX_TIMESTAMP:
            self.timers[self.event_time].add((self.cleanup(window), key, window))

    def is_empty(self) -> bool:
        """Nothing is left of any window."""
        return not (any(self.contents.values()) or self.state or any(self.timers.values()) or any(self.open.values()))


class _Context(OnMergeContext, EvictorContext):
    def __init__(self, reference: WindowReference, key: Any, window: Any, merged: list[Any] | None = None) -> None:
        self.reference = reference
        self.key = key
        self.window = window
        self.merged = merged or []

    def get_current_watermark(self) -> int:
        return self.reference.watermark

    def get_current_processing_time(self) -> int:
        return self.reference.now_ms

    def get_metric_group(self) -> MetricGroup:
        raise NotImplementedError

    def register_event_time_timer(self, time: int) -> None:
        self.reference.timers[True].add((time, self.key, self.window))

    def register_processing_time_timer(self, time: int) -> None:
        self.reference.timers[False].add((time, self.key, self.window))

    def delete_event_time_timer(self, time: int) -> None:
        self.reference.timers[True].discard((time, self.key, self.window))

    def delete_processing_time_timer(self, time: int) -> None:
        self.reference.timers[False].discard((time, self.key, self.window))

    def get_partitioned_state(self, state_descriptor: Any) -> Any:
        return _Cell(self.reference.state, (self.key, self.window, state_descriptor.name), state_descriptor)

    def merge_partitioned_state(self, state_descriptor: Any) -> None:
        own = self.get_partitioned_state(state_descriptor)
        for window in self.merged:
            part = self.reference.state.pop((self.key, window, state_descriptor.name), None)
            if part is not None:
                own.add(part)


class _Cell:
    """Value and reducing state."""

    def __init__(self, state: dict[Any, Any], place: Any, descriptor: Any) -> None:
        self.state = state
        self.place = place
        self.descriptor = descriptor

    def get(self) -> Any:
        return self.state.get(self.place)

    value = get

    def update(self, value: Any) -> None:
        self.state[self.place] = value

    def add(self, value: Any) -> None:
        known = self.get()
        self.update(value if known is None else self.descriptor.reduce(known, value))

    def clear(self) -> None:
        self.state.pop(self.place, None)
