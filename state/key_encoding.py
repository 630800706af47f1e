"""Keys as bytes: typed, reversible, canonical, and ordered like the keys themselves within one type.

The row store's keys, map state's user keys, and the hashes of most key types are built on this encoding, and all of
them are in checkpoints: an encoding never changes (golden vectors in tests/state).

An encoded key is a tag byte and a payload. Integers that fit 64 bits, datetimes and dates are big-endian with the
sign bit flipped; bigger integers carry their length in front; strings and bytes are raw when they are the whole key,
and inside a tuple end in 00 with every 00 in them escaped as 00 FF. A tuple is its tag, its elements and 00: no tag
is 00, so a shorter tuple sorts before its extensions. Named tuples, frozen dataclasses and enums carry the name of
their class in front. 1, 1.0 and True are three keys; Decimals are equal when their values are.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from .errors import KeyTypeError
from .key_classes import key_class_of, register_key_class

_END = b"\x00"
_NONE, _FALSE, _TRUE = b"\x01", b"\x02", b"\x03"
_NEGATIVE_BIG, _INT, _POSITIVE_BIG = b"\x0f", b"\x10", b"\x11"
_FLOAT, _DECIMAL = b"\x14", b"\x18"
_STR, _BYTES = b"\x20", b"\x24"
_DATETIME, _DATE, _UUID, _ENUM = b"\x28", b"\x2c", b"\x30", b"\x34"
_TUPLE, _NAMED_TUPLE, _DATACLASS = b"\x40", b"\x41", b"\x42"

FLOAT_TAG, DATETIME_TAG, DATE_TAG = _FLOAT[0], _DATETIME[0], _DATE[0]
"""For the columnar twins of these encodings in key_groups.py."""

_SIGN = 1 << 63
_ALL = (1 << 64) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DOUBLE, _WORD = struct.Struct(">d"), struct.Struct(">Q")

_Encoder = Callable[[Any], bytes]
_Decoder = Callable[[bytes, int], tuple[Any, int]]


def encode_key(key: Any) -> bytes:
    """KeyTypeError when the key's type cannot be a key (API.md)."""
    kind = type(key)
    if kind is str:
        return _STR + utf8(key)
    if kind is bytes:
        own: bytes = key
        return _BYTES + own
    return _element_encoder(kind)(key)


def decode_key(encoded: bytes) -> Any:
    """The key that `encode_key` was given, in its normal form (datetimes in UTC, Decimals without trailing zeros)."""
    tag = encoded[:1]
    if tag == _STR:
        return str(encoded[1:], "utf-8")
    if tag == _BYTES:
        return encoded[1:]
    key, _end = _decode_element(encoded, 0)
    return key


def key_fields(key_type: type) -> tuple[str, ...] | None:
    """Field names of a named tuple or frozen dataclass; None for other types."""
    if issubclass(key_type, tuple) and hasattr(key_type, "_fields"):
        return tuple(key_type._fields)
    if dataclasses.is_dataclass(key_type):
        parameters: Any = getattr(key_type, "__dataclass_params__")  # noqa: B009  typeshed hides it
        if not parameters.frozen:
            raise KeyTypeError(f"{key_type.__name__} cannot be a key: make the dataclass frozen")
        return tuple(field.name for field in dataclasses.fields(key_type))
    return None


def refuse(key_type: type) -> KeyTypeError:
    """The error for a type that is no key."""
    return KeyTypeError(
        f"{key_type.__module__}.{key_type.__qualname__} cannot be a key; keys are str, bytes, int, bool, float, Enum, "
        "UUID, Decimal, aware datetime, date, None, and tuples, NamedTuples and frozen dataclasses of them"
    )


# ---- encoders of elements: self-delimiting, so that they can stand in a tuple


