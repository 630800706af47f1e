"""Key groups: which part of a job's keyed state a key belongs to, for ever.

key group = hash of the key mod max parallelism; subtask = key group * parallelism // max parallelism. A subtask
therefore owns a contiguous range of key groups, and rescaling moves whole key groups.

The hash is the same over processes, machines and versions, and on both faces of a batch: for Python objects
(`key_hash`, `hash_keys`) and for Arrow columns (`hash_columns`). It is in every checkpoint, so it never changes:

    int of 64 bits      finaliser of splitmix64 over its two's complement
    str, bytes          xxh64 of the (UTF-8) bytes, seed 0
    UUID, Enum          xxh64 of its 16 bytes; of its name
    everything else     xxh64 of the encoded key (key_encoding.py)
    tuple and the like  h = n; for each element: h = mix(h * golden ratio + hash of the element)

Lists of keys are hashed with numpy and the xxhash package alone; columns use the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from xxhash import xxh64_intdigest

from .errors import KeyTypeError
from .key_encoding import DATE_TAG, DATETIME_TAG, FLOAT_TAG, encode_key, key_fields, utf8

HashArray = npt.NDArray[np.uint64]

MAX_KEY_GROUPS = 1 << 15
"""Upper limit of max parallelism: a key group fits in 16 bits, as in Flink."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_SIGN = 1 << 63
_EPOCH_ORDINAL = 719163
"""date(1970, 1, 1).toordinal()"""


@dataclass(frozen=True, slots=True)
class KeyGroupRange:
    """Key groups first .. last, both inclusive; empty when last < first."""

    first: int
    last: int

    @classmethod
    def of_subtask(cls, subtask: int, parallelism: int, max_parallelism: int) -> KeyGroupRange:
        """The key groups that one of `parallelism` subtasks owns."""
        first = (subtask * max_parallelism + parallelism - 1) // parallelism
        last = ((subtask + 1) * max_parallelism - 1) // parallelism
        return cls(first, last)

    def __contains__(self, group: int) -> bool:
        return self.first <= group <= self.last

    def __len__(self) -> int:
        return max(0, self.last - self.first + 1)

    def intersection(self, other: KeyGroupRange) -> KeyGroupRange:
        return KeyGroupRange(max(self.first, other.first), min(self.last, other.last))


def subtask_of(group: int, parallelism: int, max_parallelism: int) -> int:
    return group * parallelism // max_parallelism


# ---- one key


def key_hash(key: Any) -> int:
    """Stable 64-bit hash of a normalised key. KeyTypeError when it cannot be a key."""
    kind = type(key)
    if kind is str:
        return xxh64_intdigest(utf8(key))
    if kind is bytes:
        return xxh64_intdigest(key)
    if kind is int and -_SIGN <= key <= _MASK:
        return _mix(key & _MASK)
    items = _elements(key)
    if items is not None:
        combined = len(items)
        for item in items:
            combined = _mix((combined * _GOLDEN + key_hash(item)) & _MASK)
        return combined
    if kind is UUID:
        return xxh64_intdigest(key.bytes)
    if isinstance(key, Enum):
        return xxh64_intdigest(utf8(key.name))
    return xxh64_intdigest(encode_key(key))


def key_group(key: Any, max_parallelism: int) -> int:
    return key_hash(key) % max_parallelism


def _mix(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * _MIX_1) & _MASK
    bits = ((bits ^ (bits >> 27)) * _MIX_2) & _MASK
    return bits ^ (bits >> 31)


def _elements(key: Any) -> Sequence[Any] | None:
    """What a composite key is made of; None when it is a single value."""
    if isinstance(key, tuple):
        return key
    fields = None if isinstance(key, Enum) else key_fields(type(key))
    return None if fields is None else [getattr(key, name) for name in fields]


_NONE_HASH = xxh64_intdigest(encode_key(None))
_FALSE_HASH, _TRUE_HASH = xxh64_intdigest(encode_key(False)), xxh64_intdigest(encode_key(True))


# ---- lists of keys


