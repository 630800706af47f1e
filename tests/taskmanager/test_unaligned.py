"""Barriers that overtake data: what they leave behind on both ends of a channel is written down, once."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.elements import Barrier, Element, EndOfInput, InFlightEnd, Watermark
from penstock.runtime.graph.partitioning import Broadcast, Rebalance
from penstock.runtime.records.record_types import record_type_of
from penstock.state.errors import DamagedCheckpointError
from penstock.state.ids import Attempt, CheckpointId, JobId, OperatorId, SlotId
from penstock.state.snapshots import FileHandle
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.downloads import Downloads
from penstock.state.store.objects import Program, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.taskmanager.exchange.alignment import BarrierAligner
from penstock.taskmanager.exchange.gate import Aligned, Data, GateEvent, InputChannel, InputGate
from penstock.taskmanager.exchange.partitioners import partitioner_for
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.exchange.writers import OutputChannel, OutputOptions, RecordWriter, Writers
from penstock.taskmanager.in_flight import InFlight, Place, fetch_in_flight, may_overtake, sending_order
from penstock.taskmanager.messages import ChannelId
from penstock.testing.clock import ManualClock

EDGE = "a>b#0"
INTS = record_type_of(int)
WINDOW = 4_000


def ints(*values: int) -> Batch:
    return Batch.of_rows(INTS, list(values))


class Wire:
    """Keeps what was sent, and what was granted."""

    def __init__(self) -> None:
        self.elements: list[Element] = []
        self.grants: list[int] = []

    def send(self, target: SlotId, frame: Frame) -> None:
        self.elements.append(frame.element)

    def grant(self, source: SlotId, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        self.grants.append(nbytes)


def place(source: int, target: int = 0, received: bool = True) -> Place:
    return Place(OperatorId("a"), EDGE, source, target, received)


def gate_of(channels: int, wire: Wire, aligned_only: tuple[int, ...] = ()) -> InputGate:
    inputs = [
        InputChannel(ChannelId(0, source, 0), 0, WINDOW, None if source in aligned_only else place(source))
        for source in range(channels)
    ]
    return InputGate(inputs, ManualClock(), lambda c, n: wire.grants.append(n), BarrierAligner(channels))


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


def barrier(number: int = 1, after_ms: int = 0) -> Barrier:
    return Barrier(CheckpointId(number), 0, unaligned_after_ms=after_ms)


def written(in_flight: InFlight | None) -> dict[tuple[int, int, bool], list[int]]:
    """What is written down: (source, receiver, had arrived) -> records."""
    assert in_flight is not None
    store = ObstoreObjects("memory://")
    names = iter(range(100))
    uploads = CheckpointStore(JobId("job"), lambda: f"{next(names):04}").uploads(Attempt(1), CheckpointId(1))
    handles = run_program(in_flight.persist(uploads), store)
    recovered = run_program(fetch_in_flight(handles, Downloads()), store)
    found = zip(handles, recovered, strict=True)
    return {(h.source, h.receiver, h.received): [n for b in r.batches for n in b.rows()] for h, r in found}


def test_what_waits_before_the_barrier_is_written_down_and_processed_all_the_same() -> None:
    gate = gate_of(2, Wire())
    feed(gate, 0, ints(1), ints(2), Watermark(9), barrier(), ints(3))
    feed(gate, 1, ints(4), barrier(), ints(5))
    assert gate.overtaking(0) == barrier()
    aligned = gate.overtake(barrier(), None)
    assert aligned.in_flight is not None
    assert not gate.collects(aligned.in_flight)
    assert written(aligned.in_flight) == {(0, 0, True): [1, 2], (1, 0, True): [4]}
    assert sorted(values(drain(gate))) == [1, 2, 3, 4, 5]


def test_of_a_channel_without_its_barrier_everything_up_to_it_is_written_down() -> None:
    gate = gate_of(2, Wire())
    feed(gate, 0, barrier(), ints(1))
    feed(gate, 1, ints(2))
    in_flight = gate.overtake(barrier(), None).in_flight
    assert in_flight is not None
    assert values(drain(gate)) == [1, 2]
    feed(gate, 1, ints(3))
    assert gate.collects(in_flight)
    feed(gate, 1, barrier(), ints(4))
    assert not gate.collects(in_flight)
    assert written(in_flight) == {(1, 0, True): [2, 3]}
    assert values(drain(gate)) == [3, 4], "the barrier itself is not seen again"


def test_the_rest_of_the_batch_at_hand_goes_first() -> None:
    gate = gate_of(1, Wire())
    feed(gate, 0, ints(1, 2, 3), ints(4), barrier())
    assert values([event for event in [gate.poll()] if event is not None]) == [1, 2, 3]
    in_flight = gate.overtake(barrier(), ints(2, 3)).in_flight
    assert written(in_flight) == {(0, 0, True): [2, 3, 4]}


def test_a_barrier_that_is_not_due_aligns_as_ever() -> None:
    gate = gate_of(2, Wire())
    feed(gate, 0, barrier(after_ms=50), ints(1))
    assert gate.due_ms() == 50
    assert gate.overtaking(49) is None
    assert drain(gate) == []
    feed(gate, 1, barrier(after_ms=50))
    assert [event.in_flight for event in drain(gate) if isinstance(event, Aligned)] == [None]
    assert gate.overtaking(1_000) is None


def test_one_that_has_waited_long_enough_releases_the_channels_it_blocked() -> None:
    gate = gate_of(2, Wire())
    feed(gate, 0, ints(1), barrier(after_ms=50), ints(2))
    assert values(drain(gate)) == [1]
    assert gate.overtaking(50) is not None
    in_flight = gate.overtake(barrier(after_ms=50), None).in_flight
    feed(gate, 1, ints(3), barrier(after_ms=50))
    assert written(in_flight) == {(1, 0, True): [3]}
    assert sorted(values(drain(gate))) == [2, 3]


def test_a_barrier_that_was_made_urgent_on_its_way_is_so_for_all() -> None:
    gate = gate_of(2, Wire())
    feed(gate, 0, barrier(after_ms=10_000))
    feed(gate, 1, barrier(after_ms=0))
    assert gate.due_ms() == 0


def test_channels_that_must_stay_aligned_are_waited_for() -> None:
    gate = gate_of(2, Wire(), aligned_only=(1,))
    feed(gate, 0, ints(1))
    feed(gate, 1, ints(2), barrier(), ints(3))
    assert gate.overtaking(0) is None, "it has not been taken from that channel, behind its data"
    assert values(drain(gate)) == [1, 2]
    assert gate.overtaking(0) is not None
    feed(gate, 0, ints(4))
    in_flight = gate.overtake(barrier(), None).in_flight
    assert written(in_flight) == {(0, 0, True): [4]}
    assert sorted(values(drain(gate))) == [3, 4]
    assert not may_overtake(Broadcast())
    assert may_overtake(Rebalance())


def test_credit_is_not_withheld_when_the_barrier_is_taken_out() -> None:
    """The sender may be waiting for all of it, with a frame larger than the window."""
    wire = Wire()
    gate = gate_of(1, wire)
    feed(gate, 0, ints(1), barrier())
    assert gate.poll() is not None
    assert wire.grants == []
    gate.overtake(barrier(), None)
    assert sum(wire.grants) == ints(1).nbytes


def test_an_aborted_one_is_never_whole() -> None:
    for give_up in ("abort", "younger"):
        gate = gate_of(2, Wire())
        feed(gate, 0, barrier(1))
        in_flight = gate.overtake(barrier(1), None).in_flight
        assert in_flight is not None
        if give_up == "abort":
            gate.abort(CheckpointId(1))
        else:
            feed(gate, 1, barrier(2))
        assert in_flight.void
        feed(gate, 1, ints(7))
        assert written(in_flight) == {}


def test_a_channel_that_has_sent_all_that_was_under_way_waits_for_the_others() -> None:
    gate = gate_of(3, Wire())
    feed(gate, 0, ints(1), InFlightEnd(), ints(2))
    feed(gate, 1, InFlightEnd(), ints(3), EndOfInput())
    feed(gate, 2, ints(4))
    assert sorted(values(drain(gate))) == [1, 4]
    feed(gate, 2, ints(5), InFlightEnd())
    assert sorted(values(drain(gate))) == [2, 3, 5]


def test_channels_of_other_edges_are_not_waited_for() -> None:
    """What is under way on the one may have to go through the sender of the other, which waits for credit here."""
    inputs = [
        InputChannel(ChannelId(edge, source, 0), 0, WINDOW, place(source)) for edge in (0, 1) for source in (0, 1)
    ]
    gate = InputGate(inputs, ManualClock(), lambda _channel, _nbytes: None, BarrierAligner(4))

    def arrive(edge: int, source: int, *elements: Element) -> list[int]:
        for element in elements:
            gate.receive(Frame(Attempt(1), ChannelId(edge, source, 0), element, 0))
        return sorted(values(drain(gate)))

    assert arrive(0, 0, ints(1), InFlightEnd(), ints(2)) == [1]
    assert arrive(0, 1, ints(3), InFlightEnd(), ints(4)) == [2, 3, 4]
    assert arrive(1, 0, InFlightEnd(), ints(5)) == []
    assert arrive(1, 1, ints(6), InFlightEnd()) == [5, 6]


class Outputs:
    """One output channel of a window that two batches fill."""

    def __init__(self, *, overtakable: bool = True) -> None:
        self.wire = Wire()
        options = OutputOptions(flush_bytes=1, flush_after_ns=0, window_bytes=2 * ints(0).nbytes)
        where = place(0, 0, received=False) if overtakable else None
        self.channel = OutputChannel(ChannelId(0, 0, 0), SlotId("b"), Attempt(1), self.wire, options, lambda: 0, where)
        for number in range(4):
            self.channel.add(ints(number), 0)

    @property
    def sent(self) -> list[object]:
        return [e.rows() if isinstance(e, Batch) else type(e) for e in self.wire.elements]


def test_the_barrier_goes_ahead_of_what_waits_for_credit() -> None:
    outputs = Outputs()
    assert outputs.sent == [[0], [1]]
    in_flight = InFlight(barrier())
    outputs.channel.overtake(barrier(), in_flight)
    assert outputs.sent == [[0], [1], Barrier]
    assert written(in_flight) == {(0, 0, False): [2, 3]}
    outputs.channel.window.granted(2 * ints(0).nbytes)
    outputs.channel.pump()
    assert outputs.sent == [[0], [1], Barrier, [2], [3]]


def test_a_barrier_that_waits_in_the_output_overtakes_what_was_before_it() -> None:
    outputs = Outputs()
    outputs.channel.add_control(barrier(after_ms=50))
    outputs.channel.add(ints(9), 0)
    assert outputs.channel.waits(CheckpointId(1))
    in_flight = InFlight(barrier(after_ms=50))
    outputs.channel.overtake(barrier(), in_flight)
    assert not outputs.channel.waits(CheckpointId(1))
    assert written(in_flight) == {(0, 0, False): [2, 3]}, "what came after it does not belong to the checkpoint"
    assert outputs.sent == [[0], [1], Barrier]


def test_on_an_edge_that_stays_aligned_it_keeps_its_place() -> None:
    outputs = Outputs(overtakable=False)
    in_flight = InFlight(barrier())
    outputs.channel.overtake(barrier(), in_flight)
    assert outputs.sent == [[0], [1]]
    assert not outputs.channel.waits(CheckpointId(1))
    assert written(in_flight) == {}


def test_of_two_edges_of_one_name_the_one_that_was_overtaken_sends_again() -> None:
    """A stream that is united with itself, broadcast: its records are not to go to everybody now."""
    one, other = Outputs(overtakable=False).channel, Outputs().channel
    to_all, to_one = (
        RecordWriter(partitioner_for(kind, 0, 1, 1, 128), {0: channel}, EDGE)
        for kind, channel in ((Broadcast(), one), (Rebalance(), other))
    )
    assert Writers({(0, None): [to_all, to_one]}, lambda: 0).of_edge(EDGE) is to_one
    assert Writers({(0, None): [to_all]}, lambda: 0).of_edge(EDGE) is to_all
    assert Writers({(0, None): [to_all]}, lambda: 0).of_edge("c>d#0") is None


def test_what_was_written_can_be_read_without_knowing_what_went_before() -> None:
    typed, opaque = record_type_of(dict[str, int]), record_type_of(object)
    batches = [
        Batch.of_rows(INTS, [1, 2], [10, 20]),
        Batch.of_columns(INTS, pa.record_batch({"value": pa.array([3, 4])})),
        Batch.of_rows(opaque, [object, "x", 3.5]),
        Batch.of_rows(typed, [{"a": 1}, {}]),
    ]
    for batch in batches[:1] + batches[2:]:
        in_flight = InFlight(barrier())
        in_flight.add(place(0), batch)
        in_flight.add(place(0), batch)
        store = ObstoreObjects("memory://")
        uploads = CheckpointStore(JobId("job"), lambda: "0001").uploads(Attempt(1), CheckpointId(1))
        handles = run_program(in_flight.persist(uploads), store)
        (recovered,) = run_program(fetch_in_flight(handles, Downloads()), store)
        assert [again.rows() for again in recovered.batches] == 2 * [batch.rows()]
        assert recovered.batches[0].timestamp_list() == batch.timestamp_list()


def test_a_record_that_cannot_be_written_down_is_the_checkpoint_s_failure_and_no_other() -> None:
    """It may be fine where it is: nothing is encoded within a slot. It arrives outside of any task's step."""
    gate = gate_of(2, Wire())
    feed(gate, 0, barrier())
    in_flight = gate.overtake(barrier(), None).in_flight
    assert in_flight is not None
    lock = threading.Lock()
    feed(gate, 1, Batch.of_rows(record_type_of(object), [lock]), ints(1))
    assert isinstance(in_flight.failure, TypeError)
    assert values(drain(gate)) == [lock, 1]
    assert in_flight.nbytes == 0


