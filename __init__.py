"""penstock: stateful stream processing for Python.

    import penstock as ps

    env = ps.StreamExecutionEnvironment()
    env.from_collection([1, 2, 3]).map(lambda x: x * 2).print()
    env.execute()

This module is the facade: every name a pipeline needs, each loaded when it is first used, so that importing
penstock costs milliseconds and loads neither Arrow nor a connector. Connectors are imported by the pipelines that
use them (`from penstock.connectors.files import FileSource`), the testing kit is `penstock.testing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api.async_stream import AsyncDataStream
    from .api.connected import BroadcastConnectedStream, ConnectedStreams
    from .api.environment import StreamExecutionEnvironment, get_execution_environment
    from .api.keyed import KeyedStream
    from .api.resources import SlotSharingGroup
    from .api.runtime_mode import RuntimeExecutionMode
    from .api.salting import salted
    from .api.streams import DataStream
    from .api.windowed import WindowedStream
    from .runtime.aggregation.aggregates import avg, count, max, min, sum
    from .runtime.aggregation.distributions import histogram, stddev, variance
    from .runtime.aggregation.kept_values import bottom_k, collect, count_distinct, first, last, top_k
    from .runtime.aggregation.sketches import approx_count_distinct, median, percentile
    from .runtime.async_functions import AsyncFunction, AsyncRetryStrategy, LookupFunction
    from .runtime.changelog import Change, ChangelogMode, RowKind
    from .runtime.configuration.config import Configuration
    from .runtime.connected_functions import (
        BroadcastProcessFunction,
        CoFlatMapFunction,
        CoMapFunction,
        CoProcessFunction,
        KeyedBroadcastProcessFunction,
        KeyedCoProcessFunction,
    )
    from .runtime.event_time.watermark_generators import WatermarkGenerator
    from .runtime.event_time.watermarks import WatermarkStrategy
    from .runtime.functions import (
        AggregateFunction,
        FilterFunction,
        FlatMapFunction,
        KeyedProcessFunction,
        MapFunction,
        OutputTag,
        ProcessFunction,
        ProcessWindowFunction,
        ReduceFunction,
        RuntimeContext,
        WindowFunction,
    )
    from .runtime.joins.functions import CoGroupFunction, FlatJoinFunction, JoinFunction, ProcessJoinFunction
    from .runtime.joins.lookup_cache import LookupCache
    from .runtime.operator_state import (
        CheckpointedFunction,
        FunctionInitializationContext,
        FunctionSnapshotContext,
    )
    from .runtime.windows.all_windows import AllWindowFunction, ProcessAllWindowFunction
    from .runtime.windows.assigner import MergingWindowAssigner, WindowAssigner
    from .runtime.windows.calendar_windows import CalendarEventTimeWindows, CalendarProcessingTimeWindows
    from .runtime.windows.count_triggers import CountTrigger, DeltaFunction, DeltaTrigger, NeverTrigger
    from .runtime.windows.early_and_late import EarlyAndLateTrigger
    from .runtime.windows.event_time_triggers import ContinuousEventTimeTrigger, EventTimeTrigger
    from .runtime.windows.evictors import CountEvictor, DeltaEvictor, Evictor, TimeEvictor, TimestampedValue
    from .runtime.windows.global_windows import GlobalWindows
    from .runtime.windows.processing_time_triggers import ContinuousProcessingTimeTrigger, ProcessingTimeTrigger
    from .runtime.windows.processing_timeout import ProcessingTimeoutTrigger
    from .runtime.windows.purging import PurgingTrigger
    from .runtime.windows.session_windows import (
        EventTimeSessionWindows,
        ProcessingTimeSessionWindows,
        SessionWindowTimeGapExtractor,
    )
    from .runtime.windows.time_windows import (
        SlidingEventTimeWindows,
        SlidingProcessingTimeWindows,
        TumblingEventTimeWindows,
        TumblingProcessingTimeWindows,
    )
    from .runtime.windows.trigger import Trigger, TriggerResult
    from .runtime.windows.windows import GlobalWindow, TimeWindow
    from .state.descriptors import (
        AggregatingStateDescriptor,
        ListStateDescriptor,
        MapStateDescriptor,
        ReducingStateDescriptor,
        ValueStateDescriptor,
    )
    from .state.serialization.type_descriptions import renamed_from
    from .state.ttl_config import StateTtlConfig

__version__: str

__all__ = [
    "StreamExecutionEnvironment",
    "get_execution_environment",
    "salted",
    "Configuration",
    "RuntimeExecutionMode",
    "SlotSharingGroup",
    "WatermarkStrategy",
    "WatermarkGenerator",
    "TumblingEventTimeWindows",
    "TumblingProcessingTimeWindows",
    "SlidingEventTimeWindows",
    "SlidingProcessingTimeWindows",
    "EventTimeSessionWindows",
    "ProcessingTimeSessionWindows",
    "SessionWindowTimeGapExtractor",
    "CalendarEventTimeWindows",
    "CalendarProcessingTimeWindows",
    "GlobalWindows",
    "WindowAssigner",
    "MergingWindowAssigner",
    "TimeWindow",
    "GlobalWindow",
    "Trigger",
    "TriggerResult",
    "EventTimeTrigger",
    "ProcessingTimeTrigger",
    "ContinuousEventTimeTrigger",
    "ContinuousProcessingTimeTrigger",
    "CountTrigger",
    "DeltaTrigger",
    "DeltaFunction",
    "PurgingTrigger",
    "EarlyAndLateTrigger",
    "ProcessingTimeoutTrigger",
    "NeverTrigger",
    "Evictor",
    "CountEvictor",
    "TimeEvictor",
    "DeltaEvictor",
    "TimestampedValue",
    "MapFunction",
    "FlatMapFunction",
    "FilterFunction",
    "ReduceFunction",
    "AggregateFunction",
    "ProcessFunction",
    "KeyedProcessFunction",
    "ProcessWindowFunction",
    "WindowFunction",
    "ProcessAllWindowFunction",
    "AllWindowFunction",
    "CoMapFunction",
    "CoFlatMapFunction",
    "CoProcessFunction",
    "KeyedCoProcessFunction",
    "BroadcastProcessFunction",
    "KeyedBroadcastProcessFunction",
    "JoinFunction",
    "FlatJoinFunction",
    "CoGroupFunction",
    "ProcessJoinFunction",
    "DataStream",
    "KeyedStream",
    "WindowedStream",
    "ConnectedStreams",
    "BroadcastConnectedStream",
    "AsyncDataStream",
    "AsyncFunction",
    "AsyncRetryStrategy",
    "LookupFunction",
    "LookupCache",
    "CheckpointedFunction",
    "FunctionInitializationContext",
    "FunctionSnapshotContext",
    "RuntimeContext",
    "OutputTag",
    "RowKind",
    "Change",
    "ChangelogMode",
    "ValueStateDescriptor",
    "ListStateDescriptor",
    "MapStateDescriptor",
    "ReducingStateDescriptor",
    "AggregatingStateDescriptor",
    "StateTtlConfig",
    "renamed_from",
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "stddev",
    "variance",
    "percentile",
    "median",
    "count_distinct",
    "approx_count_distinct",
    "first",
    "last",
    "top_k",
    "bottom_k",
    "collect",
    "histogram",
]

_HOMES = {
    ".api.async_stream": ("AsyncDataStream",),
    ".api.connected": ("BroadcastConnectedStream", "ConnectedStreams"),
    ".api.environment": ("StreamExecutionEnvironment", "get_execution_environment"),
    ".api.keyed": ("KeyedStream",),
    ".api.salting": ("salted",),
    ".api.streams": ("DataStream",),
    ".api.windowed": ("WindowedStream",),
    ".api.resources": ("SlotSharingGroup",),
    ".api.runtime_mode": ("RuntimeExecutionMode",),
    ".runtime.aggregation.aggregates": ("avg", "count", "max", "min", "sum"),
    ".runtime.async_functions": ("AsyncFunction", "AsyncRetryStrategy", "LookupFunction"),
    ".runtime.changelog": ("Change", "ChangelogMode", "RowKind"),
    ".runtime.configuration.config": ("Configuration",),
    ".runtime.connected_functions": (
        "BroadcastProcessFunction",
        "CoFlatMapFunction",
        "CoMapFunction",
        "CoProcessFunction",
        "KeyedBroadcastProcessFunction",
        "KeyedCoProcessFunction",
    ),
    ".runtime.aggregation.distributions": ("histogram", "stddev", "variance"),
    ".runtime.functions": (
        "AggregateFunction",
        "FilterFunction",
        "FlatMapFunction",
        "KeyedProcessFunction",
        "MapFunction",
        "OutputTag",
        "ProcessFunction",
        "ProcessWindowFunction",
        "ReduceFunction",
        "RuntimeContext",
        "WindowFunction",
    ),
    ".runtime.aggregation.kept_values": ("bottom_k", "collect", "count_distinct", "first", "last", "top_k"),
    ".runtime.joins.functions": ("CoGroupFunction", "FlatJoinFunction", "JoinFunction", "ProcessJoinFunction"),
    ".runtime.joins.lookup_cache": ("LookupCache",),
    ".runtime.operator_state": ("CheckpointedFunction", "FunctionInitializationContext", "FunctionSnapshotContext"),
    ".runtime.event_time.watermark_generators": ("WatermarkGenerator",),
    ".runtime.aggregation.sketches": ("approx_count_distinct", "median", "percentile"),
    ".runtime.event_time.watermarks": ("WatermarkStrategy",),
    ".runtime.windows.all_windows": ("AllWindowFunction", "ProcessAllWindowFunction"),
    ".runtime.windows.assigner": ("MergingWindowAssigner", "WindowAssigner"),
    ".runtime.windows.calendar_windows": ("CalendarEventTimeWindows", "CalendarProcessingTimeWindows"),
    ".runtime.windows.count_triggers": ("CountTrigger", "DeltaFunction", "DeltaTrigger", "NeverTrigger"),
    ".runtime.windows.early_and_late": ("EarlyAndLateTrigger",),
    ".runtime.windows.event_time_triggers": ("ContinuousEventTimeTrigger", "EventTimeTrigger"),
    ".runtime.windows.evictors": ("CountEvictor", "DeltaEvictor", "Evictor", "TimeEvictor", "TimestampedValue"),
    ".runtime.windows.global_windows": ("GlobalWindows",),
    ".runtime.windows.processing_time_triggers": ("ContinuousProcessingTimeTrigger", "ProcessingTimeTrigger"),
    ".runtime.windows.processing_timeout": ("ProcessingTimeoutTrigger",),
    ".runtime.windows.purging": ("PurgingTrigger",),
    ".runtime.windows.session_windows": (
        "EventTimeSessionWindows",
        "ProcessingTimeSessionWindows",
        "SessionWindowTimeGapExtractor",
    ),
    ".runtime.windows.time_windows": (
        "SlidingEventTimeWindows",
        "SlidingProcessingTimeWindows",
        "TumblingEventTimeWindows",
        "TumblingProcessingTimeWindows",
    ),
    ".runtime.windows.trigger": ("Trigger", "TriggerResult"),
    ".runtime.windows.windows": ("GlobalWindow", "TimeWindow"),
    ".state.descriptors": (
        "AggregatingStateDescriptor",
        "ListStateDescriptor",
        "MapStateDescriptor",
        "ReducingStateDescriptor",
        "ValueStateDescriptor",
    ),
    ".state.ttl_config": ("StateTtlConfig",),
    ".state.serialization.type_descriptions": ("renamed_from",),
}
"""Where each name lives; the imports above say the same to type checkers (tests/structure/test_facade.py compares)."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = import_module("importlib.metadata").version("penstock")
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name], __name__), name)
    else:
        raise AttributeError(_missing(name))
    globals()[name] = value
    return value


def _missing(name: str) -> str:
    near = ""
    if not name.startswith("_"):
        from .runtime.hints import nearest

        near = nearest(name, __all__)
    return f"module 'penstock' has no attribute {name!r}{near}"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
