"""What a snapshot of keyed state says about itself: its states, their ids in row keys, and how values were written.

A state keeps every description its values were ever written under, because old rows are not rewritten when a type
evolves; all of them must be readable by the descriptor a restore declares (type_evolution.py). Keys are remembered by
their types, which cannot change (key_signatures.py). States that are in a snapshot and not declared any more are kept,
with their rows and their description.

The meta of a snapshot says the same to whoever has only the metadata of a checkpoint (jobmanager/restore_check.py).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from ..errors import DamagedCheckpointError, IncompatibleStateError, StateError
from ..key_signatures import KeySignatures, Signature
from ..serialization.serializers import description_id
from ..serialization.type_descriptions import PICKLE, Description
from ..serialization.type_evolution import incompatibility

FORMAT = 3
"""2: descriptions say how values stand in rows, and keys are described. 3: timers are in the order of time. Formats 1
and 2 are those of versions before the first release, which nothing promises to read (docs/compatibility.md)."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_MOST_STATES = 1 << 16
_log = logging.getLogger(__name__)


_OF_VALUES = frozenset({"value", "reducing", "aggregating"})
_NONE = -(1 << 63) - 1


def _up_to(namespace: int | None) -> int:
    return _NONE if namespace is None else namespace


class StateMeta(msgspec.Struct):
    state_id: int
    name: str
    kind: str
    """'value', 'list', 'map', 'reducing', 'aggregating' or 'timers'."""
    written_as: list[Any] = []
    """Descriptions, oldest first; "pickle" where values were pickled."""
    keys: list[Any] = []
    """Of a map state: signatures of its keys."""
    ttl_since_ms: int | None = None
    """No row of a state with a TTL counts as older; None: it has no TTL."""
    timers: int = 0
    """About how many there are."""
    timers_from: int = -(1 << 63)
    """None has an earlier timestamp: what has fired need not be looked through."""
    namespaces_to: int | None = (1 << 63) - 1
    """No row has a higher namespace; None: there are no rows. Known of kinds that are a value per key."""
    stamped: bool = False
    """It has a TTL or had one: rows may have stamps (ttl.py)."""


class _Version(msgspec.Struct):
    format: int = FORMAT


class BackendMeta(msgspec.Struct):
    max_parallelism: int
    states: list[StateMeta] = []
    generation: int = 0
    """Above the number of every list chunk written so far."""
    keys: list[Any] = []
    """Signatures of the stream's keys."""
    python: str = ""
    """The version of Python that wrote it: what is pickled may be readable by it alone."""
    format: int = FORMAT


def encode_meta(meta: BackendMeta) -> bytes:
    return msgspec.json.encode(meta)


def decode_meta(data: bytes) -> BackendMeta:
    """DamagedCheckpointError, IncompatibleStateError for another format."""
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version == FORMAT:
            return msgspec.json.decode(data, type=BackendMeta)
    except msgspec.DecodeError as error:
        raise DamagedCheckpointError(f"the description of keyed state cannot be read: {error}") from error
    writer = "a newer version of penstock" if version > FORMAT else "a version before the first release"
    raise IncompatibleStateError(
        f"the keyed state has format {version} and was written by {writer}; this one reads format {FORMAT}"
    )


