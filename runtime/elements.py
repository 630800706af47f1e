"""Stream elements: everything that travels on a channel beside batches.

| element         | from      | meaning                                                                      |
|-----------------|-----------|------------------------------------------------------------------------------|
| Batch           | any       | n records (batch.py)                                                         |
| Watermark       | sources   | no record with a timestamp <= this one will follow on this channel, save late |
| WatermarkStatus | sources   | idle: this channel does not hold back the watermark; active: it does again   |
| Barrier         | sources   | what came before belongs to the checkpoint, what follows does not            |
| LatencyMarker   | sources   | a time stamp that measures the way through the pipeline                      |
| EndOfInput      | sources   | no records will follow; barriers still will, until the job finishes          |
| InFlightEnd     | any       | what was under way when the restored checkpoint was taken has been sent      |

Data may overtake a watermark, a watermark never overtakes data (PROTOCOLS 21). Nothing overtakes a barrier. A barrier
overtakes nothing, unless it is unaligned: then it overtakes what waits for credit or to be consumed (PROTOCOLS 13).
End of input overtakes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..state.ids import Attempt, CheckpointId
from .batch import Batch

MIN_WATERMARK = -(2**63)
"""Before the first watermark. Equal to NO_TIMESTAMP: nothing is late."""
MAX_WATERMARK = 2**63 - 1
"""Event time is over: sent at the end of a bounded input, so that every window fires."""


@dataclass(frozen=True, slots=True)
class Watermark:
    timestamp: int
    """ms since the epoch."""


@dataclass(frozen=True, slots=True)
class WatermarkStatus:
    idle: bool


@dataclass(frozen=True, slots=True)
class Savepoint:
    """The checkpoint is a savepoint: canonical, whole, and the user's own."""

    path: str
    """Its directory (state/savepoints/savepoint_store.py)."""
    stop: bool = False
    """The job ends with it: sources give out nothing behind the barrier, unless it is aborted."""
    drain: bool = False
    """Event time ends before the barrier, so that every window fires."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """Divides the records of a channel: those before it belong to the checkpoint."""

    checkpoint_id: CheckpointId
    triggered_at_ms: int
    exactly_once: bool = True
    """False: at-least-once, gates do not block while they align."""
    persist: bool = True
    """False: no state is kept (checkpointing is off); the barrier only carries sinks' committables at the end."""
    attempt: Attempt = Attempt(0)  # noqa: RUF009 - an int
    """The checkpoint's, which names its files: newer than that of a subtask whose region has not been restarted."""
    unaligned_after_ms: int | None = None
    """So long after its trigger the barrier may overtake data; None: never."""
    savepoint: Savepoint | None = None

    def due_ms(self) -> int | None:
        """From when on it may overtake data, ms since the epoch. Clocks of machines differ: it is only liveness."""
        return None if self.unaligned_after_ms is None else self.triggered_at_ms + self.unaligned_after_ms


@dataclass(frozen=True, slots=True)
class LatencyMarker:
    created_at_ms: int
    source: str


@dataclass(frozen=True, slots=True)
class EndOfInput:
    pass


@dataclass(frozen=True, slots=True)
class InFlightEnd:
    pass


Element = Batch | Watermark | WatermarkStatus | Barrier | LatencyMarker | EndOfInput | InFlightEnd