def hash_keys(keys: Sequence[Any]) -> HashArray:
    """`key_hash` of every key: 60-100 ns for a string, 30 ns for an integer."""
    kinds = set(map(type, keys))
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is int:
            return _hash_ints(keys)
        if kind is str:
            return _hash_strings(keys)
        if kind is bytes:
            return _uint64s(xxh64_intdigest, keys)
        if kind is tuple and len(set(map(len, keys))) == 1 and keys[0]:
            return combine([hash_keys(column) for column in zip(*keys, strict=True)])
    return _uint64s(key_hash, keys)


def key_groups_of(keys: Sequence[Any], max_parallelism: int) -> npt.NDArray[np.uint16]:
    """Key group of every key of a list."""
    return groups_of_hashes(hash_keys(keys), max_parallelism)


def groups_of_hashes(hashes: HashArray, max_parallelism: int) -> npt.NDArray[np.uint16]:
    if max_parallelism & (max_parallelism - 1) == 0:
        return (hashes & np.uint64(max_parallelism - 1)).astype(np.uint16)
    return (hashes % np.uint64(max_parallelism)).astype(np.uint16)


def _uint64s(function: Callable[[Any], int], keys: Sequence[Any]) -> HashArray:
    return np.fromiter(map(function, keys), np.uint64, len(keys))


def _hash_strings(keys: Sequence[str]) -> HashArray:
    try:
        return np.fromiter(map(xxh64_intdigest, map(str.encode, keys)), np.uint64, len(keys))
    except UnicodeEncodeError:
        return _uint64s(key_hash, keys)  # raises, naming the key


def _hash_ints(keys: Sequence[int]) -> HashArray:
    try:
        values = np.array(keys, np.int64)
    except OverflowError:
        return _uint64s(key_hash, keys)
    return mix_array(values.view(np.uint64))


def mix_array(values: HashArray) -> HashArray:
    """The finaliser of splitmix64, element by element."""
    bits = values ^ (values >> np.uint64(30))
    bits *= np.uint64(_MIX_1)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(_MIX_2)
    bits ^= bits >> np.uint64(31)
    return bits


def combine(columns: Sequence[HashArray]) -> HashArray:
    """Hashes of tuples from the hashes of their elements."""
    combined = np.full(len(columns[0]), len(columns), np.uint64)
    for hashes in columns:
        combined = mix_array(combined * np.uint64(_GOLDEN) + hashes)
    return combined


# ---- columns


def hash_columns(columns: Sequence[pa.Array]) -> HashArray:
    """`key_hash` of every row's key: the value of a single column, the tuple of several.

    KeyTypeError for column types that cannot be keys (naive timestamps, lists, ...) and for NaN.
    """
    if len(columns) == 1:
        return hash_column(columns[0])
    return combine([hash_column(column) for column in columns])


def hash_column(column: pa.Array) -> HashArray:
    hashes = _hash_values(column)
    if column.null_count and not pa.types.is_dictionary(column.type):
        hashes[nulls(column)] = _NONE_HASH
    return hashes


def nulls(column: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False))


