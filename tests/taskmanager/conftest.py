"""A node in this process: slots with threads and sockets of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.runtime.clock import Clock
from penstock.runtime.config import Configuration
from penstock.runtime.directories import node_directory
from penstock.state.ids import SlotId
from penstock.taskmanager.slot_process import SlotProcess


class Node:
    """Starts slots in this process; remembers with which code one would have ended it."""

    def __init__(self, directory: Path) -> None:
        self.config = Configuration({"io.tmp.dirs": str(directory)})
        self.directory = node_directory(self.config, "tm")
        self.slots: list[SlotProcess] = []
        self.exits: list[int] = []

    def slot(self, clock: Clock | None = None, **options: object) -> SlotProcess:
        config = self.config.merged(Configuration({key.replace("__", "."): value for key, value in options.items()}))
        name = SlotId(f"slot-{len(self.slots)}")
        process = SlotProcess(
            name, "tm", "127.0.0.1", self.directory, config, clock=clock, exit_process=self.exits.append
        )
        process.start()
        self.slots.append(process)
        return process


@pytest.fixture
def node() -> Iterator[Node]:
    directory = Path(tempfile.mkdtemp(prefix="pk-"))  # short, for the sake of Unix sockets
    node = Node(directory)
    yield node
    for process in node.slots:
        process.stop()
    shutil.rmtree(directory)
