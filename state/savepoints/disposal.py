"""Deleting a savepoint wherever it is, from its path alone (savepoint_store.py says what a savepoint is)."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigurationError
from ..store.located_objects import LocatedObjects
from ..store.objects import run_program
from ..store.obstore_objects import ObstoreObjects
from .savepoint_store import dispose, is_savepoint, savepoint_directory


def whole_path(path: str) -> str:
    """Of a directory that is named to another process. ConfigurationError: it is neither a URL nor absolute."""
    directory = savepoint_directory(path)
    if "://" not in directory and not directory.startswith("/"):
        raise ConfigurationError(
            f"the path {path!r} is relative, and a cluster's processes have no working directory in common: give an "
            "absolute path or a URL"
        )
    return directory


def check_disposable(path: str) -> str:
    """The directory. ConfigurationError: no savepoint can be at that path."""
    directory = whole_path(path)
    if not is_savepoint(directory):
        raise ConfigurationError(f"{path} is not a savepoint: their directories are named savepoint-<job>-<unique>.")
    return directory


def dispose_of(path: str, options: Mapping[str, str]) -> int:
    """Answers how many objects were deleted. `options`: a configuration as flat strings, for the store.

    ConfigurationError: it is no savepoint, or there is none; ObjectStoreError."""
    directory = check_disposable(path)
    root = ObstoreObjects("memory://")
    return run_program(dispose(directory), LocatedObjects(root, lambda where: ObstoreObjects(where, options)))
