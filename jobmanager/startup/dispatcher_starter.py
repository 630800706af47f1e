"""The process that starts the dispatcher on Ray, and ends the cluster's actors; started by the supervisor.

The supervisor itself is no driver of Ray: a driver dies with its Ray. This process is a driver for a second. It is
started beside Ray's head, imports what it needs meanwhile, reads one `Request` (JSON) from its input as soon as the
head is there, and prints one `Answer`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from typing import Literal

import msgspec

from ...runtime.configuration.cluster_options import CLUSTER_ID
from ...runtime.configuration.config import Configuration
from ...state.errors import PenstockError
from .node_processes import on_death_of
from .ray_address import ClusterError, RayAddress
from .ray_cluster import connect, disconnect, kill_named_actors

TIMEOUT_S = 150.0


class Request(msgspec.Struct, frozen=True):
    """Everything by its input: arguments and environments are seen by others."""

    task: Literal["start", "end"]
    config: dict[str, str]
    storage: str
    secret: str
    address: str
    token: str | None


class Answer(msgspec.Struct, frozen=True):
    """What became of it."""

    url: str | None = None
    """Of REST, where the dispatcher was started."""
    error: str | None = None


def namespace_of(cluster_id: str) -> str:
    """Ray namespace of a cluster: its actors find each other by name in it."""
    return f"penstock-{cluster_id}"


def answer(request: Request, starter: str) -> Answer:
    """Never raises for what Ray or the dispatcher does."""
    config = Configuration.from_dict(request.config)
    try:
        connect(RayAddress(request.address, request.token), namespace_of(config.get(CLUSTER_ID) or "default"))
        try:
            if request.task == "end":
                kill_named_actors()
                return Answer()
            module, _, function = starter.partition(":")
            start = getattr(import_module(module), function)
            return Answer(url=start(config, request.storage, bytes.fromhex(request.secret)))
        finally:
            disconnect()
    except PenstockError as failure:
        return Answer(error=str(failure))


class StarterProcess:
    """The supervisor's side: a context in which the process lives."""

    def __init__(self, reach: RayAddress, starter: str) -> None:
        """`reach` is needed for its environment: token, and whether it is on this machine."""
        self._environment = {**os.environ, **reach.environment()}
        self._starter = starter

    def __enter__(self) -> StarterProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(os.getpid()), self._starter],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def ask(self, request: Request) -> Answer:
        """ClusterError with what it says."""
        try:
            output, _ = self._process.communicate(msgspec.json.encode(request) + b"\n", TIMEOUT_S)
            result = msgspec.json.decode(output, type=Answer)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"the dispatcher has not started within {TIMEOUT_S:.0f} s") from None
        except (msgspec.DecodeError, OSError):
            code = self._process.wait(TIMEOUT_S)
            raise ClusterError(
                f"the process that starts the dispatcher ended with code {code}; what it printed says why"
            ) from None
        if result.error is not None:
            raise ClusterError(result.error)
        return result

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def main(owner: int, starter: str) -> None:
    """`starter` is module:function, called as jobmanager.cluster.actors.start_dispatcher is."""
    on_death_of(owner, lambda: os._exit(1))
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not get between
    import_module(starter.partition(":")[0])
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    output.write(msgspec.json.encode(answer(request, starter)))
    output.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
