"""The cluster's store, for a dispatcher that takes the place of another one: opened as soon as it can be.

A store that was good enough once and cannot be opened now, like a directory that is not mounted, is unavailable for
the time being. It must not end who asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...state.errors import ConfigurationError, ObjectStoreUnavailable
from ...state.store.objects import ObjectStore, StoreOp
from ...state.store.obstore_objects import ObstoreObjects


class PatientStore:
    """As ObstoreObjects, but what keeps it from being opened is an ObjectStoreUnavailable of every operation."""

    def __init__(self, location: str, options: Mapping[str, str]) -> None:
        self._location = location
        self._options = options
        self._opened: ObjectStore | None = None

    def execute(self, op: StoreOp) -> Any:
        if self._opened is None:
            try:
                self._opened = ObstoreObjects(self._location, self._options)
            except ConfigurationError as error:
                raise ObjectStoreUnavailable(str(error)) from error
        return self._opened.execute(op)
