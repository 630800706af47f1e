"""What a slot has to tell its master, until the master's waiting call takes it. Pure.

Messages leave in the order in which they came. They belong to one generation of masters: with a new one the box is
emptied, because what was said to the old one is about an attempt that the new one does not know (PROTOCOLS 5), and who
asks with an older generation is told to stop.

What was taken is gone. If the answer of a waiting call is lost on its way, so is the slot, for its master: it takes a
call that fails for the slot's death.

While nobody asks the box must not grow. A task's report of how far it is replaces an older one that nobody has taken;
everything else is bounded by what masters order and tasks do once.
"""

from __future__ import annotations

from ..state.errors import ProtocolError
from ..state.ids import Generation
from .messages import FromSlot, SubtaskId, TaskReport
from .processes.leases import SupersededError

MAX_MESSAGES = 100_000
"""More than any attempt of thousands of subtasks in one slot can have to say: something repeats itself."""


class Outbox:
    """Of one slot. Not thread-safe: its owner has a lock."""

    def __init__(self) -> None:
        self.generation = Generation(0)
        self._messages: dict[int, FromSlot] = {}
        """By number, in order."""
        self._reports: dict[SubtaskId, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: FromSlot) -> None:
        """ProtocolError: nobody can have this much to say."""
        if isinstance(message, TaskReport):
            older = self._reports.pop(message.subtask, None)
            if older is not None:
                del self._messages[older]
            self._reports[message.subtask] = self._next
        self._messages[self._next] = message
        self._next += 1
        if len(self._messages) > MAX_MESSAGES:
            raise ProtocolError(f"{MAX_MESSAGES} messages wait for the master; the last one is {message!r:.500}")

    def begin(self, generation: Generation) -> None:
        """From here on it speaks to this generation. SupersededError: it has heard of a later one."""
        self.check(generation)
        if generation > self.generation:
            self.generation = generation
            self._messages.clear()
            self._reports.clear()

    def check(self, generation: int) -> None:
        """SupersededError: a later master has this slot."""
        if generation < self.generation:
            raise SupersededError(f"generation {generation} is superseded by {self.generation}")

    def take(self, generation: int) -> list[FromSlot]:
        """Everything there is. SupersededError; ProtocolError: that generation has no lease of this slot."""
        self.check(generation)
        if generation > self.generation:
            raise ProtocolError(f"generation {generation} has no lease of this slot; {self.generation} has")
        messages = list(self._messages.values())
        self._messages.clear()
        self._reports.clear()
        return messages
