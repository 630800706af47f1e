"""Which operator windows need, and what cannot work: known when the pipeline is built."""

from __future__ import annotations

from typing import Any

from ...state.errors import PipelineError
from ..keys import KeySelector
from ..records.record_types import RecordType
from .assigner import AlignedWindows, MergingWindowAssigner, WindowAssigner
from .custom_windows import CustomWindowOperator, MergingWindowOperator
from .evaluations import Evaluation, Folding
from .event_time_triggers import EventTimeTrigger
from .evicting import Evicting
from .evictors import Evictor
from .processing_time_triggers import ProcessingTimeTrigger
from .session_operator import SessionOperator
from .session_windows import EventTimeSessionWindows, ProcessingTimeSessionWindows
from .slices import SlicedWindowOperator, can_share
from .time_windows import SlidingEventTimeWindows, SlidingProcessingTimeWindows, SlidingWindows
from .trigger import Trigger
from .window_operator import WindowOperator

_AT_END = (EventTimeTrigger, ProcessingTimeTrigger)
_SESSIONS = (EventTimeSessionWindows, ProcessingTimeSessionWindows)
_SLIDING = (SlidingEventTimeWindows, SlidingProcessingTimeWindows)


def window_operator(
    selector: KeySelector,
    assigner: WindowAssigner,
    evaluation: Evaluation,
    output_type: RecordType,
    *,
    trigger: Trigger | None = None,
    evictor: Evictor | None = None,
    **options: Any,
) -> WindowOperator:
    """`options`: as WindowOperator takes them. PipelineError when these do not go together."""
    kind = operator_class(assigner, evaluation, trigger, evictor)
    evaluation = evaluation if evictor is None else Evicting(evaluation, evictor)
    return kind(selector, assigner, evaluation, output_type, trigger=trigger, **options)


def operator_class(
    assigner: WindowAssigner, evaluation: Evaluation, trigger: Trigger | None, evictor: Evictor | None
) -> type[WindowOperator]:
    """Classes are compared exactly: what a user has derived from ours may do anything. PipelineError as above."""
    _check(assigner, evaluation, trigger, evictor)
    at_end = given_out_at_end(assigner, trigger)
    if isinstance(assigner, MergingWindowAssigner):
        return SessionOperator if at_end and type(assigner) in _SESSIONS else MergingWindowOperator
    if not isinstance(assigner, AlignedWindows):
        return CustomWindowOperator
    can_combine = evictor is None and isinstance(evaluation, Folding) and evaluation.can_merge
    sliding = isinstance(assigner, SlidingWindows) and type(assigner) in _SLIDING and can_share(assigner)
    if at_end and can_combine and sliding:
        return SlicedWindowOperator
    return WindowOperator


def given_out_at_end(assigner: WindowAssigner, trigger: Trigger | None) -> bool:
    """With the trigger that the windows come with, and so at their end, once."""
    own = type(assigner.default_trigger())
    return own in _AT_END and (trigger is None or type(trigger) is own)


def _check(assigner: Any, evaluation: Evaluation, trigger: Any, evictor: Any) -> None:
    if not isinstance(assigner, WindowAssigner):
        raise PipelineError(
            f"window takes a window assigner, for example TumblingEventTimeWindows('1min'), not {assigner!r}"
        )
    if trigger is not None and not isinstance(trigger, Trigger):
        raise PipelineError(f"trigger takes a Trigger, for example CountTrigger(100), not {trigger!r}")
    if evictor is not None and not isinstance(evictor, Evictor):
        raise PipelineError(f"evictor takes an Evictor, for example CountEvictor(100), not {evictor!r}")
    if not isinstance(assigner, MergingWindowAssigner):
        return
    if trigger is not None and not trigger.can_merge():
        raise PipelineError(
            f"{assigner} merge, and the trigger ({trigger}) cannot: it needs can_merge() and on_merge(); DeltaTrigger "
            "has none"
        )
    if evictor is None and isinstance(evaluation, Folding) and not evaluation.can_merge:
        raise PipelineError(
            f"{assigner} merge: {type(evaluation.function).__name__} needs a method merge(acc_a, acc_b)"
        )
