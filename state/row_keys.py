"""The layout of a row's key in the row store, the same for both backends and in every snapshot.

    key group 2 B | state id 2 B | length of the key 4 B | key | namespace 8 B | suffix

big-endian, so the rows of a range of key groups are contiguous over all states. Everything before the suffix is the
*prefix* and belongs to one cell: one state, key and namespace. The suffix is empty for a value, the chunk's number
for a part of a list, the encoded user key for an entry of a map, and the timestamp for a timer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .key_encoding import decode_key, encode_key
from .key_groups import key_group, key_groups_of

_HEAD = struct.Struct(">HHI")
_GROUP = struct.Struct(">H")
_STATE = struct.Struct(">H")
_WORD = struct.Struct(">Q")
_SIGN = 1 << 63
HEAD_BYTES = _HEAD.size


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
    groups = key_groups_of(keys, max_parallelism)
    if set(map(type, keys)) == {int}:
        try:
            return _int_prefixes(np.array(keys, np.int64), groups, state_id, namespace)
        except OverflowError:
            pass
    pack = _HEAD.pack
    encoded = list(map(encode_key, keys))
    return [
        pack(group, state_id, len(key)) + key + namespace for group, key in zip(groups.tolist(), encoded, strict=True)
    ]


def row_order(keys: Sequence[Any], max_parallelism: int) -> npt.NDArray[np.intp]:
    """Positions of the keys in the order of their rows: exact for ints, else of their key groups."""
    groups = key_groups_of(keys, max_parallelism)
    if set(map(type, keys)) == {int}:
        try:
            return np.lexsort((np.array(keys, np.int64), groups))
        except OverflowError:
            pass
    return np.argsort(groups, kind="stable")


_INT_KEY = encode_key(0)
"""A tag and eight bytes with the sign flipped, for every int of 64 bits (key_encoding.py)."""


def _int_prefixes(
    keys: npt.NDArray[np.int64], groups: npt.NDArray[np.uint16], state_id: int, namespace: bytes
) -> list[bytes]:
    fields = [("group", ">u2"), ("state", ">u2"), ("length", ">u4"), ("tag", "u1"), ("key", ">u8")]
    rows = np.empty(len(keys), np.dtype([*fields, ("namespace", f"V{len(namespace)}")] if namespace else fields))
    rows["group"], rows["state"], rows["length"] = groups, state_id, len(_INT_KEY)
    rows["tag"], rows["key"] = _INT_KEY[0], keys.view(np.uint64) ^ np.uint64(_SIGN)
    if namespace:
        rows["namespace"] = np.void(namespace)
    prefixes: list[bytes] = rows.view(f"V{rows.itemsize}").tolist()
    return prefixes


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


def key_of(row_key: bytes) -> Any:
    return decode_key(row_key[HEAD_BYTES : prefix_length(row_key) - 8])


def namespace_of(row_key: bytes) -> int:
    end = prefix_length(row_key)
    return decode_word(row_key[end - 8 : end])


def first_of_group(group: int) -> bytes:
    """A bound below every row of this key group and above those of the groups before."""
    return group.to_bytes(4, "big")[2:] if group < 1 << 16 else b"\xff" * 3


def state_prefix(group: int, state_id: int) -> bytes:
    return _GROUP.pack(group) + _STATE.pack(state_id)
