"""What a snapshot of keyed state says about itself: its states, their ids in row keys, and how values were written.

A state keeps every description its values were ever written under, because old rows are not rewritten when a type
evolves; all of them must be readable by the descriptor a restore declares. States that are in a snapshot and not
declared any more are kept, with their rows and their description.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec

from .errors import DamagedCheckpointError, IncompatibleStateError, StateError
from .serializers import Description, incompatibility

FORMAT = 1
_MOST_STATES = 1 << 16


class StateMeta(msgspec.Struct):
    state_id: int
    name: str
    kind: str
    """'value', 'list', 'map' or 'timers'."""
    written_as: list[Any] = []
    """Descriptions, oldest first."""


class BackendMeta(msgspec.Struct):
    max_parallelism: int
    states: list[StateMeta] = []
    generation: int = 0
    """Above the number of every list chunk written so far."""
    format: int = FORMAT


def encode_meta(meta: BackendMeta) -> bytes:
    return msgspec.json.encode(meta)


def decode_meta(data: bytes) -> BackendMeta:
    try:
        meta = msgspec.json.decode(data, type=BackendMeta)
    except msgspec.DecodeError as error:
        raise DamagedCheckpointError(f"the description of keyed state cannot be read: {error}") from error
    if meta.format != FORMAT:
        raise IncompatibleStateError(
            f"the keyed state has format {meta.format}, this version of penstock reads format {FORMAT}"
        )
    return meta


class StateRegistry:
    """The states of one backend, those of its snapshots included."""

    def __init__(self, operator_name: str, max_parallelism: int) -> None:
        self._operator = operator_name
        self._max_parallelism = max_parallelism
        self._states: dict[str, StateMeta] = {}
        self.generation = 0

    def merge(self, meta: BackendMeta) -> dict[int, int]:
        """Take in the states of a snapshot. Gives the ids its rows must be moved to: old -> new, where they differ."""
        if meta.max_parallelism != self._max_parallelism:
            raise IncompatibleStateError(
                f"operator '{self._operator}': its state was written with max parallelism {meta.max_parallelism}, "
                f"which is now {self._max_parallelism}; it cannot change while state is kept"
            )
        self.generation = max(self.generation, meta.generation)
        moved: dict[int, int] = {}
        for state in meta.states:
            known = self._states.get(state.name)
            if known is None:
                known = StateMeta(self._free_id(state.state_id), state.name, state.kind)
                self._states[state.name] = known
            if known.kind != state.kind:
                raise IncompatibleStateError(self._text(state.name, f"it is a {known.kind} and a {state.kind} state"))
            known.written_as += [d for d in state.written_as if d not in known.written_as]
            if known.state_id != state.state_id:
                moved[state.state_id] = known.state_id
        return moved

    def declare(self, name: str, kind: str, description: Description = None) -> int:
        """The id of a state that a descriptor declares. IncompatibleStateError when snapshots do not fit it."""
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = StateMeta(self._free_id(len(self._states)), name, kind)
        if state.kind != kind:
            raise IncompatibleStateError(
                self._text(name, f"it was a {state.kind} state and is now declared as a {kind} state")
            )
        for written in state.written_as:
            reason = None if description is None else incompatibility(written, description)
            if reason:
                raise IncompatibleStateError(self._text(name, reason))
        if description is not None and description not in state.written_as:
            state.written_as.append(description)
        return state.state_id

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
        return encode_meta(BackendMeta(self._max_parallelism, list(self._states.values()), self.generation))
