"""A job whose sink takes about a thousand records a second and subtask, from a source that could give a million."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import penstock as ps
from penstock.connectors.collections import SequenceSource
from penstock.connectors.discard import DiscardingSink

PAUSE_S = 0.001


@dataclass(frozen=True)
class Page:
    number: int
    text: str


def page(number: int) -> Page:
    return Page(number, f"{number:1000d}")


class SlowSink(ps.MapFunction):
    def map(self, record: Page) -> int:
        threading.Event().wait(PAUSE_S)
        return record.number


env = ps.StreamExecutionEnvironment()
(
    env.from_source(SequenceSource(0, 10**9), ps.WatermarkStrategy.no_watermarks(), name="numbers")
    .map(page)
    .rebalance()
    .map(SlowSink(), name="slow")
    .sink_to(DiscardingSink())
)
env.execute("slow sink")
