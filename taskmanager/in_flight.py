"""What was under way: batches that an unaligned barrier overtakes go into the checkpoint (PROTOCOLS 13; Flink's
channel state, FLIP-76).

A barrier that may overtake data (Barrier.unaligned_after_ms) does so at three places of a subtask, when it is due:

    input    the snapshot is taken before the barrier has come on all channels. What was received before it and is not
             consumed yet is written down: what lies in the queues, the rest of the batch at hand, and on channels whose
             barrier is still to come whatever arrives before it
    output   the barrier is sent ahead of what waits for credit, which is written down
    restart  what a restored subtask has not sent again yet is written down again

Sockets are overtaken nowhere: what was sent before the barrier arrives before it. So every batch is in the state of
one end of a channel, or in that of an operator, and never in two.

Edges to everybody (broadcast) and by a user's partitioner stay aligned, because their records cannot be sent again to
whom they were for: a subtask waits for the barriers of such inputs before its snapshot, and on such outputs the barrier
keeps its place.

When a checkpoint is restored, the batches of an edge go to a successor of the subtask that sent them, which partitions
them anew before anything new: what had been received first, in the order of its channel, then what had not been sent.
So rescaling needs nothing of its own. At the end it sends InFlightEnd on every channel, and receivers hold a channel
that has delivered it until all channels of its edge have, because keys may have moved: no new record overtakes an old
one of its key that comes from another subtask.

Written are frames as they would go over a socket, schema first: they can be read without knowing what was sent before.
They are encoded on the slot's thread, because rows belong to users' functions afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from ..runtime.batch import Batch
from ..runtime.elements import Barrier
from ..runtime.graph.partitioning import Broadcast, Custom, Partitioning
from ..state.errors import DamagedCheckpointError
from ..state.ids import OperatorId
from ..state.snapshots import FileHandle, InFlightHandle
from ..state.store.checkpoint_store import Uploads
from ..state.store.downloads import Downloads
from ..state.store.objects import Program
from .exchange.frames import BatchDecoder, BatchEncoder
from .exchange.wire import WireError

_HEAD = struct.Struct("<IIQ")
"""Of a batch: length of the schema that begins here, or 0; flags; length of the body."""
UNKNOWN = -1
"""Receiver of batches that are not partitioned yet."""


def may_overtake(partitioning: Partitioning) -> bool:
    """Whether batches on such an edge can be sent again."""
    return not isinstance(partitioning, Broadcast | Custom)


@dataclass(frozen=True, slots=True)
class Place:
    """One end of one channel; or, without an edge, a source's input."""

    sender: OperatorId
    edge: str
    source: int
    receiver: int = UNKNOWN
    received: bool = False


class _Written:
    def __init__(self) -> None:
        self.encoder = BatchEncoder()
        self.data = bytearray()


class InFlight:
    """What one barrier overtakes at one subtask, from its first snapshot on."""

    def __init__(self, barrier: Barrier) -> None:
        self.barrier = barrier
        self.unaligned = False
        """The snapshot was taken before the barrier had come everywhere, or output was overtaken."""
        self.void = False
        """It will never be whole."""
        self.failure: Exception | None = None
        """Why something of it could not be written down: no socket could take such a record, either."""
        self._places: dict[Place, _Written] = {}

    def add(self, place: Place, batch: Batch) -> None:
        """Behind what has been added for the place already."""
        if not len(batch) or self.failure is not None:
            return
        written = self._places.setdefault(place, _Written())
        try:
            schema, flags, parts = written.encoder.encode(batch, 0)
        except Exception as error:  # the checkpoint is declined; the records go on, in this slot, as they are
            self.failure = error
            self._places.clear()
            return
        body = [memoryview(part).cast("B") for part in parts]
        written.data += _HEAD.pack(len(schema or b""), flags, sum(part.nbytes for part in body))
        written.data += schema or b""
        for part in body:
            written.data += part

    @property
    def nbytes(self) -> int:
        return sum(len(written.data) for written in self._places.values())

    def persist(self, uploads: Uploads) -> Program[tuple[InFlightHandle, ...]]:
        """Nothing may be added any more."""
        handles = []
        for place, written in self._places.items():
            file = yield from uploads.put_bytes(bytes(written.data))
            handles.append(InFlightHandle(place.sender, place.edge, place.source, place.receiver, place.received, file))
        return tuple(handles)


def sending_order(handles: Iterable[InFlightHandle]) -> list[InFlightHandle]:
    """As they must be sent again: per edge and channel what had been received first; last what had no channel yet."""
    return sorted(handles, key=lambda h: (h.edge, h.source, h.receiver == UNKNOWN, h.receiver, not h.received))


@dataclass(frozen=True, slots=True)
class Recovered:
    """Batches to be sent again."""

    place: Place
    batches: list[Batch]


def fetch_in_flight(handles: Iterable[InFlightHandle], downloads: Downloads) -> Program[list[Recovered]]:
    """In the order of the handles. DamagedCheckpointError names the file."""
    found = []
    for handle in handles:
        data = yield from downloads.fetch_bytes(handle.file)
        place = Place(handle.operator_id, handle.edge, handle.source)
        found.append(Recovered(place, _decoded(data, handle.file)))
    return found


def _decoded(data: bytes, file: FileHandle) -> list[Batch]:
    batches, position, whole = [], 0, pa.py_buffer(data)
    decoder: BatchDecoder | None = None
    try:
        while position < len(data):
            schema, flags, body = _HEAD.unpack_from(data, position)
            position += _HEAD.size
            if schema:
                decoder = BatchDecoder(whole.slice(position, schema))
                position += schema
            if decoder is None or position + body > len(data):
                raise WireError("it is cut short")
            batches.append(decoder.decode(flags, whole.slice(position, body))[0])
            position += body
    except (WireError, struct.error) as error:
        raise DamagedCheckpointError(f"{file.name} holds records under way that cannot be read: {error}") from error
    return batches
