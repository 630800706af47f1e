"""Streams as tables, as they are written down: row kinds, deduplication, lookups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

from ..runtime.changelog import ChangelogMode, RowKind, kept_mode
from ..runtime.graph.partitioning import Hash
from ..runtime.hints import with_options
from ..runtime.keys import KeyByColumns, KeySelector
from ..runtime.operators.operator import Operator
from ..runtime.operators.running import state_type
from ..runtime.records.record_types import OpaqueType, RecordType, record_type_of
from ..state.errors import PipelineError
from ..state.ttl_config import StateTtlConfig
from .checks import check_shape
from .steps import Configurable, Upstream

if TYPE_CHECKING:
    from ..runtime.async_functions import AsyncRetryStrategy
    from ..runtime.configuration.options import Duration
    from ..runtime.joins.lookup_cache import LookupCache
    from .streams import DataStream


class TableMethods(Configurable):
    """The part of a DataStream that is about changelogs (runtime/changelog.py) and tables beside the stream."""

    _inputs: tuple[Upstream, ...]
    record_type: RecordType

    @property
    def changelog_mode(self) -> ChangelogMode:
        """Which kinds its records have: insertions only, or those of a changelog. PipelineError for a union that
        cannot be."""
        return kept_mode([upstream.step.changelog_mode for upstream in self._inputs])

    def only_inserts(self, *, name: str | None = None) -> DataStream:
        """The insertions (+I) of a changelog; everything that takes back or changes a record is dropped."""
        from ..runtime.operators.changelogs import OnlyInsertsOperator

        stream = cast("DataStream", self)
        return stream._add("only inserts", lambda: OnlyInsertsOperator(self.record_type), name)

    def with_row_kinds(self, *, name: str | None = None) -> DataStream:
        """(RowKind, record) of every record, as insertions: for functions and sinks that look at the kinds."""
        from ..runtime.operators.changelogs import WithRowKindsOperator

        kind: Any = state_type(self.record_type)
        pairs = record_type_of(tuple[RowKind, kind]) if kind else OpaqueType("its records are of a type that is opaque")
        return cast("DataStream", self)._add("row kinds", lambda: WithRowKindsOperator(pairs), name)

    def as_changelog(
        self, kind: Callable[[Any], RowKind], *, upserts: bool = False, name: str | None = None
    ) -> DataStream:
        """The same records as a changelog: `kind(record)` says what each does. With `upserts` an update has no -U."""
        from ..runtime.operators.changelogs import AsChangelogOperator

        def make() -> Operator:
            check_shape(kind, "kind", "a record", "record")
            mode = ChangelogMode.UPSERT if upserts else ChangelogMode.ALL
            return AsChangelogOperator(kind, mode, self.record_type)

        return cast("DataStream", self)._add("as changelog", make, name)

    def to_upsert(
        self, *key: Any, ttl: Duration | None = None, key_type: Any = None, name: str | None = None
    ) -> DataStream:
        """For sinks that overwrite by key: the newest record of every key (+I, +U) and keys to be removed (-D).

        `key` as in key_by; at most one record of the result has it. Of a changelog that takes updates back (-U) the
        records are kept by key, for the halves of an update may come in either order; ttl: for how long after the last
        change of the key. Upserts are left as they are: their key must be this one."""
        stream = cast("DataStream", self)
        keyed = stream.key_by(*key, key_type=key_type)

        def make() -> Operator:
            check_upsert_key(stream, keyed.selector)
            return _upserting(keyed, ttl)

        return keyed._add("to upsert", make, name)

    def deduplicate(
        self,
        *key: Any,
        keep: Literal["first", "last"] = "first",
        ttl: Duration | None = None,
        order: Literal["arrival", "event_time"] = "arrival",
        key_type: Any = None,
        name: str | None = None,
    ) -> DataStream:
        """One record per key: columns, or a callable; of a keyed stream its key.

        keep: "first" gives insertions only, by event time each once the watermark has come to it; "last" a changelog,
        in which a record takes the place of the one before. ttl: how long a key is remembered, from its first record
        (keep first) or its newest on; without one for ever."""
        stream = cast("DataStream", self)
        keyed = stream.key_by(*key, key_type=key_type) if key else stream
        return keyed._add("deduplicate", lambda: _deduplicating(keyed, keep, order, ttl), name)

    @with_options
    def lookup_join(
        self,
        lookup: Any,
        key: Any,
        function: Any = None,
        output_type: Any = None,
        *,
        how: str = "inner",
        cache: LookupCache | None = None,
        key_type: Any = None,
        row_type: Any = None,
        ordered: bool = True,
        capacity: int = 100,
        timeout: Duration = "1min",
        retry: AsyncRetryStrategy | None = None,
        on_timeout: Callable[[Any], Any] | None = None,
        name: str | None = None,
    ) -> DataStream:
        """Every record with the rows that a service has of its key: `lookup(key)` gives an iterable of them, or None.

        lookup: a LookupFunction or a callable, `async def` or plain (on a thread). key: as in key_by; None is
        not looked up. how: "inner", or "left" (without rows: None). Without a function results are (record, row). The
        rest as of map_async."""
        from .async_stream import Waiting
        from .table_joins import lookup_joined

        waiting = Waiting("lookup", ordered, capacity, timeout, retry, on_timeout)
        stream, own, types = cast("DataStream", self), (key, key_type), (row_type, output_type)
        return lookup_joined(stream, lookup, own, function, types, waiting, how=how, cache=cache, name=name)


def _upserting(stream: DataStream, ttl: Duration | None) -> Operator:
    from ..runtime.operators.changelogs import AsUpsertsOperator, ToUpsertOperator
    from .keyed import KeyedStream

    config = ttl_of(ttl)
    if stream.changelog_mode is ChangelogMode.ALL and isinstance(stream, KeyedStream):
        return ToUpsertOperator(stream.selector, stream.record_type, config)
    return AsUpsertsOperator(stream.record_type)


def _deduplicating(stream: DataStream, keep: str, order: str, ttl: Duration | None) -> Operator:
    from ..runtime.operators.deduplicate import KeepEarliestOperator, KeepFirstOperator, KeepLastOperator
    from .keyed import KeyedStream
    from .windowed import check_timestamps

    if not isinstance(stream, KeyedStream):
        raise PipelineError("deduplicate needs a key: deduplicate('id'), deduplicate(lambda record: record.id), or "
                            "key_by(…) before")  # fmt: skip
    if keep not in ("first", "last"):
        raise PipelineError(f"keep={keep!r} is neither 'first' nor 'last'")
    if order not in ("arrival", "event_time"):
        raise PipelineError(f"order={order!r} is neither 'arrival' nor 'event_time'")
    if order == "event_time":
        check_timestamps(stream, "deduplications by event time")
    config, selector, record_type = ttl_of(ttl), stream.selector, stream.record_type
    if keep == "last":
        return KeepLastOperator(selector, record_type, config, by_event_time=order == "event_time")
    first = KeepFirstOperator if order == "arrival" else KeepEarliestOperator
    return first(selector, record_type, config)


def check_upsert_key(stream: DataStream, selector: KeySelector) -> None:
    """PipelineError if upserts of columns are read by other columns, as far as that is known: an update, which has no
    -U, would leave what its record was before under the other key, or replace what is of another record."""
    if not isinstance(selector, KeyByColumns):
        return
    inputs = list(stream._inputs)
    while inputs:
        step = inputs.pop().step
        if step.kind == "timestamps":
            inputs += step.inputs
        hashed = step.inputs[0].partitioning if step.kind == "to upsert" and not step.broken else None
        if not isinstance(hashed, Hash) or not isinstance(hashed.selector, KeyByColumns):
            continue
        own = hashed.selector.names
        if set(own) != set(selector.names):
            columns, wanted = (", ".join(map(repr, names)) for names in (own, selector.names))
            raise PipelineError(
                f"'{step.name}' gives upserts with the key {columns}, and they are read by {wanted}, where an update "
                f"would leave the record of before behind; call to_upsert({wanted}), or key_by({columns})"
            )


def ttl_of(ttl: Duration | None) -> StateTtlConfig | None:
    """ConfigurationError for what is no TTL."""
    return None if ttl is None else StateTtlConfig(ttl)
