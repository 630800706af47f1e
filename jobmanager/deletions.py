"""Objects that a job does not need any more, until the store has deleted them. Nothing waits for that.

A deletion that fails, because the store does not serve for a while, is begun again when a checkpoint is completed:
files pile up only as long as checkpoints fail, too. What was found to be deletable stays so: nothing refers to it again
(state/store/garbage.py says why).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..state.store.objects import Program
from .events import RunProgram
from .orders import Orders

MOST = 1_000
"""That wait to be begun again; older ones are forgotten."""
AT_ONCE = 4
"""Begun again at a time: other programs of the master are waiting for the same threads."""


class Deletions:
    """Of one job's master."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._numbers = 0
        self._under_way: dict[int, Callable[[], Program[Any]]] = {}
        self._failed: dict[int, Callable[[], Program[Any]]] = {}

    def begin(self, delete: Callable[[], Program[Any]]) -> None:
        """`delete` makes the program, which may run several times."""
        self._numbers += 1
        self._under_way[self._numbers] = delete
        self._orders.give(RunProgram(("delete", self._numbers), delete()))

    def done(self, number: int) -> None:
        self._under_way.pop(number, None)

    def failed(self, number: int) -> None:
        delete = self._under_way.pop(number, None)
        if delete is not None:
            self._failed[number] = delete
            if len(self._failed) > MOST:
                del self._failed[min(self._failed)]

    def again(self) -> None:
        """The store may serve again."""
        for number in list(self._failed)[:AT_ONCE]:
            self.begin(self._failed.pop(number))
