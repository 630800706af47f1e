"""The command line as users have it, in processes of its own, against real clusters.

project       an empty working directory; `write` puts a script there; `penstock` runs the command there, against the
              module's cluster, and gives its exit code and what it printed
near_project  one whose commands need no process of their own
rest          a client of the module's cluster
"""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.api.rest_client import RestClient
from penstock.testing.commands import penstock_in

if TYPE_CHECKING:
    from conftest import Cluster

PENSTOCK = Path(sys.executable).with_name("penstock")
COMMAND_TIMEOUT_S = 100.0


@dataclass(frozen=True)
class Told:
    """What a command that has ended said."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err


class Project:
    """A user's working directory."""

    python = sys.executable

    def __init__(self, directory: Path, address: str | None) -> None:
        self.directory = directory
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "RAY_", "AWS_"))
        }
        if address is not None:
            self.environment["PENSTOCK_ADDRESS"] = address

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
        return path

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def on_a_terminal(self, *command: str | Path) -> tuple[int, str]:
        """The exit code, and all that somebody would have seen who watches."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [str(part) for part in command], cwd=self.directory, env=self.environment | {"TERM": "xterm"},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        deadline = threading.Timer(COMMAND_TIMEOUT_S, process.kill)
        deadline.start()
        try:
            seen = _shown(ours)
            return process.wait(), seen
        finally:
            deadline.cancel()
            process.kill()
            os.close(ours)

    def penstock(self, *arguments: str | Path) -> Told:
        return self.run(PENSTOCK, *arguments)

    def run(self, *command: str | Path) -> Told:
        return self.wait_for(self.start(*command))

    @staticmethod
    def wait_for(process: subprocess.Popen[str], timeout_s: float = COMMAND_TIMEOUT_S) -> Told:
        """Its end."""
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return Told(process.returncode, out, err)

    @staticmethod
    def rest_of(process: subprocess.Popen[str]) -> Told:
        """What follows the lines that have been read of it; `communicate` does not know what was read ahead."""
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            out, err = process.stdout.read(), process.stderr.read()
        return Told(process.wait(COMMAND_TIMEOUT_S), out, err)


class NearProject(Project):
    """Its command line runs in this process, which has it loaded already; scripts have processes of their own."""

    def penstock(self, *arguments: str | Path) -> Told:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name not in self.environment]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return Told(*penstock_in(self.directory, *map(str, arguments)))


def _shown(terminal: int) -> str:
    """To its end: a terminal that nobody writes to any more is an error for who reads it."""
    seen = b""
    try:
        while part := os.read(terminal, 65_536):
            seen += part
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    return seen.decode()


@pytest.fixture
def project(tmp_path: Path, cluster: Cluster) -> Project:
    directory = tmp_path / "project"
    directory.mkdir()
    return Project(directory, cluster.address)


@pytest.fixture
def near_project(tmp_path: Path, cluster: Cluster) -> Project:
    """For what goes wrong in scripts and on the cluster, not in the command line."""
    directory = tmp_path / "project"
    directory.mkdir()
    return NearProject(directory, cluster.address)


@pytest.fixture
def lonely_project(tmp_path: Path) -> Project:
    """One that knows no cluster."""
    directory = tmp_path / "project"
    directory.mkdir()
    return Project(directory, None)


@pytest.fixture
def rest(cluster: Cluster) -> Iterator[RestClient]:
    client = RestClient(cluster.address)
    yield client
    client.close()
