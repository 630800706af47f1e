"""How two slots recognise each other. No I/O: frames in, frames out.

    acceptor  -> CHALLENGE  magic | version | nonce
    connector -> HELLO      version | nonce | proof | sender | receiver
    acceptor  -> WELCOME    proof

A proof is an HMAC of both nonces and both slot ids under the job's secret, with another label for each direction. As
both ends contribute a nonce, nothing that was overheard can be used again, and as both prove that they know the
secret, neither a stranger nor a slot of another job ever gets a record or has one unpickled. What does not fit (magic,
version, receiver, proof) is answered with REFUSED and its reason, and the connection is closed.

The secret does not encrypt: that is what TLS is for (tls.py).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct

import pyarrow as pa

from ...state.ids import SlotId
from .wire import VERSION, Kind, Received, WireError, handshake_frame

_MAGIC = b"penstock"
_CHALLENGE = struct.Struct("<8sH32s")
_HELLO = struct.Struct("<H32s32sHH")
_NONCE_BYTES = 32


class RefusedError(WireError):
    """The other end is not who it should be, or says that we are not."""


class Acceptor:
    """The accepting end's part."""

    def __init__(self, me: SlotId, secret: bytes, nonce: bytes | None = None) -> None:
        self._me, self._secret = me, secret
        self._nonce = nonce or os.urandom(_NONCE_BYTES)

    def challenge(self) -> bytes:
        """The first frame."""
        return handshake_frame(Kind.CHALLENGE, _CHALLENGE.pack(_MAGIC, VERSION, self._nonce))

    def received(self, frame: Received) -> tuple[SlotId, bytes]:
        """Who the connector is, and the WELCOME for it. RefusedError or WireError."""
        body = _expected(frame, Kind.HELLO, _HELLO.size)
        version, nonce, proof, sender_bytes, receiver_bytes = _HELLO.unpack_from(body)
        _check_version(version)
        ids = body[_HELLO.size :]
        if len(ids) != sender_bytes + receiver_bytes:
            raise WireError("a HELLO of a wrong length arrived")
        try:
            sender, receiver = SlotId(ids[:sender_bytes].decode()), SlotId(ids[sender_bytes:].decode())
        except UnicodeDecodeError as error:
            raise WireError("a HELLO whose ids are no text arrived") from error
        if not hmac.compare_digest(proof, _proof(self._secret, b"hello", self._nonce, nonce, sender, receiver)):
            raise RefusedError("the secret is not that of this slot's job")
        if receiver != self._me:
            raise RefusedError(f"this is slot {self._me}, not slot {receiver}")
        welcome = _proof(self._secret, b"welcome", self._nonce, nonce, sender, receiver)
        return sender, handshake_frame(Kind.WELCOME, welcome)


class Connector:
    """The connecting end's part."""

    def __init__(self, me: SlotId, peer: SlotId, secret: bytes, nonce: bytes | None = None) -> None:
        self._me, self._peer, self._secret = me, peer, secret
        self._nonce = nonce or os.urandom(_NONCE_BYTES)
        self._welcome: bytes | None = None
        self.done = False

    def received(self, frame: Received) -> bytes | None:
        """The HELLO after the CHALLENGE; None after the WELCOME, and `done`. RefusedError or WireError."""
        if self._welcome is not None:
            if not hmac.compare_digest(_expected(frame, Kind.WELCOME, 0), self._welcome):
                raise RefusedError(f"what answers at the address of slot {self._peer} does not know the job's secret")
            self.done = True
            return None
        magic, version, nonce = _CHALLENGE.unpack(_expected(frame, Kind.CHALLENGE, _CHALLENGE.size)[: _CHALLENGE.size])
        if magic != _MAGIC:
            raise WireError("what answers is not a slot")
        _check_version(version)
        self._welcome = _proof(self._secret, b"welcome", nonce, self._nonce, self._me, self._peer)
        proof = _proof(self._secret, b"hello", nonce, self._nonce, self._me, self._peer)
        sender, receiver = self._me.encode(), self._peer.encode()
        hello = _HELLO.pack(VERSION, self._nonce, proof, len(sender), len(receiver)) + sender + receiver
        return handshake_frame(Kind.HELLO, hello)


def refused(reason: str) -> bytes:
    return handshake_frame(Kind.REFUSED, reason.encode()[:1_000])


def _expected(frame: Received, kind: Kind, least: int) -> bytes:
    body: bytes = pa.Buffer.to_pybytes(frame.body)
    if frame.kind == Kind.REFUSED:
        raise RefusedError(f"the connection was refused: {body.decode(errors='replace')}")
    if frame.kind != kind or len(body) < least:
        raise WireError(f"expected {kind.name}, a {Kind(frame.kind).name} frame of {len(body)} bytes arrived")
    return body


def _check_version(version: int) -> None:
    if version != VERSION:
        raise RefusedError(
            f"version {version} of the slots' protocol meets version {VERSION}: update penstock on all nodes"
        )


def _proof(secret: bytes, label: bytes, acceptor: bytes, connector: bytes, sender: SlotId, receiver: SlotId) -> bytes:
    ids = [label, acceptor, connector, sender.encode(), receiver.encode()]
    message = b"".join(struct.pack("<I", len(part)) + part for part in ids)
    return hmac.new(secret, message, hashlib.sha256).digest()
