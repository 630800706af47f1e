"""What users implement for joins, and how a function of pairs becomes one of groups.

Where a side has no partner, and `how` keeps it all the same, the other argument is None.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from ...state.errors import PipelineError
from ..functions import Function, OutputTag, RuntimeContext, callable_of, close_function, open_function
from ..operators.keyed import ROWS_AT_ONCE
from ..operators.user_code import TAKEN_APART, check_produced
from ..records.record_types import RecordType, RowType, ScalarType

LEFT, RIGHT = 0, 1
_KEPT = {"inner": (False, False), "left": (True, False), "right": (False, True), "full": (True, True)}


class JoinFunction(Function, ABC):
    """One result of every pair. A `join` that yields gives any number, as a FlatJoinFunction's does."""

    @abstractmethod
    def join(self, left: Any, right: Any) -> Any: ...


class FlatJoinFunction(Function, ABC):
    """Any number of results of every pair."""

    @abstractmethod
    def join(self, left: Any, right: Any) -> Iterable[Any] | None: ...


class CoGroupFunction(Function, ABC):
    """Any number of results of all records of a key and window; those of one side may be none."""

    @abstractmethod
    def co_group(self, left_elements: Sequence[Any], right_elements: Sequence[Any]) -> Iterable[Any] | None: ...


class JoinContext(ABC):
    """What a ProcessJoinFunction is given beside the pair. Valid during that call only."""

    @abstractmethod
    def left_timestamp(self) -> int | None:
        """Event time of the left record in ms; None if there is no left record."""

    @abstractmethod
    def right_timestamp(self) -> int | None: ...

    @abstractmethod
    def timestamp(self) -> int:
        """Of the results: the later of the two; of a record without a partner the ms at which it was clear that none
        comes."""

    @abstractmethod
    def current_watermark(self) -> int: ...

    @abstractmethod
    def output(self, tag: OutputTag[Any], value: Any) -> None:
        """A record to a side output, with the timestamp of the pair."""


class ProcessJoinFunction(Function, ABC):
    """Any number of results of every pair, with its times and side outputs: for interval joins."""

    Context: TypeAlias = JoinContext

    @abstractmethod
    def process_element(self, left: Any, right: Any, ctx: JoinContext) -> Iterable[Any] | None: ...


def kept_sides(how: Any) -> tuple[bool, bool]:
    """Whether records of the left and of the right side are given out without a partner. PipelineError for what is no
    way to join."""
    kept = _KEPT.get(how) if isinstance(how, str) else None
    if kept is None:
        raise PipelineError(f"how={how!r} is no way to join; choose one of {', '.join(_KEPT)}")
    return kept


class PairsOf(CoGroupFunction):
    """A function of pairs, called for all pairs of a group."""

    def __init__(self, function: Any, how: str, flat: bool) -> None:
        """flat: it gives any number of results, and not one."""
        self.function = function
        self.flat = flat
        self.keeps_left, self.keeps_right = kept_sides(how)

    def open(self, runtime_context: RuntimeContext) -> None:
        self._join = callable_of(self.function, "join")
        open_function(self.function, runtime_context)

    def co_group(self, left_elements: Sequence[Any], right_elements: Sequence[Any]) -> Iterable[Any]:
        left, right = left_elements, right_elements
        if not left or not right:
            if not (left and self.keeps_left) and not (right and self.keeps_right):
                return ()
            left, right = left or (None,), right or (None,)
        join = self._join
        if self.flat:
            return self._flat(left, right)
        if len(left) * len(right) > ROWS_AT_ONCE:
            return (join(one, other) for one in left for other in right)
        return [join(one, other) for one in left for other in right]

    def _flat(self, left: Sequence[Any], right: Sequence[Any]) -> Iterator[Any]:
        for one in left:
            for other in right:
                yield from several(self._join(one, other))

    def close(self) -> None:
        close_function(self.function)


def several(produced: Any) -> Iterable[Any]:
    """What a function that yields, or returns an iterable or None, has given. RecordTypeError if it is none of it."""
    if produced is None:
        return ()
    if type(produced) not in TAKEN_APART:
        check_produced(produced)
    results: Iterable[Any] = produced
    return results


def gives_what_may_change(function: Any, types: Iterable[RecordType]) -> bool:
    """Results may hold objects that others hold as well, and that can change: records of the sides, which are met more
    than once, or what the function keeps."""
    if isinstance(function, PairsOf):
        function = function.function
    keeps = isinstance(function, Function) and type(function).open is not Function.open
    return keeps or not all(map(never_changes, types))


def never_changes(record_type: RecordType) -> bool:
    """Its records can be handed to anybody."""
    if isinstance(record_type, RowType):
        return record_type.struct.immutable
    return isinstance(record_type, ScalarType) and record_type.value.immutable
