"""The open windows of a key, where a window's number cannot be read off the window: custom and merging assigners.

Every window has two numbers. Under `number` are its timers and its trigger's state; a merged window gets a new one,
because the trigger clears those of the windows that went into it. Under `contents` are its elements, or what was made
of them: a merged window takes over the contents of the first of those windows, and the others' are added to it.

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
    number = _free_number(windows)
    added = OpenWindow(window, number, number)
    return Added((*windows, added), added, ())


def with_merging_window(windows: WindowSet, window: Any, merge_windows: MergeWindows) -> Added:
    """For windows that merge: the assigner says which. PipelineError when it merges windows that are not there."""
    left = {each.window: each for each in windows}
    free = _free_number(windows)
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
            become = OpenWindow(result, free, merged[0].contents if merged else free)
            free += 1
            if merged:
                merges.append(Merge(merged, become))
        results.append(become)
        if window in members:
            actual = become
    if actual is None:
        actual = left.get(window) or OpenWindow(window, free, free)
        left[window] = actual
    return Added((*left.values(), *results), actual, tuple(merges))


def _free_number(windows: WindowSet) -> int:
    """Above all in use, so that a timer that is left over from a merged window finds none."""
    return max((max(each.number, each.contents) for each in windows), default=-1) + 1
