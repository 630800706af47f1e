"""Regular join: every record of a side meets every record of the other one with an equal key, whenever they come
(Flink's StreamingJoinOperator).

Both sides are kept, each as long as its TTL says, by the clock: what has expired is met no more, but its results are
not taken back. Without a TTL everything is kept for ever, at the end of the input, too.

Both inputs may be changelogs: a record that is taken back (-U, -D) takes back its results, and one equal record goes
from the state. Results of an inner join are of the kind of the record that made them, so they are insertions where the
inputs are. A side that is kept without a partner (`how`) makes a changelog:

    a record without a partner         +I (l, None)
    its first partner comes            -D (l, None), +I (l, r)
    its last partner is taken back     -D (l, r), +I (l, None)

For that every record knows how many partners it has had that were not taken back: those that have expired still count,
as in Flink.

State: per side a map from a digest of the record to (record, how many equal ones, partners). A digest is found at once;
where equal records are not written alike (pickles, sets) all of the key are compared. What a batch needs of both sides
is asked for at once. Results are copied where
they may hold records of the state that can change (PROTOCOLS 24). They carry the time of the record that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, cast

import numpy as np

from ...state.descriptors import MapStateDescriptor
from ...state.rows.map_state import CachedMapState
from ...state.serialization.serializers import serializer_for
from ...state.ttl_config import StateTtlConfig
from ..batch import Batch
from ..changelog import CHANGELOGS, ChangelogMode, RowKind, alike, kept_mode
from ..functions import RuntimeContext, callable_of, close_function, open_function
from ..keys import KeySelector
from ..operators.co_process import KeysOfTwoInputs
from ..operators.keyed import ROWS_AT_ONCE, KeyedOperator
from ..operators.operator import OperatorContext, RestoredState
from ..operators.running import state_type
from ..operators.user_code import raise_user_error, shown, taken_apart
from ..records.record_types import RecordType
from .functions import LEFT, RIGHT, gives_what_may_change, kept_sides

_INSERT, _DELETE = int(RowKind.INSERT), int(RowKind.DELETE)
_ADDS = frozenset(int(kind) for kind in RowKind if kind.adds)
_NAMES = ("left", "right")
_DIGEST_BYTES = 16

Kept = tuple[Any, int, int]
"""A record, how many equal ones there are, partners of each."""


class RegularJoinOperator(KeysOfTwoInputs, KeyedOperator):
    """Runs a JoinFunction, or a callable like its method; without one, results are (left, right)."""

    accepted_modes = CHANGELOGS

    def __init__(
        self,
        selectors: tuple[KeySelector, KeySelector],
        function: Any,
        types: tuple[RecordType, RecordType],
        output_type: RecordType,
        *,
        how: str = "inner",
        ttls: tuple[StateTtlConfig | None, StateTtlConfig | None] = (None, None),
        condition: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        """types, ttls: of the two sides. condition: says of a left and a right record whether they are partners.
        PipelineError for what is no way to join."""
        super().__init__(selectors[0], output_type)
        self.selectors = selectors
        self.function = function
        self.types = types
        self.kept = kept_sides(how)
        self.ttls = ttls
        self.condition = condition

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        return ChangelogMode.ALL if any(self.kept) else kept_mode(inputs)

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        super().open(context, restored)
        self._sides = [_Side(self, side) for side in (LEFT, RIGHT)]
        self.join = _pair if self.function is None else callable_of(self.function, "join")
        try:
            open_function(self.function, RuntimeContext(context, self.backend))
        except Exception as error:
            raise_user_error(context, error, "in open()")

    def process_batch(self, batch: Batch, input_index: int) -> None:
        rows = batch.rows()
        kinds = [_INSERT] * len(rows) if batch.row_kinds is None else batch.row_kinds.tolist()
        stored, keys = self.types[input_index].copy_rows(rows), self.keys(batch, input_index)
        results = _Results(self, input_index)
        set_key, row = self.backend.set_current_key, None
        mine, theirs = self._sides[input_index], self._sides[1 - input_index]
        digests: list[bytes] = []
        try:
            for row in stored:
                digests.append(mine.digest(row))  # noqa: PERF401  the row of an error
            theirs.state.know(keys)
            mine.state.look_up_all(keys, digests)
            whole = zip(keys, rows, stored, digests, batch.timestamp_list(), kinds, strict=True)
            for key, row, own, digest, at, kind in whole:
                set_key(key)
                results.at = at
                if kind in _ADDS:
                    self._add(row, own, digest, kind, results)
                else:
                    self._take_back(row, own, digest, kind, results)
                if len(results.rows) >= ROWS_AT_ONCE:
                    results.emit()
        except Exception as error:
            raise_user_error(self.context, error, f"on the record {shown(row)}")
        results.emit()

    def _add(self, row: Any, own: Any, digest: bytes, kind: int, results: _Results) -> None:
        mine, theirs = self._sides[results.side], self._sides[1 - results.side]
        partners = theirs.partners(row, results.matches)
        mine.add(own, digest, sum([equal for _, (_, equal, _) in partners]))
        if mine.outer and not partners:
            results.pair(row, None, _INSERT)
        for other, (record, equal, met) in partners:
            for _ in range(equal):
                if theirs.outer and not met:
                    results.pair(None, record, _DELETE)
                results.pair(row, record, _INSERT if mine.outer or (theirs.outer and not met) else kind)
            if theirs.outer:
                theirs.count(other, record, equal, met + 1)

    def _take_back(self, row: Any, own: Any, digest: bytes, kind: int, results: _Results) -> None:
        mine, theirs = self._sides[results.side], self._sides[1 - results.side]
        partners = theirs.partners(row, results.matches)
        mine.take_back(own, digest)
        if mine.outer and not partners:
            results.pair(row, None, _DELETE)
        for other, (record, equal, met) in partners:
            for _ in range(equal):
                results.pair(row, record, _DELETE if mine.outer else kind)
                if theirs.outer and met == 1:
                    results.pair(None, record, _INSERT)
            if theirs.outer:
                theirs.count(other, record, equal, max(0, met - 1))

    def close(self) -> None:
        try:
            close_function(self.function)
        finally:
            super().close()


def _pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left, right


Matches = Callable[[Any, Any], bool] | None


class _Side:
    """The records of a side, of the current key."""

    def __init__(self, operator: RegularJoinOperator, side: int) -> None:
        self.outer = operator.kept[side]
        kind: Any = state_type(operator.types[side])
        value: Any = None if kind is None else tuple[kind, int, int]
        descriptor: MapStateDescriptor[bytes, Kept] = MapStateDescriptor(
            _NAMES[side], bytes, value, operator.ttls[side]
        )
        self.state = cast(CachedMapState[bytes, Kept], operator.backend.map_state(descriptor))
        self._encode = serializer_for(kind).encode

    def partners(self, row: Any, matches: Matches) -> list[tuple[bytes, Kept]]:
        """(digest, what is kept of it) of those that a record of the other side meets."""
        found = list(self.state.items())
        return found if matches is None else [entry for entry in found if matches(row, entry[1][0])]

    def add(self, row: Any, digest: bytes, partners: int) -> None:
        before = self.state.get(digest)
        self.state.put(digest, (row, 1 if before is None else before[1] + 1, partners))

    def take_back(self, row: Any, digest: bytes) -> None:
        """One that equals it; nothing, if all have expired."""
        kept = self.state.get(digest)
        if kept is None:
            digest, kept = next(((at, each) for at, each in self.state.items() if alike(each[0], row)), (digest, None))
        if kept is None:
            return
        record, equal, partners = kept
        if equal > 1:
            self.state.put(digest, (record, equal - 1, partners))
        else:
            self.state.remove(digest)

    def count(self, digest: bytes, record: Any, equal: int, partners: int) -> None:
        self.state.put(digest, (record, equal, partners))

    def digest(self, row: Any) -> bytes:
        return blake2b(self._encode(row), digest_size=_DIGEST_BYTES).digest()


class _Results:
    """Of records of one side, with their kinds, until they are emitted."""

    def __init__(self, operator: RegularJoinOperator, side: int) -> None:
        self.side = side
        self.at = 0
        """The time of the record that makes results."""
        self.rows: list[Any] = []
        self._timestamps: list[int] = []
        self._kinds: list[int] = []
        self._operator = operator
        self._join = operator.join
        self._apart = gives_what_may_change(operator.function, operator.types)
        condition = operator.condition
        self.matches: Matches = None
        if condition is not None:
            left = side == LEFT
            self.matches = lambda own, other: bool(condition(own, other) if left else condition(other, own))

    def pair(self, own: Any, other: Any, kind: int) -> None:
        """None: there is no record of that side."""
        left, right = (own, other) if self.side == LEFT else (other, own)
        result = self._join(left, right)
        self.rows.append(taken_apart(result, self._operator.output_type) if self._apart else result)
        self._timestamps.append(self.at)
        self._kinds.append(kind)

    def emit(self) -> None:
        """A batch of insertions has no kinds."""
        if not self.rows:
            return
        batch = Batch.of_rows(self._operator.output_type, self.rows, self._timestamps)
        if any(self._kinds):
            batch.row_kinds = np.array(self._kinds, np.int8)
        self.rows, self._timestamps, self._kinds = [], [], []
        self._operator.output.emit(batch)
