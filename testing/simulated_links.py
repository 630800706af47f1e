"""The simulator's network: connections between slots that carry frames and credit, and control links to the master.

Every direction of a link keeps its order. A connection between two slots may become slow, or break: what is on its way
is lost, and so is everything that attempts of before the break still send, because a broken connection must not look
whole again to either end; both ends are told, each after a while of its own. A slot that dies breaks all its
connections. Control links only delay: what gets lost there is lost with a process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..state.ids import Attempt, SlotId
from ..taskmanager.exchange.transport import Frame
from ..taskmanager.messages import ChannelId
from ..taskmanager.slot import Slot
from .virtual_time import MS, Call, Process, VirtualTime

ChannelKey = tuple[Attempt, ChannelId]
FrameObserver = Callable[[SlotId, SlotId, Frame], None]
"""(from, to, frame), when it is sent."""


class Station(Protocol):
    """A slot and its process, as the network sees them."""

    process: Process
    slot: Slot

    def receive(self, call: Call) -> None:
        """Run the call as something that has arrived; the slot takes a step after it."""
        ...


@dataclass(slots=True)
class Direction:
    last_ns: int = 0
    """Arrival of the newest; nothing that is sent later arrives earlier."""


@dataclass(slots=True)
class Connection:
    """Between two slots. `broken`: attempts up to this one have lost it."""

    newest: Attempt = Attempt(0)  # noqa: RUF009 - an int
    broken: Attempt = Attempt(0)  # noqa: RUF009
    slow_until_ns: int = 0


class Network:
    """All links of the simulated world."""

    def __init__(self, time: VirtualTime) -> None:
        self.stations: dict[SlotId, Station] = {}
        self.observers: list[FrameObserver] = []
        self.frames_under_way: defaultdict[ChannelKey, int] = defaultdict(int)
        """Bytes of sent and not yet received batches."""
        self.grants_under_way: defaultdict[ChannelKey, int] = defaultdict(int)
        self.control_slow_until_ns = 0
        self._time = time
        self._connections: dict[tuple[SlotId, SlotId], Connection] = {}
        self._directions: defaultdict[tuple[str, str], Direction] = defaultdict(Direction)

    # between slots

    def connection(self, a: SlotId, b: SlotId) -> Connection:
        return self._connections.setdefault((min(a, b), max(a, b)), Connection())

    def send(self, source: SlotId, target: SlotId, frame: Frame) -> None:
        for observe in self.observers:
            observe(source, target, frame)
        key = (frame.attempt, frame.channel)

        def arrive(station: Station) -> None:
            self.frames_under_way[key] -= frame.nbytes
            station.receive(lambda: station.slot.receive(frame))

        self.frames_under_way[key] += frame.nbytes
        self._carry(source, target, frame.attempt, f"{type(frame.element).__name__} {_channel(key)}", arrive)

    def grant(self, source: SlotId, target: SlotId, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        """Credit from the receiver of the data `source` to its sender `target`."""
        key = (attempt, channel)

        def arrive(station: Station) -> None:
            self.grants_under_way[key] -= nbytes
            station.receive(lambda: station.slot.granted(attempt, channel, nbytes))

        self.grants_under_way[key] += nbytes
        self._carry(source, target, attempt, f"grant {_channel(key)}", arrive)

    def _carry(
        self, source: SlotId, target: SlotId, attempt: Attempt, what: str, arrive: Callable[[Station], None]
    ) -> None:
        station = self.stations.get(target)
        connection = self.connection(source, target)
        if station is None or attempt <= connection.broken:
            return
        connection.newest = max(connection.newest, attempt)

        def deliver() -> None:
            if attempt > connection.broken:
                arrive(station)

        delay_ns = self._time.between(MS // 100, MS // 5 if source == target else 5 * MS)
        if connection.slow_until_ns > self._time.now_ns and source != target:
            delay_ns += self._time.between(50 * MS, 400 * MS)
        self._in_order(source, target, delay_ns, station.process, what, deliver)

    def break_connection(self, a: SlotId, b: SlotId) -> None:
        connection = self.connection(a, b)
        connection.broken = connection.newest
        for end, peer in ((a, b), (b, a)):
            self._tell(end, peer, connection.broken)

    def slot_died(self, dead: SlotId) -> None:
        self.stations.pop(dead, None)
        for a, b in list(self._connections):
            if dead in (a, b) and a != b:
                self._tell(b if a == dead else a, dead, None)

    def intact(self, a: SlotId, b: SlotId, attempt: Attempt) -> bool:
        return a in self.stations and b in self.stations and attempt > self.connection(a, b).broken

    def _tell(self, end: SlotId, peer: SlotId, newest: Attempt | None) -> None:
        station = self.stations.get(end)
        if station is not None:
            call = lambda: station.receive(lambda: station.slot.disconnected(peer, newest))  # noqa: E731
            self._time.after(self._time.between(MS, 200 * MS), station.process, f"lost connection to {peer}", call)

    # control

    def control(self, source: str, target: Process, what: str, call: Call) -> None:
        """A message between a master and a slot."""
        delay_ns = self._time.between(MS // 10, 10 * MS)
        if self.control_slow_until_ns > self._time.now_ns:
            delay_ns += self._time.between(0, 500 * MS)
        self._in_order(source, target.name, delay_ns, target, what, call)

    def _in_order(self, source: str, target: str, delay_ns: int, process: Process, what: str, call: Call) -> None:
        direction = self._directions[source, target]
        direction.last_ns = max(direction.last_ns, self._time.moment_ns + delay_ns)
        self._time.at(direction.last_ns, process, f"{what} from {source}", call)


class SlotTransport:
    """One slot's end of the network."""

    def __init__(self, network: Network, slot: SlotId) -> None:
        self._network = network
        self._slot = slot

    def send(self, target: SlotId, frame: Frame) -> None:
        self._network.send(self._slot, target, frame)

    def grant(self, source: SlotId, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        self._network.grant(self._slot, source, attempt, channel, nbytes)


def _channel(key: ChannelKey) -> str:
    attempt, channel = key
    return f"{attempt}/{channel.edge}:{channel.source}>{channel.target}"
