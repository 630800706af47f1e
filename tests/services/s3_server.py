"""A real S3 server for tests: versitygw on a free loopback port, with a data directory and credentials of its own.

Stopped by its pid, and started again at the same port over the same data. When the test process dies, it dies too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from versitygw import provide_binary

START_TIMEOUT_S = 30
REGION = "us-east-1"
_WATCHED = """
exec 3<&0
"$0" "$@" <&- 3<&- & server=$!
echo $server
(read -r _ <&3; kill -9 $server) >&- 2>&- & watcher=$!
wait $server
kill $watcher
"""
"""Of a shell: its input closes when the test process dies, however that happens, and then the server is killed."""


class S3Server:
    def __init__(self, directory: Path) -> None:
        """Not started yet. ServiceMissing."""
        self._binary = provide_binary()
        self._directory = directory
        self.port = _free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.access_key = "key" + secrets.token_hex(8)
        self.secret_key = "secret" + secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def options(self) -> dict[str, str]:
        """How a configuration reaches it."""
        return {
            "s3.endpoint": self.endpoint, "s3.access-key": self.access_key, "s3.secret-key": self.secret_key,
            "s3.region": REGION,
        }  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """How the environment of a process reaches it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key, "AWS_REGION": REGION,
        }  # fmt: skip

    def create_bucket(self, name: str) -> str:
        """A bucket is a directory of the data. Gives its URL."""
        (self._directory / "data" / name).mkdir(parents=True, exist_ok=True)
        return f"s3://{name}"

    def start(self) -> None:
        """Waits until it answers."""
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [self._binary, "--port", f"127.0.0.1:{self.port}", "--region", REGION, "--quiet", "posix"]
        if not _has_attributes(data):
            metadata = self._directory / "metadata"
            metadata.mkdir(exist_ok=True)
            command += ["--sidecar", metadata]
        environment = {**os.environ, "ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _WATCHED, *map(str, command), str(data)],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        self._pid = int(self._process.stdout.readline())
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                log_text = (self._directory / "log").read_text(errors="replace")[-1000:]
                raise RuntimeError(f"versitygw did not start at {self.endpoint}: {log_text}")

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(self.endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return True  # it refuses us, so it is there
        except OSError:
            return False
        return True

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:  # its end is that of the server
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _has_attributes(directory: Path) -> bool:
    """The server keeps what it knows of objects in extended attributes, where the file system has them."""
    try:
        os.setxattr(directory, "user.penstock", b"1")
    except OSError:
        return False
    return True
