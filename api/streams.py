"""DataStream: a stream of records, and what can be done with it.

Every method adds a step to the environment's pipeline and gives the stream of its results; nothing runs before
`execute()`. The type of a result comes from the annotation of the function or from `output_type=`; a stream whose
type is not known is opaque: everything works on it except operations on columns, and its records are pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, overload

from ..runtime.functions import OutputTag, callable_of
from ..runtime.graph.partitioning import Broadcast, Custom, Forward, Global, Partitioning, Rebalance, Rescale
from ..runtime.hints import with_options
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import OpaqueType, RecordType
from ..state.errors import PipelineError
from .changelogs import TableMethods
from .checks import (
    check_connector,
    check_process,
    check_shape,
    check_strategy,
    check_tag,
    guarded_types,
    is_expression,
    named,
)
from .signatures import output_tags, return_annotation, returned_type, yielded_type, yields
from .steps import Configurable, Step, Upstream

if TYPE_CHECKING:
    from ..runtime.async_functions import AsyncRetryStrategy
    from ..runtime.configuration.options import Duration
    from ..runtime.connector import Sink
    from ..runtime.event_time.watermarks import WatermarkStrategy
    from ..runtime.windows.assigner import WindowAssigner
    from ..state.descriptors import MapStateDescriptor
    from .collected import Collected
    from .connected import BroadcastConnectedStream, BroadcastStream, ConnectedStreams
    from .environment import StreamExecutionEnvironment
    from .joins import CoGroupedStreams, JoinedStreams
    from .keyed import KeyedStream
    from .windowed import AllWindowedStream

_NO_RECORDS = (str, bytes, dict)
"""Iterable, but returning one from flat_map is always a mistake: it would come apart into characters or keys."""


class DataStream(TableMethods):
    """Records of one type, and what can be done with them (Flink's DataStream)."""

    def __init__(
        self,
        env: StreamExecutionEnvironment,
        inputs: Iterable[Upstream],
        record_type: RecordType,
        step: Step | None = None,
    ) -> None:
        self._env = env
        self._inputs = tuple(inputs)
        self._step = step
        self.record_type = record_type

    # one record at a time --------------------------------------------------------------------------------------

    def map(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """One result per record: a callable or a MapFunction."""
        from ..runtime.operators.stateless import MapOperator

        def make() -> Operator:
            check_shape(function, "map", "a record", "value")
            if yields(function, "map"):
                raise PipelineError("map takes a function that returns one value, but this one yields; use flat_map")
            return MapOperator(function, returned_type(function, "map", output_type))

        return self._add("map", make, name or named("map", function))

    def flat_map(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """Any number of results per record: the function yields, or returns an iterable or None."""
        from ..runtime.operators.stateless import FlatMapOperator

        def make() -> Operator:
            check_shape(function, "flat_map", "a record", "value")
            returned = return_annotation(function, "flat_map")
            if isinstance(returned, type) and issubclass(returned, _NO_RECORDS):
                raise PipelineError(
                    f"flat_map takes a function that yields records, but this one returns a {returned.__name__}, "
                    "which would be taken apart; return it in a list, or use map"
                )
            result = yielded_type(function, "flat_map", output_type)
            return FlatMapOperator(function, result, output_tags(function, "flat_map"))

        return self._add("flat map", make, name or named("flat map", function))

    def filter(self, function: Any, *, name: str | None = None) -> DataStream:
        """The records for which a callable, a FilterFunction or a polars expression says yes."""
        from ..runtime.operators.stateless import FilterOperator

        def make() -> Operator:
            if is_expression(function):
                from ..runtime.operators.columnar import FilterExpressionOperator

                return FilterExpressionOperator(function, self._columns_for("filter with an expression"))
            check_shape(function, "filter", "a record", "value")
            return FilterOperator(function, self.record_type)

        return self._add("filter", make, name or ("filter" if is_expression(function) else named("filter", function)))

    def process(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """Any number of results per record, with time and side outputs: a ProcessFunction."""
        from ..runtime.functions import KeyedProcessFunction
        from ..runtime.operators.stateless import ProcessOperator

        def make() -> Operator:
            if isinstance(function, KeyedProcessFunction):
                raise PipelineError("a KeyedProcessFunction needs keys; call key_by(...) before process")
            check_process(function)
            result = yielded_type(function, "process_element", output_type)
            return ProcessOperator(function, result, output_tags(function, "process_element"))

        return self._add("process", make, name or named("process", function))

    @with_options
    def map_async(
        self,
        function: Any,
        output_type: Any = None,
        *,
        ordered: bool = True,
        capacity: int = 100,
        timeout: Duration = "1min",
        retry: AsyncRetryStrategy | None = None,
        on_timeout: Callable[[Any], Any] | None = None,
        name: str | None = None,
    ) -> DataStream:
        """One result per record, of a function that waits for something: `async def`, or a plain one, on a thread.

        Up to `capacity` records per subtask are called for at once. `timeout`: of a record, over all calls for it; what
        `on_timeout(record)` then returns is its result; without it the task fails, and is restarted as the restart
        strategy says. `ordered`: results in the order of their records; otherwise in that in which they come, between
        two watermarks."""
        from .async_stream import Waiting, async_operator

        waiting = Waiting("map", ordered, capacity, timeout, retry, on_timeout)
        make = lambda: async_operator(self.record_type, function, output_type, waiting)  # noqa: E731
        return self._add("async map", make, name or named("async map", function))

    # whole batches ---------------------------------------------------------------------------------------------

    @with_options
    def map_batches(
        self,
        function: Any,
        face: str = "arrow",
        output_type: Any = None,
        *,
        concurrency: int | None = None,
        batch_size: int | None = None,
        cpu: float | None = None,
        memory: str | int | None = None,
        gpu: float | None = None,
        ordered: bool = True,
        capacity: int | None = None,
        timeout: Duration = "5min",
        start_timeout: Duration = "10min",
        name: str | None = None,
    ) -> DataStream:
        """A function over whole batches: 'arrow' (pa.RecordBatch), 'polars' (DataFrame) or 'numpy' (dict of arrays).

        It returns the same kind. Without `output_type` (a pa.Schema or a class) the columns stay as they are. If it
        gives another number of records than it was given, all get the batch's newest timestamp.

        A class is a model: made once in each of `concurrency` actors (1), which have cpu, memory and gpu to themselves,
        and called with batches of `batch_size` records (1,024), or fewer where no more come (api/model_pool.py). At
        most `capacity` batches per subtask are held (three for each actor). `timeout`: of a batch; `start_timeout`: of
        an actor, until its model is loaded. `ordered`: results in the order of their batches.
        """
        from .model_pool import Pool, map_batches_operator

        pool = Pool(concurrency, batch_size, cpu, memory, gpu, ordered, capacity, timeout, start_timeout)

        def make() -> Operator:
            return map_batches_operator(function, face, self._columns_for("map_batches"), output_type, pool)

        return self._add("map batches", make, name or named("map batches", function))

    def with_columns(self, *expressions: Any, name: str | None = None, **named_expressions: Any) -> DataStream:
        """The same records with columns added or replaced: polars expressions."""
        from ..runtime.operators.columnar import WithColumnsOperator, with_columns_type

        def make() -> Operator:
            given = self._columns_for("with_columns")
            result = with_columns_type(given, expressions, named_expressions)
            return WithColumnsOperator(expressions, named_expressions, given, result)

        return self._add("with columns", make, name)

    def select(self, *expressions: Any, name: str | None = None, **named_expressions: Any) -> DataStream:
        """Columns, by name or as polars expressions."""
        from ..runtime.operators.columnar import SelectOperator, select_type

        def make() -> Operator:
            given = self._columns_for("select")
            result = select_type(given, expressions, named_expressions)
            return SelectOperator(expressions, named_expressions, given, result)

        return self._add("select", make, name)

    # time ------------------------------------------------------------------------------------------------------

    def assign_timestamps_and_watermarks(self, strategy: WatermarkStrategy, *, name: str | None = None) -> DataStream:
        """Event time for the records from here on; watermarks from upstream end here."""
        from ..runtime.operators.watermarks import WatermarksOperator

        def make() -> Operator:
            check_strategy(strategy, self.record_type, of_source=False)
            return WatermarksOperator(strategy, self.record_type)

        stream = self._add("timestamps", make, name)
        stream._own_step("timestamps").tag_types |= guarded_types(strategy, self.record_type)
        return stream

    # streams together, and how records reach the next operator ---------------------------------------------------

    def key_by(self, *key: Any, key_type: Any = None) -> KeyedStream:
        """By a callable, `key_by(lambda r: r.user)`, or by columns, `key_by("user", "day")`."""
        from .keyed import keyed_stream

        return keyed_stream(self, key, key_type)

    def window_all(self, assigner: WindowAssigner) -> AllWindowedStream:
        """Windows over all records, without keys, in one subtask."""
        from .windowed import AllWindowedStream

        return AllWindowedStream(self, assigner)

    def count_window_all(self, size: int, slide: int | None = None) -> AllWindowedStream:
        """Like count_window of a keyed stream, over all records."""
        from ..runtime.windows.global_windows import GlobalWindows
        from .windowed import count_windows

        return count_windows(self.window_all(GlobalWindows()), size, slide)

    def union(self, *others: DataStream) -> DataStream:
        """All records of these streams, in no particular order."""
        streams = (self, *others)
        same = all(stream.record_type == self.record_type for stream in streams)
        record_type = self.record_type if same else OpaqueType("it is a union of streams of different types")
        return DataStream(self._env, [upstream for stream in streams for upstream in stream._inputs], record_type)

    @overload
    def connect(self, other: DataStream) -> ConnectedStreams: ...

    @overload
    def connect(self, other: BroadcastStream) -> BroadcastConnectedStream: ...

    def connect(self, other: DataStream | BroadcastStream) -> ConnectedStreams | BroadcastConnectedStream:
        """Both streams for one function; or this stream beside the broadcast state of the other one."""
        from .connected import BroadcastConnectedStream, ConnectedStreams

        if isinstance(other, DataStream):
            return ConnectedStreams(self, other)
        return BroadcastConnectedStream(self, other)

    def join(self, other: DataStream, how: str = "inner") -> JoinedStreams:
        """Pairs of records with equal keys in a window: `join(b).where(key_a).equal_to(key_b).window(…).apply(…)`.

        how: "left", "right" and "full" give out records without a partner as well, with None in its place."""
        from .joins import JoinedStreams

        return JoinedStreams(self, other, how)

    def co_group(self, other: DataStream) -> CoGroupedStreams:
        """All records of both streams that a key has in a window, for a CoGroupFunction; written as a join is."""
        from .joins import CoGroupedStreams

        return CoGroupedStreams(self, other)

    def broadcast_join(
        self, other: DataStream, key: Any, other_key: Any, function: Any, how: str = "inner", output_type: Any = None,
        *, name: str | None = None,
    ) -> DataStream:  # fmt: skip
        """Every record with the latest row of its key in the other stream, which is small: every subtask has all of it.

        A record is joined when it comes, with what is there by then: one that comes before its row is left
        out. how="left": it is there, with None."""
        from .joins import broadcast_joined

        return broadcast_joined(self, other, (key, other_key), function, how, output_type, name)

    def get_side_output(self, tag: OutputTag[Any]) -> DataStream:
        """What the operator has given to the tag. PipelineError: it is no tag."""
        step = self._own_step("get_side_output()")
        check_tag(tag, "get_side_output")
        step.consumed_tags.add(tag.name)
        return DataStream(self._env, [Upstream(step, None, tag.name)], step.side_type(tag))

    def forward(self) -> DataStream:
        """Subtask i to subtask i; needs equal parallelism."""
        return self._partitioned(Forward())

    def rebalance(self) -> DataStream:
        """Round robin over all subtasks."""
        return self._partitioned(Rebalance())

    def shuffle(self) -> DataStream:
        """Evenly over all subtasks, in no promised order."""
        return self._partitioned(Rebalance())

    def rescale(self) -> DataStream:
        """Round robin over few subtasks each, so that there are fewer connections than with rebalance."""
        return self._partitioned(Rescale())

    @overload
    def broadcast(self) -> DataStream: ...

    @overload
    def broadcast(self, *descriptors: MapStateDescriptor[Any, Any]) -> BroadcastStream: ...

    def broadcast(self, *descriptors: MapStateDescriptor[Any, Any]) -> DataStream | BroadcastStream:
        """Every record to every subtask; with descriptors of broadcast state, to be connected with another stream."""
        if not descriptors:
            return self._partitioned(Broadcast())
        from .connected import BroadcastStream

        return BroadcastStream(self, descriptors)

    def global_(self) -> DataStream:
        """All records to the first subtask."""
        return self._partitioned(Global())

    def partition_custom(self, partitioner: Callable[[Any, int], int], key: Any) -> DataStream:
        """`partitioner(key, number of subtasks)`, or the method `partition` of an object, answers the subtask; `key` as
        in key_by. PipelineError."""
        check_shape(partitioner, "partition", "a key and the number of subtasks", "key", "subtasks")
        if (keyed := self.key_by(key))._mistake:
            raise PipelineError(f"partition_custom: {keyed._mistake}")
        return self._partitioned(Custom(callable_of(partitioner, "partition"), keyed.selector))

    # where it ends ---------------------------------------------------------------------------------------------

    def sink_to(self, sink: Sink, *, name: str | None = None) -> DataStreamSink:
        """The end of the stream: a sink that writes its records."""
        from ..runtime.connector import Sink
        from ..runtime.operators.sink import SinkOperator

        check_connector(sink, Sink, "sink_to takes a sink, like FileSink(path, Json())")
        make = lambda: SinkOperator(sink, self.record_type, self.changelog_mode)  # noqa: E731
        step = self._env.pipeline.add("sink", make, self._inputs, name=name, sink=sink)
        return DataStreamSink(self._env, step)

    def print(self, sink_identifier: str | None = None, *, name: str | None = None) -> DataStreamSink:
        """Write every record to standard output, after the identifier if there is one."""
        from ..connectors.print import PrintSink

        return self.sink_to(PrintSink(sink_identifier or ""), name=name or self._env.pipeline.free_name("print"))

    def execute_and_collect(self, job_name: str | None = None, limit: int | None = None) -> Collected:
        """Run the pipeline and give this stream's records: all of a bounded stream, the first `limit` of any."""
        from .collected import collect

        return collect(self, job_name, limit)

    def describe(self) -> str:
        """How the pipeline up to this stream will run: chains, types, and what would make it faster."""
        return self._env.describe([upstream.step for upstream in self._inputs])

    # ---------------------------------------------------------------------------------------------------------------

    def _add(self, kind: str, make: Callable[[], Operator], name: str | None) -> DataStream:
        step = self._env.pipeline.add(kind, make, self._inputs, name=name)
        return DataStream(self._env, [Upstream(step)], step.output_type, step)

    def _partitioned(self, partitioning: Partitioning) -> DataStream:
        inputs = [Upstream(upstream.step, partitioning, upstream.tag) for upstream in self._inputs]
        return DataStream(self._env, inputs, self.record_type)

    def _columns_for(self, what: str) -> RecordType:
        if self.record_type.opaque:
            reason = getattr(self.record_type, "reason", "its type is not declared")
            raise PipelineError(
                f"{what} needs columns, and its input has none, because {reason}; annotate what the function before "
                "it returns, or give output_type=…"
            )
        return self.record_type


class DataStreamSink(Configurable):
    """A sink, to be named and configured."""

    _way_on = "a sink is the end of its stream; keep the stream in a variable, to go on with it beside the sink"

    def __init__(self, env: StreamExecutionEnvironment, step: Step) -> None:
        self._env = env
        self._step = step
