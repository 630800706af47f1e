"""Uploaded code in the cluster's store: scripts and archives that jobs are made of.

    artefacts/<sha256>_<name>           the content
    artefact-descriptions/<the same>    a sealed Artefact, written after the content, removed before it

The name is the hash of the content, so the same upload twice is one artefact, and a reader proves that it has got what
was uploaded. An artefact is there when its description is: a content without one is what an upload that was cut off
left, and the next upload of the same content completes it. (An upload that runs while the same artefact is deleted can
lose its content; whoever fetches it is told so, and uploads again.)
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ObjectNotFound, PenstockError
from ..ids import new_nonce
from .documents import seal, unseal
from .objects import Delete, Get, GetFile, List, Program, PutFile, create_once, with_retries

CONTENTS, DESCRIPTIONS = "artefacts/", "artefact-descriptions/"
VERSION = 1
_KIND = "artefact"
_ID = re.compile(r"[0-9a-f]{64}_[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_READ_BYTES = 1 << 20


class ArtefactError(PenstockError):
    """An artefact is not what was uploaded. Names it."""


@dataclass(frozen=True, slots=True)
class Artefact:
    id: str
    """'<sha256>_<name>'"""
    name: str
    size_bytes: int
    uploaded_ms: int
    entry: str | None = None
    """The script that is run when none is named."""


def put_artefact(name: str, path: Path, entry: str | None, uploaded_ms: int) -> Program[Artefact]:
    """Store a local file. Only the last part of `name` counts, and only its harmless characters. Answers what is there
    now: an earlier upload of the same content keeps its description."""
    harmless = re.sub(r"[^A-Za-z0-9._+-]", "_", re.split(r"[\\/]", name)[-1]).lstrip("._+-")[-100:] or "code"
    artefact = Artefact(f"{file_sha256(path)}_{harmless}", harmless, path.stat().st_size, uploaded_ms, entry)
    yield from with_retries(PutFile(CONTENTS + artefact.id, path))
    description = DESCRIPTIONS + artefact.id
    standing = yield from create_once(description, seal(_KIND, VERSION, new_nonce(), artefact))
    return unseal(description, _KIND, VERSION, standing, Artefact)


def list_artefacts() -> Program[list[Artefact]]:
    """Newest first."""
    names: list[str] = yield from with_retries(List(DESCRIPTIONS))
    artefacts = []
    for name in names:
        try:
            data = yield from with_retries(Get(name))
        except ObjectNotFound:  # deleted since the listing
            continue
        artefacts.append(unseal(name, _KIND, VERSION, data, Artefact))
    return sorted(artefacts, key=lambda artefact: (-artefact.uploaded_ms, artefact.id))


def get_artefact(artefact_id: str) -> Program[Artefact]:
    """Its description. ObjectNotFound: there is none."""
    name = DESCRIPTIONS + _checked(artefact_id)
    try:
        data = yield from with_retries(Get(name))
    except ObjectNotFound:
        raise _missing(artefact_id) from None
    return unseal(name, _KIND, VERSION, data, Artefact)


def fetch_artefact(artefact_id: str, path: Path) -> Program[None]:
    """Its content into a local file. ObjectNotFound; ArtefactError: it is damaged."""
    name = CONTENTS + _checked(artefact_id)
    try:
        yield from with_retries(GetFile(name, path))
    except ObjectNotFound:
        raise _missing(artefact_id) from None
    if file_sha256(path) != artefact_id[:64]:
        path.unlink()
        raise ArtefactError(f"the code {artefact_id} is damaged in the cluster's storage; upload it again")


def delete_artefact(artefact_id: str) -> Program[None]:
    """Jobs that run go on; they cannot be started again with this code. ObjectNotFound: there is none."""
    yield from get_artefact(artefact_id)
    yield from with_retries(Delete((DESCRIPTIONS + artefact_id,)))
    yield from with_retries(Delete((CONTENTS + artefact_id,)))


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _checked(artefact_id: str) -> str:
    """Ids come from outside, and become object names."""
    if not _ID.fullmatch(artefact_id):
        raise _missing(artefact_id)
    return artefact_id


def _missing(artefact_id: str) -> ObjectNotFound:
    return ObjectNotFound(f"there is no uploaded code {artefact_id[:200]!r}: upload it first")
