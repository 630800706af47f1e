"""What is known of a cluster's REST from outside: the port, whether it answers, its jobs, and the request to stop."""

from __future__ import annotations

import errno
import http.client
import socket
import threading
import time
from urllib.parse import urlsplit

import msgspec
import psutil

from ...runtime.configuration import cluster_options as options
from ...runtime.configuration.config import Configuration
from ...state.errors import PenstockError
from ..job_states import JobState
from .cluster_state import running_clusters
from .ray_address import LOOPBACK, ClusterError
from .restart_budget import Remedy, Vigil

PROBE_TIMEOUT_S = 3.0
STOP_REQUEST_TIMEOUT_S = 10.0
JOBS_STOP_TIMEOUT_S = 90.0
"""For all jobs together to stop with a last checkpoint, when their cluster does."""
GONE_TIMEOUT_S = JOBS_STOP_TIMEOUT_S + 30.0
"""For a cluster to be gone, from the request to stop."""
POLL_S = 0.3
SHOWN_JOBS = 10
SILENCE_FACTOR = 3
"""So many `heartbeat.timeout`s REST may be silent: whoever is busy is not dead."""
PATIENCE_MS = 60_000
"""A new dispatcher reads all jobs from the store before it answers."""


def port_of(address: str) -> int:
    """Of a URL or of host:port; 0 if there is none."""
    _, _, port = address.rstrip("/").rpartition(":")
    return int(port) if port.isdecimal() else 0


def settle_rest_port(config: Configuration, *, any_port: bool) -> str | None:
    """Fixes `rest.port`, so that it stays the same over restarts: 0, and with `any_port` one that is taken, becomes a
    free one. Answers a note for the user in the latter case. ClusterError: it cannot be had."""
    host, port = config.get(options.REST_BIND_ADDRESS) or LOOPBACK, config.get(options.REST_PORT)
    failure = _bind_failure(host, port)
    if failure is None or (any_port and failure.errno == errno.EADDRINUSE):
        taken = failure is not None
        if port == 0 or taken:
            config.set(options.REST_PORT, _free_port(host))
        return f"port {port} is in use{_user_of(port)}: REST is at {config.get(options.REST_PORT)}" if taken else None
    if failure.errno == errno.EADDRINUSE:
        raise ClusterError(
            f"port {port} of {host} is in use{_user_of(port)}; choose another one for REST with "
            f"--port PORT ({options.REST_PORT.key}), or a free one with 0"
        )
    raise ClusterError(
        f"REST cannot listen at {host}:{port}: {(failure.strerror or str(failure)).lower()}; set "
        f"{options.REST_BIND_ADDRESS.key} and {options.REST_PORT.key}"
    )


def _bind_failure(host: str, port: int) -> OSError | None:
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as failure:
        return failure
    except OverflowError:
        return OSError(errno.EINVAL, "ports go from 0 to 65535")
    return None


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=_family(host)) as server:
        port: int = server.getsockname()[1]
        return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _user_of(port: int) -> str:
    """Which process listens there, as far as it may be seen."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:2] == (port,):
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""


def answers(url: str) -> bool:
    """Whether something that speaks HTTP is there, whatever it says."""
    return _ask(url, "GET", "/config", PROBE_TIMEOUT_S) is not None


class _Row(msgspec.Struct):
    jid: str
    name: str
    state: str


class _Rows(msgspec.Struct):
    jobs: list[_Row]


def live_jobs(url: str) -> list[str]:
    """Names and ids of those that have not ended; none if REST does not say."""
    _, body = _ask(url, "GET", "/jobs/overview", PROBE_TIMEOUT_S) or (0, b"")
    try:
        rows = msgspec.json.decode(body, type=_Rows).jobs
    except msgspec.DecodeError:
        return []
    ended = {state.value for state in JobState if state.is_terminal}
    return [f"'{row.name}' ({row.jid})" for row in rows if row.state not in ended]


def waiting_for(jobs: list[str], left_s: float) -> str:
    """For whoever waits for the end of a cluster."""
    more = f" and {len(jobs) - SHOWN_JOBS} more" if len(jobs) > SHOWN_JOBS else ""
    return f"waiting up to {max(left_s, 0):.0f} s for the last checkpoint of {', '.join(jobs[:SHOWN_JOBS])}{more}"


def wait_until_gone(url: str, config: Configuration, timeout_s: float = GONE_TIMEOUT_S) -> None:
    """Until REST does not answer any more and, if the cluster is one of this machine, its processes have ended.
    PenstockError if it takes longer than that."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if _ask(url, "GET", "/config", PROBE_TIMEOUT_S) is None and not _runs_here(url, config):
            return
        time.sleep(POLL_S)
    raise PenstockError(f"the cluster at {url} has not stopped within {timeout_s:.0f} s")


def _runs_here(url: str, config: Configuration) -> bool:
    return any(state.rest_url == url for state in running_clusters(config))


def delete_cluster(url: str) -> bool:
    """Ask it to stop its jobs, with a last checkpoint, and to end; whether it will."""
    answer = _ask(url, "DELETE", "/cluster", STOP_REQUEST_TIMEOUT_S)
    return answer is not None and answer[0] < 300


def _ask(url: str, method: str, path: str, timeout_s: float) -> tuple[int, bytes] | None:
    """Status and body; None: nobody answers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def listens(url: str) -> bool:
    """Whether somebody takes connections there."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True


class RestProbe:
    """Asks REST regularly, on a thread: an answer may take its time, and the watch must not."""

    def __init__(self, config: Configuration) -> None:
        self._silence_ms = SILENCE_FACTOR * config.get(options.HEARTBEAT_TIMEOUT)
        self._interval_s = config.get(options.HEARTBEAT_INTERVAL) / 1_000
        self._url: str | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.forget()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def forget(self) -> None:
        """Starts from anew, after a restart."""
        vigil = Vigil(silence_ms=self._silence_ms, patience_ms=PATIENCE_MS, now_ms=_uptime_ms())
        with self._lock:
            self._vigil = vigil

    def check(self, url: str) -> tuple[Remedy, int]:
        """What is to be done, and for how long there was no answer, in milliseconds."""
        now_ms = _uptime_ms()
        with self._lock:
            self._url = url
            silent_ms = self._vigil.silent_ms(now_ms)
            return self._vigil.remedy(now_ms), silent_ms

    def close(self) -> None:
        """The thread ends with the next question."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._interval_s):
            vigil, url = self._vigil, self._url
            if url is not None and answers(url):
                with self._lock:
                    vigil.answered(_uptime_ms())


def _uptime_ms() -> int:
    return time.monotonic_ns() // 1_000_000