class StateRegistry:
    """The states of one backend, those of its snapshots included."""

    def __init__(self, operator_name: str, max_parallelism: int) -> None:
        self._operator = operator_name
        self._max_parallelism = max_parallelism
        self._states: dict[str, StateMeta] = {}
        self._restored: set[str] = set()
        self._map_keys: dict[str, KeySignatures] = {}
        self.keys = KeySignatures(f"operator '{operator_name}'")
        """Of the stream; what comes into the cache is to be admitted there."""
        self.generation = 0

    def merge(self, meta: BackendMeta, share: float = 1.0) -> dict[int, int]:
        """Take in the states of a snapshot. Gives the ids its rows must be moved to: old -> new, where they differ.
        `share`: the part of its key groups that is wanted."""
        if meta.max_parallelism != self._max_parallelism:
            raise IncompatibleStateError(
                f"operator '{self._operator}': its state was written with max parallelism {meta.max_parallelism}, "
                f"which is now {self._max_parallelism}; it cannot change while state is kept"
            )
        self.generation = max(self.generation, meta.generation)
        self.keys.restore(meta.keys)
        self._warn_of_pickles(meta)
        moved: dict[int, int] = {}
        self._restored.update(state.name for state in meta.states)
        for state in meta.states:
            known = self._states.get(state.name)
            if known is None:
                known = StateMeta(self._free_id(state.state_id), state.name, state.kind)
                known.ttl_since_ms, known.timers_from = state.ttl_since_ms, state.timers_from
                known.namespaces_to = state.namespaces_to
                self._states[state.name] = known
            if known.kind != state.kind:
                raise IncompatibleStateError(self._text(state.name, f"it is a {known.kind} and a {state.kind} state"))
            for description in state.written_as:
                self._note(known, description)
            self.map_keys(state.name).restore(state.keys)
            known.stamped |= state.stamped
            known.namespaces_to = max(known.namespaces_to, state.namespaces_to, key=_up_to)
            known.timers += round(state.timers * share)
            known.timers_from = min(known.timers_from, state.timers_from)
            if known.ttl_since_ms is None or state.ttl_since_ms is None:
                known.ttl_since_ms = None  # where one subtask had no TTL yet, it begins when it is declared again
            else:
                known.ttl_since_ms = max(known.ttl_since_ms, state.ttl_since_ms)
            if known.state_id != state.state_id:
                moved[state.state_id] = known.state_id
        return moved

    def _warn_of_pickles(self, meta: BackendMeta) -> None:
        pickled = sorted(state.name for state in meta.states if PICKLE in state.written_as)
        if pickled and meta.python != PYTHON:
            _log.warning(
                "operator '%s': %s pickled, by Python %s; under Python %s it may not be readable",
                self._operator, ", ".join(f"state '{name}'" for name in pickled), meta.python, PYTHON,
            )  # fmt: skip

    def declare(self, name: str, kind: str, description: Description = None, keys: Signature = None) -> int:
        """The id of a state that a descriptor declares; `keys`: what it says of the keys of a map.
        IncompatibleStateError when snapshots do not fit it."""
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = StateMeta(self._free_id(len(self._states)), name, kind)
            if kind in _OF_VALUES:
                state.namespaces_to = None
        if state.kind != kind:
            raise IncompatibleStateError(
                self._text(name, f"it was a {state.kind} state and is now declared as a {kind} state")
            )
        reason = None if description is None else incompatibility(state.written_as, description)
        if reason:
            raise IncompatibleStateError(self._text(name, reason))
        self.map_keys(name).declare(keys)
        if description is not None:
            self._note(state, description)
        return state.state_id

    def forget(self, name: str) -> None:
        """What snapshots say of a state; its rows stay where they are."""
        self._states.pop(name, None)
        self._map_keys.pop(name, None)

    def declare_ttl(self, name: str, now_ms: int | None) -> tuple[int, bool]:
        """Of a declared state: since when its TTL counts, and whether rows may have stamps. now_ms: None turns the TTL
        off; where it was off and there may be rows, they count from now."""
        state = self._states[name]
        if now_ms is None:
            state.ttl_since_ms = None
        else:
            if state.ttl_since_ms is None:
                state.ttl_since_ms = now_ms if name in self._restored else 0
            state.stamped = True
        return state.ttl_since_ms or 0, state.stamped

    def timers(self, name: str) -> tuple[int, int]:
        """Of what was restored or snapshotted last: about how many, and that none has an earlier timestamp."""
        return self._states[name].timers, self._states[name].timers_from

    def note_timers(self, name: str, count: int, earliest: int) -> None:
        self._states[name].timers, self._states[name].timers_from = count, earliest

    def namespaces_to(self, name: str) -> int:
        """No row of a declared state has a higher namespace."""
        return _up_to(self._states[name].namespaces_to)

    def note_namespaces(self, name: str, up_to: int) -> None:
        self._states[name].namespaces_to = None if up_to == _NONE else up_to

    def written_as(self, name: str) -> Sequence[Description]:
        """All descriptions that rows of a state were written under; none for a state that was not restored."""
        state = self._states.get(name)
        return [] if state is None else state.written_as

    def map_keys(self, name: str) -> KeySignatures:
        """Of a map state; what comes into the cache is to be admitted there."""
        keys = self._map_keys.get(name)
        if keys is None:
            where = f"state '{name}' of operator '{self._operator}'"
            keys = self._map_keys[name] = KeySignatures(where)
        return keys

    def _note(self, state: StateMeta, description: Description) -> None:
        """By id, as rows refer to it: descriptions that differ in the order of fields are two."""
        known = {description_id(each): each for each in state.written_as}
        same = known.setdefault(description_id(description), description)
        if same != description:
            raise StateError(self._text(state.name, "two of its types have one checksum; change the name of one"))
        state.written_as = list(known.values())

    def _free_id(self, wanted: int) -> int:
        taken = {state.state_id for state in self._states.values()}
        if len(taken) == _MOST_STATES:
            raise StateError(f"operator '{self._operator}' has more than {_MOST_STATES} states")
        return next(number for number in chain((wanted,), range(_MOST_STATES)) if number not in taken)

    def _text(self, name: str, reason: str) -> str:
        return f"state '{name}' of operator '{self._operator}' does not fit what was restored: {reason}"

    def is_empty(self) -> bool:
        return not self._states

    def encode(self) -> bytes:
        for name, keys in self._map_keys.items():
            if name in self._states:
                self._states[name].keys = keys.known
        states = list(self._states.values())
        return encode_meta(BackendMeta(self._max_parallelism, states, self.generation, self.keys.known, PYTHON))
