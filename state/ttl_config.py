"""How long state lives: what users write. What it does is in ttl.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from .errors import ConfigurationError
from .units import parse_duration_ms

UpdateType = Literal["on_create_and_write", "on_read_and_write"]
Visibility = Literal["never_return_expired", "return_expired_if_not_cleaned_up"]


@dataclass(frozen=True)
class StateTtlConfig:
    """How long state lives after its last access, in processing time: `ttl=` of every keyed descriptor.

    Elements of lists and entries of maps expire one by one. `ttl` and `refresh_interval` are durations ("1h",
    timedelta(hours=1), ms).

    update_type: what counts as access. "on_create_and_write": update, add, put. "on_read_and_write": reading as well.
    A value that is changed in place is saved, but it is update() that makes it live longer; a list that is changed in
    place counts as updated when it was read.

    visibility: "return_expired_if_not_cleaned_up" gives out what has expired and is still there, once;
    "never_return_expired" does not.

    refresh_interval: with on_read_and_write, reading renews a stamp only if it is older than this, because a renewed
    stamp is a row that is written; state may then expire by as much too early. 0: every read renews, as in Flink.

    cleanup_in_snapshots: heap snapshots leave out what has expired; savepoints do always. cleanup_rows: so many stored
    rows of the state are looked at every 10 ms, and two for every row that is written (see sweeper.py); 0: what nobody
    accesses stays.

    Raises ConfigurationError for a TTL that is not above zero, an unknown update type or visibility, and what is not a
    duration.
    """

    ttl: str | int | timedelta
    update_type: UpdateType = "on_create_and_write"
    visibility: Visibility = "never_return_expired"
    refresh_interval: str | int | timedelta = 0
    cleanup_in_snapshots: bool = True
    cleanup_rows: int = 1_000

    def __post_init__(self) -> None:
        if self.ttl_ms <= 0:
            raise ConfigurationError(f"StateTtlConfig: a TTL is at least 1 ms, not {self.ttl!r}")
        _one_of("update_type", self.update_type, get_args(UpdateType))
        _one_of("visibility", self.visibility, get_args(Visibility))
        if not 0 <= self.refresh_ms < self.ttl_ms:
            raise ConfigurationError(
                f"StateTtlConfig: refresh_interval={self.refresh_interval!r} must be shorter than the TTL, {self.ttl!r}"
            )
        if type(self.cleanup_rows) is not int or self.cleanup_rows < 0:
            raise ConfigurationError(f"StateTtlConfig: cleanup_rows is an int from 0 on, not {self.cleanup_rows!r}")

    @property
    def ttl_ms(self) -> int:
        return _duration_ms("ttl", self.ttl)

    @property
    def refresh_ms(self) -> int:
        return _duration_ms("refresh_interval", self.refresh_interval)


def _duration_ms(name: str, value: str | int | timedelta) -> int:
    try:
        return parse_duration_ms(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"StateTtlConfig: {name} is a duration like '1h': {error}") from None


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"StateTtlConfig: {name} is {' or '.join(map(repr, allowed))}, not {value!r}")
