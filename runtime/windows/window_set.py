"""The open windows of a key, where a window's number cannot be read off the window: custom and merging assigners.

Every window has two numbers. Under `number` are its timers, and under the slot in it its trigger's state; a merged
window gets a new one, because the trigger clears those of the windows that went into it. Under `contents` are its
elements, or what was made of them: a merged window takes over the contents of the first of those windows, and the
others' are added to it.

    number    31 bits of the window's hash, 32 bits slot

Slots are few, since state is kept by them for all keys together; so they are given again, from 0 on when a key's last
window is over. A trigger may have left timers behind by then, and these must not meet another window: the hash says
whose they were. It is taken once, when the window is opened, so it may differ from process to process.

A key's set is an immutable tuple, empty when no window is open. Nothing here touches state: what is to be done about
a merge is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ...state.errors import PipelineError

MergeWindows = Callable[[Sequence[Any]], Iterable[tuple[Sequence[Any], Any]]]


class OpenWindow(NamedTuple):
    window: Any
    number: int
    contents: int


WindowSet = tuple[OpenWindow, ...]

_SLOT_BITS = 32
_HASH = (1 << 31) - 1


class Merge(NamedTuple):
    """Windows that were open and become one."""

    merged: tuple[OpenWindow, ...]
    result: OpenWindow


class Added(NamedTuple):
    """What a set becomes with an element's window."""

    windows: WindowSet
    actual: OpenWindow
    """Where the element belongs."""
    merges: tuple[Merge, ...]


def slot_of(number: int) -> int:
    """The namespace of the trigger's state, of a window with that number."""
    return number & ((1 << _SLOT_BITS) - 1)


def find(windows: WindowSet, number: int) -> OpenWindow | None:
    """The window of that number."""
    for each in windows:
        if each.number == number:
            return each
    return None


def without(windows: WindowSet, gone: OpenWindow) -> WindowSet:
    return tuple([each for each in windows if each is not gone])


def with_window(windows: WindowSet, window: Any) -> Added:
    """For windows that do not merge."""
    for each in windows:
        if each.window == window:
            return Added(windows, each, ())
    slot = _free_slot(windows)
    added = OpenWindow(window, _number(window, slot), slot)
    return Added((*windows, added), added, ())


def with_merging_window(windows: WindowSet, window: Any, merge_windows: MergeWindows) -> Added:
    """For windows that merge: the assigner says which. PipelineError when it merges windows that are not there."""
    left = {each.window: each for each in windows}
    free = _free_slot(windows)
    merges: list[Merge] = []
    results: list[OpenWindow] = []
    actual: OpenWindow | None = None
    for members, result in merge_windows([*left] if window in left else [*left, window]):
        if not {*members} <= {*left, window}:
            raise PipelineError(f"merge_windows() merges windows that are not open, or one twice: {members!r}")
        merged = tuple([left.pop(member) for member in dict.fromkeys(members) if member in left])
        if len(merged) == 1 and merged[0].window == result:
            become = merged[0]
        else:
            become = OpenWindow(result, _number(result, free), merged[0].contents if merged else free)
            free += 1
            if merged:
                merges.append(Merge(merged, become))
        results.append(become)
        if window in members:
            actual = become
    if actual is None:
        actual = left.get(window) or OpenWindow(window, _number(window, free), free)
        left[window] = actual
    return Added((*left.values(), *results), actual, tuple(merges))


def _free_slot(windows: WindowSet) -> int:
    """Above all in use."""
    return max((max(slot_of(each.number), each.contents) for each in windows), default=-1) + 1


def _number(window: Any, slot: int) -> int:
    return (hash(window) & _HASH) << _SLOT_BITS | slot
