"""How a Ray cluster is reached: its address, its token, and where they are found."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from ...runtime.configuration import cluster_options as options
from ...runtime.configuration.config import Configuration
from ...state.errors import PenstockError

LOOPBACK = "127.0.0.1"
CONNECT_TIMEOUT_S = 10.0


class ClusterError(PenstockError):
    """Ray, or the cluster on it, cannot be started, found or joined; why, and what to do."""


@dataclass(frozen=True, slots=True)
class RayAddress:
    """How a Ray cluster is reached."""

    address: str
    """host:port of its head's GCS."""
    token: str | None = field(repr=False)
    """None: it takes everybody."""

    @property
    def loopback(self) -> bool:
        return self.address.rpartition(":")[0] in (LOOPBACK, "localhost")

    def environment(self) -> dict[str, str]:
        """What must be in the environment of a process before it imports ray."""
        auth = {"RAY_AUTH_MODE": "disabled"}
        if self.token is not None:
            auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return {**auth, **_reach(self.loopback)}


def _reach(loopback: bool) -> dict[str, str]:
    """Ray replaces 127.0.0.1 by the machine's address, except where it is told that it runs on one machine only."""
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if loopback else "1"}


def existing(config: Configuration) -> RayAddress | None:
    """The Ray cluster that the configuration names. Its token is the one of `ray.token-file`, else RAY_AUTH_TOKEN, else
    the file of RAY_AUTH_TOKEN_PATH, else Ray's own default file. Raises ClusterError for a file that cannot be read."""
    address = config.get(options.RAY_ADDRESS)
    if address is None:
        return None
    if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdecimal():
        raise ClusterError(f"{options.RAY_ADDRESS.key} is {address!r}, but it must be host:port of the head's GCS")
    return RayAddress(address, find_token(config.get(options.RAY_TOKEN)))


def find_token(file: str | None) -> str | None:
    """From that file, or where Ray looks for it; None when there is none. Raises ClusterError."""
    if file is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
        return token
    named = file or os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    if named is None and not path.exists():
        return None
    try:
        return path.read_text().strip()
    except OSError as failure:
        raise ClusterError(f"the token of Ray cannot be read from {path}: {failure.strerror}") from None


def reachable(reach: RayAddress) -> bool:
    """Whether somebody takes connections there. Ray itself would try for a minute."""
    host, _, port = reach.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True
