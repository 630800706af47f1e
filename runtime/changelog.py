"""Changelogs: streams whose results change later, and what of that an operator or a sink can take.

Every record of a stream has a row kind. Most streams are insertions only and carry none; a batch of a changelog has
`row_kinds`, one byte a record (None: all are insertions). Which streams are changelogs is known when the pipeline is
built, from its operators: a stream's *mode* says which kinds may come.

    INSERT_ONLY   +I
    UPSERT        +I, +U, -D      an update replaces the record of the same key; for sinks, `to_upsert(key)` makes it
    ALL           +I, -U, +U, -D  an update takes the old record back and then gives the new one

Apply a changelog to an empty multiset, adding with +I and +U and removing with -U and -D, and you have its result. For
that the changes of a record must not overtake each other: an operator leaves their order as it is, what partitions by
key sends the halves of an update to one subtask unless the update changes the key, and round robin is refused. Where
it does, the halves come in either order; for a multiset that is all the same, and `to_upsert` sees to it.

An operator that does not know kinds would count a deletion as one more record. So every operator says what it accepts
(`Operator.accepts`), which is insertions only unless it says otherwise, and everything else is refused when the
pipeline is built. Functions of users never see kinds: a map over a changelog maps what is taken back like what is
given, so it must give equal results for equal records. (Flink's RowKind and ChangelogMode.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, IntEnum
from typing import Any, NamedTuple, Protocol

from ..state.errors import PipelineError


class RowKind(IntEnum):
    """What a record of a changelog does."""

    INSERT = 0
    UPDATE_BEFORE = 1
    """Takes back what is updated; the new record follows as UPDATE_AFTER."""
    UPDATE_AFTER = 2
    DELETE = 3

    def __str__(self) -> str:
        return SHORT[self]

    __repr__ = __str__
    """Within a printed tuple as well."""

    @property
    def adds(self) -> bool:
        """Whether the record is there afterwards; otherwise it is not."""
        return self in (RowKind.INSERT, RowKind.UPDATE_AFTER)


SHORT = ("+I", "-U", "+U", "-D")
KINDS = tuple(RowKind)


class Change(NamedTuple):
    """A record of a changelog with its kind, where a program is given both."""

    kind: RowKind
    record: Any

    def __str__(self) -> str:
        text = str(self.record)
        return f"{self.kind}{text}" if text[:1] == "(" and text[-1:] == ")" else f"{self.kind}({text})"


class ChangelogMode(Enum):
    """Which kinds a stream has."""

    INSERT_ONLY = "insertions"
    UPSERT = "upserts"
    ALL = "changelog"

    def __str__(self) -> str:
        return self.value


_SHOWN = {
    ChangelogMode.INSERT_ONLY: "insertions",
    ChangelogMode.UPSERT: "upserts (+I, +U, -D)",
    ChangelogMode.ALL: "a changelog (+I, -U, +U, -D)",
}

INSERTIONS = frozenset({ChangelogMode.INSERT_ONLY})
CHANGELOGS = frozenset({ChangelogMode.INSERT_ONLY, ChangelogMode.ALL})
EVERYTHING = frozenset(ChangelogMode)


class Accepting(Protocol):
    """What is asked of an operator."""

    def accepts(self, input_index: int) -> frozenset[ChangelogMode]: ...

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode: ...

    def way_out(self, mode: ChangelogMode) -> str: ...


class Incoming(NamedTuple):
    """A stream that an operator reads."""

    input_index: int
    mode: ChangelogMode
    name: str
    """Of the operator it comes from."""


def mode_of_results(operator: Accepting, incoming: Iterable[Incoming]) -> ChangelogMode:
    """PipelineError for a stream that the operator cannot take."""
    modes: dict[int, ChangelogMode] = {}
    for stream in incoming:
        index, mode = stream.input_index, stream.mode
        if mode not in operator.accepts(index):
            takes = " or ".join(sorted(str(each) for each in operator.accepts(index)))
            raise PipelineError(
                f"'{stream.name}' gives {_SHOWN[mode]}, but it takes {takes} only: {operator.way_out(mode)}"
            )
        modes[index] = _united(modes.get(index, mode), mode)
    return operator.result_mode([modes[index] for index in sorted(modes)])


def _united(one: ChangelogMode, other: ChangelogMode) -> ChangelogMode:
    """Of a union."""
    if {one, other} == {ChangelogMode.UPSERT, ChangelogMode.ALL}:
        raise PipelineError("a union of upserts and of a changelog that takes updates back is neither; "
                            "call to_upsert(key) behind the union")  # fmt: skip
    return other if one is ChangelogMode.INSERT_ONLY else one


def kept_mode(inputs: Sequence[ChangelogMode]) -> ChangelogMode:
    """Of results that have the kinds of their records."""
    mode = ChangelogMode.INSERT_ONLY
    for each in inputs:
        mode = _united(mode, each)
    return mode


def changes(rows: Iterable[Any], kinds: Any) -> list[Change]:
    """`kinds`: row_kinds of a batch."""
    if kinds is None:
        return [Change(RowKind.INSERT, row) for row in rows]
    return [Change(KINDS[kind], row) for row, kind in zip(rows, kinds.tolist(), strict=True)]


def alike(one: Any, other: Any) -> bool:
    """Of two records. Not for sure if they hold arrays: these do not say."""
    try:
        return bool(one == other)
    except (TypeError, ValueError):
        return False
