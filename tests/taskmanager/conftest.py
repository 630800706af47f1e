"""Slots' ends of connections, driven by hand on the test's thread, with real sockets between them; and whole slots."""

from __future__ import annotations

import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.runtime.clock import Clock, SystemClock
from penstock.runtime.configuration.config import Configuration
from penstock.runtime.directories import node_directory
from penstock.runtime.elements import Element
from penstock.state.ids import Attempt, SlotId
from penstock.taskmanager.exchange.socket_transport import SocketTransport
from penstock.taskmanager.exchange.tls import TlsFiles
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.messages import ChannelId
from penstock.taskmanager.processes.slot_process import SlotProcess

WAIT_S = 20.0


class SteppedClock(SystemClock):
    """The machine's, and some more: what takes ten seconds can be had at once."""

    ahead_ns = 0

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() + self.ahead_ns


class Station:
    """A transport, its poller, and what its receiver was told."""

    def __init__(self, name: str, directory: Path, machine: str, secret: bytes, tls: TlsFiles | None) -> None:
        self.id = SlotId(name)
        self.clock = SteppedClock()
        self.transport = SocketTransport(
            self.id,
            directory=directory,
            host="127.0.0.1",
            task_manager=machine,
            secret=secret,
            clock=self.clock,
            tls=tls,
        )
        self.poller = select.epoll()
        self.transport.register(self.poller)
        self.transport.attach(self)
        self.frames: list[Frame] = []
        self.grants: list[tuple[Attempt, ChannelId, int]] = []
        self.lost: list[SlotId] = []
        self.lost_attempts: list[Attempt | None] = []
        self.reasons: list[str] = []

    def receive(self, frame: Frame) -> None:
        self.frames.append(frame)

    def granted(self, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        self.grants.append((attempt, channel, nbytes))

    def disconnected(self, peer: SlotId, newest: Attempt | None, reason: str = "") -> None:
        self.lost.append(peer)
        self.lost_attempts.append(newest)
        self.reasons.append(reason)

    @property
    def elements(self) -> list[Element]:
        return [frame.element for frame in self.frames]

    def turn(self) -> None:
        """What the mailbox does once, without waiting."""
        self.transport.handle(self.poller.poll(0.001))
        self.transport.flush()

    def stop(self) -> None:
        self.transport.unregister()
        self.transport.close()
        self.poller.close()


class Stations:
    """All of one test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.all: list[Station] = []

    def start(self, name: str, machine: str = "one", secret: bytes = b"secret", tls: TlsFiles | None = None) -> Station:
        station = Station(name, self.directory, machine, secret, tls)
        self.all.append(station)
        return station

    def introduce(self) -> None:
        peers = {station.id: station.transport.address for station in self.all}
        for station in self.all:
            station.transport.meet(peers)

    def run(self, until: Callable[[], bool]) -> None:
        """Turns of all, until this holds."""
        deadline = time.monotonic() + WAIT_S
        while not until():
            assert time.monotonic() < deadline, "it did not happen"
            for station in self.all:
                station.turn()

    def stop(self, station: Station) -> None:
        self.all.remove(station)
        station.stop()


@pytest.fixture
def stations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stations]:
    made = Stations(tmp_path_factory.mktemp("s"))
    yield made
    for station in list(made.all):
        made.stop(station)


# whole slots: threads and sockets of their own ----------------------------------------------------------------------


class Node:
    """Starts slots in this process; remembers with which code one would have ended it."""

    def __init__(self, directory: Path) -> None:
        self.config = Configuration({"io.tmp.dirs": str(directory)})
        self.directory = node_directory(self.config, "tm")
        self.slots: list[SlotProcess] = []
        self.exits: list[int] = []

    def slot(self, clock: Clock | None = None, **options: object) -> SlotProcess:
        config = self.config.merged(Configuration({key.replace("__", "."): value for key, value in options.items()}))
        name = SlotId(f"slot-{len(self.slots)}")
        process = SlotProcess(
            name, "tm", "127.0.0.1", self.directory, config, clock=clock, exit_process=self.exits.append
        )
        process.start()
        self.slots.append(process)
        return process


@pytest.fixture
def node() -> Iterator[Node]:
    directory = Path(tempfile.mkdtemp(prefix="pk-"))  # short, for the sake of Unix sockets
    node = Node(directory)
    yield node
    for process in node.slots:
        process.stop()
    shutil.rmtree(directory)
