"""What the exchange between two slot processes carries, and how long one row takes there and back.

Two processes, each with a mailbox and a socket transport. Throughput: batches of 8 columns go through an output
channel, over the socket, and through an input gate, under credit; its limit is a loop that only copies the same bytes
through the same kind of socket, in the same run, in turn with it. Small batches go one by one, and gathered as the
engine does it. `ratio` compares seconds of CPU of both ends together
(docs/decisions/0015), `wall_ratio` the rates. Latency: a batch of one row goes there and back, half of them take longer
than the value; beside it a bare socket with the same bytes.

    python benchmarks/slot_exchange.py [--seconds 0.6] [--kinds unix,tcp,tls]
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
from bare_sockets import WAIT_S, Costs, Wanted, bare, bounce, drain

from penstock.runtime.batch import Batch
from penstock.runtime.clock import SystemClock
from penstock.runtime.elements import EndOfInput
from penstock.runtime.records.record_types import record_type_of
from penstock.state.ids import Attempt, SlotId
from penstock.taskmanager.deployment import FLUSH_BYTES
from penstock.taskmanager.exchange.alignment import BarrierAligner
from penstock.taskmanager.exchange.gate import AllEnded, Data, InputChannel, InputGate
from penstock.taskmanager.exchange.socket_transport import SocketTransport
from penstock.taskmanager.exchange.tls import TlsFiles
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.exchange.writers import OutputChannel, OutputOptions
from penstock.taskmanager.mailbox import Mailbox
from penstock.taskmanager.messages import ChannelId, SlotAddress
from penstock.taskmanager.task import STEP_NS

LEAST_RATIO = 0.6
"""Of large batches to the bare copy."""
SENDER, RECEIVER = SlotId("sender"), SlotId("receiver")
THERE, BACK = ChannelId(0, 0, 0), ChannelId(1, 0, 0)
ATTEMPT = Attempt(1)
ROUNDS = 5
BATCHES = (
    (65_536, 40, 16 << 20, 1),
    (1_000, 2_000, 1 << 20, 1),
    (1_000, 2_000, 1 << 20, FLUSH_BYTES),
    (50, 20_000, 1 << 20, FLUSH_BYTES),
)
"""Rows, how many of them for a trial, bytes of the window, bytes that are gathered."""


@dataclass(frozen=True)
class Setup:
    """What both processes know."""

    kind: str
    rows: int
    batches: int
    directory: str
    window_bytes: int
    tls: TlsFiles | None
    flush_bytes: int = 1
    """1: every batch goes by itself."""

    def task_manager(self, slot: SlotId) -> str:
        return "same" if self.kind == "unix" else slot


def record_batch(rows: int) -> pa.RecordBatch:
    random = np.random.default_rng(0)
    words = np.array([f"user-{i:06d}" for i in range(1_000)])
    return pa.RecordBatch.from_pydict(
        {
            "key": random.integers(0, 100_000, rows),
            "count": random.integers(0, 1 << 40, rows),
            "at": np.arange(rows),
            "price": random.random(rows),
            "weight": random.random(rows),
            "score": random.random(rows),
            "user": pa.array(words[random.integers(0, 1_000, rows)]),
            "text": pa.array(["x" * (5 + i % 20) for i in range(rows)]),
        }
    )


class End:
    """What a slot does in this benchmark: it receives, steps, and stops its mailbox when it is through."""

    def __init__(self, me: SlotId, setup: Setup) -> None:
        clock = SystemClock()
        self.setup = setup
        self.mailbox = Mailbox(clock)
        self.transport = SocketTransport(
            me,
            directory=Path(setup.directory),
            host="127.0.0.1",
            task_manager=setup.task_manager(me),
            secret=b"secret of the job",
            clock=clock,
            tls=setup.tls,
        )
        self.transport.attach(self)
        options = OutputOptions(flush_bytes=setup.flush_bytes, flush_after_ns=0, window_bytes=setup.window_bytes)
        there, target = (THERE, RECEIVER) if me == SENDER else (BACK, SENDER)
        self.output = OutputChannel(there, target, ATTEMPT, self.transport, options, clock.monotonic_ns)
        self.gate = InputGate(
            [InputChannel(BACK if me == SENDER else THERE, 0, setup.window_bytes)],
            clock,
            lambda channel, nbytes: self.transport.grant(target, ATTEMPT, channel, nbytes),
            BarrierAligner(1),
        )

    def run(self) -> None:
        try:
            self.mailbox.run(self, self.transport)
        finally:
            self.transport.close()
            self.mailbox.close()

    def receive(self, frame: Frame) -> None:
        self.gate.receive(frame)

    def granted(self, attempt: Attempt, channel: ChannelId, nbytes: int) -> None:
        self.output.granted(nbytes)

    def disconnected(self, peer: SlotId, newest: Attempt | None, reason: str = "") -> None:
        self.mailbox.stop()

    def step(self) -> bool:
        raise NotImplementedError

    def next_wakeup_ns(self) -> int | None:
        return None


class Source(End):
    """Sends the batch again and again as far as credit goes, and waits for the word that all have come."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(SENDER, setup)
        columns = record_batch(setup.rows)
        self.record_type = record_type_of(columns.schema)
        self.columns = columns
        self.timestamps = np.arange(setup.rows)
        self.sent = 0
        self.began_ns = self.took_ns = 0
        self.cpu_ns = 0

    def step(self) -> bool:
        if isinstance(self.gate.poll(), AllEnded):
            self.took_ns = time.monotonic_ns() - self.began_ns
            self.cpu_ns = time.process_time_ns() - self.cpu_ns
            self.mailbox.stop()
            return False
        if self.sent > self.setup.batches or self.output.queue:
            return False
        began_ns = time.monotonic_ns()
        if not self.sent:
            self.began_ns, self.cpu_ns = began_ns, time.process_time_ns()
        while self.sent <= self.setup.batches and not self.output.queue:
            self.sent += 1
            if self.sent > self.setup.batches:
                self.output.add_control(EndOfInput())
            else:
                self.output.add(Batch.of_columns(self.record_type, self.columns, self.timestamps), 0)
            if time.monotonic_ns() - began_ns >= STEP_NS:
                break
        return True


