"""The layout of a row's key in the row store, the same for both backends and in every snapshot.

    key group 2 B | state id 2 B | length of the key 4 B | key | namespace 8 B | suffix

big-endian, so the rows of a range of key groups are contiguous over all states. Everything before the suffix is the
*prefix* and belongs to one cell: one state, key and namespace. The suffix is empty for a value, the chunk's number
for a part of a list, and the encoded user key for an entry of a map. A timer's timestamp stands where the key is, and
the key is the suffix (timer_rows.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..key_encoding import decode_key, encode_key
from ..key_groups import groups_of_hashes, key_group, key_groups_of, mix_array

_HEAD = struct.Struct(">HHI")
_GROUP = struct.Struct(">H")
_STATE = struct.Struct(">H")
_WORD = struct.Struct(">Q")
_SIGN = 1 << 63
HEAD_BYTES = _HEAD.size
PLACE_BYTES = 4
"""Key group and state."""


def encode_word(number: int) -> bytes:
    """A signed 64-bit integer in 8 bytes that sort like the integers."""
    return _WORD.pack(number + _SIGN)


def decode_word(data: bytes) -> int:
    (bits,) = _WORD.unpack(data)
    return int(bits) - _SIGN


def cell_prefix(key: Any, state_id: int, namespace: bytes, max_parallelism: int) -> bytes:
    encoded = encode_key(key)
    return _HEAD.pack(key_group(key, max_parallelism), state_id, len(encoded)) + encoded + namespace


def cell_prefixes(keys: Sequence[Any], state_id: int, namespace: bytes, max_parallelism: int) -> list[bytes]:
    """The same for many keys, several times cheaper."""
    bits = _int_bits(keys)
    if bits is not None:
        prefix = _int_prefix(state_id, namespace)
        rows = np.frombuffer(bytearray(prefix.tobytes() * len(bits)), prefix.dtype)
        rows["group"] = groups_of_hashes(mix_array(bits), max_parallelism)
        rows["key"] = bits ^ np.uint64(_SIGN)
        prefixes: list[bytes] = rows.view(f"V{rows.itemsize}").tolist()
        return prefixes
    groups = key_groups_of(keys, max_parallelism).tolist()
    pack = _HEAD.pack
    encoded = list(map(encode_key, keys))
    return [pack(group, state_id, len(key)) + key + namespace for group, key in zip(groups, encoded, strict=True)]


def row_order(keys: Sequence[Any], max_parallelism: int) -> npt.NDArray[np.intp]:
    """Positions of the keys in the order of their rows: exact for ints, else of their key groups."""
    bits = _int_bits(keys)
    if bits is None:
        return np.argsort(key_groups_of(keys, max_parallelism), kind="stable")
    by_key = np.argsort(bits ^ np.uint64(_SIGN))
    groups = groups_of_hashes(mix_array(bits), max_parallelism)
    return by_key[np.argsort(groups[by_key], kind="stable")]


def _int_bits(keys: Sequence[Any]) -> npt.NDArray[np.uint64] | None:
    """Two's complement of the keys, if they are ints of 64 bits."""
    if set(map(type, keys)) != {int}:
        return None
    try:
        return np.array(keys, np.int64).view(np.uint64)
    except OverflowError:
        return None


@lru_cache(maxsize=64)
def _int_prefix(state_id: int, namespace: bytes) -> npt.NDArray[np.void]:
    """The prefix of the key 0 in group 0: every int of 64 bits is a tag and 8 bytes with the sign flipped."""
    encoded = encode_key(0)
    layout = np.dtype([("group", ">u2"), ("head", "V7"), ("key", ">u8"), ("namespace", f"V{len(namespace)}")])
    return np.frombuffer(_HEAD.pack(0, state_id, len(encoded)) + encoded + namespace, layout)


def row_key(group: int, state_id: int, encoded_key: bytes, namespace: int, suffix: bytes) -> bytes:
    return _HEAD.pack(group, state_id, len(encoded_key)) + encoded_key + encode_word(namespace) + suffix


def parts_of_row_key(row_key: bytes) -> tuple[int, bytes, int, bytes]:
    """Key group, encoded key, namespace, suffix."""
    group, _state, length = _HEAD.unpack_from(row_key)
    end = HEAD_BYTES + length
    (namespace,) = _WORD.unpack_from(row_key, end)
    return group, row_key[HEAD_BYTES:end], namespace - _SIGN, row_key[end + 8 :]


def prefix_length(row_key: bytes) -> int:
    """Bytes of the row's key that name its cell."""
    return HEAD_BYTES + int.from_bytes(row_key[4:8], "big") + 8


def group_of(row_key: bytes) -> int:
    return int.from_bytes(row_key[:2], "big")


def state_of(row_key: bytes) -> int:
    return int.from_bytes(row_key[2:4], "big")


def with_state(row_key: bytes, state_id: int) -> bytes:
    """The same row under another state's id."""
    return row_key[:2] + _STATE.pack(state_id) + row_key[4:]


def encoded_key_of(row_key: bytes) -> bytes:
    return row_key[HEAD_BYTES : prefix_length(row_key) - 8]


def key_of(row_key: bytes) -> Any:
    return decode_key(encoded_key_of(row_key))


def namespace_of(row_key: bytes) -> int:
    end = prefix_length(row_key)
    return decode_word(row_key[end - 8 : end])


def first_of_group(group: int) -> bytes:
    """A bound below every row of this key group and above those of the groups before."""
    return group.to_bytes(4, "big")[2:] if group < 1 << 16 else b"\xff" * 3


def state_prefix(group: int, state_id: int) -> bytes:
    return _GROUP.pack(group) + _STATE.pack(state_id)
