"""Mutual TLS between slots of different nodes, with an authority and certificates made here."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.runtime.batch import Batch
from penstock.runtime.elements import Barrier, Watermark
from penstock.runtime.records.record_types import record_type_of
from penstock.state.errors import ConfigurationError
from penstock.state.ids import Attempt, CheckpointId
from penstock.taskmanager.exchange.tls import TlsFiles
from penstock.taskmanager.exchange.transport import Frame
from penstock.taskmanager.messages import ChannelId

CHANNEL = ChannelId(0, 0, 0)
NUMBER = record_type_of(int)
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def authority_with_a_node(path: Path) -> TlsFiles:
    path.mkdir()
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=path, check=True, capture_output=True, timeout=60)

    run("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "1", "-subj", "/CN=authority")
    run("req", *_KEY, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node")
    run("x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "node.pem", "-days", "1",
        "-CAcreateserial")  # fmt: skip
    return TlsFiles(str(path / "node.pem"), str(path / "node.key"), str(path / "ca.pem"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return authority_with_a_node(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return authority_with_a_node(tmp_path_factory.mktemp("tls") / "theirs")


def frame(element: Any, attempt: int = 1) -> Frame:
    return Frame(Attempt(attempt), CHANNEL, element, element.nbytes if isinstance(element, Batch) else 0)


def batch(rows: int) -> Batch:
    return Batch.of_columns(NUMBER, NUMBER.to_columns(list(range(rows))), np.arange(rows))


def test_batches_of_all_sizes_barriers_and_credit_pass(stations: Any, ours: TlsFiles) -> None:
    a, b = stations.start("a", tls=ours), stations.start("b", "another", tls=ours)
    stations.introduce()
    sizes = [1, 10, 1_000, 300_000, 2, 50_000] * 3
    for rows in sizes:
        a.transport.send(b.id, frame(batch(rows)))
        a.transport.send(b.id, frame(Watermark(rows)))
    stations.run(lambda: len(b.frames) == 2 * len(sizes))
    assert [len(e) if isinstance(e, Batch) else e.timestamp for e in b.elements] == [s for s in sizes for _ in (1, 2)]
    assert b.elements[6].columns().equals(batch(300_000).columns())
    b.transport.grant(a.id, Attempt(1), CHANNEL, 17)
    stations.run(lambda: a.grants == [(1, CHANNEL, 17)])


def test_a_priority_frame_waits_for_what_tls_has_taken_and_overtakes_the_rest(stations: Any, ours: TlsFiles) -> None:
    a, b = stations.start("a", tls=ours), stations.start("b", "another", tls=ours)
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(0)))
    stations.run(lambda: bool(b.frames))
    for _ in range(8):
        a.transport.send(b.id, frame(batch(400_000)))
        a.turn()
    a.transport.send(b.id, frame(Barrier(CheckpointId(1), 0)), priority=True)
    stations.run(lambda: len(b.frames) == 10)
    kinds = [type(element) for element in b.elements]
    assert kinds.index(Barrier) < 9
    assert all(e.columns().equals(batch(400_000).columns()) for e in b.elements if isinstance(e, Batch))


def test_a_later_attempt_does_not_break_what_tls_has_taken(stations: Any, ours: TlsFiles) -> None:
    a, b = stations.start("a", tls=ours), stations.start("b", "another", tls=ours)
    stations.introduce()
    for _ in range(8):
        a.transport.send(b.id, frame(batch(400_000)))
        a.turn()
    a.transport.send(b.id, frame(batch(1_000), attempt=2))
    stations.run(lambda: bool(b.frames) and b.frames[-1].attempt == 2)
    assert b.elements[-1].columns().equals(batch(1_000).columns())
    assert (a.lost, b.lost) == ([], [])


def test_a_certificate_of_another_authority_is_refused(stations: Any, ours: TlsFiles, theirs: TlsFiles) -> None:
    a, b = stations.start("a", tls=theirs), stations.start("b", "another", tls=ours)
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: a.lost == [b.id])
    assert (b.frames, b.lost) == ([], [])
    assert "certificate verify failed" in a.reasons[0]


def test_who_has_no_certificate_is_refused(stations: Any, ours: TlsFiles, caplog: pytest.LogCaptureFixture) -> None:
    b = stations.start("b", tls=ours)
    context = ssl.create_default_context(cafile=ours.authority)
    context.check_hostname = False
    with socket.create_connection((b.transport.address.host, b.transport.address.port)) as stranger:
        stranger.setblocking(False)
        secured = context.wrap_socket(stranger, do_handshake_on_connect=False)

        def refused() -> bool:
            try:
                secured.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLError, OSError):
                pass
            return "certificate" in caplog.text.lower()

        stations.run(refused)
        secured.close()


@pytest.mark.parametrize(("near", "far"), [(True, False), (False, True)])
def test_plain_and_secured_do_not_meet(stations: Any, ours: TlsFiles, near: bool, far: bool) -> None:
    a = stations.start("a", tls=ours if near else None)
    b = stations.start("b", "another", tls=ours if far else None)
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    for _ in range(50):
        for station in (a, b):
            station.turn()
    a.clock.ahead_ns = b.clock.ahead_ns = 11 * 10**9
    stations.run(lambda: a.lost == [b.id])
    assert b.frames == []


def test_slots_of_one_node_need_no_tls(stations: Any, ours: TlsFiles) -> None:
    a, b = stations.start("a", tls=ours), stations.start("b")
    stations.introduce()
    a.transport.send(b.id, frame(Watermark(1)))
    stations.run(lambda: b.elements == [Watermark(1)])


def test_files_that_do_not_fit_are_named(ours: TlsFiles, theirs: TlsFiles, tmp_path: Path) -> None:
    for files in (
        TlsFiles(ours.certificate, theirs.key, ours.authority),
        TlsFiles(str(tmp_path / "none.pem"), ours.key, ours.authority),
        TlsFiles(ours.certificate, ours.key, ours.key),
    ):
        with pytest.raises(ConfigurationError, match=r"security\.ssl\.internal"):
            files.contexts()
