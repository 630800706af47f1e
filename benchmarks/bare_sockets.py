"""The limit of benchmarks/slot_exchange.py: the same bytes through the same kind of socket, and nothing else. Imported
by it; prints nothing."""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

from penstock.taskmanager.exchange.tls import TlsFiles

WAIT_S = 60.0


class Wanted(NamedTuple):
    """How often which bytes go over which kind of socket."""

    kind: str
    batches: int
    block: bytes
    tls: TlsFiles | None


def _connected(wanted: Wanted) -> tuple[socket.socket, socket.socket]:
    if wanted.kind == "unix":
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        return ends
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


def _secured(end: socket.socket, wanted: Wanted, server: bool) -> socket.socket:
    if wanted.tls is None:
        return end
    context: ssl.SSLContext = wanted.tls.contexts()[0 if server else 1]
    return context.wrap_socket(end, server_side=server)


def drain(end: socket.socket, wanted: Wanted, nbytes: int, pipe: Connection) -> None:
    end = _secured(end, wanted, True)
    room = memoryview(bytearray(nbytes))
    began_ns = time.process_time_ns()
    for _ in range(wanted.batches):
        got = 0
        while got < nbytes:
            got += end.recv_into(room[got:])
    end.sendall(b"done")
    pipe.send(time.process_time_ns() - began_ns)


def bounce(end: socket.socket, wanted: Wanted, nbytes: int, pipe: Connection) -> None:
    end = _secured(end, wanted, True)
    for _ in range(wanted.batches):
        end.sendall(_exactly(end, nbytes))
    pipe.send(0)


def _exactly(end: socket.socket, nbytes: int) -> bytes:
    got = b""
    while len(got) < nbytes:
        got += end.recv(nbytes - len(got))
    return got


class Costs(NamedTuple):
    took_ns: int
    cpu_ns: int
    """Of both ends together."""


def bare(wanted: Wanted, far: Callable[[socket.socket, Wanted, int, Connection], None]) -> tuple[Costs, list[int]]:
    """As many blocks of the batch's size, from one buffer into one buffer; every time there and back if it bounces."""
    block = wanted.block
    ours, theirs = _connected(wanted)
    context = multiprocessing.get_context("fork")
    pipe, other = context.Pipe()
    process = context.Process(target=far, args=(theirs, wanted, len(block), other))
    process.start()
    ours = _secured(ours, wanted, False)
    round_trips_ns: list[int] = []
    began_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
    for _ in range(wanted.batches):
        at_ns = time.monotonic_ns()
        ours.sendall(block)
        if far is bounce:
            _exactly(ours, len(block))
            round_trips_ns.append(time.monotonic_ns() - at_ns)
    if far is drain:
        ours.recv(4)
    took_ns, cpu_ns = time.monotonic_ns() - began_ns, time.process_time_ns() - cpu_ns
    cpu_ns += pipe.recv()
    process.join(WAIT_S)
    ours.close()
    theirs.close()
    return Costs(took_ns, cpu_ns), round_trips_ns
