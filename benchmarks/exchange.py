"""What the in-process exchange adds to a batch: writer, credit, transport, gate, grant. Microseconds of CPU.

Batches of 1,000 rows go from record writers to an input gate over the local transport, as between two tasks of a
local job; handing the same batches over a plain deque is the floor that is subtracted.

    python benchmarks/exchange.py [--batches 20000]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque

from penstock.runtime.batch import Batch
from penstock.runtime.clock import SystemClock
from penstock.runtime.records.record_types import record_type_of
from penstock.state.ids import Attempt, SlotId
from penstock.taskmanager.deployment import FLUSH_BYTES
from penstock.taskmanager.exchange.alignment import BarrierAligner
from penstock.taskmanager.exchange.gate import Data, InputChannel, InputGate
from penstock.taskmanager.exchange.local_transport import LocalTransport
from penstock.taskmanager.exchange.partitioners import ToOne
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.exchange.writers import OutputChannel, OutputOptions, RecordWriter, Writers
from penstock.taskmanager.messages import ChannelId

LIMIT_US = 50.0
WINDOW = 1 << 20
CHANNEL = ChannelId(0, 0, 0)


class Ends:
    """Both ends of one channel."""

    def __init__(self) -> None:
        transport, clock = LocalTransport(), SystemClock()
        transport.attach(SlotId("here"), self)
        options = OutputOptions(flush_bytes=FLUSH_BYTES, flush_after_ns=10_000_000, window_bytes=WINDOW)
        self.output = OutputChannel(CHANNEL, SlotId("here"), Attempt(1), transport, options, clock.monotonic_ns)
        self.writer = RecordWriter(ToOne(0), {0: self.output})
        self.writers = Writers({(0, None): [self.writer]}, clock.monotonic_ns)
        self.gate = InputGate(
            [InputChannel(CHANNEL, 0, WINDOW)],
            clock,
            lambda channel, nbytes: transport.grant(SlotId("here"), Attempt(1), channel, nbytes),
            BarrierAligner(1),
        )

    def receive(self, frame: Frame) -> None:
        self.gate.receive(frame)

    def granted(self, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        self.writers.granted(channel, nbytes)

    def arrived(self) -> int:
        """Rows."""
        rows = 0
        while isinstance(event := self.gate.poll(), Data):
            rows += len(event.batch)
        return rows

    def disconnected(self, peer: SlotId, newest: Attempt | None, reason: str = "") -> None:
        raise AssertionError(f"{peer} was not cut off")


def exchanged_us(batches: list[Batch]) -> float:
    """Per batch."""
    ends = Ends()
    rows = 0
    began = time.process_time_ns()
    for batch in batches:
        ends.writer.emit(batch, time.monotonic_ns())
        ends.writers.flush_due(time.monotonic_ns())
        rows += ends.arrived()
    ends.output.flush()
    rows += ends.arrived()
    took = time.process_time_ns() - began
    assert rows == sum(map(len, batches))
    assert not ends.writers.blocked
    return took / len(batches) / 1_000


def handed_over_us(batches: list[Batch]) -> float:
    """Per batch, over a deque."""
    queue: deque[Batch] = deque()
    rows = 0
    began = time.process_time_ns()
    for batch in batches:
        queue.append(batch)
        rows += len(queue.popleft())
    return (time.process_time_ns() - began) / len(batches) / 1_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=20_000)
    arguments = parser.parse_args()
    record_type = record_type_of(int)
    values = list(range(1_000))
    times = list(range(1_000))

    def fresh() -> list[Batch]:
        return [Batch.of_rows(record_type, values, times) for _ in range(arguments.batches)]

    floor = min(handed_over_us(fresh()) for _ in range(3))
    exchange = min(exchanged_us(fresh()) for _ in range(3))
    print(
        json.dumps(
            {
                "benchmark": "in_process_exchange",
                "value": round(exchange - floor, 2),
                "unit": "us/batch of 1,000 rows",
                "floor": round(floor, 3),
                "limit": LIMIT_US,
            }
        )
    )


if __name__ == "__main__":
    main()
