"""A job that has something to show of everything: event times, channels, keyed state in RocksDB, timers, checkpoints.

About a thousand records a second and subtask.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import penstock as ps
from penstock.connectors.collections import SequenceSource
from penstock.connectors.discard import DiscardingSink

PAUSE_S = 0.001
KEYS = 100
NUMBERS = 10**9
BEGAN_MS = time.time_ns() // 1_000_000
FAR_MS = 10**9


class Slow(ps.MapFunction):
    def map(self, number: int) -> int:
        threading.Event().wait(PAUSE_S)
        return number


class Counted(ps.KeyedProcessFunction):
    def open(self, context: Any) -> None:
        self.count = context.get_state(ps.ValueStateDescriptor[int]("count", int))

    def process_element(self, number: int, context: Any) -> Iterator[int]:
        count = (self.count.value() or 0) + 1
        self.count.update(count)
        context.timer_service().register_event_time_timer(BEGAN_MS + FAR_MS)
        yield count


def at(number: int, _: Any) -> int:
    """Both subtasks, which read a half each, begin now."""
    return BEGAN_MS + number % (NUMBERS // 2)


env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("500ms")
strategy = ps.WatermarkStrategy.for_monotonous_timestamps().with_timestamp_assigner(at)
(
    env.from_source(SequenceSource(0, NUMBERS - 1), strategy, name="numbers")
    .map(Slow(), name="slow")
    .key_by(lambda number: number % KEYS)
    .process(Counted(), name="counted")
    .uid("counted")
    .sink_to(DiscardingSink())
)
env.execute("metered")