def values_of(column: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values buffer of a fixed-width column as it lies there: no copy; anything where the column is null."""
    width = np.dtype(dtype).itemsize
    data = column.buffers()[1]
    if data is None:
        return np.zeros(len(column), dtype)
    return np.frombuffer(data, dtype, len(column), column.offset * width)


def text_buffers(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """(bytes, offsets of n + 1 borders) of a string or binary column, large or not, without copying."""
    kind = column.type
    dtype = np.int64 if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) else np.int32
    _valid, borders, data = column.buffers()
    if borders is None or borders.size == 0:
        return np.zeros(0, np.uint8), np.zeros(len(column) + 1, dtype)
    offsets = np.frombuffer(borders, dtype, len(column) + 1, column.offset * np.dtype(dtype).itemsize)
    return np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8), offsets


def _hash_values(column: pa.Array) -> HashArray:
    """Hashes of all rows; anything where the column is null."""
    types, kind, count = pa.types, column.type, len(column)
    if types.is_integer(kind):
        return mix_array(_integers(column))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        return _hash_bytes(*text_buffers(column), count)
    if types.is_fixed_size_binary(kind):
        width = kind.byte_width
        data = values_of(column, f"V{width}").view(np.uint8)
        return _hash_bytes(data, np.arange(count + 1, dtype=np.int64) * width, count)
    if types.is_dictionary(kind):
        return _hash_dictionary(column)
    if types.is_boolean(kind):
        flags = values_of(column.cast(pa.uint8()), np.uint8)
        return np.where(flags != 0, np.uint64(_TRUE_HASH), np.uint64(_FALSE_HASH))
    if types.is_null(kind):
        return np.full(count, _NONE_HASH, np.uint64)
    if types.is_floating(kind) or types.is_timestamp(kind) or types.is_date(kind):
        return _hash_words(column)
    if types.is_decimal(kind):
        return hash_keys(column.to_pylist())
    if types.is_struct(kind) and kind.num_fields:
        return combine([hash_column(field) for field in column.flatten()])
    if str(kind) in ("string_view", "binary_view"):
        return _hash_values(column.cast(pa.string() if str(kind) == "string_view" else pa.binary()))
    raise KeyTypeError(f"a column of type {kind} cannot be a key")


def _integers(column: pa.Array) -> HashArray:
    dtype = np.dtype(column.type.to_pandas_dtype())
    values = values_of(column, dtype)
    return values.astype(np.int64 if dtype.kind == "i" else np.uint64, copy=False).view(np.uint64)


def _hash_bytes(data: npt.NDArray[np.uint8], offsets: npt.NDArray[Any], count: int) -> HashArray:
    from .columns.kernels import xxh64_values  # compiled code is loaded only where columns are hashed

    hashes = np.empty(count, np.uint64)
    xxh64_values(data, offsets, hashes)
    return hashes


def _hash_dictionary(column: pa.Array) -> HashArray:
    """The dictionary is hashed once; a null is in the indices or in the dictionary."""
    of_values = np.append(hash_column(column.dictionary), np.uint64(_NONE_HASH))
    indices = column.indices
    positions = values_of(indices, np.dtype(indices.type.to_pandas_dtype())).astype(np.int64)
    if indices.null_count:
        positions[nulls(indices)] = len(of_values) - 1
    return of_values[positions]


def _hash_words(column: pa.Array) -> HashArray:
    """Types whose encoding is a tag and a big-endian word."""
    if pa.types.is_floating(column.type):
        tag, words = FLOAT_TAG, _float_words(column)
    elif pa.types.is_date(column.type):
        days = values_of(column.cast(pa.date32()), np.int32)
        tag, words = DATE_TAG, (days + np.int32(_EPOCH_ORDINAL)).astype(">u4")
    elif column.type.tz is None:
        raise KeyTypeError("a timestamp column without time zone cannot be a key: give it a time zone")
    else:
        tag, words = DATETIME_TAG, _microseconds(column)
    width = 1 + words.itemsize
    encoded = np.empty((len(words), width), np.uint8)
    encoded[:, 0] = tag
    encoded[:, 1:] = words.view(np.uint8).reshape(len(words), words.itemsize)
    return _hash_bytes(encoded.reshape(-1), np.arange(len(words) + 1, dtype=np.int64) * width, len(words))


def _float_words(column: pa.Array) -> npt.NDArray[Any]:
    values = values_of(column.cast(pa.float64()), np.float64) + 0.0  # no negative zero
    undefined = np.isnan(values)
    if undefined.any() and (undefined & ~nulls(column)).any():
        raise KeyTypeError("NaN cannot be a key: it is not equal to itself")
    bits = values.view(np.uint64)
    sign = np.uint64(_SIGN)
    return np.where(bits & sign, ~bits, bits | sign).astype(">u8")


def _microseconds(column: pa.Array) -> npt.NDArray[Any]:
    try:
        ticks = column.cast(pa.timestamp("us", column.type.tz))
    except pa.ArrowInvalid as error:
        raise KeyTypeError("a key of nanoseconds does not fit a datetime: round the column to microseconds") from error
    return (values_of(ticks, np.int64).view(np.uint64) ^ np.uint64(_SIGN)).astype(">u8")


def columns_key_groups(columns: Sequence[pa.Array], max_parallelism: int) -> npt.NDArray[np.uint16]:
    """Key group of every row, from its key columns."""
    return groups_of_hashes(hash_columns(columns), max_parallelism)


__all__ = [
    "HashArray",
    "KeyGroupRange",
    "MAX_KEY_GROUPS",
    "columns_key_groups",
    "groups_of_hashes",
    "hash_column",
    "hash_columns",
    "hash_keys",
    "key_group",
    "key_groups_of",
    "key_hash",
    "subtask_of",
]
