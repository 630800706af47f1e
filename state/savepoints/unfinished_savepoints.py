"""Files of savepoints that nobody finished: `penstock gc` finds them where no master came to remove them.

Subtasks write a savepoint's files before there is a document (savepoint_store.py). If it fails its master removes them
(jobmanager/savepoint_remains.py); of a master that was killed, or deposed, nobody does. A directory tells neither of
which attempt it is, nor where the log of its job lies, so nothing there says whether somebody is still writing it.
Age makes it likely that nobody is, and no clock is trusted (PROTOCOLS 2). What decides is the name of the document,
which is created once:

    gc creates it first     with a text that says so: ABANDONED. Whoever comes to finish the savepoint reads that, and
                            the savepoint has failed. Only now its files are deleted
    the document is there   it is a savepoint, and nothing of it is touched, whatever its age

The text stays until a later run finds nothing else there and the text old enough: who was asleep meanwhile meets it.

Directories are recognised by the exact form of their names, and one is left alone if a document lies anywhere below it:
somebody may keep savepoints in a directory that is called like one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..errors import CheckpointError, ObjectNotFound
from ..store.checkpoint_store import METADATA
from ..store.objects import Get, Program, StoredObject, create_once, with_retries
from .savepoint_store import ABANDONED, read_savepoint

_EXACT = re.compile(r"(?P<directory>(?:.*?/)??savepoint-[0-9a-f]{6}-[0-9a-f]{12})/.+", re.DOTALL)
_ANY = re.compile(r"(?:.*/)?savepoint-[^/-]{1,6}-[^/]+/.+", re.DOTALL)

LEFT = "left of a savepoint that was never finished"


def in_savepoint(name: str) -> bool:
    """Whether an object may be part of one, however its other folders are called."""
    return _ANY.fullmatch(name) is not None


def directory_of(name: str) -> str | None:
    match = _EXACT.fullmatch(name)
    return None if match is None else match["directory"]


def find_unfinished(
    listed: Iterable[StoredObject], limit_ms: int
) -> Program[tuple[list[StoredObject], dict[str, str]]]:
    """What may be deleted once its directory is claimed; and savepoints that nobody can restore, with the reason: they
    are for their owner to dispose of. Nothing that was written since `limit_ms` is judged."""
    directories: dict[str, list[StoredObject]] = defaultdict(list)
    for each in listed:
        directory = directory_of(each.name)
        if directory is not None:
            directories[directory].append(each)
    left: list[StoredObject] = []
    broken: dict[str, str] = {}
    for directory, objects in sorted(directories.items()):
        documents = [each for each in objects if each.name.rpartition("/")[2] == METADATA]
        if not documents:
            left += objects if all(each.modified_at_ms < limit_ms for each in objects) else []
        elif [each.name for each in documents] == [f"{directory}/{METADATA}"] and documents[
            0
        ].modified_at_ms < limit_ms:
            files = [each for each in objects if each is not documents[0]]
            if not (yield from _is_abandoned(documents[0])):
                why = yield from _why_broken(directory, files)
                broken.update({directory: why} if why else {})
            elif files:
                left += [each for each in files if each.modified_at_ms < limit_ms]
            else:
                left += documents
    return left, broken


def claim(directories: Iterable[str]) -> Program[set[str]]:
    """Those that nobody will finish any more. (Two who claim one write the same text: each may go on.)"""
    claimed = set()
    for directory in sorted(directories):
        if (yield from create_once(f"{directory}/{METADATA}", ABANDONED)) == ABANDONED:
            claimed.add(directory)
    return claimed


def _is_abandoned(document: StoredObject) -> Program[bool]:
    if document.size_bytes != len(ABANDONED):
        return False
    try:
        return bool((yield from with_retries(Get(document.name))) == ABANDONED)
    except ObjectNotFound:
        return False


def _why_broken(directory: str, files: Sequence[StoredObject]) -> Program[str]:
    try:
        metadata = yield from read_savepoint(directory)
    except CheckpointError as error:
        return str(error).partition("\n")[0]
    there = {each.name for each in files}
    missing = sorted({file.name for subtask in metadata.subtasks for file in subtask.files()} - there)
    return f"{len(missing)} of its files are missing, {missing[0]} for one" if missing else ""