class Sink(End):
    """Counts, and says so at the end."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(RECEIVER, setup)
        self.rows = 0

    def step(self) -> bool:
        began_ns = time.monotonic_ns()
        while (event := self.gate.poll()) is not None:
            if isinstance(event, Data):
                self.rows += event.batch.columns().num_rows
            elif isinstance(event, AllEnded):
                if self.rows != self.setup.rows * self.setup.batches:
                    raise AssertionError(f"{self.rows} rows came")
                self.output.add_control(EndOfInput())
            if time.monotonic_ns() - began_ns >= STEP_NS:
                return True
        return False


class Pinger(Source):
    """Sends the next batch when the last one has come back."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.round_trips_ns: list[int] = []

    def step(self) -> bool:
        event = self.gate.poll()
        if isinstance(event, Data):
            self.round_trips_ns.append(time.monotonic_ns() - self.began_ns)
        elif self.sent:
            return False
        if self.sent == self.setup.batches:
            self.mailbox.stop()
            return False
        self.sent += 1
        self.began_ns = time.monotonic_ns()
        self.output.add(Batch.of_columns(self.record_type, self.columns, self.timestamps), 0)
        return True


class Echo(End):
    """Sends back what comes."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(RECEIVER, setup)

    def step(self) -> bool:
        event = self.gate.poll()
        if isinstance(event, Data):
            self.output.add(event.batch, 0)
        return event is not None


def _child(end: type[Sink] | type[Echo], setup: Setup, pipe: Connection) -> None:
    logging.disable(logging.WARNING)  # that the other end closes is how it ends
    slot = end(setup)
    pipe.send(slot.transport.address)
    slot.transport.meet(pipe.recv())
    began_ns = time.process_time_ns()
    slot.run()
    pipe.send(time.process_time_ns() - began_ns)


def together(near: Source, far: type[Sink] | type[Echo], setup: Setup) -> int:
    """Run `near` here and `far` in another process; its CPU time, in ns."""
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_child, args=(far, setup, theirs))
    process.start()
    addresses: dict[SlotId, SlotAddress] = {SENDER: near.transport.address, RECEIVER: pipe.recv()}
    pipe.send(addresses)
    near.transport.meet(addresses)
    near.run()
    far_ns: int = pipe.recv()
    process.join(WAIT_S)
    return far_ns


# results -------------------------------------------------------------------------------------------------------


def bare_sockets(setup: Setup) -> Wanted:
    return Wanted(setup.kind, setup.batches, record_batch(setup.rows).serialize().to_pybytes(), setup.tls)


def exchanged(setup: Setup) -> tuple[Costs, int]:
    """Of both ends, and the sender's CPU."""
    source = Source(setup)
    far_ns = together(source, Sink, setup)
    return Costs(source.took_ns, source.cpu_ns + far_ns), source.cpu_ns


