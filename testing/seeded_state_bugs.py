"""Bugs put in on purpose (seeded_bugs.py): what can be got wrong with operator state, two inputs, windows that fire
again or are in two phases, savepoints and who begins from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ..jobmanager import restore
from ..jobmanager.checkpoint_coordinator import CheckpointCoordinator
from ..runtime.elements import Watermark
from ..runtime.windows.columnar_two_phase import ColumnarLocalOperator
from ..runtime.windows.event_time_triggers import EventTimeTrigger
from ..runtime.windows.trigger import TriggerResult
from ..runtime.windows.two_phase import LocalWindowOperator
from ..state.operator_state import BroadcastState
from ..state.snapshots import OperatorStateHandle
from ..taskmanager.exchange.alignment import BarrierAligner
from ..taskmanager.exchange.gate import InputChannel, InputGate
from ..taskmanager.source_input import SourceInput


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    with patch.object(owner, name, make(getattr(owner, name))):
        yield


def union_list_given_to_one() -> Any:
    """What all subtasks had goes to the first of them, and to no other."""

    def make(original: Any) -> Any:
        def shared(old: Any, subtask: int, parallelism: int, old_parallelism: int) -> tuple[OperatorStateHandle, ...]:
            handles = original(old, subtask, parallelism, old_parallelism)
            return tuple(handle for handle in handles if handle.mode != "union" or not subtask)

        return shared

    return replaced(restore, "lists_for", make)


def list_given_to_everybody() -> Any:
    """A restored subtask gets the elements of all."""

    def make(original: Any) -> Any:
        def shared(old: Any, subtask: int, parallelism: int, old_parallelism: int) -> tuple[OperatorStateHandle, ...]:
            handles = original(old, subtask, parallelism, old_parallelism)
            everywhere = [handle for handle in handles if handle.mode != "split"]
            split = (each for _, snapshot in sorted(old.items()) for each in snapshot.lists if each.mode == "split")
            return (*everywhere, *split)

        return shared

    return replaced(restore, "lists_for", make)


def broadcast_state_lags() -> Any:
    """The copy in a snapshot is the one of the snapshot before."""

    def make(original: Any) -> Any:
        def put_all(self: BroadcastState[Any, Any], entries: dict[Any, Any]) -> None:
            lagging = self._encoded
            original(self, entries)
            self._encoded = lagging

        return put_all

    return replaced(BroadcastState, "put_all", make)


def barriers_of_the_second_input_forgotten() -> Any:
    """Of two inputs, so many barriers are waited for as the first has channels."""

    def make(original: Any) -> Any:
        def init(
            self: InputGate, channels: list[InputChannel], clock: Any, grant: Any, aligner: BarrierAligner
        ) -> None:
            first = sum(1 for channel in channels if channel.input_index == 0)
            original(self, channels, clock, grant, BarrierAligner(first) if first else aligner)

        return init

    return replaced(InputGate, "__init__", make)


def drain_forgotten_by_one_subtask() -> Any:
    """A source's first subtask does not end event time before the barrier of a drain."""

    def make(original: Any) -> Any:
        def time_is_to_end(self: SourceInput) -> bool:
            return self.operator.context.subtask > 0 and original(self)

        return time_is_to_end

    return replaced(SourceInput, "_time_is_to_end", make)


def checkpoint_begun_during_a_savepoint() -> Any:
    """It may be complete before the savepoint is, which then takes over its pending commits."""

    def make(original: Any) -> Any:
        def may_trigger(self: CheckpointCoordinator) -> bool:
            if self._wanted is not None or self._stops:
                return bool(original(self))
            return not self._quiet and len(self._active) < self.options.max_concurrent

        return may_trigger

    return replaced(CheckpointCoordinator, "_may_trigger", make)


def window_forgotten_when_it_fires() -> Any:
    """What has been given out is not there any more when a late record comes."""

    def make(original: Any) -> Any:
        def on_event_time(self: EventTimeTrigger, time: int, window: Any, ctx: Any) -> TriggerResult:
            result: TriggerResult = original(self, time, window, ctx)
            return TriggerResult.FIRE_AND_PURGE if result is TriggerResult.FIRE else result

        return on_event_time

    return replaced(EventTimeTrigger, "on_event_time", make)


@contextmanager
def partials_kept_over_the_barrier() -> Iterator[None]:
    """The local phase of windows gives out nothing before a barrier, and has no state either."""
    kept = lambda original: lambda self, checkpoint_id: None  # noqa: E731
    with (
        replaced(LocalWindowOperator, "prepare_barrier", kept),
        replaced(ColumnarLocalOperator, "prepare_barrier", kept),
    ):
        yield


def partials_behind_their_watermark() -> Any:
    """The local phase hands a watermark on before what was held until then."""

    def make(original: Any) -> Any:
        def process_watermark(self: LocalWindowOperator, watermark: Watermark) -> Iterator[None]:
            before, self.current_watermark = self.current_watermark, watermark.timestamp
            yield from self._give_out(before)

        return process_watermark

    return replaced(LocalWindowOperator, "process_watermark", make)


STATE_BUGS: tuple[Callable[[], Any], ...] = (
    union_list_given_to_one,
    list_given_to_everybody,
    broadcast_state_lags,
    barriers_of_the_second_input_forgotten,
    drain_forgotten_by_one_subtask,
    checkpoint_begun_during_a_savepoint,
    window_forgotten_when_it_fires,
    partials_kept_over_the_barrier,
    partials_behind_their_watermark,
)
