"""What one key has in one state at this moment, for whoever asks from outside (queryable state).

The slot's thread takes the rows of the cell (`cell_rows`): from the cache, from what is on its way out of it, from the
store, as a function would find them. But nothing moves for it: no cell comes into the cache or becomes younger, none
counts as changed, no stamp of a TTL is renewed, and what has expired is left out and not removed. The rows are those
that a snapshot would hold now, so reading them needs neither the job's classes nor the slot's thread: whoever has asked
makes a tree for JSON of them (`readable`).

The slot's thread stands still meanwhile, so a read is bounded: MOST_ENTRIES elements or entries, MOST_BYTES of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backend import VOID_NAMESPACE
from ..errors import StateError
from ..key_encoding import decode_key, decode_plain
from ..serialization.plain_rows import PlainRows, as_tree
from .ttl import is_dead, is_stamped, stamp_of, stamps_of_chunk

if TYPE_CHECKING:
    from .handles import Handle

MOST_ENTRIES = 1_000
"""Elements of a list, entries of a map: some milliseconds of the slot's thread."""
MOST_BYTES = 1 << 20
"""All open answers of a job are kept until their master takes them."""


@dataclass(frozen=True, slots=True)
class CellRead:
    """What is asked: what the key has in the state of that name."""

    state: str
    key: bytes
    """Encoded (key_encoding.py)."""
    namespace: int = VOID_NAMESPACE
    entry: bytes | None = None
    """Of a map only what stands under this key, which is encoded, too; None: all of it."""


@dataclass(frozen=True, slots=True)
class CellRows:
    """What the slot finds."""

    kind: str
    """Of descriptors: 'value', 'list', ..."""
    rows: tuple[tuple[bytes, bytes], ...]
    """Suffix and value, in order; none: the key has nothing there."""
    written_as: tuple[Any, ...]
    """Descriptions of the state's type."""
    truncated: bool = False
    """There is more."""
    expired_ms: int | None = None
    """Elements of a list that were last used then, or before, have expired."""


class NoSuchStateError(StateError):
    """The operator has no state of that name; names those that it has."""


def cell_rows(
    handle: Handle[Any], asked: CellRead, kind: str, written_as: Sequence[Any], last_dead: bytes | None
) -> CellRows:
    """`last_dead`: the highest header of a row that has expired (ttl.py). StateError: it is too large; KeyTypeError: no
    key of this operator can be that one."""
    if asked.entry is not None and kind != "map":
        raise StateError(f"state '{asked.state}' is a {kind} state: only those of maps have entries to be asked for")
    found = handle.rows_of(decode_key(asked.key), asked.namespace, asked.entry, MOST_ENTRIES + 1)
    live = [row for row in found if last_dead is None or not is_dead(row[1], last_dead)]
    rows, nbytes = [], 0
    for suffix, value in live[:MOST_ENTRIES]:
        nbytes += len(suffix) + len(value)
        if nbytes > MOST_BYTES:
            break
        rows.append((suffix, value))
    if live and not rows:
        raise StateError(
            f"what the key has in state '{asked.state}' takes {len(live[0][1]):,} bytes, and more than {MOST_BYTES:,} "
            "cannot be asked for; `penstock state cat` shows savepoints"
        )
    expired_ms = None if last_dead is None else stamp_of(last_dead)
    cut = len(rows) < len(live) or len(found) > MOST_ENTRIES
    return CellRows(kind, tuple(rows), tuple(written_as), cut, expired_ms)


def readable(cell: CellRows, *, entry: bool = False) -> tuple[Any, bool]:
    """A tree for JSON, and whether there is more than it shows. `entry`: one of a map was asked for. A list is a list,
    a map an object if its keys are strings, else a list of pairs; None: there is nothing. StateError: it cannot be
    shown without the job's classes."""
    if not cell.rows:
        return None, cell.truncated
    plain = PlainRows(cell.written_as)
    try:
        if cell.kind == "list":
            elements = [element for _suffix, row in cell.rows for element in _elements(plain, row, cell.expired_ms)]
            return as_tree(elements[:MOST_ENTRIES]), cell.truncated or len(elements) > MOST_ENTRIES
        if cell.kind == "map" and not entry:
            return as_tree({decode_plain(key): plain.value(row) for key, row in cell.rows}), cell.truncated
        return as_tree(plain.value(cell.rows[0][1])), cell.truncated
    except Exception as error:  # whatever a pickle may raise
        raise StateError(f"the value cannot be shown without the job's classes: {error!r}") from error


def _elements(plain: PlainRows, chunk: bytes, expired_ms: int | None) -> list[Any]:
    elements = plain.elements(chunk)
    if expired_ms is None or not is_stamped(chunk):
        return elements
    return [each for each, stamp in zip(elements, stamps_of_chunk(chunk), strict=True) if stamp > expired_ms]
