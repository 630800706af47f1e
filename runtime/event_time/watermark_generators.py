"""Watermark generators: one makes the watermark of one split (or of all that a subtask amid the pipeline receives).

Two kinds. The engine's own (SplitGenerator) take batches and cost nothing per record. A user's (WatermarkGenerator,
Flink's interface of that name) sees every record, and the clock every `pipeline.auto-watermark-interval`, also while
nothing comes; what it says to its output takes effect behind that very record: there the batch is cut (PROTOCOLS 20),
so it does not matter how records come in batches. UserGenerator runs such a one for the engine.

State. A generator's state goes into the checkpoint with its split (PROTOCOLS 12; Flink keeps none). Of a user's it is
what its `snapshot()` returns, to be handed to `restore(state)` of a new one that the supplier made; without these two
methods it is its attributes, which are put back into a new one. Either must be picklable: that is tried when the
generator is made. A strategy of the other kind begins afresh.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ...state.errors import PipelineError, RecordTypeError
from ...state.serialization.pickling import dumps
from ..batch import NO_TIMESTAMP, Batch
from ..elements import MAX_WATERMARK, MIN_WATERMARK

_PICKLED = b"pickled "
"""Before the state of a user's generator; that of the engine's own is a number."""


class WatermarkOutput(Protocol):
    """What a generator speaks to (Flink's WatermarkOutput)."""

    def emit_watermark(self, watermark: int) -> None:
        """No record with a timestamp (ms) up to this one will follow. One that is not newer changes nothing. The split
        is active again."""
        ...

    def mark_idle(self) -> None:
        """The split does not hold back the others, until a watermark is emitted or it is marked active."""
        ...

    def mark_active(self) -> None: ...


class WatermarkGenerator(ABC):
    """A user's (Flink's WatermarkGenerator). Each split has its own; how its state is kept: see above."""

    @abstractmethod
    def on_event(self, event: Any, timestamp: int, output: WatermarkOutput) -> None:
        """For every record. Who emits a watermark here is punctuated; it goes out behind the batch being read."""

    def on_periodic_emit(self, output: WatermarkOutput) -> None:
        """Every `pipeline.auto-watermark-interval`, also while no record comes; not while the split is idle by
        with_idleness."""


class Mark(NamedTuple):
    """How event time stands behind the first `rows` records of a batch."""

    rows: int
    watermark: int
    idle: bool


class SplitGenerator(ABC):
    """What the operators that make watermarks work with."""

    watermark: int = MIN_WATERMARK
    idle: bool = False
    """By what a user's generator says; silence of the split is not known here."""
    record: Any = None
    """Where a user's generator raised."""

    @abstractmethod
    def on_batch(self, batch: Batch) -> list[Mark]:
        """Take in a batch that has its timestamps already. Marks in order, one wherever event time changes."""

    def on_periodic_emit(self) -> None: ...

    @abstractmethod
    def snapshot(self) -> bytes: ...


class NoWatermarks(SplitGenerator):
    """Event time stands still until the input ends."""

    def on_batch(self, batch: Batch) -> list[Mark]:
        return []

    def snapshot(self) -> bytes:
        return b""


class BoundedOutOfOrderness(SplitGenerator):
    """The newest timestamp, less the bound, less 1 ms (records of that very timestamp may still come). Flink's
    BoundedOutOfOrdernessWatermarks; with bound 0 its AscendingTimestampsWatermarks."""

    def __init__(self, bound_ms: int, state: bytes = b"") -> None:
        self._bound_ms = bound_ms
        self._newest = NO_TIMESTAMP
        if state and not state.startswith(_PICKLED):
            self._seen(int(state))

    def on_batch(self, batch: Batch) -> list[Mark]:
        if len(batch) and self._seen(batch.newest_timestamp()):
            return [Mark(len(batch), self.watermark, False)]
        return []

    def snapshot(self) -> bytes:
        return b"%d" % self._newest

    def _seen(self, timestamp: int) -> bool:
        if timestamp <= self._newest:
            return False
        if timestamp > MAX_WATERMARK:
            raise RecordTypeError(f"the timestamp {timestamp} does not fit into 64 bits: timestamps are ms")
        self._newest = timestamp
        self.watermark = max(timestamp - self._bound_ms - 1, MIN_WATERMARK)
        return True


class _Output:
    """What was said last."""

    def __init__(self, watermark: int, idle: bool) -> None:
        self.watermark, self.idle = watermark, idle
        self.changed = False

    def emit_watermark(self, watermark: int) -> None:
        if type(watermark) is not int:
            raise RecordTypeError(f"emit_watermark takes int ms, not {watermark!r}, a {type(watermark).__name__}")
        if not MIN_WATERMARK <= watermark < MAX_WATERMARK:
            raise RecordTypeError(f"the watermark {watermark} is out of range: it is ms, and event time ends by itself")
        self.mark_active()
        if watermark > self.watermark:
            self.watermark, self.changed = watermark, True

    def mark_idle(self) -> None:
        self.idle, self.changed = True, True

    def mark_active(self) -> None:
        if self.idle:
            self.idle, self.changed = False, True


class UserGenerator(SplitGenerator):
    """A user's generator. What that raises passes through; `record` is then the one on which it did."""

    def __init__(self, supplier: Callable[[], Any], state: bytes = b"") -> None:
        """PipelineError: what the supplier gave is no generator, or cannot be saved."""
        self._user = supplier()
        if not callable(getattr(self._user, "on_event", None)):
            raise PipelineError(
                f"the supplier of for_generator gave {self._user!r}, which has no method on_event: it must give a new "
                "WatermarkGenerator whenever it is called"
            )
        self._periodic = getattr(self._user, "on_periodic_emit", None)
        self._own_state = hasattr(self._user, "snapshot") and hasattr(self._user, "restore")
        if not self._own_state and not hasattr(self._user, "__dict__"):
            raise PipelineError(f"{self._name} has slots: give it snapshot() and restore(state), to be saved")
        if state.startswith(_PICKLED):
            self._restore(state)
        self._output = _Output(self.watermark, self.idle)
        self.snapshot()

    @property
    def _name(self) -> str:
        return f"the watermark generator {type(self._user).__qualname__}"

    def on_batch(self, batch: Batch) -> list[Mark]:
        on_event, output, marks = self._user.on_event, self._output, []
        row = None
        try:
            for rows, (row, timestamp) in enumerate(zip(batch.rows(), batch.timestamp_list(), strict=True), 1):
                on_event(row, timestamp, output)
                if output.changed:
                    output.changed = False
                    marks.append(Mark(rows, output.watermark, output.idle))
        except Exception:
            self.record = row
            raise
        self._take()
        return marks

    def on_periodic_emit(self) -> None:
        if self._periodic is not None:
            self._periodic(self._output)
            self._take()

    def _take(self) -> None:
        self._output.changed = False
        self.watermark, self.idle = self._output.watermark, self._output.idle

    def snapshot(self) -> bytes:
        """PipelineError: it cannot be pickled. What the user's own snapshot() raises passes through."""
        state = self._user.snapshot() if self._own_state else vars(self._user)
        try:
            return _PICKLED + dumps((self.watermark, self.idle, self._own_state, state))
        except Exception as error:
            how = "what its snapshot() returned" if self._own_state else "its attributes"
            raise PipelineError(
                f"{self._name} cannot be saved with a checkpoint, because {how} cannot be pickled ({error}); give it "
                "snapshot() and restore(state) that leave that out"
            ) from error

    def _restore(self, state: bytes) -> None:
        self.watermark, self.idle, own_state, user_state = pickle.loads(state[len(_PICKLED) :])
        if own_state != self._own_state:  # another class now: its event time goes on, the rest begins afresh
            return
        if own_state:
            self._user.restore(user_state)
        else:
            vars(self._user).update(user_state)


class PunctuatedGenerator(WatermarkGenerator):
    """Asks a function(record, timestamp) for the watermark that is behind the record; None: there is none."""

    def __init__(self, function: Callable[[Any, int], int | None]) -> None:
        self._function = function

    def on_event(self, event: Any, timestamp: int, output: WatermarkOutput) -> None:
        watermark = self._function(event, timestamp)
        if watermark is not None:
            output.emit_watermark(watermark)

    def snapshot(self) -> None:
        """The function is the strategy's."""

    def restore(self, state: None) -> None: ...
