"""How task managers are, and which of them hang. Pure: time is passed in, in seconds of a clock that never jumps back.

Ray notices a process that dies, and starts its actor again. One that stands still is noticed here: each is asked how
it is once per heartbeat, one question at a time, and one that owes an answer for longer than the timeout is to be
killed. It finds its slots by their names when it comes back, so a wrong guess costs some seconds of no new slots.

A process that has not answered yet is starting, which takes longer. If whoever asks stood still, answers wait for him,
and the time does not count.

The last answer of each is kept: that is what is shown of it, with the time it was heard, while it is silent, and for no
longer than the timeout. Whoever wants to see it now has those asked that owe no answer (`ask_now`), and waits for the
fresh questions alone: whoever is cut off or stands still is waited for once, and not by every question after. Whoever
goes by what they say reads each answer once, whoever it was that asked (`news`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..views import TaskManagerView

START_S = 60.0
"""What the start of a task manager may take, before its first answer."""
LONGEST_GAP_S = 5.0
"""Between two looks; longer ones mean that the looking process itself stood still."""


@dataclass(slots=True)
class _Watched:
    next_s: float
    """When it is asked again."""
    asked_s: float | None = None
    """Since when an answer is owed."""
    spoken: bool = False
    view: TaskManagerView | None = None
    told: bool = True
    """Whether the view is no news any more."""
    heard_s: float = 0.0
    """When it said so."""


class TaskManagerWatch:
    """`look` regularly, then ask and kill as it says; `answered` with every answer, an error too."""

    def __init__(self, *, interval_s: float, timeout_s: float) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._watched: dict[str, _Watched] = {}
        self._looked_s: float | None = None

    def look(self, names: Iterable[str], now_s: float) -> tuple[list[str], list[str]]:
        """Of the task managers that there are: whom to ask now, and whom to kill."""
        self._watched = {name: self._watched.get(name) or _Watched(now_s) for name in sorted(names)}
        slept = self._looked_s is not None and now_s - self._looked_s > LONGEST_GAP_S
        self._looked_s = now_s
        ask, kill = [], []
        for name, each in self._watched.items():
            if each.asked_s is None:
                if now_s >= each.next_s:
                    each.asked_s, each.next_s = now_s, now_s + self._interval_s
                    ask.append(name)
            elif slept:
                each.asked_s = now_s
            elif now_s - each.asked_s > (self._timeout_s if each.spoken else max(self._timeout_s, START_S)):
                kill.append(name)
                self._watched[name] = _Watched(now_s + self._interval_s)
        return ask, kill

    def answered(self, name: str, view: TaskManagerView | None, now_s: float) -> None:
        """What it says of itself. None: Ray says that its process is gone, and being started again."""
        each = self._watched.get(name)
        if each is not None:
            each.asked_s, each.spoken = None, view is not None
            if view is not None:
                each.view, each.heard_s, each.told = view, now_s, False

    def news(self) -> list[TaskManagerView]:
        """What was said since the last time; of each the newest."""
        fresh = [each for each in self._watched.values() if not each.told]
        for each in fresh:
            each.told = True
        return [each.view for each in fresh if each.view is not None]

    def ask_now(self, now_s: float) -> list[str]:
        """Somebody wants to see them: whom to ask before the next heartbeat."""
        ask = [name for name, each in self._watched.items() if each.asked_s is None]
        for name in ask:
            self._watched[name].asked_s, self._watched[name].next_s = now_s, now_s + self._interval_s
        return ask

    def awaits(self, since_s: float) -> bool:
        """Whether somebody who was asked since then owes the answer."""
        return any(each.asked_s is not None and each.asked_s >= since_s for each in self._watched.values())

    def views(self, now_s: float) -> list[TaskManagerView]:
        """The last word of each, without those that have been silent for too long."""
        watched = self._watched.values()
        return [each.view for each in watched if each.view is not None and now_s - each.heard_s <= self._timeout_s]
