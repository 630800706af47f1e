"""Mutual TLS between nodes: records cross encrypted, and a node whose certificate is not of the cluster is kept out."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cluster.conftest import Cluster, Nodes, WaitFor

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def certificates(path: Path) -> dict[str, object]:
    """Of a new authority, with one certificate: options."""
    path.mkdir()
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=path, check=True, capture_output=True, timeout=60)

    run("req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "1", "-subj", "/CN=authority")
    run("req", *KEY, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node")
    run("x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "node.pem", "-days", "1",
        "-CAcreateserial")  # fmt: skip
    return {
        "security__ssl__internal__certificate": path / "node.pem",
        "security__ssl__internal__key": path / "node.key",
        "security__ssl__internal__authority": path / "ca.pem",
    }


@pytest.fixture(scope="module")
def cluster_settings(own_address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {
        "ray__host": own_address,
        "taskmanager__numberOfTaskSlots": 1,
        "taskmanager__warm_slots": 1,
        "slot__request__timeout": "10s",
        "security__ssl__internal__enabled": True,
        **certificates(tmp_path_factory.mktemp("tls") / "ours"),
    }


def ready(cluster: Cluster, wait_for: WaitFor) -> None:
    wait_for(lambda: cluster.get("/overview")["slots-total"] == 2, "both nodes offer a slot")


def speaks_tls(host: str, port: int) -> bool:
    """Whoever has no certificate is shown one, and is let go no further."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), timeout=10) as plain, context.wrap_socket(plain) as secured:
        shown = bool(secured.getpeercert(binary_form=True))
        try:
            secured.recv(1)
        except ssl.SSLError as refusal:
            return shown and "CERTIFICATE_REQUIRED" in str(refusal).upper()
    return False


def test_records_cross_between_nodes_under_tls(
    cluster: Cluster, nodes: Nodes, submit: Callable[..., Any], wait_for: WaitFor
) -> None:
    nodes.join(cluster.reach, slots=1)
    ready(cluster, wait_for)
    job = submit(cluster, parallelism=2).until_it_runs()
    assert [len(pids) for pids in job.slots().values()] == [1, 1]
    assert all(speaks_tls(nodes.host, view["dataPort"]) for view in job.rest.task_managers())
    job.finish()


def test_a_node_with_a_foreign_certificate_exchanges_nothing(
    cluster: Cluster, nodes: Nodes, submit: Callable[..., Any], tmp_path: Path, wait_for: WaitFor
) -> None:
    nodes.join(cluster.reach, slots=1, **certificates(tmp_path / "theirs"))
    ready(cluster, wait_for)
    job = submit(cluster, parallelism=2, restart_strategy__type="none")
    assert wait_for(job.ended, "the job fails", 100) == "FAILED"
    assert "certificate verify failed" in job.reasons()
    assert not job.out.exists() or list(job.out.rglob("*.json*")) == []


@pytest.mark.long
def test_a_node_without_a_certificate_has_no_slots_and_says_why(
    cluster: Cluster, nodes: Nodes, submit: Callable[..., Any], tmp_path: Path, wait_for: WaitFor
) -> None:
    nodes.join(cluster.reach, slots=1, security__ssl__internal__certificate=tmp_path / "none.pem")

    def unable() -> bool:
        found = cluster.get("/taskmanagers")["taskmanagers"]
        return any("none.pem" in one["problem"] and one["freeSlots"] == 0 for one in found)

    wait_for(unable, "the node says what it lacks", 100)
    job = submit(cluster, parallelism=2, restart_strategy__type="none")
    assert wait_for(job.ended, "the job gives up", 100) == "FAILED"
    assert "none.pem" in job.reasons()
