"""What is under way on a channel is what its receiver consumes within the target time."""

from __future__ import annotations

from collections import deque

import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.elements import Barrier, Element
from penstock.runtime.records.record_types import record_type_of
from penstock.state.ids import Attempt, CheckpointId, SlotId
from penstock.taskmanager.exchange.credit import ReceiveWindow
from penstock.taskmanager.exchange.drain_time import LEAST_BYTES, DrainTime
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.exchange.writers import OutputChannel, OutputOptions
from penstock.taskmanager.messages import ChannelId

WINDOW = 1 << 20
TARGET_NS = 250_000_000
MS = 1_000_000


class SlowReceiver:
    """A transport to a receiver that consumes so many bytes a second, and answers a millisecond later."""

    def __init__(self, bytes_per_s: float, target_ns: int = TARGET_NS) -> None:
        self.now_ns = 0
        self.ns_per_byte = 1e9 / bytes_per_s
        self.queue: deque[Frame] = deque()
        self.consumed: list[tuple[int, Element]] = []
        options = OutputOptions(256 * 1024, 10 * MS, WINDOW, target_ns)
        self.output = OutputChannel(ChannelId(0, 0, 0), SlotId("other"), Attempt(1), self, options, lambda: self.now_ns)
        self._window = ReceiveWindow(WINDOW)

    def send(self, target: SlotId, frame: Frame) -> None:
        self.queue.append(frame)

    def grant(self, source: SlotId, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        raise NotImplementedError

    def run(self, until_ns: int) -> None:
        """The sender always has more."""
        while self.now_ns < until_ns:
            while not self.output.queue:
                self.output.add(batch(1_000), self.now_ns)
            self.consume()

    def consume(self) -> None:
        frame = self.queue.popleft()
        self.now_ns += round(frame.nbytes * self.ns_per_byte)
        self.consumed.append((self.now_ns, frame.element))
        granted = self._window.consume(frame.nbytes, not self.queue)
        if granted:
            self.now_ns += MS
            self.output.granted(granted)

    def barrier_takes_ns(self) -> int:
        barrier, began_ns = Barrier(CheckpointId(1), 0), self.now_ns
        self.output.add_control(barrier)
        while not any(element is barrier for _, element in self.consumed):
            self.consume()
        return self.now_ns - began_ns


def batch(rows: int) -> Batch:
    return Batch.of_rows(record_type_of(int), list(range(rows)))


@pytest.mark.parametrize("bytes_per_s", [400_000, 1_000_000, 3_000_000])
def test_a_barrier_to_a_slow_receiver_waits_about_the_target(bytes_per_s: int) -> None:
    receiver = SlowReceiver(bytes_per_s)
    receiver.run(20 * TARGET_NS)
    assert receiver.barrier_takes_ns() < 2 * TARGET_NS
    whole = SlowReceiver(bytes_per_s, target_ns=0)
    whole.run(20 * TARGET_NS)
    assert whole.barrier_takes_ns() > 0.7 * WINDOW / bytes_per_s * 1e9


def test_a_slow_receiver_never_waits_for_its_sender() -> None:
    receiver = SlowReceiver(1_000_000)
    receiver.run(40 * TARGET_NS)
    consumed = sum(e.nbytes for at_ns, e in receiver.consumed if isinstance(e, Batch))
    assert consumed > 0.95 * receiver.now_ns / 1e9 * 1_000_000


def test_a_fast_receiver_gets_the_whole_window_after_a_few_grants() -> None:
    drain, now_ns, rounds = DrainTime(WINDOW, TARGET_NS), 0, 0
    assert drain.limit_bytes == LEAST_BYTES
    while drain.limit_bytes < WINDOW:
        drain.began(now_ns)
        now_ns += 5 * MS + drain.limit_bytes  # a gigabyte a second
        drain.granted(drain.limit_bytes, 0, now_ns)
        rounds += 1
    assert rounds <= 3


def test_one_pause_halves_what_is_used_at_most_and_idle_time_is_no_pause() -> None:
    drain = DrainTime(WINDOW, TARGET_NS)
    drain.began(0)
    drain.granted(WINDOW, 0, MS)
    assert drain.limit_bytes == WINDOW
    drain.began(3_600 * 1_000 * MS)
    drain.granted(WINDOW, 0, 3_600 * 1_000 * MS + MS)
    assert drain.limit_bytes == WINDOW
    drain.began(0)
    drain.granted(1_000, 0, 10_000 * MS)
    assert drain.limit_bytes == WINDOW // 2


def test_a_window_smaller_than_the_least_is_used_whole() -> None:
    assert DrainTime(1_000, TARGET_NS).limit_bytes == 1_000
