"""Failures in the form that Flink's Java clients insist on. The bytes of the golden stream were read by a JVM, with
ObjectInputStream, into a class of that name, id and fields."""

from __future__ import annotations

import struct
from base64 import b64decode
from typing import Any

import pytest

from penstock.jobmanager.rest.java_throwable import LONGEST_SHORT, java_throwable
from penstock.jobmanager.rest.wire_failures import failure_cause

GOLDEN = (
    "aced0005737200296f72672e6170616368652e666c696e6b2e7574696c2e53657269616c697a65645468726f7761626c6565169df51fa7"
    "13f30200034c001966756c6c537472696e676966696564537461636b54726163657400124c6a6176612f6c616e672f537472696e673b4c"
    "00166f726967696e616c4572726f72436c6173734e616d657400124c6a6176612f6c616e672f537472696e673b5b001373657269616c69"
    "7a6564457863657074696f6e7400025b42787200136a6176612e6c616e672e457863657074696f6ed0fd1f3e1a3b1cc402000078720013"
    "6a6176612e6c616e672e5468726f7761626c65d5c635273977b8cb0300044c000563617573657400154c6a6176612f6c616e672f546872"
    "6f7761626c653b4c000d64657461696c4d6573736167657400124c6a6176612f6c616e672f537472696e673b5b000a737461636b547261"
    "636574001e5b4c6a6176612f6c616e672f537461636b5472616365456c656d656e743b4c00147375707072657373656445786365707469"
    "6f6e737400104c6a6176612f7574696c2f4c6973743b7870707400096469736b2066756c6c70707874001454726163656261636b3a2064"
    "69736b2066756c6c74001870656e73746f636b2e436865636b706f696e744572726f7270"
)  # fmt: skip


class JavaStream:
    """Reads what the specification's grammar allows where only new objects, strings and nulls occur."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        assert self.take(4) == b"\xac\xed\x00\x05"

    def take(self, count: int) -> bytes:
        assert self._at + count <= len(self._data), "the stream ends too early"
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, code: str) -> int:
        (value,) = struct.unpack(f">{code}", self.take(struct.calcsize(code)))
        assert isinstance(value, int)
        return value

    def text(self, length: int) -> str:
        surrogates = self.take(length).replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
        return surrogates.encode("utf-16-be", "surrogatepass").decode("utf-16-be")

    def content(self) -> Any:
        match self.take(1):
            case b"\x70":
                return None
            case b"\x74":
                return self.text(self.number("H"))
            case b"\x7c":
                return self.text(self.number("Q"))
            case b"\x73":
                return self.object()
            case code:
                raise AssertionError(f"unexpected {code!r}")

    def object(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, _, flags, names in reversed(self.classes()):
            fields["class"] = name
            fields.update({field: self.content() for field in names})
            assert not flags & 1 or self.take(1) == b"\x78"
        return fields

    def classes(self) -> list[tuple[str, int, int, list[str]]]:
        """From the object's own up: name, id, flags, names of fields."""
        found = []
        while self.take(1) == b"\x72":
            name, uid, flags = self.text(self.number("H")), self.number("q"), self.number("B")
            names = []
            for _ in range(self.number("H")):
                assert self.take(1) in (b"L", b"["), "there are no primitive fields"
                names.append(self.text(self.number("H")))
                assert self.content()[0] in "L["
            assert self.take(1) == b"\x78"
            assert names == sorted(names), "Java writes fields in this order"
            found.append((name, uid, flags, names))
        return found

    @property
    def ended(self) -> bool:
        return self._at == len(self._data)


def read(data: bytes) -> dict[str, Any]:
    stream = JavaStream(data)
    found: dict[str, Any] = stream.content()
    assert stream.ended
    return found


def test_the_stream_is_the_one_that_java_has_read() -> None:
    assert java_throwable("penstock.CheckpointError", "disk full", "Traceback: disk full").hex() == GOLDEN


@pytest.mark.parametrize(
    ("message", "stacktrace"),
    [
        ("disk full", "Traceback:\n  File x"),
        ("", ""),
        ("zero \0, ä, €, 😀", "\0\0😀"),
        ("a short one", "x" * LONGEST_SHORT),
        ("y" * (LONGEST_SHORT + 1), "ä" * LONGEST_SHORT),
    ],
)
def test_every_text_arrives(message: str, stacktrace: str) -> None:
    found = read(java_throwable("penstock.CheckpointError", message, stacktrace))
    assert found == {
        "class": "org.apache.flink.util.SerializedThrowable",
        "cause": None,
        "detailMessage": message,
        "stackTrace": None,
        "suppressedExceptions": None,
        "fullStringifiedStackTrace": stacktrace,
        "originalErrorClassName": "penstock.CheckpointError",
        "serializedException": None,
    }


def test_a_failure_without_a_stack_shows_its_message_there() -> None:
    cause = failure_cause("CheckpointError", "disk full")
    assert cause["stack-trace"] == "CheckpointError: disk full"
    found = read(b64decode(cause["serialized-throwable"]))
    assert found["fullStringifiedStackTrace"] == cause["stack-trace"]
    assert found["detailMessage"] == "disk full"
