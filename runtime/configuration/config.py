"""Configuration: options set by code, flags, environment variables and a file, in this order of precedence.

A value set in the pipeline's code beats a flag of the command line (-c key=value), which beats an environment
variable (PENSTOCK__EXECUTION__CHECKPOINTING__INTERVAL), which beats penstock.yaml, which beats the default
(options.py). Inside a job everything is a flat dict of strings, which is what travels to the slots.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ...state.errors import ConfigurationError
from ..units import parse_duration_ms, parse_size_bytes
from .masking import masked
from .options import IGNORED, OPTIONS, Option

T = TypeVar("T")

FILE_NAME = "penstock.yaml"
PREFIX = "PENSTOCK__"
SHORT_VARIABLES = {
    "PENSTOCK_PARALLELISM": "parallelism.default",
    "PENSTOCK_RESTORE": "execution.state-recovery.path",
    "PENSTOCK_CHECKPOINTS": "state.checkpoints.dir",
    "PENSTOCK_ADDRESS": "rest.address",
}
"""Environment variables with a name of their own, for what is set most."""

_BY_KEY: dict[str, Option[Any]] = {key: option for option in OPTIONS for key in (option.key, *option.aliases)}
_BY_VARIABLE = {key.upper().replace(".", "__").replace("-", "_"): key for key in _BY_KEY}


def find_option(key: str) -> Option[Any] | None:
    """The option of that name; None for an option of Flink that has no meaning here. Raises ConfigurationError."""
    option = _BY_KEY.get(key)
    if option is None and ignored_because(key) is None:
        nearest = difflib.get_close_matches(key, _BY_KEY, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else "`penstock config` lists all options"
        raise ConfigurationError(f"there is no option {key!r}; {hint}")
    return option


def ignored_because(key: str) -> str | None:
    """Why this option of Flink has no effect here; None when it is not one of those."""
    return next((reason for pattern, reason in IGNORED if pattern.fullmatch(key)), None)


class Configuration:
    """Options that are set. Reading one that is not gives its default."""

    def __init__(self, values: Mapping[str, object] | None = None) -> None:
        self._values: dict[str, Any] = {}
        self.notes: list[str] = []
        """What was accepted without effect."""
        for key, value in (values or {}).items():
            self.set(key, value)

    def set(self, option: Option[T] | str, value: T | object) -> Configuration:
        """Raises ConfigurationError for an unknown option or a value it cannot have."""
        if isinstance(option, Option):
            self._values[option.key] = option.parse(value)
        elif (known := find_option(option)) is not None:
            self._values[known.key] = known.parse(value)
        else:
            self.notes.append(f"option {option} is ignored: {ignored_because(option)}")
        return self

    def get(self, option: Option[T]) -> T:
        value: T = self._values.get(option.key, option.default)
        return value

    def get_string(self, key: str, default: str | None = None) -> str | None:
        """The value of an option by its name, as it would be written."""
        option = find_option(key)
        if option is None or option.key not in self._values:
            return default
        return option.format(self._values[option.key])

    def __contains__(self, option: Option[Any]) -> bool:
        return option.key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Configuration) and self._values == other._values

    def __repr__(self) -> str:
        return f"Configuration({masked(self.to_dict())})"

    def merged(self, stronger: Configuration) -> Configuration:
        """These options, overridden by those of `stronger`."""
        result = Configuration()
        result._values = {**self._values, **stronger._values}
        result.notes = [*self.notes, *stronger.notes]
        return result

    def to_dict(self) -> dict[str, str]:
        """Flat strings, for a job graph; from_dict reads them back."""
        return {key: _BY_KEY[key].format(value) for key, value in self._values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> Configuration:
        return cls(values)


def from_environment(environ: Mapping[str, str]) -> Configuration:
    """PENSTOCK__SECTION__KEY variables: sections by two underscores, a dash is one. And SHORT_VARIABLES."""
    configuration = Configuration()
    for variable, value in sorted(environ.items()):
        if variable in SHORT_VARIABLES:
            configuration.set(SHORT_VARIABLES[variable], value)
        elif variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX)
            key = _BY_VARIABLE.get(name.upper(), name.lower().replace("__", ".").replace("_", "-"))
            try:
                configuration.set(key, value)
            except ConfigurationError as error:
                raise ConfigurationError(f"environment variable {variable}: {error}") from None
    return configuration


def from_file(path: Path) -> Configuration:
    """Options of a YAML file, nested or with dotted names."""
    import yaml  # only where there is a file: the facade stays light

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Configuration(dict(_flattened("", content or {})))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigurationError) as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _flattened(prefix: str, node: Any) -> Iterator[tuple[str, object]]:
    if not isinstance(node, dict):
        if not prefix:
            raise ConfigurationError("the file must hold options, one `name: value` a line")
        yield prefix, node
        return
    if prefix and _BY_KEY.get(prefix) is not None and isinstance(_BY_KEY[prefix].default, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from _flattened(f"{prefix}.{key}" if prefix else str(key), value)


def load(environ: Mapping[str, str], directory: Path, flags: Mapping[str, object] | None = None) -> Configuration:
    """Everything but the code's own layer: file, then environment, then flags."""
    path = directory / FILE_NAME
    configuration = from_file(path) if path.is_file() else Configuration()
    return configuration.merged(from_environment(environ)).merged(Configuration(flags))


__all__ = [
    "Configuration", "Option", "find_option", "from_environment", "from_file", "ignored_because", "load",
    "parse_duration_ms", "parse_size_bytes",
]  # fmt: skip
