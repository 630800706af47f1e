"""Starting, joining and leaving Ray: the only place that knows how.

    start_head(...)  a Ray cluster with one node, this machine          -> RayNode
    join(...)        one more node for a Ray cluster                    -> RayNode
    connect(...)     makes this process a driver of any Ray cluster (ray_address.py)

A node is started by its **keeper**: a process that watches its owner and then becomes `ray start --block`
(docs/decisions/0016-a-keeper-for-ray.md). What is guaranteed:

- `stop()` leaves no process, socket or directory of the node.
- The owner dies, by whatever: the keeper kills all processes of the node and removes its directory.
- The keeper dies: the kernel kills GCS and raylet (they ask for it), the owner sees `died()` and calls `stop()`.
- GCS or raylet die: the keeper notices within a second, kills the rest and ends; the owner sees `died()`.

Every cluster has a random **token**, without which Ray answers nobody; it is in the file `token` (0600) of the head's
directory, and in the environment of its processes. Without `ray.host` everything listens on the loopback interface
only. With it Ray's GCS and both ports of every raylet listen on all interfaces (Ray has no other way), workers on all
interfaces too, at ports of the system's choice; the token guards them. REST is not among them.

What is switched off: dashboard, autoscaler, log monitor (slots write their own logs), usage statistics, task events,
and Ray's memory monitor: it kills what can be restarted first, so it would take the small dispatcher and the task
managers, again and again, and never the slot that has grown. The kernel takes the largest worker.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from types import MappingProxyType

from ...runtime.configuration import cluster_options as options
from ...runtime.configuration.config import Configuration
from ...runtime.configuration.node_options import VARIABLE as NODE_OPTIONS
from ...runtime.configuration.node_options import node_environment
from .node_processes import (
    MARK,
    kill_agents,
    kill_members,
    on_death_of,
    one_at_a_time,
    tails,
    terminate,
    user_directory,
)
from .ray_address import LOOPBACK, ClusterError, RayAddress, reachable
from .session_logs import keep_small

logger = logging.getLogger(__name__)

SLOT_RESOURCE = "penstock_slot"
TOKEN_FILE = "token"
OBJECT_STORE_BYTES = 80_000_000
"""About the least that Ray takes: data never goes through it."""
START_TIMEOUT_S = 90.0
START_ATTEMPTS = 2
LOCK_TIMEOUT_S = 120.0
STOP_GRACE_S = 5.0
"""Ray needs 0.3 s to end; what needs longer is killed."""
KILL_TIMEOUT_S = 20.0
"""For actors on somebody else's Ray."""

_SOCKET_PATH_LIMIT = 107
_SOCKET_SUFFIX = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
_OF_ANOTHER_CLUSTER = (
    "RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_NAMESPACE", "RAY_REDIS_ADDRESS", "RAY_JOB_ID", "RAY_RAYLET_PID",
    "RAY_NODE_ID", "RAY_CLIENT_MODE", "RAY_OVERRIDE_NODE_ID_FOR_TESTING", "RAY_START_HOOK",
    NODE_OPTIONS,
)  # fmt: skip
_TUNING = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # 30 s in which Ray waits for detached actors to leave
    "RAY_agent_register_timeout_ms": "120000",  # a raylet aborts when its agent is late, on a busy machine
    "RAY_worker_register_timeout_seconds": "120",
    "RAY_gcs_server_port_wait_time_s": "60",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "30",  # a GCS that is gone never comes back, here
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_maximum_gcs_destroyed_actor_cached_count": "100",  # of 100,000: every job leaves some
}
"""Of Ray's processes, unless the environment says otherwise."""


