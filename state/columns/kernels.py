"""Compiled loops over the buffers of columns: hashing, the hash index, the split by target.

Everything here is compiled by numba at its first call and kept in a cache on disk, so a process pays about 0.3 s for
loading it. This module is imported only where columns are hashed, split or aggregated: `import penstock` and
pipelines of Python functions never load numba. `warm_up()` compiles what a slot will need before its first batch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

F = TypeVar("F", bound=Callable[..., Any])


def _private_cache() -> str | None:
    """A cache directory for machines where numba finds none: neither this package's nor the user's is writable."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return None
    candidates = [Path(__file__).parent, Path(os.path.expanduser("~"))]
    if any(os.access(folder, os.W_OK) for folder in candidates):
        return None
    directory = Path(tempfile.gettempdir()) / f"penstock-kernels-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.getuid():  # a cache holds code: never take another user's
        return tempfile.mkdtemp(prefix="penstock-kernels-")
    return str(directory)


def _kernel() -> Callable[[F], F]:
    cache = _private_cache()
    if cache is not None:
        os.environ["NUMBA_CACHE_DIR"] = cache
    import numba

    if cache is not None:
        setattr(numba.config, "CACHE_DIR", cache)  # noqa: B010  untyped; numba may have been imported before
    decorator: Any = numba.njit(cache=True, nogil=True)
    return cast(Callable[[F], F], decorator)


kernel = _kernel()

_U = np.uint64
_P1, _P2, _P3 = _U(11400714785074694791), _U(14029467366897019727), _U(1609587929392839161)
_P4, _P5 = _U(9650029242287828579), _U(2870177450012600261)
_MIX_1, _MIX_2 = _U(0xBF58476D1CE4E5B9), _U(0x94D049BB133111EB)


@kernel
def _rotate(word: np.uint64, bits: int) -> np.uint64:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@kernel
def _read(data: npt.NDArray[np.uint8], at: int, width: int) -> np.uint64:
    word = np.uint64(0)
    for i in range(width):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return word


@kernel
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(lane + word * _P2, 31) * _P1