def throughput(setup: Setup, make: Callable[[int], Setup], seconds: float) -> None:
    trial_s = exchanged(setup)[0].took_ns / 1e9
    setup = make(max(20, int(setup.batches * seconds / trial_s)))
    wanted = bare_sockets(setup)
    runs = [(exchanged(setup), bare(wanted, drain)[0]) for _ in range(ROUNDS)]
    cpu_ns = min(costs.cpu_ns for (costs, _), _ in runs)
    took_ns = min(costs.took_ns for (costs, _), _ in runs)
    bare_cpu_ns, bare_took_ns = min(costs.cpu_ns for _, costs in runs), min(costs.took_ns for _, costs in runs)
    nbytes = record_batch(setup.rows).nbytes * setup.batches
    result = {
        "benchmark": "slot_exchange",
        "kind": setup.kind,
        "rows_per_batch": setup.rows,
        "gathered": setup.flush_bytes > 1,
        "value": round(nbytes / took_ns, 2),
        "unit": "GB/s",
        "rows_per_s": round(setup.rows * setup.batches / took_ns * 1e9),
        "bare_copy": round(nbytes / bare_took_ns, 2),
        "wall_ratio": round(bare_took_ns / took_ns, 2),
        "cpu_us_per_batch": round(cpu_ns / setup.batches / 1_000, 1),
        "sender_cpu_us_per_batch": round(min(sender for (_, sender), _ in runs) / setup.batches / 1_000, 1),
        "bare_cpu_us_per_batch": round(bare_cpu_ns / setup.batches / 1_000, 1),
        "ratio": round(bare_cpu_ns / cpu_ns, 2),
    }
    if setup.rows > 10_000:
        result["limit"] = LEAST_RATIO
    print(json.dumps(result), flush=True)


def latency(setup: Setup) -> None:
    pinger = Pinger(setup)
    together(pinger, Echo, setup)
    _, bare_ns = bare(bare_sockets(setup), bounce)
    result = {
        "benchmark": "slot_round_trip",
        "kind": setup.kind,
        "value": round(statistics.median(pinger.round_trips_ns) / 1_000, 1),
        "unit": "us, p50, one row",
        "bare": round(statistics.median(bare_ns) / 1_000, 1),
    }
    print(json.dumps(result), flush=True)


def certificates(directory: str) -> TlsFiles:
    """An authority and one certificate of its, good for a day."""
    path = Path(directory)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=path, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "1", "-subj", "/CN=authority")
    openssl("req", *new_key, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node")
    openssl("x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "node.pem", "-days", "1")
    return TlsFiles(str(path / "node.pem"), str(path / "node.key"), str(path / "ca.pem"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--kinds", default="unix,tcp,tls")
    arguments = parser.parse_args()
    directory = tempfile.mkdtemp()
    try:
        for kind in arguments.kinds.split(","):
            tls = certificates(directory) if kind == "tls" else None
            for rows, trial, window_bytes, flush_bytes in BATCHES:
                make = partial(
                    Setup, kind, rows, directory=directory, window_bytes=window_bytes, tls=tls, flush_bytes=flush_bytes
                )
                throughput(make(trial), make, arguments.seconds)
            latency(Setup(kind, 1, 3_000, directory, 1 << 20, tls))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
