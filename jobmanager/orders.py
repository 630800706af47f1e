"""Commands on their way out, and the fence that every message to a slot carries (PROTOCOLS 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..state.ids import Generation, SlotId
from ..taskmanager.messages import ToSlot
from .events import Command, SendToSlot
from .execution_graph import ExecutionGraph


class Orders:
    """Collects the commands of one event. All parts of a job master write here, in the order of their decisions."""

    def __init__(self, graph: ExecutionGraph) -> None:
        self.generation = Generation(0)
        self._graph = graph
        self._commands: list[Command] = []

    def give(self, *commands: Command) -> None:
        self._commands.extend(commands)

    def send(self, slots: Iterable[SlotId], message: Callable[..., ToSlot], *fields: object) -> None:
        """`message`: a class of control messages; `fields`: what follows the fence in it."""
        for slot in slots:
            self.give(SendToSlot(slot, message(self.generation, self._graph.attempt, *fields)))

    def take(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands
