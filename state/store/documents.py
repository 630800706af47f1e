"""Sealed documents: JSON in an envelope that says what it is, and proves that it is whole.

    {"penstock": "checkpoint", "version": 1, "nonce": "...", "checksum": "...", "document": {...}}

The checksum is of the document's bytes as they stand in the envelope; the nonce makes two writers' documents differ
even when they say the same (objects.py, create_once).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import xxhash

from ..errors import DamagedCheckpointError

T = TypeVar("T")


class _Envelope(msgspec.Struct):
    penstock: str
    version: int
    nonce: str
    checksum: str
    document: msgspec.Raw


def seal(kind: str, version: int, nonce: str, document: object) -> bytes:
    raw = msgspec.json.encode(document)
    return msgspec.json.encode(_Envelope(kind, version, nonce, xxhash.xxh3_128_hexdigest(raw), msgspec.Raw(raw)))


def unseal(name: str, kind: str, version: int, data: bytes, document_type: type[T], *, oldest: int | None = None) -> T:
    """`oldest`: the first format version that can still be read, if not only the present one.

    DamagedCheckpointError that names the object, if it is cut short, altered, of another kind, or not ours."""
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedCheckpointError(f"{name} is damaged, or was not written by penstock: {error}") from error
    readable = range(version if oldest is None else oldest, version + 1)
    if envelope.penstock != kind or envelope.version not in readable:
        raise DamagedCheckpointError(
            f"{name} is a {envelope.penstock} of format version {envelope.version}; this penstock reads a {kind} of "
            f"version {version}."
        )
    if envelope.checksum != xxhash.xxh3_128_hexdigest(bytes(envelope.document)):
        raise DamagedCheckpointError(f"{name} is damaged: its checksum does not fit its content.")
    try:
        return msgspec.json.decode(envelope.document, type=document_type)
    except msgspec.DecodeError as error:
        raise DamagedCheckpointError(f"{name} cannot be read: {error}") from error
