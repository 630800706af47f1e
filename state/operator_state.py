"""Operator state: lists and maps of one operator subtask that belong to no key.

| kind      | what a subtask finds after a restore                                        | mode      |
|-----------|-----------------------------------------------------------------------------|-----------|
| list      | its share of all subtasks' elements: its own at the same parallelism        | split     |
| union     | all elements of all subtasks; the function picks what is its own            | union     |
| broadcast | one subtask's map, for all of them are kept equal by who writes them        | broadcast |

It is meant to be small (offsets, rules, buffers of a moment): it lives as Python objects on the slot's thread, and at
the barrier all of it is encoded there. What a snapshot's program writes on a helper thread is bytes, so nothing that
happens after the barrier can reach the snapshot, also not a change in place (PROTOCOLS 15). Small states stand in
the checkpoint's metadata itself, larger ones in a file each.

A state is encoded as a MessagePack array with one binary per element, so that single elements can be handed out
(jobmanager/restore.py) without knowing their type. All of it is written at every checkpoint, under the present
types; so what is read back has one description, which must fit the descriptor's as with keyed state.

What was restored and is not declared (yet, or any more) is kept as it is, and goes into the next snapshot: of the
union kind with the first subtask only, because each of them holds all of it.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from .backend import LikeADict, LikeAMutableDict, ListState
from .descriptors import ListStateDescriptor, MapStateDescriptor
from .errors import DamagedCheckpointError, IncompatibleStateError, KeyTypeError, StateError
from .key_classes import register_key_class
from .key_encoding import decode_key, encode_key
from .serialization.serializers import Serializer, serializer_for
from .serialization.type_descriptions import Description
from .serialization.type_evolution import incompatibility
from .snapshots import OperatorStateHandle
from .store.checkpoint_store import Uploads
from .store.objects import Program

K = TypeVar("K")
V = TypeVar("V")

INLINE_BYTES = 4 << 10
"""A state up to this size stands in the metadata: every subtask's does, and the master reads all of it."""

_KINDS = {"split": "list", "union": "union list", "broadcast": "broadcast"}


@dataclass(frozen=True, slots=True)
class RestoredElements:
    """Elements that a subtask takes over from an old one, encoded."""

    name: str
    mode: str
    written_as: Description
    elements: list[bytes]

    @staticmethod
    def of(handle: OperatorStateHandle, data: bytes) -> RestoredElements:
        """data: all that the handle's file holds. DamagedCheckpointError."""
        try:
            elements = msgspec.msgpack.decode(data, type=list[bytes])[handle.first : handle.first + handle.count]
        except msgspec.DecodeError as error:
            raise DamagedCheckpointError(f"operator state '{handle.name}' cannot be read: {error}") from error
        if len(elements) != handle.count:
            raise DamagedCheckpointError(
                f"operator state '{handle.name}' is damaged: {handle.count} elements are expected from number "
                f"{handle.first} on, {len(elements)} are there"
            )
        return RestoredElements(handle.name, handle.mode, handle.written_as, elements)


class OperatorStateStore(ABC):
    """What a CheckpointedFunction gets its operator state from. A name is one state, of one kind and type."""

    @abstractmethod
    def get_list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]:
        """Each element belongs to one subtask; at another parallelism they are spread evenly, in their order.

        Raises StateError if the name is declared otherwise, IncompatibleStateError if what was restored does not
        fit. So do the other two."""

    @abstractmethod
    def get_union_list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]:
        """After a restore every subtask has the elements of all: keep what is yours, or the list grows."""

    @abstractmethod
    def get_broadcast_state(self, descriptor: MapStateDescriptor[K, V]) -> BroadcastState[K, V]:
        """A map that all subtasks are to keep equal."""


class OperatorListState(ListState[V]):
    """A list without a key. `get` gives the list itself: a change in place is saved like an update."""

    def __init__(self, where: str, serializer: Serializer, values: list[V]) -> None:
        self._where, self._serializer, self._values = where, serializer, values

    def get(self) -> list[V]:
        return self._values

    def add(self, value: V) -> None:
        self.add_all((value,))

    def add_all(self, values: Iterable[V]) -> None:
        values = list(values)
        _refuse_unlike(self._where, self._serializer, values)
        self._values += values

    def update(self, values: Iterable[V]) -> None:
        values = list(values)
        _refuse_unlike(self._where, self._serializer, values)
        self._values = values

    def clear(self) -> None:
        self._values = []

    def encode(self) -> list[bytes]:
        return self._serializer.encode_all(self._values)


