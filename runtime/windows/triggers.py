"""The triggers there are; trigger.py says what one is."""

from __future__ import annotations

from .count_triggers import CountTrigger, DeltaFunction, DeltaTrigger, NeverTrigger
from .early_and_late import EarlyAndLateTrigger
from .event_time_triggers import ContinuousEventTimeTrigger, EventTimeTrigger
from .processing_time_triggers import ContinuousProcessingTimeTrigger, ProcessingTimeTrigger
from .processing_timeout import ProcessingTimeoutTrigger
from .purging import PurgingTrigger
from .trigger import OnMergeContext, Trigger, TriggerContext, TriggerResult

__all__ = [
    "ContinuousEventTimeTrigger",
    "ContinuousProcessingTimeTrigger",
    "CountTrigger",
    "DeltaFunction",
    "DeltaTrigger",
    "EarlyAndLateTrigger",
    "EventTimeTrigger",
    "NeverTrigger",
    "OnMergeContext",
    "ProcessingTimeTrigger",
    "ProcessingTimeoutTrigger",
    "PurgingTrigger",
    "Trigger",
    "TriggerContext",
    "TriggerResult",
]
