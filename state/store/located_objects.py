"""One store for a job's checkpoints and for savepoints elsewhere: names say where an object lies.

A name in a savepoint's directory that is given by a URL or an absolute path (savepoint_store.py) is that of an object
there; every other name lies in the root, the checkpoint storage. Stores of other places are opened when they are first
asked, with the same options, and kept.

On a disk a savepoint is a directory, which looks like one to people though it is empty: reading makes none, and the
last object that is deleted takes it with it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..errors import ObjectNotFound
from .objects import Delete, List, ListDetails, ObjectStore, Pause, Put, PutFile, StoredObject, StoreOp

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
                for location, own in _by_location(names).items():
                    if not _is_missing(location):
                        self._store(location).execute(Delete(tuple(own)))
                        _remove_empty(location)
                return None
            case List(prefix) | ListDetails(prefix):
                location, name = _split(prefix)
                if _is_missing(location):
                    return []
                found = self._store(location).execute(type(op)(name))
                return [_within(location, each) for each in found]
            case _:
                location, name = _split(op.name)
                if not isinstance(op, Put | PutFile) and _is_missing(location):
                    raise ObjectNotFound(f"{op.name} is not there: there is no such directory.")
                return self._store(location).execute(op if location is None else replace(op, name=name))

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


def _by_location(names: tuple[str, ...]) -> dict[str | None, list[str]]:
    grouped: dict[str | None, list[str]] = {}
    for name in names:
        location, own = _split(name)
        grouped.setdefault(location, []).append(own)
    return grouped


def _is_missing(location: str | None) -> bool:
    return location is not None and "://" not in location and not os.path.isdir(location)


def _remove_empty(location: str | None) -> None:
    if location is not None and "://" not in location:
        with suppress(OSError):  # something is there, or somebody has removed it
            os.rmdir(location)


def _within(location: str | None, found: str | StoredObject) -> str | StoredObject:
    if location is None:
        return found
    if isinstance(found, StoredObject):
        return replace(found, name=f"{location}/{found.name}")
    return f"{location}/{found}"