class ReadOnlyBroadcastState(LikeADict[K, V]):
    """A broadcast state as the side that must not change it sees it. Iterates in the order of the first puts."""

    def __init__(self, entries: dict[K, V]) -> None:
        self._entries = entries

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def contains(self, key: K) -> bool:
        return key in self._entries

    def items(self) -> Iterator[tuple[K, V]]:
        return iter(list(self._entries.items()))

    def keys(self) -> Iterator[K]:
        return iter(list(self._entries))

    def values(self) -> Iterator[V]:
        return iter(list(self._entries.values()))

    def is_empty(self) -> bool:
        return not self._entries


class BroadcastState(ReadOnlyBroadcastState[K, V], LikeAMutableDict[K, V]):
    """A map that every subtask has and changes alike. Its keys are of one type (key_encoding.py)."""

    def __init__(self, where: str, key_type: Any, serializer: Serializer, entries: dict[K, V]) -> None:
        super().__init__(entries)
        self._where, self._serializer = where, serializer
        plain = typing.get_origin(key_type) or key_type
        self._key_kind: type | None = plain if isinstance(plain, type) else None
        self._encoded: list[bytes] | None = None
        """Since the last change. Of no use where values change in place."""

    def put(self, key: K, value: V) -> None:
        self._check_key(key)
        self.put_all({key: value})

    def put_all(self, entries: dict[K, V]) -> None:
        _refuse_unlike(self._where, self._serializer, entries.values())
        for key in entries:
            self._check_key(key)
        self._encoded = None
        self._entries.update(entries)

    def remove(self, key: K) -> None:
        self._encoded = None
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._encoded = None
        self._entries.clear()

    def read_only(self) -> ReadOnlyBroadcastState[K, V]:
        return ReadOnlyBroadcastState(self._entries)

    def encode(self) -> list[bytes]:
        """Rules come rarely, barriers often: what has not changed is not encoded again."""
        if self._encoded is None or not self._serializer.immutable:
            values = self._serializer.encode_all(self._entries.values())
            entries = zip(self._entries, values, strict=True)
            self._encoded = [msgspec.msgpack.encode((encode_key(key), value)) for key, value in entries]
        return self._encoded

    def _check_key(self, key: Any) -> None:
        kind = self._key_kind or type(key)
        if type(key) is not kind:
            raise KeyTypeError(f"{self._where}: its keys are of type {kind.__qualname__}, {key!r} is not")
        encode_key(key)  # raises if its type can be no key
        self._key_kind = kind


@dataclass(frozen=True, slots=True)
class _Declared:
    descriptor: ListStateDescriptor[Any] | MapStateDescriptor[Any, Any]
    mode: str
    serializer: Serializer
    state: Any