def test_damage_is_told_with_the_file_s_name() -> None:
    store = ObstoreObjects("memory://")
    uploads = CheckpointStore(JobId("job"), lambda: "0001").uploads(Attempt(1), CheckpointId(1))
    in_flight = InFlight(barrier())
    in_flight.add(place(0), ints(1, 2, 3))
    (handle,) = run_program(in_flight.persist(uploads), store)
    cut = run_program(uploads_of(b"\x01\x02"), store)
    with pytest.raises(DamagedCheckpointError, match=r"0009 holds records under way that cannot be read"):
        run_program(fetch_in_flight([type(handle)(handle.operator_id, EDGE, 0, 0, True, cut)], Downloads()), store)


def uploads_of(data: bytes) -> Program[FileHandle]:
    uploads = CheckpointStore(JobId("job"), lambda: "0009").uploads(Attempt(1), CheckpointId(2))
    return uploads.put_bytes(data)


def test_records_are_sent_again_in_the_order_of_their_channels() -> None:
    in_flight = InFlight(barrier())
    for source, target, arrived in [(1, 0, False), (0, -1, False), (0, 1, False), (0, 1, True), (0, 0, False)]:
        in_flight.add(place(source, target, arrived), ints(1))
    store = ObstoreObjects("memory://")
    names = iter(range(9))
    uploads = CheckpointStore(JobId("job"), lambda: f"{next(names):04}").uploads(Attempt(1), CheckpointId(1))
    ordered = sending_order(run_program(in_flight.persist(uploads), store))
    assert [(h.source, h.receiver, h.received) for h in ordered] == [
        (0, 0, False), (0, 1, True), (0, 1, False), (0, -1, False), (1, 0, False),
    ]  # fmt: skip