def utf8(text: str) -> bytes:
    """KeyTypeError for lone surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise KeyTypeError(f"the key {text!r} holds a lone surrogate, which no text encoding can carry") from error


def _escaped(data: bytes) -> bytes:
    return data.replace(b"\x00", b"\x00\xff") + _END


def _encode_int(key: int) -> bytes:
    if -_SIGN <= key < _SIGN:
        return _INT + (key + _SIGN).to_bytes(8, "big")
    magnitude = abs(key)
    size = (magnitude.bit_length() + 7) // 8
    if key > 0:
        return _POSITIVE_BIG + size.to_bytes(4, "big") + magnitude.to_bytes(size, "big")
    bits = (1 << 8 * size) - 1
    return _NEGATIVE_BIG + (0xFFFFFFFF - size).to_bytes(4, "big") + (bits - magnitude).to_bytes(size, "big")


def _encode_float(key: float) -> bytes:
    if math.isnan(key):
        raise KeyTypeError("NaN cannot be a key: it is not equal to itself")
    (bits,) = _WORD.unpack(_DOUBLE.pack(key + 0.0))  # -0.0 + 0.0 is 0.0
    return _FLOAT + _WORD.pack(bits ^ (_ALL if bits & _SIGN else _SIGN))


def _encode_decimal(key: Decimal) -> bytes:
    if key.is_nan():
        raise KeyTypeError("NaN cannot be a key: it is not equal to itself")
    return _DECIMAL + _escaped(str(normal_decimal(key)).encode())


def normal_decimal(value: Decimal) -> Decimal:
    """Without trailing zeros and negative zero. (Decimal.normalize rounds to the context's precision.)"""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return value
    count = len(digits)
    while count > 1 and digits[count - 1] == 0:
        count -= 1
    if digits[:count] == (0,):
        return Decimal(0)
    return Decimal((sign, digits[:count], exponent + len(digits) - count))


def _encode_datetime(key: datetime) -> bytes:
    if key.utcoffset() is None:
        raise KeyTypeError(f"the naive datetime {key} cannot be a key: give it a time zone")
    return _DATETIME + ((key - _EPOCH) // _MICROSECOND + _SIGN).to_bytes(8, "big")


def _encode_enum(key: Enum) -> bytes:
    if key.name is None:
        raise KeyTypeError(f"{key!r} cannot be a key: it has no name of its own")
    return _ENUM + _class_name(type(key)) + _escaped(utf8(key.name))


def _class_name(key_class: type) -> bytes:
    register_key_class(key_class)
    return _escaped(f"{key_class.__module__}:{key_class.__qualname__}".encode())


def _encode_tuple(key: tuple[Any, ...]) -> bytes:
    return _TUPLE + b"".join([_element_encoder(type(item))(item) for item in key]) + _END


def _encode_named_tuple(key: tuple[Any, ...]) -> bytes:
    elements = b"".join([_element_encoder(type(item))(item) for item in key])
    return _NAMED_TUPLE + _class_name(type(key)) + elements + _END


def _dataclass_encoder(key_class: type, fields: tuple[str, ...]) -> _Encoder:
    prefix = _DATACLASS + _class_name(key_class)

    def encode(key: Any) -> bytes:
        items = [getattr(key, name) for name in fields]
        return prefix + b"".join([_element_encoder(type(item))(item) for item in items]) + _END

    return encode


_ENCODERS: dict[type, _Encoder] = {
    type(None): lambda key: _NONE,
    bool: lambda key: _TRUE if key else _FALSE,
    int: _encode_int,
    float: _encode_float,
    Decimal: _encode_decimal,
    str: lambda key: _STR + _escaped(utf8(key)),
    bytes: lambda key: _BYTES + _escaped(key),
    datetime: _encode_datetime,
    date: lambda key: _DATE + key.toordinal().to_bytes(4, "big"),
    UUID: lambda key: _UUID + key.bytes,
    tuple: _encode_tuple,
}
_class_encoders: dict[type, _Encoder] = {}


def _element_encoder(kind: type) -> _Encoder:
    encoder = _ENCODERS.get(kind) or _class_encoders.get(kind)
    if encoder is None:
        encoder = _class_encoders[kind] = _encoder_of_class(kind)
    return encoder


def _encoder_of_class(kind: type) -> _Encoder:
    if issubclass(kind, Enum):
        return _encode_enum
    fields = key_fields(kind)
    if fields is None:
        raise refuse(kind)
    return _encode_named_tuple if issubclass(kind, tuple) else _dataclass_encoder(kind, fields)


# ---- decoders: (encoded, position after the tag) -> (key, position behind it)


def _unescaped(encoded: bytes, at: int) -> tuple[bytes, int]:
    end = encoded.index(b"\x00", at)
    while encoded[end + 1 : end + 2] == b"\xff":
        end = encoded.index(b"\x00", end + 2)
    return encoded[at:end].replace(b"\x00\xff", b"\x00"), end + 1


def _decode_text(encoded: bytes, at: int) -> tuple[str, int]:
    data, end = _unescaped(encoded, at)
    return str(data, "utf-8"), end


def _decode_int(encoded: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(encoded[at : at + 8], "big") - _SIGN, at + 8


def _decode_positive_big(encoded: bytes, at: int) -> tuple[int, int]:
    end = at + 4 + int.from_bytes(encoded[at : at + 4], "big")
    return int.from_bytes(encoded[at + 4 : end], "big"), end


def _decode_negative_big(encoded: bytes, at: int) -> tuple[int, int]:
    size = 0xFFFFFFFF - int.from_bytes(encoded[at : at + 4], "big")
    end = at + 4 + size
    return int.from_bytes(encoded[at + 4 : end], "big") - ((1 << 8 * size) - 1), end


def _decode_float(encoded: bytes, at: int) -> tuple[float, int]:
    (bits,) = _WORD.unpack_from(encoded, at)
    value: float = _DOUBLE.unpack(_WORD.pack(bits ^ (_SIGN if bits & _SIGN else _ALL)))[0]
    return value, at + 8


def _decode_decimal(encoded: bytes, at: int) -> tuple[Decimal, int]:
    text, end = _decode_text(encoded, at)
    return Decimal(text), end


def _decode_datetime(encoded: bytes, at: int) -> tuple[datetime, int]:
    microseconds, end = _decode_int(encoded, at)
    return _EPOCH + microseconds * _MICROSECOND, end


def _decode_date(encoded: bytes, at: int) -> tuple[date, int]:
    return date.fromordinal(int.from_bytes(encoded[at : at + 4], "big")), at + 4


def _decode_enum(encoded: bytes, at: int) -> tuple[Any, int]:
    key_class, at = _decode_class(encoded, at)
    name, end = _decode_text(encoded, at)
    try:
        return key_class[name], end  # type: ignore[index]
    except KeyError as error:
        raise KeyTypeError(f"state holds the key {key_class.__qualname__}.{name}, which no longer exists") from error


def _decode_class(encoded: bytes, at: int) -> tuple[type, int]:
    name, end = _decode_text(encoded, at)
    return key_class_of(name), end


def _decode_elements(encoded: bytes, at: int) -> tuple[list[Any], int]:
    items = []
    while encoded[at]:
        item, at = _decode_element(encoded, at)
        items.append(item)
    return items, at + 1


def _decode_tuple(encoded: bytes, at: int) -> tuple[tuple[Any, ...], int]:
    items, end = _decode_elements(encoded, at)
    return tuple(items), end


def _decode_instance(encoded: bytes, at: int) -> tuple[Any, int]:
    key_class, at = _decode_class(encoded, at)
    items, end = _decode_elements(encoded, at)
    return key_class(*items), end


_DECODERS: dict[int, _Decoder] = {
    _NONE[0]: lambda encoded, at: (None, at),
    _FALSE[0]: lambda encoded, at: (False, at),
    _TRUE[0]: lambda encoded, at: (True, at),
    _NEGATIVE_BIG[0]: _decode_negative_big,
    _INT[0]: _decode_int,
    _POSITIVE_BIG[0]: _decode_positive_big,
    _FLOAT[0]: _decode_float,
    _DECIMAL[0]: _decode_decimal,
    _STR[0]: _decode_text,
    _BYTES[0]: _unescaped,
    _DATETIME[0]: _decode_datetime,
    _DATE[0]: _decode_date,
    _UUID[0]: lambda encoded, at: (UUID(bytes=encoded[at : at + 16]), at + 16),
    _ENUM[0]: _decode_enum,
    _TUPLE[0]: _decode_tuple,
    _NAMED_TUPLE[0]: _decode_instance,
    _DATACLASS[0]: _decode_instance,
}


def _decode_element(encoded: bytes, at: int) -> tuple[Any, int]:
    return _DECODERS[encoded[at]](encoded, at + 1)


# ---- without the classes


def decode_plain(encoded: bytes) -> Any:
    """The key as whoever lacks its classes can show it: named tuples and dataclasses as tuples, enums as names."""
    if encoded[:1] in (_STR, _BYTES):
        return decode_key(encoded)
    key, _end = _plain_element(encoded, 0)
    return key


def encode_plain(key: Any, signature: Any) -> bytes:
    """What `encode_key` gives for the key that `decode_plain` shows so. Its classes are named in the signature
    (key_signatures.py); KeyTypeError."""
    return _encode_plain_element(key, signature) if isinstance(signature, dict) else encode_key(key)


def _encode_plain_element(key: Any, signature: Any) -> bytes:
    if key is None or not isinstance(signature, dict):
        return _element_encoder(type(key))(key)
    (kind, name), *_ = signature.items()
    if kind == "enum":
        return _ENUM + _escaped(name.encode()) + _escaped(utf8(key))
    if kind == "tuple":
        return _TUPLE + b"".join(map(_encode_plain_element, key, name)) + _END
    head = (_NAMED_TUPLE if kind == "named tuple" else _DATACLASS) + _escaped(name.encode())
    return head + b"".join(map(_encode_plain_element, key, signature["fields"])) + _END


def _plain_element(encoded: bytes, at: int) -> tuple[Any, int]:
    tag, start = encoded[at : at + 1], at + 1
    if tag in (_ENUM, _NAMED_TUPLE, _DATACLASS):
        _class, start = _decode_text(encoded, start)
    if tag == _ENUM:
        return _decode_text(encoded, start)
    if tag not in (_TUPLE, _NAMED_TUPLE, _DATACLASS):
        return _decode_element(encoded, at)
    items = []
    while encoded[start]:
        item, start = _plain_element(encoded, start)
        items.append(item)
    return tuple(items), start + 1
