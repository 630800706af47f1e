"""Real clusters for tests, what they consist of, and the check that nothing of them is left.

    cluster          one for the module: 6 slots, REST, everything as `python job.py` starts it
    new_cluster      starts further ones, with options; stopped after the test
    nodes            a Ray cluster whose head other nodes can join, on this machine, and nodes for it
    namespaced_node  a node of it in a network namespace of its own, whose link can be cut and healed
    wait_for         waits for a condition with a deadline

All of them check at their end that no process and no file of theirs is left.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil
import pytest

from penstock.jobmanager.startup import node_processes
from penstock.jobmanager.startup.cluster_state import ClusterFiles, ClusterState
from penstock.jobmanager.startup.embedded_cluster import EmbeddedCluster
from penstock.jobmanager.startup.ray_address import RayAddress
from penstock.jobmanager.startup.ray_cluster import RayNode, connect, disconnect, join, start_head
from penstock.runtime.configuration.config import Configuration

T = TypeVar("T")

SLOTS = 6
POLL_S, LONGEST_POLL_S = 0.05, 0.5
"""A question takes the processor from what it asks for: who has waited for long asks less often."""


class WaitFor(Protocol):
    """Answers the condition's first value that is not false; fails with `what` after the time."""

    def __call__(self, condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T: ...


def until(condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    began_s, never = time.monotonic(), threading.Event()
    while not (value := condition()):
        waited_s = time.monotonic() - began_s
        if waited_s > timeout_s:
            pytest.fail(f"not within {timeout_s:.0f} s: {what}")
        never.wait(min(max(POLL_S, waited_s / 10), LONGEST_POLL_S))
    return value


@pytest.fixture(scope="session", name="wait_for")
def _wait_for() -> WaitFor:
    return until


class Cluster:
    """A running cluster, seen from outside."""

    def __init__(self, embedded: EmbeddedCluster, config: Configuration) -> None:
        self.embedded = embedded
        self.config = config.merged(Configuration({"cluster.id": embedded.state.cluster_id}))
        self.files = ClusterFiles.of(self.config)

    @property
    def address(self) -> str:
        """URL of REST."""
        return self.embedded.address

    @property
    def storage(self) -> Path:
        """Of the cluster's jobs."""
        return Path(self.config.to_dict()["high-availability.storageDir"])

    @property
    def slots(self) -> int:
        """Of its first node."""
        return int(self.config.to_dict()["taskmanager.numberOfTaskSlots"])

    @property
    def supervisor_pid(self) -> int:
        return self.embedded.supervisor_pid

    def state(self) -> ClusterState:
        """As the supervisor sees it now."""
        state = self.files.read()
        assert state is not None, "the supervisor does not run"
        return state

    @property
    def reach(self) -> RayAddress:
        """Of its Ray, for drivers and further nodes."""
        return RayAddress(self.state().ray_address or "", (self.files.directory / "token").read_text())

    def get(self, path: str) -> Any:
        """JSON that REST answers."""
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.load(answer)

    def processes(self) -> list[psutil.Process]:
        """All but the supervisor and, where it runs in a test's process, the client."""
        return node_processes.members(str(self.files.directory), self.state().keeper_pid)

    def actors(self, kind: str) -> list[psutil.Process]:
        """Processes of actors of a class that begins so: Dispatcher, JobMaster, TaskManager, Slot."""
        return [process for process in self.processes() if _title(process).startswith(f"ray::{kind}")]

    def actor(self, kind: str) -> psutil.Process:
        found = self.actors(kind)
        assert len(found) == 1, f"{len(found)} processes are a {kind}"
        return found[0]

    def ray_process(self, name: str) -> psutil.Process:
        """gcs_server or raylet."""
        return next(process for process in self.processes() if process.name() == name)

    def stop(self) -> None:
        """In order, and checks that nothing is left."""
        known = [*self.processes(), psutil.Process(self.supervisor_pid)] if self.files.read() is not None else []
        self.embedded.stop()
        assert_nothing_left(self.files.directory, known)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def assert_nothing_left(directory: Path, known: list[psutil.Process]) -> None:
    """Of a cluster or a node: no process that was known, or that has its mark, and no file."""
    assert [process for process in known if node_processes.is_alive(process)] == []
    assert node_processes.members(str(directory)) == []
    assert [str(path) for path in directory.rglob("*") if path.name not in ("token", "secret")] == []


NewCluster = Callable[..., Cluster]


@pytest.fixture(scope="module")
def short_directory() -> Iterator[Path]:
    """Below which clusters keep their files: short, for the sake of Unix sockets; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="pk-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def option_names(options: Mapping[str, object]) -> dict[str, object]:
    """Keyword arguments with __ for . and _ for -."""
    return {name.replace("__", ".").replace("_", "-"): value for name, value in options.items()}


def cluster_config(directory: Path, storage: Path, **options: object) -> Configuration:
    """Options as `option_names` takes them: taskmanager__numberOfTaskSlots=2."""
    return Configuration(
        {
            "io.tmp.dirs": str(directory),
            "high-availability.storageDir": str(storage),
            "taskmanager.numberOfTaskSlots": SLOTS,
            "rest.port": 0,
            **option_names(options),
        }
    )


@pytest.fixture(scope="module")
def cluster_settings() -> dict[str, object]:
    """Of `cluster`, as of `cluster_config`; modules may override it."""
    return {}


@pytest.fixture(scope="module")
def cluster(
    short_directory: Path, tmp_path_factory: pytest.TempPathFactory, cluster_settings: dict[str, object]
) -> Iterator[Cluster]:
    settings = {"cluster__id": "shared", **cluster_settings}
    config = cluster_config(short_directory, tmp_path_factory.mktemp("cluster"), **settings)
    running = Cluster(EmbeddedCluster.start(config), config)
    yield running
    running.stop()


@pytest.fixture
def new_cluster(short_directory: Path, tmp_path: Path) -> Iterator[NewCluster]:
    """Call it with options, as of `cluster_config`; two in one test need different cluster__id."""
    started: list[Cluster] = []

    def start(**options: object) -> Cluster:
        config = cluster_config(short_directory, tmp_path / "cluster", **{"cluster__id": "own", **options})
        started.append(Cluster(EmbeddedCluster.start(config), config))
        return started[-1]

    yield start
    for one in reversed(started):
        one.stop()


# several nodes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", name="own_address")
def _own_address() -> str:
    """For ray__host of `new_cluster`."""
    return own_address()


def own_address() -> str:
    """Of this machine, at which others would reach it: of its default route. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            unavailable("this machine has no network address besides the loopback")
        address: str = probe.getsockname()[0]
        return address


def unavailable(reason: str) -> None:
    """A skip on somebody's machine, a failure in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Nodes:
    """Ray nodes on this machine, without penstock on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = own_address()
        self.started: list[RayNode] = []

    def config(self, slots: int, **options: object) -> Configuration:
        """Options as `cluster_config` takes them."""
        own = {"taskmanager.numberOfTaskSlots": slots, "ray.host": self.host}
        return Configuration({**own, **option_names(options)})

    def head(self, slots: int = 2) -> RayNode:
        return self._add(start_head(self.config(slots), directory=self.directory / "head"))

    def join(
        self,
        reach: RayAddress,
        slots: int = 2,
        *,
        host: str | None = None,
        prefix: tuple[str, ...] = (),
        **options: object,
    ) -> RayNode:
        directory = self.directory / f"n{len(self.started)}"
        return self._add(join(self.config(slots, **options), reach, directory=directory, host=host, prefix=prefix))

    def _add(self, node: RayNode) -> RayNode:
        self.started.append(node)
        return node

    def stop(self) -> None:
        """The head last: the others would complain."""
        for node in reversed(self.started):
            known = node_processes.members(str(node.directory), node.pid)
            node.stop()
            assert_nothing_left(node.directory, known)


@pytest.fixture
def nodes(short_directory: Path) -> Iterator[Nodes]:
    started = Nodes(short_directory)
    yield started
    started.stop()


@pytest.fixture
def connected() -> Iterator[Callable[[RayAddress], None]]:
    """Call it with a cluster's `reach`: this process is its driver until the test ends."""
    yield lambda reach: connect(reach, "penstock-tests")
    disconnect()


# a node behind a link that can be cut ---------------------------------------------------------------------------


class Namespace:
    """A network namespace with one link (veth) to this machine, over which it reaches all of its addresses."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name = f"pk{os.getpid()}"
        self._outside, self._inside = f"pka{os.getpid()}", f"pkb{os.getpid()}"
        self._gateway, self.address = f"10.213.{number}.1", f"10.213.{number}.2"

    @property
    def prefix(self) -> tuple[str, ...]:
        """Before a command that is to run in it."""
        return ("ip", "netns", "exec", self.name)

    def make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._outside, "type", "veth", "peer", "name", self._inside, "netns", self.name)
        _ip("addr", "add", f"{self._gateway}/30", "dev", self._outside)
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/30", "dev", self._inside)
        _ip("-n", self.name, "link", "set", self._inside, "up")
        self.heal()

    def cut(self) -> None:
        """Nothing passes any more, in neither direction, and nobody is told: connections hang."""
        _ip("link", "set", self._outside, "down")

    def heal(self) -> None:
        _ip("link", "set", self._outside, "up")
        _ip("-n", self.name, "route", "replace", "default", "via", self._gateway)

    def remove(self) -> None:
        """With its link. Whoever still runs in it keeps it alive, without a name."""
        _ip("netns", "del", self.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)


def _provide_iproute2() -> None:
    if os.geteuid() != 0:
        unavailable("network namespaces need root")
    if shutil.which("ip") is None and shutil.which("apt-get") is not None:
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True, timeout=100)
        subprocess.run(["apt-get", "install", "-y", "-qq", "iproute2"], check=False, capture_output=True, timeout=100)
    if shutil.which("ip") is None:
        unavailable("network namespaces need the command ip (package iproute2)")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Skips where namespaces cannot be made; in CI it fails."""
    _provide_iproute2()
    made = Namespace()
    try:
        made.make()
    except subprocess.CalledProcessError as failure:
        subprocess.run(["ip", "netns", "del", made.name], check=False, capture_output=True, timeout=30)
        unavailable(f"no network namespace can be made here: {failure.stderr.strip()}")
    yield made
    made.remove()


JoinBehindLink = Callable[..., RayNode]


@pytest.fixture
def namespaced_node(nodes: Nodes, namespace: Namespace) -> Iterator[JoinBehindLink]:
    """Call it with the cluster's `reach` and a number of slots: a node of it in `namespace`, whose link can then be cut
    and healed. The cluster must have been started at an address that is not the loopback's (`own_address`)."""
    yield lambda reach, slots=2: nodes.join(reach, slots, host=namespace.address, prefix=namespace.prefix)
    namespace.heal()
