"""Two streams for one function: ConnectedStreams, and a stream connected with a BroadcastStream.

A function of two inputs has a method per input; its result type is what the annotations of all its methods say, if
they agree, or `output_type=`. Streams that are connected by key must have keys of one type: 1 and 1.0, or "1" and
b"1", never meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..runtime.connected_functions import (
    BroadcastProcessFunction,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
)
from ..runtime.graph.partitioning import Broadcast
from ..runtime.key_types import KeyType
from ..runtime.keys import KeyByColumns
from ..runtime.operators.operator import Operator
from ..runtime.records.record_types import OpaqueType, RecordType, RowType, record_type_of
from ..state.descriptors import MapStateDescriptor
from ..state.errors import PipelineError
from .checks import check_shape, check_timer, named
from .keyed import KeyedStream
from .missing import Guiding
from .signatures import UNKNOWN, display_name, element_annotation, is_async, output_tags, return_annotation, yields
from .steps import Upstream
from .streams import DataStream

Descriptor = MapStateDescriptor[Any, Any]


class ConnectedStreams(Guiding):
    """Two streams, of the same or different types, whose records go to one function. (What `connect` gives.)"""

    _way_on = "call map(…), flat_map(…) or process(…) with a function of both streams first, which gives a stream"

    def __init__(self, first: DataStream, second: DataStream) -> None:
        self.first, self.second = first, second

    def key_by(self, key1: Any, key2: Any, key_type: Any = None) -> ConnectedStreams:
        """Both by key: a callable, a column's name, or a list of such names, for each."""
        first, second = key_names(key1), key_names(key2)
        return ConnectedStreams(
            self.first.key_by(*first, key_type=key_type), self.second.key_by(*second, key_type=key_type)
        )

    def map(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """One result per record of either stream: a CoMapFunction."""
        from ..runtime.operators.co_process import CoMapOperator, KeyedCoMapOperator

        def make() -> Operator:
            self._check(function, "map", "CoMapFunction", CoMapOperator.methods)
            if any(yields(function, method) for method in CoMapOperator.methods):
                raise PipelineError("map takes a function that returns one value, but this one yields; use flat_map")
            result = _result_type(function, CoMapOperator.methods, output_type, lambda annotation: annotation)
            keyed = self._keyed()
            if keyed is None:
                return CoMapOperator(function, result)
            return KeyedCoMapOperator(function, (keyed[0].selector, keyed[1].selector), result)

        return self._add("co map", make, name or named("co map", function))

    def flat_map(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """Any number of results per record of either stream: a CoFlatMapFunction."""
        from ..runtime.operators.co_process import CoFlatMapOperator, KeyedCoFlatMapOperator

        def make() -> Operator:
            self._check(function, "flat_map", "CoFlatMapFunction", CoFlatMapOperator.methods)
            result = _result_type(function, CoFlatMapOperator.methods, output_type, element_annotation)
            tags = output_tags(function, CoFlatMapOperator.methods[0])
            keyed = self._keyed()
            if keyed is None:
                return CoFlatMapOperator(function, result, tags)
            return KeyedCoFlatMapOperator(function, (keyed[0].selector, keyed[1].selector), result, tags)

        return self._add("co flat map", make, name or named("co flat map", function))

    def process(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """Any number of results per record of either stream, with time and side outputs: a CoProcessFunction, or,
        with keys, a KeyedCoProcessFunction, which has state and timers."""
        from ..runtime.operators.co_process import CoProcessOperator, KeyedCoProcessOperator

        def make() -> Operator:
            methods = CoProcessOperator.methods
            self._check(function, "process", "CoProcessFunction or KeyedCoProcessFunction", methods)
            result = _result_type(function, _with_timer(function, methods), output_type, element_annotation)
            tags = output_tags(function, methods[0])
            keyed = self._keyed()
            if keyed is not None:
                return KeyedCoProcessOperator(function, (keyed[0].selector, keyed[1].selector), result, tags)
            if isinstance(function, KeyedCoProcessFunction):
                raise PipelineError("a KeyedCoProcessFunction needs keys on both streams; call key_by(…, …) before")
            return CoProcessOperator(function, result, tags)

        return self._add("co process", make, name or named("co process", function))

    def _check(self, function: Any, verb: str, wanted: str, methods: tuple[str, ...]) -> None:
        _check_methods(function, f"{verb} on connected streams", wanted, methods)

    def _keyed(self) -> tuple[KeyedStream, KeyedStream] | None:
        """Both streams, if they have keys. PipelineError if one has none, or their keys can never be equal."""
        first, second = self.first, self.second
        if isinstance(first, KeyedStream) and isinstance(second, KeyedStream):
            check_keys(first, second)
            return first, second
        if isinstance(first, KeyedStream) or isinstance(second, KeyedStream):
            raise PipelineError("only one of the connected streams has keys; call key_by(…) on both, or on neither")
        return None

    def _add(self, kind: str, make: Callable[[], Operator], name: str | None) -> DataStream:
        return two_input_stream(kind, make, name, self.first, self.second, second_inputs(self.second))


@dataclass(frozen=True)
class BroadcastStream:
    """A stream every record of which goes to every subtask, and the broadcast state that is made of it. To be given to
    `connect` of another stream."""

    input: DataStream
    descriptors: tuple[Descriptor, ...]


class BroadcastConnectedStream(Guiding):
    """A stream with the broadcast state of another one at its side. (What `connect` with a BroadcastStream gives.)"""

    _way_on = "call process(…) with a BroadcastProcessFunction or KeyedBroadcastProcessFunction, which gives a stream"

    def __init__(self, main: DataStream, side: BroadcastStream) -> None:
        self.main, self.side = main, side

    def process(self, function: Any, output_type: Any = None, *, name: str | None = None) -> DataStream:
        """A BroadcastProcessFunction, or a KeyedBroadcastProcessFunction if the main stream has keys."""
        from ..runtime.operators.broadcast_process import BroadcastProcessOperator, KeyedBroadcastProcessOperator

        main, descriptors = self.main, self.side.descriptors

        def make() -> Operator:
            methods = BroadcastProcessOperator.methods
            _check_methods(function, "process with broadcast state", _broadcast_class(main), methods)
            _check_descriptors(descriptors)
            if isinstance(function, BroadcastProcessFunction) and isinstance(main, KeyedStream):
                raise PipelineError("a BroadcastProcessFunction is for streams without keys; this one needs a "
                                    "KeyedBroadcastProcessFunction")  # fmt: skip
            if isinstance(function, KeyedBroadcastProcessFunction) and not isinstance(main, KeyedStream):
                raise PipelineError("a KeyedBroadcastProcessFunction needs keys; call key_by(…) before connect")
            result = _result_type(function, _with_timer(function, methods), output_type, element_annotation)
            tags = output_tags(function, methods[0])
            if isinstance(main, KeyedStream):
                return KeyedBroadcastProcessOperator(function, main.selector, descriptors, result, tags)
            return BroadcastProcessOperator(function, descriptors, result, tags)

        second = [replace(each, partitioning=Broadcast()) for each in second_inputs(self.side.input)]
        own = name or named("broadcast process", function)
        return two_input_stream("broadcast process", make, own, main, self.side.input, second)


def two_input_stream(
    kind: str,
    make: Callable[[], Operator],
    name: str | None,
    first: DataStream,
    second: DataStream,
    others: Sequence[Upstream],
) -> DataStream:
    """A new step of two inputs, and the stream of its results."""

    def checked() -> Operator:
        if first._env is not second._env:
            raise PipelineError("the connected streams belong to two environments; build both with one")
        for stream in (first, second):
            if isinstance(stream, KeyedStream) and stream._mistake:
                raise PipelineError(stream._mistake)
        return make()

    step = first._env.pipeline.add(kind, checked, [*first._inputs, *others], name=name)
    return DataStream(first._env, [Upstream(step)], step.output_type, step)


def second_inputs(stream: DataStream) -> list[Upstream]:
    """The inputs of a stream that is the second of two."""
    return [replace(upstream, input_index=1) for upstream in stream._inputs]


def key_names(key: Any) -> Sequence[Any]:
    """What key_by takes: a key function, or names of columns."""
    return key if isinstance(key, (list, tuple)) else (key,)


# what a function of two inputs says about itself -------------------------------------------------------------------


def _check_methods(function: Any, what: str, wanted: str, methods: tuple[str, ...]) -> None:
    missing = [method for method in methods if not callable(getattr(function, method, None))]
    if missing:
        raise PipelineError(
            f"{what} takes a {wanted}, with {methods[0]} and {methods[1]}, but "
            f"{display_name(function) or 'a lambda'} has no {' and no '.join(missing)}"
        )
    for method in methods:
        if is_async(function, method):
            raise PipelineError(f"{method} is async def, whose result would be a coroutine and not a record")
        wanted, *parameters = ("a record", "value") if "map" in method else ("a record and its context", "value", "ctx")
        check_shape(function, method, wanted, *parameters)
    if hasattr(function, "on_timer"):
        check_timer(function)


def _broadcast_class(main: DataStream) -> str:
    return f"{'Keyed' * isinstance(main, KeyedStream)}BroadcastProcessFunction"


def _check_descriptors(descriptors: tuple[Any, ...]) -> None:
    for descriptor in descriptors:
        if not isinstance(descriptor, MapStateDescriptor):
            raise PipelineError(f"broadcast takes MapStateDescriptors, not {descriptor!r}")
        if descriptor.ttl is not None:
            raise PipelineError(f"broadcast state '{descriptor.name}' cannot have a TTL: that is for keyed state")
    names = [descriptor.name for descriptor in descriptors]
    for name in names:
        if names.count(name) > 1:
            raise PipelineError(f"two broadcast states are called '{name}'; each needs a name of its own")


def _with_timer(function: Any, methods: tuple[str, ...]) -> tuple[str, ...]:
    """The methods that produce results: on_timer as well, if it is the function's own."""
    own = getattr(type(function), "on_timer", None)
    inherited = (KeyedCoProcessFunction.on_timer, KeyedBroadcastProcessFunction.on_timer)
    return methods if own is None or own in inherited else (*methods, "on_timer")


def _result_type(
    function: Any, methods: tuple[str, ...], output_type: Any, produced: Callable[[Any], Any]
) -> RecordType:
    """What the methods' annotations agree on; one that returns None has no say."""
    if output_type is not None:
        return record_type_of(output_type)
    found: list[Any] = []
    for method in methods:
        annotation = return_annotation(function, method)
        if annotation is type(None):
            continue
        annotation = annotation if annotation is UNKNOWN else produced(annotation)
        if annotation is UNKNOWN:
            return OpaqueType(f"{method} of '{display_name(function)}' is not annotated with what it gives")
        if annotation not in found:
            found.append(annotation)
    if len(found) == 1:
        return record_type_of(found[0])
    reason = "have no result" if not found else "are annotated with different results"
    return OpaqueType(f"the methods of '{display_name(function)}' {reason}")


# keys --------------------------------------------------------------------------------------------------------------


def check_keys(first: KeyedStream, second: KeyedStream, how: str = "connected") -> None:
    """PipelineError if keys of the one can never be equal to keys of the other. how: the streams are put together."""
    one, other = _key_type(first), _key_type(second)
    if one.differs_from(other):
        raise PipelineError(
            f"the keys of the {how} streams are of different types, {one} and {other}, and would never be equal; "
            "let both key functions give the same type"
        )


def _key_type(stream: KeyedStream) -> KeyType:
    """As far as it is known before anything runs."""
    selector, record_type = stream.selector, stream.record_type
    if not isinstance(selector, KeyByColumns) or not isinstance(record_type, RowType):
        return selector.key_type
    fields = dict(zip(record_type.struct.shape.names, record_type.struct.fields, strict=True))
    kinds = tuple(fields[name].python for name in selector.names)
    return KeyType(kinds[0] if len(kinds) == 1 else tuple[kinds])  # type: ignore[valid-type]
