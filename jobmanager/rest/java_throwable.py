"""What Flink's Java clients insist on where something failed: an exception as Java writes objects into a stream.

Its class is org.apache.flink.util.SerializedThrowable, which Flink uses itself for exceptions whose class the client
does not have: their class's name, message and stack as text. Without it the command line does not show the failure,
but waits for one until it times out.

The bytes follow the Java Object Serialization Specification, chapter 6 (grammar of the stream). One object:

    AC ED 00 05                       magic, version
    73 <class> <data>                 TC_OBJECT; data of each of its classes, the topmost first
    <class>:  72 <name> <uid> <flags> <fields> 78 <superclass, or 70>
    <fields>: <count> and for each: 'L' or '[', its name, its type as a string
    strings:  74 and their length in two bytes, or 7C and in eight; in Java's own UTF-8

Strings that could be references to earlier ones are written once more: that is allowed, and needs no table of handles.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC = b"\xac\xed\x00\x05"
NULL, CLASS_DESCRIPTION, OBJECT = b"\x70", b"\x72", b"\x73"
STRING, END_OF_ANNOTATION, LONG_STRING = b"\x74", b"\x78", b"\x7c"
SERIALIZABLE, WRITES_ITSELF = 2, 1
"""Flags: it is Serializable; it has a writeObject of its own, after whose data an annotation ends."""
LONGEST_SHORT = 0xFFFF
_TEXT, _BYTES = "Ljava/lang/String;", "[B"


@dataclass(frozen=True, slots=True)
class _Class:
    name: str
    uid: int
    flags: int
    fields: tuple[tuple[str, str], ...]
    """Name and type, in the order of the data: by name."""


CLASSES = (
    _Class(
        "org.apache.flink.util.SerializedThrowable", 7284183123441947635, SERIALIZABLE,
        (("fullStringifiedStackTrace", _TEXT), ("originalErrorClassName", _TEXT), ("serializedException", _BYTES)),
    ),
    _Class("java.lang.Exception", -3387516993124229948, SERIALIZABLE, ()),
    _Class(
        "java.lang.Throwable", -3042686055658047285, SERIALIZABLE | WRITES_ITSELF,
        (
            ("cause", "Ljava/lang/Throwable;"), ("detailMessage", _TEXT),
            ("stackTrace", "[Ljava/lang/StackTraceElement;"), ("suppressedExceptions", "Ljava/util/List;"),
        ),
    ),
)  # fmt: skip
"""From the class of the object up."""


def java_throwable(exception: str, message: str, stacktrace: str) -> bytes:
    """The stream. `exception`: name of the class that is shown."""
    throwable = NULL + _string(message) + NULL + NULL + END_OF_ANNOTATION  # no cause, no frames, nothing suppressed
    own = _string(stacktrace) + _string(exception) + NULL  # there is no Java object of the exception itself
    return MAGIC + OBJECT + b"".join(map(_description, CLASSES)) + NULL + throwable + own


def _description(described: _Class) -> bytes:
    """Without its superclass, which follows."""
    head = struct.pack(">qBH", described.uid, described.flags, len(described.fields))
    fields = (kind[:1].encode() + _short(name) + STRING + _short(kind) for name, kind in described.fields)
    return CLASS_DESCRIPTION + _short(described.name) + head + b"".join(fields) + END_OF_ANNOTATION


def _short(text: str) -> bytes:
    data = _java_utf8(text)
    return struct.pack(">H", len(data)) + data


def _string(text: str) -> bytes:
    data = _java_utf8(text)
    if len(data) <= LONGEST_SHORT:
        return STRING + struct.pack(">H", len(data)) + data
    return LONG_STRING + struct.pack(">Q", len(data)) + data


def _java_utf8(text: str) -> bytes:
    """Zero as two bytes; characters beyond the basic plane as two surrogates, of three bytes each."""
    units = text.encode("utf-16-be", "surrogatepass")
    plain = "".join(map(chr, struct.unpack(f">{len(units) // 2}H", units)))
    return plain.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80")
