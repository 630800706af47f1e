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
from typing import Any, TypeVar

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
        numba.config.CACHE_DIR = cache  # numba may have been imported before
    decorator: Callable[[F], F] = numba.njit(cache=True, nogil=True)
    return decorator


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
