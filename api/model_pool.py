"""map_batches of a class: models that are loaded once, and run on a pool of actors.

    class Sentiment:
        def __init__(self):
            self.model = load_model("sentiment.onnx")              # once in every actor

        def __call__(self, batch):                                # a dict of numpy arrays, as `face` says
            return {**batch, "score": self.model.run(batch["text"])}

    scored = reviews.map_batches(
        Sentiment, face="numpy", output_type=ScoredReview,
        concurrency=2, batch_size=256, gpu=1,                     # two actors, each with a GPU to itself
    ).name("sentiment").uid("sentiment")

On a cluster each actor is a process of its own, on any node that has what it asks for; in a local run they are
threads. Batches that are under way are in the checkpoints, and are sent again after a failure: results are
exactly-once. Arguments of the class are given with functools.partial(Sentiment, "sentiment.onnx").
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runtime.functions import why_not_called_with
from ..runtime.operators.operator import Operator
from ..runtime.records.batch_faces import FACES
from ..runtime.records.record_types import RecordType, record_type_of
from ..runtime.resources import resources_of
from ..runtime.units import parse_duration_ms
from ..state.errors import PipelineError
from .checks import check_shape
from .signatures import display_name, is_async, yields

if TYPE_CHECKING:
    from ..runtime.configuration.options import Duration

BATCH_SIZE = 1_024
LARGEST_CONCURRENCY = 10_000
LARGEST_BATCH = 1_000_000
LARGEST_CAPACITY = 100_000


@dataclass(frozen=True, slots=True)
class Pool:
    """What is said about the pool. None: nothing."""

    concurrency: int | None
    batch_size: int | None
    cpu: float | None
    memory: str | int | None
    gpu: float | None
    ordered: bool
    capacity: int | None
    timeout: Duration
    start_timeout: Duration


def map_batches_operator(function: Any, face: str, input_type: RecordType, output_type: Any, pool: Pool) -> Operator:
    """Of a function, or of a model on a pool. PipelineError, ConfigurationError: what is said cannot be."""
    from ..runtime.operators.stateless import MapBatchesOperator

    if face not in FACES:
        raise PipelineError(f"there are no {face!r} batches; choose one of {', '.join(FACES)}")
    result = input_type if output_type is None else record_type_of(output_type)
    if is_model(function):
        return _pool_operator(function, face, input_type, result, pool)
    said = (pool.concurrency, pool.batch_size, pool.cpu, pool.memory, pool.gpu, pool.capacity)
    if any(value is not None for value in said):
        raise PipelineError(
            "concurrency, batch_size, capacity, cpu, memory and gpu are of a pool, which needs a class, whose __init__ "
            f"loads the model and whose __call__ takes a batch; {_what_it_is(function)}"
        )
    check_shape(function, "map_batches", "a batch", "batch")
    return MapBatchesOperator(function, face, result)


def _what_it_is(function: Any) -> str:
    name = display_name(function) or "lambda"
    if hasattr(function, "__name__") or isinstance(function, functools.partial):
        return f"'{name}' is a function"
    return f"this is an object of '{name}': give functools.partial({name}, …), from which every actor makes its own"


def is_model(function: Any) -> bool:
    """A class whose objects are called, and not a function: it runs on a pool."""
    return isinstance(_class_of(function), type)


def _class_of(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _pool_operator(model: Any, face: str, input_type: RecordType, result: RecordType, pool: Pool) -> Operator:
    from ..runtime.operators.model_pool import ModelPoolOperator, PoolSettings

    _check_model(_class_of(model))
    if why := why_not_called_with(model, 0):
        name = _class_of(model).__name__
        raise PipelineError(
            f"every actor makes '{name}' without arguments: {why}; give them with functools.partial({name}, …)"
        )
    workers = _count("concurrency", 1 if pool.concurrency is None else pool.concurrency, LARGEST_CONCURRENCY)
    settings = PoolSettings(
        model=model,
        face=face,
        concurrency=workers,
        batch_size=_count("batch_size", BATCH_SIZE if pool.batch_size is None else pool.batch_size, LARGEST_BATCH),
        capacity=_count("capacity", 3 * workers if pool.capacity is None else pool.capacity, LARGEST_CAPACITY),
        ordered=pool.ordered,
        timeout_ms=_duration("timeout", pool.timeout),
        start_timeout_ms=_duration("start_timeout", pool.start_timeout),
        resources=resources_of(pool.cpu, pool.memory, pool.gpu),
    )
    return ModelPoolOperator(settings, input_type, result)


def _check_model(model: type) -> None:
    if not any("__call__" in vars(kind) for kind in model.__mro__):
        raise PipelineError(f"'{model.__name__}' has no method __call__(batch), which a model of map_batches needs")
    if why := why_not_called_with(model.__call__, 2):
        raise PipelineError(f"__call__ of '{model.__name__}' is to be called with a batch: {why}; "
                            "write def __call__(self, batch)")  # fmt: skip
    if is_async(model, "__call__") or yields(model, "__call__"):
        raise PipelineError(f"__call__ of '{model.__name__}' must be a plain method that returns a batch")


def _count(name: str, value: Any, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise PipelineError(f"{name} must be between 1 and {largest}, not {value!r}")
    return value


def _duration(name: str, value: Duration) -> int:
    duration_ms = parse_duration_ms(value)
    if duration_ms < 1:
        raise PipelineError(f"{name} must be at least 1 ms")
    return duration_ms
