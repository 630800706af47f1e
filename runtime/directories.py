"""Where the processes of a cluster keep their files on a machine.

    <io.tmp.dirs, or the system's>/penstock-<uid>/<cluster.id>/<node>/
        logs/         one .log and one .out file per process (logs.py)
        code/         code of jobs, unpacked, by the hash of its content
        work/<slot>/  state of the running attempt; goes with the slot
        local/<job>/<slot>/  copies of uploaded state (state/store/local_copies.py); outlive the slot for a while
        s/            Unix sockets
        lock          held, shared, by every process of the node as long as it lives (occupy)

Directories belong to the user alone (0700): state and code are theirs, and so are the sockets. One that somebody else
made first, in a directory that all may write to, is refused.

A node that is gone, with its machine or under `kill -9`, leaves its files. The next task manager of the cluster on this
machine finds that nobody holds its lock, and removes all but recent logs.

A Unix socket's path has at most 107 bytes. Where the node's directory is deeper than that, sockets lie in a short
directory of their own, below the system's temporary directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

from ..state.errors import ConfigurationError
from .configuration.cluster_options import CLUSTER_ID, WORK_DIRECTORY
from .configuration.config import Configuration

LOGS, CODE, WORK, LOCAL, SOCKETS = "logs", "code", "work", "local", "s"
LOGS_KEPT_S = 24 * 3600.0
"""Logs of a node that is gone."""
_LOCK = "lock"
_LONGEST_SOCKET_PATH = 107
_LONGEST_SOCKET_NAME = 40
"""What a transport may call its socket within the directory."""


def cluster_directory(config: Configuration) -> Path:
    """Of this user and `cluster.id`; made if it is not there. ConfigurationError if it cannot be, or is not ours."""
    parent = Path(config.get(WORK_DIRECTORY) or tempfile.gettempdir()).absolute()
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(parent, error) from error
    own = private_directory(parent / f"penstock-{os.getuid()}")
    return private_directory(own / _file_name(config.get(CLUSTER_ID) or CLUSTER_ID.default or ""))


def node_directory(config: Configuration, name: str) -> Path:
    """Of one process or node of the cluster, with the directories above in it."""
    node = private_directory(cluster_directory(config) / _file_name(name))
    _make_parts(node)
    return node


def _make_parts(node: Path) -> None:
    for part in (LOGS, CODE, WORK, LOCAL):
        private_directory(node / part)


_occupied: dict[Path, int] = {}


def occupy(node: Path) -> None:
    """This process lives in that node's directory, until it ends: it will not be removed."""
    if node not in _occupied:
        descriptor = os.open(private_directory(node) / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _occupied[node] = descriptor
    _make_parts(node)  # if somebody was removing them in this moment


def remove_abandoned(cluster: Path) -> list[str]:
    """What nodes of the cluster have left that nobody lives in any more; their names."""
    removed = []
    for lock in cluster.glob(f"*/{_LOCK}"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(lock.parent)
                removed.append(lock.parent.name)
        except OSError:  # somebody lives in it, or it is being removed
            continue
    return removed


def _remove(node: Path) -> None:
    shutil.rmtree(socket_directory(node), ignore_errors=True)
    for part in (WORK, LOCAL, CODE):
        shutil.rmtree(node / part, ignore_errors=True)
    logs = node / LOGS
    newest_s = max((path.stat().st_mtime for path in logs.glob("*")), default=0.0)
    if time.time() - newest_s > LOGS_KEPT_S:
        shutil.rmtree(node, ignore_errors=True)


def socket_directory(node: Path) -> Path:
    """Where the sockets of that node lie: in it, if their paths are short enough there."""
    inside = node / SOCKETS
    if len(os.fsencode(inside)) + 1 + _LONGEST_SOCKET_NAME <= _LONGEST_SOCKET_PATH:
        return private_directory(inside)
    own = private_directory(Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}")
    digest = hashlib.sha256(os.fsencode(node)).hexdigest()[:16]
    return private_directory(private_directory(own / SOCKETS) / digest)


def private_directory(path: Path) -> Path:
    """Make it, unless it is there and ours. ConfigurationError names it and says what is wrong."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigurationError(
                f"{path} belongs to somebody else or is no directory; set {WORK_DIRECTORY.key} to a directory of yours"
            )
        if found.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise _unusable(path, error) from error
    return path


def _file_name(name: str) -> str:
    """A name that users choose, as one path component."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_"


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    reason = (error.strerror or str(error)).lower()
    return ConfigurationError(f"{path} cannot be used: {reason}; set {WORK_DIRECTORY.key} to another directory")