@kernel
def _xxh64(data: npt.NDArray[np.uint8], start: int, end: int) -> np.uint64:
    """xxh64 with seed 0 of data[start:end], bit by bit as the xxhash package computes it."""
    at = start
    if end - start >= 32:
        a, b, c, d = _P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1
        while at + 32 <= end:
            a = _round(a, _read(data, at, 8))
            b = _round(b, _read(data, at + 8, 8))
            c = _round(c, _read(data, at + 16, 8))
            d = _round(d, _read(data, at + 24, 8))
            at += 32
        h = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
        zero = np.uint64(0)
        h = (h ^ _round(zero, a)) * _P1 + _P4
        h = (h ^ _round(zero, b)) * _P1 + _P4
        h = (h ^ _round(zero, c)) * _P1 + _P4
        h = (h ^ _round(zero, d)) * _P1 + _P4
    else:
        h = _P5
    h += np.uint64(end - start)
    while at + 8 <= end:
        h = _rotate(h ^ _round(np.uint64(0), _read(data, at, 8)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= end:
        h = _rotate(h ^ (_read(data, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        h = _rotate(h ^ (np.uint64(data[at]) * _P5), 11) * _P1
        at += 1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@kernel
def xxh64_values(data: npt.NDArray[np.uint8], offsets: npt.NDArray[Any], out: npt.NDArray[np.uint64]) -> None:
    """out[i] = xxh64 of data[offsets[i]:offsets[i + 1]]."""
    for i in range(len(out)):
        out[i] = _xxh64(data, offsets[i], offsets[i + 1])


@kernel
def _mix(bits: np.uint64) -> np.uint64:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


# ---- split by target


@kernel
def _count_targets(targets: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> None:
    for i in range(len(targets)):
        counts[targets[i]] += 1


@kernel
def _place(targets: npt.NDArray[Any], next_place: npt.NDArray[np.int64], out: npt.NDArray[np.int64]) -> None:
    for i in range(len(targets)):
        target = targets[i]
        out[next_place[target]] = i
        next_place[target] += 1


def order_by_target(
    targets: npt.NDArray[np.integer[Any]], parallelism: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(indices that sort the rows by target, keeping their order; number of rows of every target)."""
    counts = np.zeros(parallelism, np.int64)
    _count_targets(targets, counts)
    indices = np.empty(len(targets), np.int64)
    _place(targets, np.cumsum(counts) - counts, indices)
    return indices, counts


# ---- hash index: open addressing over slot numbers, -1 where free. The place in the table comes from the HIGH bits
# of the hash: the low ones chose the key group, so within a subtask they are all alike.


@kernel
def upsert_words(
    table: npt.NDArray[np.int32],
    words: npt.NDArray[np.int64],
    keys: npt.NDArray[np.int64],
    size: int,
    start: int,
    slots: npt.NDArray[np.int32],
) -> tuple[int, int]:
    """slots[i] = slot of words[i], new ones numbered on, from row `start` until the rows end or the keys are full.

    Returns (size, first row that was not done)."""
    mask = len(table) - 1
    shift = np.uint64(64 - _bits(len(table)))
    for i in range(start, len(words)):
        word = words[i]
        place = np.int64(_mix(np.uint64(word)) >> shift)
        slot = table[place]
        while slot >= 0 and keys[slot] != word:
            place = (place + 1) & mask
            slot = table[place]
        if slot < 0:
            if size == len(keys):
                return size, i
            slot = np.int32(size)
            table[place] = slot
            keys[size] = word
            size += 1
        slots[i] = slot
    return size, len(words)


@kernel
def _bits(length: int) -> int:
    bits = 0
    while length > 1:
        length >>= 1
        bits += 1
    return bits


@kernel
def rebuild_words(table: npt.NDArray[np.int32], keys: npt.NDArray[np.int64], size: int, skipped: int) -> None:
    """Enter the slots 0 .. size, without the skipped one, into an empty table."""
    mask = len(table) - 1
    shift = np.uint64(64 - _bits(len(table)))
    for slot in range(size):
        if slot != skipped:
            place = np.int64(_mix(np.uint64(keys[slot])) >> shift)
            while table[place] >= 0:
                place = (place + 1) & mask
            table[place] = slot


@kernel
def _same_bytes(arena: npt.NDArray[np.uint8], at: int, data: npt.NDArray[np.uint8], start: int, length: int) -> bool:
    for i in range(length):  # noqa: SIM110  numba compiles loops, not generator expressions
        if arena[at + i] != data[start + i]:
            return False
    return True


@kernel
def upsert_bytes(
    table: npt.NDArray[np.int32],
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[Any],
    hashes: npt.NDArray[np.uint64],
    ends: npt.NDArray[np.int64],
    arena: npt.NDArray[np.uint8],
    size: int,
    start: int,
    slots: npt.NDArray[np.int32],
) -> tuple[int, int]:
    """`upsert_words` for byte strings: slot s holds arena[ends[s]:ends[s + 1]], ends[0] is 0. Stops when slots or
    arena are full."""
    mask = len(table) - 1
    shift = np.uint64(64 - _bits(len(table)))
    for i in range(start, len(slots)):
        begin = int(offsets[i])
        length = int(offsets[i + 1]) - begin
        hashed = _xxh64(data, begin, begin + length)
        place = np.int64(hashed >> shift)
        slot = table[place]
        while slot >= 0:
            at = int(ends[slot])
            if hashes[slot] == hashed and ends[slot + 1] - at == length and _same_bytes(arena, at, data, begin, length):
                break
            place = (place + 1) & mask
            slot = table[place]
        if slot < 0:
            at = ends[size]
            if size == len(hashes) or at + length > len(arena):
                return size, i
            slot = np.int32(size)
            table[place] = slot
            hashes[size] = hashed
            for j in range(length):
                arena[at + j] = data[begin + j]
            ends[size + 1] = at + length
            size += 1
        slots[i] = slot
    return size, len(slots)


@kernel
def rebuild_bytes(table: npt.NDArray[np.int32], hashes: npt.NDArray[np.uint64], size: int, skipped: int) -> None:
    mask = len(table) - 1
    shift = np.uint64(64 - _bits(len(table)))
    for slot in range(size):
        if slot != skipped:
            place = np.int64(hashes[slot] >> shift)
            while table[place] >= 0:
                place = (place + 1) & mask
            table[place] = slot


@kernel
def gather_bytes(
    arena: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> None:
    """out[offsets[i]:offsets[i + 1]] = the byte string of slots[i]."""
    for i in range(len(slots)):
        at = ends[slots[i]] - offsets[i]
        for j in range(offsets[i], offsets[i + 1]):
            out[j] = arena[at + j]


# ---- accumulators: one value per slot, folded row by row in the order of the batch


@kernel
def count_rows(slots: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]) -> None:
    for i in range(len(slots)):
        counts[slots[i]] += 1


@kernel
def sum_ints(slots: npt.NDArray[np.int32], values: npt.NDArray[np.int64], totals: npt.NDArray[np.int64]) -> int:
    """Returns the first row whose addition leaves 64 bits, or -1."""
    for i in range(len(slots)):
        value, total = values[i], totals[slots[i]]
        added = total + value
        if ((total ^ added) & (value ^ added)) < 0:
            return i
        totals[slots[i]] = added
    return -1


@kernel
def sum_floats(slots: npt.NDArray[np.int32], values: npt.NDArray[np.float64], totals: npt.NDArray[np.float64]) -> None:
    for i in range(len(slots)):
        totals[slots[i]] += values[i]


@kernel
def least_ints(slots: npt.NDArray[np.int32], values: npt.NDArray[np.int64], least: npt.NDArray[np.int64]) -> None:
    for i in range(len(slots)):
        if values[i] < least[slots[i]]:
            least[slots[i]] = values[i]


@kernel
def greatest_ints(slots: npt.NDArray[np.int32], values: npt.NDArray[np.int64], greatest: npt.NDArray[np.int64]) -> None:
    for i in range(len(slots)):
        if values[i] > greatest[slots[i]]:
            greatest[slots[i]] = values[i]


@kernel
def least_floats(slots: npt.NDArray[np.int32], values: npt.NDArray[np.float64], least: npt.NDArray[np.float64]) -> None:
    """NaN is greater than every number, as in SQL."""
    for i in range(len(slots)):
        value, best = values[i], least[slots[i]]
        if value < best or best != best:
            least[slots[i]] = value


@kernel
def greatest_floats(
    slots: npt.NDArray[np.int32], values: npt.NDArray[np.float64], greatest: npt.NDArray[np.float64]
) -> None:
    for i in range(len(slots)):
        value = values[i]
        if value > greatest[slots[i]] or value != value:
            greatest[slots[i]] = value


@kernel
def mark(slots: npt.NDArray[np.int32], epochs: npt.NDArray[np.int32], epoch: int) -> None:
    for i in range(len(slots)):
        epochs[slots[i]] = epoch


def warm_up() -> None:
    """Compile, or load from the cache, what columns usually need, so that the first batch does not wait for it."""
    frozen, own = np.arange(4), np.arange(4)
    frozen.flags.writeable = False  # Arrow's buffers are read-only, which is a type of its own for the compiler
    slots = np.zeros(4, np.int32)
    table = np.full(16, -1, np.int32)
    for words in (frozen, own):
        upsert_words(table, words, np.empty(8, np.int64), 0, 0, slots)
        table.fill(-1)
        for fold in (sum_ints, least_ints, greatest_ints):
            fold(slots, words, np.zeros(8, np.int64))
    rebuild_words(table, own, 4, -1)
    table.fill(-1)
    for values in (frozen.view(np.float64), own.view(np.float64)):
        for fold_floats in (sum_floats, least_floats, greatest_floats):
            fold_floats(slots, values, np.zeros(8))
    data = np.zeros(4, np.uint8)
    data.flags.writeable = False
    hashes, ends, arena = np.zeros(8, np.uint64), np.zeros(9, np.int64), np.zeros(64, np.uint8)
    for dtype in (np.int32, np.int64):
        offsets = np.arange(5, dtype=dtype)
        offsets.flags.writeable = False
        xxh64_values(data, offsets, hashes[:4])
        upsert_bytes(table, data, offsets, hashes, ends, arena, 0, 0, slots)
        table.fill(-1)
    rebuild_bytes(table, hashes, 1, -1)
    gather_bytes(arena, ends, np.zeros(1, np.int32), np.zeros(2, np.int64), arena)
    count_rows(slots, np.zeros(8, np.int64))
    mark(slots, np.zeros(8, np.int32), 1)
    order_by_target(np.zeros(4, np.uint16), 1)
    order_by_target(np.zeros(4, np.int64), 1)
