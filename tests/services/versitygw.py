"""The S3 server of the tests: versitygw, found in a cache directory, else built once with Go.

    <XDG_CACHE_HOME or ~/.cache>/penstock-services/versitygw-<version>/versitygw

Test processes that need it at the same time build it once: who has the lock builds, the others wait for the lock.
The finished program is moved to its name in one step, so one that is there is whole. `python versitygw.py` builds it
ahead of time and prints where it is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

VERSION = "1.8.0"
BUILD_TIMEOUT_S = 900
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
"""Of when this is imported: tests change the environment."""
_MODULE = f"github.com/versity/versitygw/cmd/versitygw@v{VERSION}"


class ServiceMissing(Exception):
    """The server can be had neither from the cache nor by building it; says why."""


def cached_binary() -> Path:
    """Where the program is, or will be."""
    return _CACHE / "penstock-services" / f"versitygw-{VERSION}" / "versitygw"


def provide_binary() -> Path:
    """The program; built now if need be, which takes some minutes. ServiceMissing."""
    binary = cached_binary()
    if binary.is_file():
        return binary
    try:
        binary.parent.mkdir(parents=True, exist_ok=True)
        with open(binary.parent / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not binary.is_file():
                _build(binary)
    except OSError as error:
        raise ServiceMissing(f"versitygw cannot be kept in {binary.parent}: {error}") from error
    return binary


def build_ahead() -> None:
    """Begin to build it, if it is not there, while other tests run."""
    if not cached_binary().is_file():
        threading.Thread(target=_build_quietly, name="build versitygw", daemon=True).start()


def _build_quietly() -> None:
    try:
        provide_binary()
    except ServiceMissing:
        pass  # who needs it tries again, and says so


def _build(binary: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise ServiceMissing(f"versitygw {VERSION} is not in {binary.parent}, and there is no Go to build it with")
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        # GOBIN is refused for cross builds only; no cgo: the program runs on any Linux.
        environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": scratch}
        command = [go, "install", "-trimpath", "-ldflags=-s -w", _MODULE]
        try:
            built = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ServiceMissing(f"versitygw {VERSION} was not built within {BUILD_TIMEOUT_S} s") from None
        if built.returncode != 0:
            raise ServiceMissing(f"versitygw {VERSION} cannot be built: {built.stderr.strip()[-500:]}")
        os.replace(Path(scratch, "versitygw"), binary)


if __name__ == "__main__":
    print(provide_binary())