class RayNode:
    """A node that this process started and owns. Not for several threads at once."""

    def __init__(self, reach: RayAddress, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.reach = reach
        self.directory = directory
        self._process = process

    @property
    def address(self) -> str:
        """host:port of the GCS of its cluster."""
        return self.reach.address

    @property
    def token(self) -> str | None:
        return self.reach.token

    @property
    def pid(self) -> int:
        """Of the keeper, which leads the session of all the node's processes."""
        return self._process.pid

    def died(self) -> str | None:
        """None while it lives; then the last lines of Ray's logs."""
        if self._process.poll() is None:
            return None
        return _logs(self.directory) or f"Ray ended with code {self._process.returncode} and left no logs"

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended in this time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Ends all its processes and removes their files. May be called again, and for a node that has died."""
        if self._process.poll() is None:
            terminate(self._process.pid)
            self.wait(STOP_GRACE_S)
        left = _clear(self.directory, self._process)
        if left:
            logger.error("processes %s of Ray do not end; look at what holds them (ps -o pid,stat,wchan)", left)


def _clear(directory: Path, process: subprocess.Popen[bytes]) -> list[int]:
    """Whoever is still there is killed; the pids that even that does not end."""
    left = kill_members(str(directory), process.pid)  # the keeper too: until it is waited for, its pid is its own
    try:
        process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        left.append(process.pid)
    shutil.rmtree(_ray_directory(directory), ignore_errors=True)
    return left


def clear_remains(directory: Path, keeper: int | None = None) -> None:
    """Of a node whose keeper (that pid) and owner were killed together. Only when it is sure that nobody runs it."""
    kill_members(str(directory))
    if keeper is not None:
        kill_agents(keeper)
    shutil.rmtree(_ray_directory(directory), ignore_errors=True)


# starting ------------------------------------------------------------------------------------------------------


def slots_of(config: Configuration) -> int:
    """Slots that a node offers."""
    return config.get(options.TASK_SLOTS) or len(os.sched_getaffinity(0))


def start_head(config: Configuration, *, directory: Path, port: int | None = None) -> RayNode:
    """A new Ray cluster: blocks until it takes calls (3 s). Its token is kept in `directory`, and used again by the
    next head there, so that nodes and clients find it again if `port` is the same. Raises ClusterError."""
    host = config.get(options.RAY_HOST)
    port = config.get(options.RAY_PORT) if port is None else port
    arguments = ["--head", f"--port={port}", "--include-dashboard=false", "--no-monitor", "--disable-usage-stats"]
    if importlib.util.find_spec("grpc") is not None:
        arguments.append("--ray-client-server-port=0")
    token = _token(directory)
    reach = RayAddress(f"{host or LOOPBACK}:{port}", token)
    return _start(reach, directory, slots_of(config), host or LOOPBACK, arguments)


def join(
    config: Configuration, reach: RayAddress, *, directory: Path, host: str | None = None, prefix: Sequence[str] = ()
) -> RayNode:
    """One more node, at `host` (else as Ray finds its own address), with the options that are its own
    (node_options.py). `prefix` is a command that runs its keeper, as `ip netns exec NAME` does: in place,
    without a process between. Raises ClusterError."""
    if reach.loopback:
        raise ClusterError(
            f"the Ray at {reach.address} can be reached from its own machine only, and not be joined; start its "
            f"cluster with -c {options.RAY_HOST.key}=<address of that machine>"
        )
    environment = node_environment(config)
    return _start(reach, directory, slots_of(config), host, [f"--address={reach.address}"], prefix, environment)


def _start(
    reach: RayAddress,
    directory: Path,
    slots: int,
    host: str | None,
    arguments: list[str],
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> RayNode:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [
        *prefix, sys.executable, "-P", "-m", __name__, str(os.getpid()), str(directory),
        "start", "--block", *arguments, f"--temp-dir={_ray_directory(directory)}",
        f"--resources={json.dumps({SLOT_RESOURCE: slots})}", "--include-log-monitor=false",
        f"--object-store-memory={OBJECT_STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    if host is not None:
        command.append(f"--node-ip-address={host}")
    failure = ""
    for attempt in range(START_ATTEMPTS):
        with one_at_a_time(LOCK_TIMEOUT_S):
            process = _launch(command, directory, {**reach.environment(), **environment})
            try:
                address = _await_start(process, directory)
            except BaseException:  # interrupted
                _clear(directory, process)
                raise
        if address is not None:
            return RayNode(RayAddress(address, reach.token), directory, process)
        ended, failure = process.poll() is not None, _logs(directory)
        _clear(directory, process)
        what = "ended" if ended else f"was not ready within {START_TIMEOUT_S:.0f} s"
        logger.warning("Ray %s while starting (attempt %d of %d)", what, attempt + 1, START_ATTEMPTS)
    raise ClusterError(f"Ray does not start; the last lines of its logs:\n{failure or '(it wrote none)'}")


def _launch(command: list[str], directory: Path, own: Mapping[str, str]) -> subprocess.Popen[bytes]:
    ray_directory = _ray_directory(directory)
    shutil.rmtree(ray_directory, ignore_errors=True)
    ray_directory.mkdir(mode=0o700, parents=True)
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_CLUSTER}
    environment = {**_TUNING, **inherited, **own, MARK: str(directory)}
    with open(_output(directory), "wb") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _await_start(process: subprocess.Popen[bytes], directory: Path) -> str | None:
    """Ray writes the cluster's address, with one write, after its raylet is known to the GCS. None: it does not."""
    address_file = _ray_directory(directory) / "ray_current_cluster"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if address_file.exists() and (address := address_file.read_text().strip()):
            return address
        time.sleep(0.02)
    return None


def _token(directory: Path) -> str:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / TOKEN_FILE
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text().strip()


def _ray_directory(directory: Path) -> Path:
    """Where Ray keeps its sockets, whose paths must be short, and its logs."""
    inside = directory / "ray"
    if len(os.fsencode(inside)) + _SOCKET_SUFFIX <= _SOCKET_PATH_LIMIT:
        return inside
    return user_directory() / f"r-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]}"


def _output(directory: Path) -> Path:
    return _ray_directory(directory) / "start.log"


def _logs(directory: Path) -> str:
    logs = _ray_directory(directory) / "session_latest" / "logs"
    names = ("raylet.err", "raylet.out", "gcs_server.err", "gcs_server.out", "dashboard_agent.err", "dashboard.err")
    return tails([_output(directory), *(logs / name for name in names)], lines=8)


# connecting ----------------------------------------------------------------------------------------------------


def connect(reach: RayAddress, namespace: str) -> None:
    """Makes this process a driver of that cluster; `disconnect` ends it. Raises ClusterError."""
    if not reachable(reach):
        raise ClusterError(f"no Ray answers at {reach.address}")
    os.environ.update(reach.environment())
    import ray
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # ray reads these once; a process that was on another cluster before must forget them
    ray_constants.ENABLE_RAY_CLUSTER = not reach.loopback
    ray_constants.NUM_REDIS_GET_RETRIES = 5  # seconds that it takes to be refused
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        with chdir(Path(__file__).parent):  # workers import from where their driver is: not from the user's directory
            ray.init(reach.address, namespace=namespace, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as failure:
        raise ClusterError(
            f"the Ray at {reach.address} does not let us in: {failure}. Is its token the right one "
            f"({options.RAY_TOKEN.key}, RAY_AUTH_TOKEN), and its version {ray.__version__}?"
        ) from failure


def disconnect() -> None:
    """Detached actors go on."""
    import ray

    ray.shutdown()


def kill_named_actors() -> None:
    """Of the namespace of this driver: the end of a cluster on a Ray that goes on. Until none is left: a slot may have
    been on its way while its task manager died, and what this driver asked for last is lost with its connection.
    ClusterError: some are."""
    import ray

    until_s = time.monotonic() + KILL_TIMEOUT_S
    while (names := ray.util.list_named_actors()) and time.monotonic() < until_s:
        for name in names:
            try:
                ray.kill(ray.get_actor(name))
            except ValueError:
                continue  # it ended meanwhile
        time.sleep(0.1)
    if names:
        raise ClusterError(f"after {KILL_TIMEOUT_S:.0f} s there still are {', '.join(names)}")


# the keeper ----------------------------------------------------------------------------------------------------


def _keep(owner: int, directory: Path, ray_arguments: list[str]) -> None:
    """`ray start --block` that ends with its owner. GCS and raylet are children of this thread and die with it."""

    def clean_up() -> None:
        kill_members(str(directory), os.getpid())
        shutil.rmtree(_ray_directory(directory), ignore_errors=True)
        os._exit(1)

    on_death_of(owner, clean_up)
    keep_small(_ray_directory(directory) / "session_latest" / "logs")
    from ray._private.node import Node
    from ray.scripts.scripts import main

    # without a dashboard Ray starts its process all the same, and the raylet only once that is up
    Node.start_api_server = lambda self, **options: None  # type: ignore[method-assign]

    sys.argv = ["ray", *ray_arguments]
    main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    _keep(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
