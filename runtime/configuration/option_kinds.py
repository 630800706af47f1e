"""What an option is: its key, its type, its default; and the types there are, read from what users write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from ...state.errors import ConfigurationError
from ..units import format_duration, format_size, parse_duration_ms, parse_size_bytes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type of option values: how they are read from what users write, and written down again."""

    name: str
    parse: Callable[[Any], T]
    format: Callable[[T], str] = str


@dataclass(frozen=True, slots=True)
class Option(Generic[T]):
    """Something that can be configured."""

    key: str
    kind: Kind[T]
    default: T
    description: str
    aliases: tuple[str, ...] = ()
    """Other spellings that Flink accepts."""

    def parse(self, value: object) -> T:
        """Raises ConfigurationError that names the option."""
        try:
            return self.kind.parse(value)
        except (ConfigurationError, ValueError, TypeError) as error:
            reason = str(error) if isinstance(error, ConfigurationError) else f"{value!r} is not {self.kind.name}"
            raise ConfigurationError(f"option {self.key}: {reason}") from None

    def format(self, value: T) -> str:
        return "" if value is None else self.kind.format(value)


def _parse_bool(value: object) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    if (answer := known.get(str(value).lower())) is None:
        raise ConfigurationError(f"{value!r} is neither true nor false")
    return answer


def _parse_int(value: Any) -> int:
    if isinstance(value, (bool, float)):
        raise TypeError
    return int(value)


def _positive(value: Any) -> int:
    if (number := _parse_int(value)) < 1:
        raise ConfigurationError(f"{number} is less than 1")
    return number


def _parse_map(value: object) -> dict[str, str]:
    if isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    entries = [entry for entry in str(value).split(",") if entry.strip()]
    if any(":" not in entry for entry in entries):
        raise ConfigurationError(f"{value!r} is not a list of entries like 'name:value,other:value'")
    return {key.strip(): item.strip() for key, item in (entry.split(":", 1) for entry in entries)}


def one_of(*choices: str, **spellings: str) -> Kind[Any]:
    """A choice; upper case and underscores (Flink's enums) are accepted, `spellings` are further names."""

    def parse(value: object) -> str:
        name = str(value).lower().replace("_", "-")
        name = spellings.get(name, name)
        if name not in choices:
            raise ConfigurationError(f"{value!r} is none of {', '.join(choices)}")
        return name

    return Kind(f"one of {', '.join(choices)}", parse)


def list_of(*choices: str, **spellings: str) -> Kind[tuple[Any, ...]]:
    """One or several choices, with semicolons or commas between them."""
    choice = one_of(*choices, **spellings)

    def parse(value: Any) -> tuple[Any, ...]:
        parts = value if isinstance(value, (list, tuple)) else str(value).replace(";", ",").split(",")
        return tuple(choice.parse(part.strip()) for part in parts)

    return Kind(f"a list of {', '.join(choices)}", parse, ";".join)


def _parse_fraction(value: Any) -> float:
    if not 0 < (number := float(value)) < 1:
        raise ConfigurationError(f"{value} is not between 0 and 1")
    return number


def _optional_text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


BOOL = Kind("true or false", _parse_bool, lambda value: str(value).lower())
INT = Kind("a whole number", _parse_int)
COUNT = Kind("a whole number of at least 1", _positive)
FLOAT: Kind[float] = Kind("a number", float)
FRACTION: Kind[float] = Kind("a number between 0 and 1", _parse_fraction)
DURATION: Kind[int] = Kind("a duration", parse_duration_ms, format_duration)
SIZE: Kind[int] = Kind("a size", parse_size_bytes, format_size)
TEXT: Kind[str | None] = Kind("a text", _optional_text, str)
MAP: Kind[dict[str, str]] = Kind(
    "a map", _parse_map, lambda entries: ",".join(f"{key}:{item}" for key, item in entries.items())
)
Duration = str | int | timedelta
"""What a user may write where a duration is expected."""
