"""What is known on a machine of a cluster that runs there, and who may run it.

In the cluster's directory (runtime/directories.py), all of it readable by its user alone:

    lock           held (flock) by the supervisor as long as it lives: the kernel lets go of it, whatever it dies of
    cluster.json   who the supervisor is, and how REST and Ray are reached; valid only while the lock is held
    stop           made by the dispatcher when its jobs are stopped and the cluster was asked to end: whoever asked, it
                   is the supervisor that ends the processes
    token, secret  of Ray, and of the cluster's own processes; both outlive a head that died

Nobody reads or writes them over a network; clients that have an address need none of them.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import Literal

import msgspec

from ...runtime.configuration.config import Configuration
from ...runtime.directories import cluster_directory, private_directory

LOCK, STATE, STOP, SECRET = "lock", "cluster.json", "stop", "secret"

CLAIM_S = 0.5
"""Whoever looks whether the lock is held has it for an instant."""

Phase = Literal["starting", "running", "restarting", "stopping"]


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """As the supervisor last wrote it."""

    cluster_id: str
    pid: int
    """Of the supervisor."""
    phase: Phase
    rest_url: str | None = None
    ray_address: str | None = None
    """host:port of the GCS."""
    keeper_pid: int | None = None
    """Leader of the session of Ray's processes; None on a Ray that somebody else runs."""
    started_ms: int = 0
    restarts: int = 0
    """Of the head, so far."""
    last_failure: str | None = None
    """Why it was restarted the last time."""


class ClusterFiles:
    """The files of the cluster with that `cluster.id` on this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None

    @classmethod
    def of(cls, config: Configuration) -> ClusterFiles:
        """ConfigurationError if their directory cannot be used."""
        return cls(cluster_directory(config))

    def claim(self) -> bool:
        """Take the lock, and hold it until `release` or death. False if somebody else has it."""
        return self._claim(CLAIM_S)

    def _claim(self, timeout_s: float) -> bool:
        path, deadline = self.directory / LOCK, time.monotonic() + timeout_s
        while True:
            private_directory(self.directory)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # somebody removed the directory, which was empty
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
                continue
            if _is(descriptor, path):
                self._lock = descriptor
                return True
            os.close(descriptor)  # removed, with its directory, by the one who had it before

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_claimed(self) -> bool:
        """By a living process; by this one too."""
        if self._lock is not None:
            return True
        if not (self.directory / LOCK).exists():
            return False
        free = self._claim(0)
        self.release()
        return not free

    def write(self, state: ClusterState) -> None:
        """Whole or not at all."""
        path = self.directory / STATE
        new = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(state))
        new.replace(path)

    def read(self) -> ClusterState | None:
        """Of the cluster that runs; None if none does, or it has not got that far."""
        return self.last() if self.is_claimed() else None

    def last(self) -> ClusterState | None:
        """Of the cluster that runs, or of one that was killed here; None if it left nothing."""
        try:
            return msgspec.json.decode((self.directory / STATE).read_bytes(), type=ClusterState)
        except (OSError, msgspec.DecodeError):
            return None

    def secret(self, name: str = SECRET) -> str:
        """Random, made once; the same as long as the directory is there."""
        path = self.directory / name
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        return path.read_text().strip()

    @property
    def stop_requested(self) -> bool:
        return (self.directory / STOP).exists()

    def request_stop(self) -> None:
        if self.directory.is_dir():
            (self.directory / STOP).touch(mode=0o600)

    def forget_stop(self) -> None:
        (self.directory / STOP).unlink(missing_ok=True)


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def running_clusters(config: Configuration) -> list[ClusterState]:
    """All of this user on this machine, by name."""
    own = cluster_directory(config)
    directories = sorted(own.parent.iterdir())
    forget_if_empty(own)
    states = [ClusterFiles(directory).read() for directory in directories if (directory / LOCK).exists()]
    return [state for state in states if state is not None]


def forget_if_empty(directory: Path) -> None:
    """Looking for a cluster has made it."""
    try:
        directory.rmdir()
    except OSError:
        pass


def say_stopped(config: Configuration) -> None:
    """By the dispatcher, once its jobs have stopped: the supervisor of its cluster, if it is on this machine, may end
    the processes. Whose Ray it runs in does not matter: that may be another cluster's."""
    files = ClusterFiles.of(config)
    if files.is_claimed():
        files.request_stop()
    else:
        forget_if_empty(files.directory)