class OperatorStateBackend(OperatorStateStore):
    """All operator state of one operator in one subtask. Belongs to the slot's thread."""

    def __init__(
        self,
        operator_name: str,
        subtask: int = 0,
        restored: Sequence[RestoredElements] = (),
        *,
        generic_types: bool = True,
    ) -> None:
        """generic_types False: state whose values would be pickled is refused (pipeline.generic-types)."""
        self._operator = operator_name
        self._subtask = subtask
        self._generic_types = generic_types
        self._declared: dict[str, _Declared] = {}
        self._kept: dict[str, list[RestoredElements]] = {}
        for part in restored:
            self._kept.setdefault(part.name, []).append(part)

    def get_list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]:
        return self._list(descriptor, "split")

    def get_union_list_state(self, descriptor: ListStateDescriptor[V]) -> ListState[V]:
        return self._list(descriptor, "union")

    def get_broadcast_state(self, descriptor: MapStateDescriptor[K, V]) -> BroadcastState[K, V]:
        def new(where: str, serializer: Serializer, parts: list[RestoredElements]) -> BroadcastState[K, V]:
            state: BroadcastState[K, V] = BroadcastState(where, descriptor.key_type, serializer, {})
            _know_classes(descriptor.key_type)
            for part in parts:
                read = serializer.reading([part.written_as]).decode
                entries = (msgspec.msgpack.decode(element, type=tuple[bytes, bytes]) for element in part.elements)
                try:
                    state.put_all({decode_key(key): read(value) for key, value in entries})
                except KeyTypeError as error:
                    raise IncompatibleStateError(f"what was restored does not fit: {error}") from error
            return state

        state: BroadcastState[K, V] = self._state(descriptor, "broadcast", serializer_for(descriptor.value_type), new)
        return state

    def _list(self, descriptor: ListStateDescriptor[V], mode: str) -> ListState[V]:
        def new(where: str, serializer: Serializer, parts: list[RestoredElements]) -> ListState[V]:
            read = [serializer.reading([part.written_as]).decode_all([*part.elements]) for part in parts]
            return OperatorListState(where, serializer, [value for values in read for value in values])

        state: ListState[V] = self._state(descriptor, mode, serializer_for(descriptor.type), new)
        return state

    def _state(
        self,
        descriptor: ListStateDescriptor[Any] | MapStateDescriptor[Any, Any],
        mode: str,
        serializer: Serializer,
        new: Callable[[str, Serializer, list[RestoredElements]], Any],
    ) -> Any:
        name = descriptor.name
        where = f"operator state '{name}' of operator '{self._operator}'"
        known = self._declared.get(name)
        if known is not None:
            if (known.descriptor, known.mode) != (descriptor, mode):
                raise StateError(
                    f"{where} is declared twice: as a {_KINDS[known.mode]} state, {known.descriptor}, "
                    f"and as a {_KINDS[mode]} state, {descriptor}"
                )
            return known.state
        if descriptor.ttl is not None:
            raise StateError(f"{where} cannot have a TTL: that is for keyed state")
        if serializer.generic and not self._generic_types:
            raise StateError(
                f"{where} would be pickled, and pipeline.generic-types is false; "
                "give its descriptor the type of its values"
            )
        parts = self._kept.get(name, [])
        for part in parts:
            reason = _misfit(part, mode, serializer)
            if reason is not None:
                raise IncompatibleStateError(f"{where} does not fit what was restored: {reason}")
        state = new(where, serializer, parts)
        self._kept.pop(name, None)
        self._declared[name] = _Declared(descriptor, mode, serializer, state)
        return state

    @property
    def descriptors(self) -> list[tuple[str, ListStateDescriptor[Any] | MapStateDescriptor[Any, Any]]]:
        """Mode and descriptor of all states that were declared so far."""
        return [(declared.mode, declared.descriptor) for declared in self._declared.values()]

    @property
    def changes_in_place(self) -> bool:
        """Values of some state may be objects that change in place: what is handed on must not be those."""
        return any(not declared.serializer.immutable for declared in self._declared.values())

    def is_empty(self) -> bool:
        """Nothing is declared, and nothing was restored."""
        return not self._declared and not self._kept

    def snapshot(self, uploads: Callable[[], Uploads]) -> Program[tuple[OperatorStateHandle, ...]]:
        """Freeze now; the program writes it out. StateError names the state that cannot be encoded."""
        frozen = [self._frozen(name, declared) for name, declared in self._declared.items()]
        frozen += [part for parts in self._kept.values() for part in parts if part.mode != "union" or not self._subtask]
        return _write_out(frozen, uploads)

    def _frozen(self, name: str, declared: _Declared) -> RestoredElements:
        try:
            elements = declared.state.encode()
        except StateError as error:
            raise type(error)(f"operator state '{name}' of operator '{self._operator}': {error}") from error
        return RestoredElements(name, declared.mode, declared.serializer.description, elements)


def _write_out(
    frozen: list[RestoredElements], uploads: Callable[[], Uploads]
) -> Program[tuple[OperatorStateHandle, ...]]:
    handles = []
    for part in frozen:
        data, file = msgspec.msgpack.encode(part.elements), None
        if len(data) > INLINE_BYTES:
            file, data = (yield from uploads().put_bytes(data)), b""
        handles.append(
            OperatorStateHandle(part.name, part.mode, len(part.elements), 0, data, file, written_as=part.written_as)
        )
    return tuple(handles)


def _misfit(part: RestoredElements, mode: str, serializer: Serializer) -> str | None:
    if part.mode != mode:
        return f"it was a {_KINDS.get(part.mode, part.mode)} state and is now declared as a {_KINDS[mode]} state"
    return incompatibility([part.written_as], serializer.description)


def _know_classes(annotation: Any, within: tuple[Any, ...] = ()) -> None:
    """Keys of these classes can be decoded, also where they cannot be imported: those of a script, in a slot."""
    parts = typing.get_args(annotation)
    if isinstance(annotation, type) and not parts:
        register_key_class(annotation)
        try:
            parts = tuple(typing.get_type_hints(annotation).values())
        except Exception:  # names that exist for type checkers only: an importable class is found without
            parts = ()
    for part in parts:
        if part not in within:
            _know_classes(part, (*within, annotation))


def _refuse_unlike(where: str, serializer: Serializer, values: Iterable[Any]) -> None:
    """StateError if a value's exact type is not one of those declared: later the barrier would find it."""
    if serializer.accepts is None:
        return
    for value in values:
        if type(value) not in serializer.accepts:
            declared = " or ".join(sorted(kind.__qualname__ for kind in serializer.accepts))
            raise StateError(f"{where}: {value!r} is of type {type(value).__qualname__}, but {declared} is declared")
