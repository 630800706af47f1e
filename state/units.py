"""Durations and sizes as users write them: "10s", "500ms", "128MiB", timedelta(seconds=10)."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction

from .errors import ConfigurationError

_DURATION_MS: dict[str, int | Fraction] = {
    "ns": Fraction(1, 1_000_000), "us": Fraction(1, 1000), "µs": Fraction(1, 1000),
    "": 1, "ms": 1, "milli": 1, "millis": 1, "millisecond": 1, "milliseconds": 1,
    "s": 1000, "sec": 1000, "secs": 1000, "second": 1000, "seconds": 1000,
    "m": 60_000, "min": 60_000, "mins": 60_000, "minute": 60_000, "minutes": 60_000,
    "h": 3_600_000, "hour": 3_600_000, "hours": 3_600_000,
    "d": 86_400_000, "day": 86_400_000, "days": 86_400_000,
}  # fmt: skip
_SIZE_BYTES = {
    "": 1, "b": 1, "byte": 1, "bytes": 1,
    "k": 2**10, "kb": 2**10, "kib": 2**10,
    "m": 2**20, "mb": 2**20, "mib": 2**20,
    "g": 2**30, "gb": 2**30, "gib": 2**30,
    "t": 2**40, "tb": 2**40, "tib": 2**40,
}  # fmt: skip
"""kb is 1024 bytes, as in Flink's configuration."""

_ISO_DURATION = re.compile(
    r"p(?:(?P<d>\d+)d)?(?:t(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?)?", re.IGNORECASE
)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]*)", re.IGNORECASE)


def parse_duration_ms(value: str | int | timedelta, what: str = "") -> int:
    """Milliseconds in "10s", "500 ms", "1min", "1h 30min", "PT10S", a timedelta, or a bare number of milliseconds.

    Raises ConfigurationError when it is none of these, negative, or no whole number of milliseconds. what: the
    parameter, which that names.
    """
    try:
        return _duration_ms(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}: {error}" if what else str(error)) from None


def _duration_ms(value: object) -> int:
    if isinstance(value, timedelta):
        milliseconds = Fraction(value // timedelta(microseconds=1), 1000)
    elif isinstance(value, int) and not isinstance(value, bool):
        milliseconds = Fraction(value)
    elif isinstance(value, str):
        text = value.strip()
        milliseconds = -_duration_of_text(text[1:]) if text.startswith("-") else _duration_of_text(text)
    else:
        raise ConfigurationError(f"a duration is an int (ms), a string like '10s' or a timedelta, not {value!r}")
    if milliseconds < 0:
        raise ConfigurationError(f"the duration {value!r} is negative, and durations are not")
    if milliseconds.denominator != 1:
        raise ConfigurationError(f"the duration {value!r} is no whole number of milliseconds, and nothing is rounded")
    return milliseconds.numerator


def _duration_of_text(text: str) -> Fraction:
    iso = _ISO_DURATION.fullmatch(text.strip())
    if iso and any(iso.groupdict().values()):
        amounts = [Fraction(amount) * _DURATION_MS[unit] for unit, amount in iso.groupdict().items() if amount]
        return sum(amounts, Fraction())
    parts = list(_AMOUNT.finditer(text))
    if not parts or _AMOUNT.sub("", text).strip():
        raise ConfigurationError(f"{text!r} is not a duration; write for example '10s', '500ms' or '1h 30min'")
    for _, unit in (match.groups() for match in parts):
        if unit.lower() not in _DURATION_MS:
            raise ConfigurationError(f"{unit!r} in {text!r} is not a unit of time; use ms, s, min, h or d")
    return sum([Fraction(match[1]) * _DURATION_MS[match[2].lower()] for match in parts], Fraction())


def parse_size_bytes(value: str | int) -> int:
    """Bytes in "128MiB", "64 kb" or a bare number of bytes. Raises ConfigurationError when it is none of these."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _SIZE_BYTES:
        raise ConfigurationError(f"{value!r} is not a size; write for example '128MiB', '64KiB' or a number of bytes")
    return round(float(match[1]) * _SIZE_BYTES[match[2].lower()])


def format_duration(milliseconds: int) -> str:
    """The shortest exact spelling: 10000 -> "10s"."""
    for unit in ("d", "h", "min", "s"):
        if milliseconds and milliseconds % _DURATION_MS[unit] == 0:
            return f"{milliseconds // int(_DURATION_MS[unit])}{unit}"
    return f"{milliseconds}ms"


def format_size(size_bytes: int) -> str:
    """The shortest exact spelling: 1048576 -> "1MiB"."""
    for unit, suffix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit}{suffix}"
    return f"{size_bytes}B"
