"""One store for a job's checkpoints and for savepoints elsewhere: names say where an object lies.

A name in a savepoint's directory that is given by a URL or an absolute path (savepoint_store.py) is that of an object
there; every other name lies in the root, the checkpoint storage. Stores of other places are opened when they are first
asked, with the same options, and kept.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .objects import Delete, List, ListDetails, ObjectStore, Pause, StoredObject, StoreOp

_ELSEWHERE = re.compile(r"(?P<location>(?:[a-z0-9+]+://|/).*savepoint-[^/-]{1,6}-[^/]+)/(?P<name>.*)", re.DOTALL)


class LocatedObjects:
    """`open_store`: the store at a location. One serves all threads."""

    def __init__(self, root: ObjectStore, open_store: Callable[[str], ObjectStore]) -> None:
        self.root = root
        self._open_store = open_store
        self._stores: dict[str, ObjectStore] = {}
        self._lock = threading.Lock()

    def execute(self, op: StoreOp) -> Any:
        match op:
            case Pause():
                return self.root.execute(op)
            case Delete(names):
                for store, own in self._by_store(names):
                    store.execute(Delete(own))
                return None
            case List(prefix) | ListDetails(prefix):
                location, name = _split(prefix)
                found = self._store(location).execute(type(op)(name))
                return [_within(location, each) for each in found]
            case _:
                location, name = _split(op.name)
                return self._store(location).execute(op if location is None else replace(op, name=name))

    def _by_store(self, names: tuple[str, ...]) -> list[tuple[ObjectStore, tuple[str, ...]]]:
        grouped: dict[str | None, list[str]] = {}
        for name in names:
            location, own = _split(name)
            grouped.setdefault(location, []).append(own)
        return [(self._store(location), tuple(own)) for location, own in grouped.items()]

    def _store(self, location: str | None) -> ObjectStore:
        if location is None:
            return self.root
        with self._lock:
            store = self._stores.get(location)
            if store is None:
                store = self._stores[location] = self._open_store(location)
            return store


def _split(name: str) -> tuple[str | None, str]:
    match = _ELSEWHERE.fullmatch(name)
    return (None, name) if match is None else (match["location"], match["name"])


def _within(location: str | None, found: str | StoredObject) -> str | StoredObject:
    if location is None:
        return found
    if isinstance(found, StoredObject):
        return replace(found, name=f"{location}/{found.name}")
    return f"{location}/{found}"
