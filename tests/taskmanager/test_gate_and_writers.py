"""The input gate and the output channels, tied together by a transport that a test can look into."""

from __future__ import annotations

from penstock.runtime.batch import Batch
from penstock.runtime.elements import (
    MAX_WATERMARK,
    Barrier,
    Element,
    EndOfInput,
    LatencyMarker,
    Watermark,
    WatermarkStatus,
)
from penstock.runtime.records.record_types import record_type_of
from penstock.state.ids import Attempt, CheckpointId, SlotId
from penstock.taskmanager.exchange.alignment import BarrierAligner
from penstock.taskmanager.exchange.gate import Aligned, AllEnded, Data, GateEvent, InputChannel, InputGate
from penstock.taskmanager.exchange.partitioners import RoundRobinPartitioner, ToOne
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.exchange.writers import OutputChannel, OutputOptions, RecordWriter, Writers
from penstock.taskmanager.messages import ChannelId
from penstock.testing.clock import ManualClock

INTS = record_type_of(int)
WINDOW = 4_000


def ints(*values: int) -> Batch:
    return Batch.of_rows(INTS, list(values))


class Wire:
    """Keeps what was sent; credit goes back at once or when the test says so."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.grants: list[tuple[ChannelId, int]] = []

    def send(self, target: SlotId, frame: Frame) -> None:
        self.frames.append(frame)

    def grant(self, source: SlotId, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        self.grants.append((channel, nbytes))

    @property
    def elements(self) -> list[Element]:
        return [frame.element for frame in self.frames]


def gate_of(channels: int, wire: Wire, two_inputs: bool = False) -> InputGate:
    """two_inputs: half of the channels are of the second."""
    second = channels // 2 if two_inputs else channels
    inputs = [InputChannel(ChannelId(0, source, 0), int(source >= second), WINDOW) for source in range(channels)]
    return InputGate(inputs, ManualClock(), lambda c, n: wire.grants.append((c, n)), BarrierAligner(channels))


def feed(gate: InputGate, source: int, *elements: Element) -> None:
    for element in elements:
        nbytes = element.nbytes if isinstance(element, Batch) else 0
        gate.receive(Frame(Attempt(1), ChannelId(0, source, 0), element, nbytes))


def drain(gate: InputGate) -> list[GateEvent]:
    events = []
    while (event := gate.poll()) is not None:
        events.append(event)
    return events


def values(events: list[GateEvent]) -> list[int]:
    return [value for event in events if isinstance(event, Data) for value in event.batch.rows()]


def test_a_channel_past_its_barrier_is_neither_consumed_nor_granted() -> None:
    wire = Wire()
    gate = gate_of(2, wire)
    barrier = Barrier(CheckpointId(1), 0)
    feed(gate, 0, ints(1), barrier, ints(2))
    feed(gate, 1, ints(3))
    assert values(drain(gate)) == [1, 3]
    assert [n for channel, n in wire.grants if channel.source == 0] == []
    feed(gate, 1, barrier, ints(4))
    events = drain(gate)
    assert isinstance(events[0], Aligned)
    assert sorted(values(events)) == [2, 4]


def test_what_is_consumed_while_a_checkpoint_aligns_is_counted() -> None:
    gate, barrier = gate_of(2, Wire()), Barrier(CheckpointId(1), 0)
    feed(gate, 0, ints(1, 2), barrier)
    feed(gate, 1, ints(3))
    drain(gate)
    feed(gate, 1, ints(4, 5), ints(6), barrier, ints(7))
    (aligned,) = (event for event in drain(gate) if isinstance(event, Aligned))
    assert aligned.processed_bytes == ints(4, 5).nbytes + ints(6).nbytes


def test_credit_is_not_withheld_when_a_control_element_empties_the_queue() -> None:
    """The sender may be waiting for all of it, with a frame larger than the window."""
    wire = Wire()
    gate = gate_of(1, wire)
    feed(gate, 0, ints(1), Watermark(5))
    drain(gate)
    assert sum(n for _, n in wire.grants) == ints(1).nbytes


def test_watermarks_come_out_as_the_minimum_and_idle_channels_do_not_hold_them_back() -> None:
    gate = gate_of(2, Wire())
    feed(gate, 0, Watermark(10))
    assert drain(gate) == []
    feed(gate, 1, Watermark(5))
    assert drain(gate) == [Watermark(5)]
    feed(gate, 1, WatermarkStatus(idle=True))
    assert drain(gate) == [Watermark(10)]
    feed(gate, 0, WatermarkStatus(idle=True))
    assert drain(gate) == [WatermarkStatus(idle=True)]
    feed(gate, 0, WatermarkStatus(idle=False), Watermark(20))
    assert drain(gate) == [WatermarkStatus(idle=False), Watermark(20)]


def test_both_inputs_idle_and_active_again_and_one_of_them_ended() -> None:
    """Of two channels each; the time of an input that has ended does not end that of one that is idle."""
    gate = gate_of(4, Wire(), two_inputs=True)
    for channel, watermark in enumerate((10, 20, 30, 40)):
        feed(gate, channel, Watermark(watermark), WatermarkStatus(idle=True))
    assert drain(gate) == [Watermark(40), WatermarkStatus(idle=True)]
    feed(gate, 3, WatermarkStatus(idle=False))
    assert drain(gate) == [WatermarkStatus(idle=False)]
    feed(gate, 0, WatermarkStatus(idle=False), Watermark(50))
    assert drain(gate) == []
    feed(gate, 3, Watermark(45))
    assert drain(gate) == [Watermark(45)]
    for channel in (2, 3):
        feed(gate, channel, Watermark(MAX_WATERMARK), EndOfInput())
    assert drain(gate) == [Watermark(50)]
    feed(gate, 0, WatermarkStatus(idle=True))
    assert drain(gate) == [WatermarkStatus(idle=True)]
    feed(gate, 1, WatermarkStatus(idle=False), Watermark(60))
    assert drain(gate) == [WatermarkStatus(idle=False), Watermark(60)]
    for channel in (0, 1):
        feed(gate, channel, Watermark(MAX_WATERMARK), EndOfInput())
    assert drain(gate) == [Watermark(MAX_WATERMARK), AllEnded()]


def test_ends_once_when_all_channels_have_ended_and_still_takes_barriers() -> None:
    gate = gate_of(2, Wire())
    feed(gate, 0, Watermark(MAX_WATERMARK), EndOfInput())
    assert drain(gate) == []
    feed(gate, 1, ints(1), Watermark(MAX_WATERMARK), EndOfInput())
    events = drain(gate)
    assert values(events) == [1]
    assert events[1:] == [Watermark(MAX_WATERMARK), AllEnded()]
    for source in (0, 1):
        feed(gate, source, Barrier(CheckpointId(3), 0))
    assert [type(event) for event in drain(gate)] == [Aligned]


def output(wire: Wire, flush_bytes: int = 1_000_000, window: int = WINDOW) -> OutputChannel:
    options = OutputOptions(flush_bytes=flush_bytes, flush_after_ns=10, window_bytes=window)
    return OutputChannel(ChannelId(0, 0, 0), SlotId("other"), Attempt(1), wire, options, lambda: 0)


def test_small_batches_are_gathered_until_the_timeout() -> None:
    wire = Wire()
    channel = output(wire)
    channel.add(ints(1), now_ns=100)
    channel.add(ints(2), now_ns=105)
    writers = Writers({(0, None): [RecordWriter(ToOne(0), {0: channel})]}, lambda: 0)
    writers.flush_due(109)
    assert wire.frames == []
    assert writers.next_flush_ns() == 110
    writers.flush_due(110)
    assert [e.rows() for e in wire.elements if isinstance(e, Batch)] == [[1, 2]]
    assert writers.next_flush_ns() is None


def test_a_barrier_flushes_and_overtakes_nothing() -> None:
    wire = Wire()
    channel = output(wire)
    channel.add(ints(1), 0)
    channel.add_watermark(Watermark(5), 0)
    channel.add_watermark(Watermark(7), 0)
    channel.add_watermark(Watermark(6), 0)
    channel.add_control(Barrier(CheckpointId(1), 0))
    channel.add_watermark(Watermark(6), 0)
    channel.flush()
    kinds = [type(e).__name__ for e in wire.elements]
    assert kinds == ["Batch", "Watermark", "Barrier"]
    assert wire.elements[1] == Watermark(7), "only the newest watermark is kept"


def test_without_credit_everything_waits_in_order_and_the_writers_are_blocked() -> None:
    wire = Wire()
    channel = output(wire, flush_bytes=1, window=100)
    first, second = ints(1), ints(2)
    channel.add(first, 0)
    channel.add(second, 0)
    writers = Writers({(0, None): [RecordWriter(ToOne(0), {0: channel})]}, lambda: 0)
    channel.window.sent(100 - channel.window.outstanding)  # nothing is left
    channel.add(ints(3), 0)
    writers.latency_marker(LatencyMarker(0, "source"))
    sent = len(wire.frames)
    assert writers.blocked
    writers.granted(channel.id, channel.window.outstanding)
    while channel.queue:
        writers.granted(channel.id, channel.window.outstanding)
    assert not writers.blocked
    assert len(wire.frames) > sent
    assert [e.rows()[0] for e in wire.elements if isinstance(e, Batch)] == [1, 2, 3]
    assert isinstance(wire.elements[-1], LatencyMarker)


def test_a_large_batch_is_cut_at_half_a_window() -> None:
    wire = Wire()
    channel = output(wire, flush_bytes=1, window=10_000)
    channel.add(ints(*range(1_000)), 0)
    while channel.queue:
        channel.window.granted(channel.window.outstanding)
        channel.pump()
    pieces = wire.frames
    assert len(pieces) > 2
    assert all(frame.nbytes <= 10_000 // 2 + 100 for frame in pieces)
    assert [v for e in wire.elements if isinstance(e, Batch) for v in e.rows()] == list(range(1_000))


def test_every_target_gets_the_watermarks_of_a_round_robin_edge() -> None:
    wire = Wire()
    channels = {t: output(wire, flush_bytes=1) for t in range(3)}
    writer = RecordWriter(RoundRobinPartitioner(range(3), 0), channels)
    writer.watermark(Watermark(3), 0)
    writer.control(EndOfInput())
    assert sum(isinstance(e, Watermark) for e in wire.elements) == 3
    assert sum(isinstance(e, EndOfInput) for e in wire.elements) == 3


def test_a_latency_marker_goes_to_one_target_each_time_the_next() -> None:
    wire = Wire()
    wires = [Wire() for _ in range(3)]
    writer = RecordWriter(RoundRobinPartitioner(range(3), 0), {t: output(wires[t]) for t in range(3)})
    alone = RecordWriter(ToOne(0), {0: output(wire)})
    writers = Writers({(0, None): [writer, alone]}, lambda: 0)
    for number in range(4):
        writers.latency_marker(LatencyMarker(number, "source"))
    created = [[e.created_at_ms for e in each.elements if isinstance(e, LatencyMarker)] for each in (*wires, wire)]
    assert created == [[0, 3], [1], [2], [0, 1, 2, 3]]


def test_what_waits_and_what_may_be_sent_is_known() -> None:
    wire = Wire()
    channel = output(wire, flush_bytes=1, window=100)
    writers = Writers({(0, None): [RecordWriter(ToOne(0), {0: channel})]}, lambda: 0)
    assert (writers.credits_available_bytes, writers.queued_bytes) == (100, 0)
    sent, waits = ints(1, 2), ints(*range(10))
    channel.add(sent, 0)
    assert (writers.credits_available_bytes, writers.queued_bytes) == (100 - sent.nbytes, 0)
    channel.window.sent(100 - channel.window.outstanding)
    channel.add(waits, 0)
    assert (writers.credits_available_bytes, writers.queued_bytes) == (0, waits.nbytes)
