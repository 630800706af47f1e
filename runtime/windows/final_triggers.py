"""Triggers of batch mode: every window is given out once, when all input is there.

    trigger                             windows of event time       windows of the clock, global windows
    continuous (event time)             EventTimeTrigger            EventTimeTrigger
    early and late                      EventTimeTrigger            EventTimeTrigger
    continuous (processing time)        EventTimeTrigger            ProcessingTimeTrigger
    processing time                     EventTimeTrigger            as it is
    purging, processing timeout         around the one in place of the nested one

All others are as they are: triggers that look at elements (count, delta) say what belongs together, so they fire in the
middle of the input as well, as in Flink. What a user has derived from one of these triggers is the user's, too.
"""

from __future__ import annotations

from .early_and_late import EarlyAndLateTrigger
from .event_time_triggers import ContinuousEventTimeTrigger, EventTimeTrigger
from .processing_time_triggers import ContinuousProcessingTimeTrigger, ProcessingTimeTrigger
from .processing_timeout import ProcessingTimeoutTrigger
from .purging import PurgingTrigger
from .trigger import Trigger

_BY_EVENT_TIME = (ContinuousEventTimeTrigger, EarlyAndLateTrigger)
_BY_THE_CLOCK = (ContinuousProcessingTimeTrigger, ProcessingTimeTrigger)


def final_trigger(trigger: Trigger, *, of_event_time: bool) -> Trigger:
    """What takes its place in batch mode. of_event_time: the windows are."""
    kind = type(trigger)
    if kind in _BY_EVENT_TIME or (of_event_time and kind in _BY_THE_CLOCK):
        return EventTimeTrigger()
    if kind is ContinuousProcessingTimeTrigger:
        return ProcessingTimeTrigger()
    if isinstance(trigger, PurgingTrigger) and kind is PurgingTrigger:
        return PurgingTrigger(final_trigger(trigger.nested, of_event_time=of_event_time))
    if isinstance(trigger, ProcessingTimeoutTrigger) and kind is ProcessingTimeoutTrigger:
        return trigger.around(final_trigger(trigger.nested, of_event_time=of_event_time))
    return trigger
