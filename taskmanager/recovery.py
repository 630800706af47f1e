"""What was under way in the restored checkpoint is sent again by a subtask before it does anything else (in_flight.py).

Batches of an edge go to whoever takes that edge's batches now: its writer, or an operator that is chained to it by now.
What a source had read and not processed is given to it as the first thing that it has read. At the end every channel is
told so (InFlightEnd). A checkpoint that is taken meanwhile holds what has not been sent yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..runtime.batch import Batch
from ..runtime.elements import InFlightEnd
from ..state.errors import ProtocolError
from .chain import Consumer, OperatorChain
from .exchange.gate import InputGate
from .exchange.writers import Writers
from .in_flight import InFlight, Place, Recovered
from .slices import MAX_ROWS
from .source_input import SourceInput


class Recovery:
    """Of one subtask."""

    def __init__(self, chain: OperatorChain, source: InputGate | SourceInput, writers: Writers, *, ends: bool) -> None:
        """`ends`: receivers wait for InFlightEnd."""
        self._chain = chain
        self._input = source
        self._writers = writers
        self._ends = ends
        self._queue: deque[tuple[Consumer, Place, Batch]] = deque()

    def add(self, found: Iterable[Recovered]) -> None:
        for recovered in found:
            place = recovered.place
            if not place.edge and isinstance(self._input, SourceInput):
                self._input.recover(recovered.batches)
                continue
            consumer = self._chain.feeder(place.edge)
            if consumer is None:
                raise ProtocolError(f"records were under way on '{place.edge}', which does not begin here")
            pieces = [b.slice(at, MAX_ROWS) for b in recovered.batches for at in range(0, len(b), MAX_ROWS)]
            self._queue.extend((consumer, place, piece) for piece in pieces)

    def start(self) -> None:
        if not self._queue:
            self._end()

    def __bool__(self) -> bool:
        """There is something left to send."""
        return bool(self._queue)

    def send(self) -> None:
        """The next piece."""
        consumer, _place, batch = self._queue.popleft()
        consumer(batch)
        self._chain.between_batches()
        if not self._queue:
            self._end()

    def write_down(self, in_flight: InFlight) -> None:
        """What is left, for a checkpoint that is taken now."""
        for _consumer, place, batch in self._queue:
            in_flight.unaligned = True
            in_flight.add(place, batch)

    def _end(self) -> None:
        if self._ends:
            self._writers.control(InFlightEnd())
