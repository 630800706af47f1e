"""The operator interface: what a subtask runs.

One thread (the slot's) calls everything here, so operators need no locks. The life of an operator:

    open(context, restored)                       state is there, nothing has arrived
    process_batch / process_watermark / ...       any number, in the order of the input
    advance_processing_time                       whenever the clock passes next_processing_timer()
    end_input                                     once all inputs have ended (maybe again after a restore)
    prepare_barrier -> snapshot                   at every checkpoint; snapshot's program finishes on a helper thread
    checkpoint_completed / checkpoint_aborted     later, out of order at worst, never both
    close                                         always, also after a failure

Work that may take long (firing a million timers) is a generator: it yields at points where it may be interrupted,
and the task looks at outputs, mail and the clock there (PROTOCOLS 19). Batches are cut into short slices before
they get here, so process_batch simply returns.

end_input emits only what is in state and removes it from there, so that it can be answered again after a restore
without emitting twice (PROTOCOLS 10).
"""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from ...state.errors import StateError
from ...state.ids import Attempt, CheckpointId, OperatorId
from ...state.operator_state import RestoredElements
from ...state.snapshots import KeyedHandle, OperatorSnapshot, SplitSnapshot
from ...state.statistics import StateStatistics
from ...state.store.objects import Program
from ..batch import Batch
from ..calls import MakeCalls, no_calls
from ..changelog import INSERTIONS, ChangelogMode, kept_mode
from ..clock import Clock
from ..elements import MIN_WATERMARK, Watermark, WatermarkStatus
from ..model_workers import MakeWorkers, no_workers
from ..records.record_types import RecordType

if TYPE_CHECKING:
    from ...state.backend import KeyedStateBackend
    from ...state.rows.cell_reads import CellRead, CellRows
    from ...state.store.checkpoint_store import Uploads
    from ..metrics import MetricGroup
    from ..operator_state import OperatorState


class Output(Protocol):
    """Where an operator's results go: the next operators of the chain, or the subtask's writers."""

    def emit(self, batch: Batch) -> None: ...

    def emit_side(self, tag: str, batch: Batch) -> None:
        """To the side output of that name; dropped if nothing consumes it."""
        ...

    def emit_watermark(self, watermark: Watermark) -> None:
        """Only for operators that make watermarks. Takes effect after the slice that is being processed."""
        ...

    def emit_status(self, status: WatermarkStatus) -> None: ...

    def emit_at_once(self, element: Watermark | WatermarkStatus) -> None:
        """Of an operator whose next records in the same slice follow it. What is due then fires here and now, and
        cannot be interrupted: not for what comes with every slice, nor in open."""
        ...


@dataclass(slots=True)
class RestoredState:
    """What the last checkpoint holds for one operator of one new subtask, already cut to its key groups.

    `keyed_files` maps every keyed handle to the local directory its files were fetched into.
    `operator_states` are the inline states of all old subtasks this one takes over (one when the parallelism is
    unchanged; each old state is given to exactly one new subtask).
    """

    keyed: Sequence[tuple[KeyedHandle, Path]] = ()
    operator_states: Sequence[bytes] = ()
    splits: Sequence[SplitSnapshot] = ()
    watermark: int = MIN_WATERMARK
    idle: bool = False
    lists: Sequence[RestoredElements] = ()
    """Operator state, already cut to this subtask's elements."""
    found: bool = False
    """The checkpoint knows the operator, even if it held nothing."""


@dataclass(slots=True)
class OperatorContext:
    """What an operator is given when it is opened."""

    operator_id: OperatorId
    operator_name: str
    task_name: str
    subtask: int
    parallelism: int
    max_parallelism: int
    attempt: Attempt
    output: Output
    clock: Clock
    metrics: MetricGroup
    keyed_backend: Callable[[], KeyedStateBackend]
    """Creates this operator's keyed state, empty or restored; call it at most once, in open."""
    new_name: Callable[[], str]
    """Unique names for files and objects: uuid4 hex, or seeded in the simulator."""
    work_directory: Path
    """Own directory of this subtask attempt for temporary files; removed afterwards."""
    uploads: Callable[[CheckpointId], Uploads]
    """Where a snapshot's files go; for operators that keep their state themselves (the column store)."""
    operator_state: OperatorState
    """Lists and broadcast state; the chain takes their snapshots (take_snapshot)."""
    job_id: str = ""
    job_name: str = ""
    job_parameters: dict[str, str] = field(default_factory=dict)
    calls: MakeCalls = no_calls
    """Users' functions beside the slot's thread."""
    workers: MakeWorkers = no_workers
    """Users' models beside it."""
    buffer_timeout_ms: int = 10
    """How long records may wait for others to go along with."""
    request_input: Callable[[], None] = lambda: None
    """Sources: ask the enumerator for a split."""
    report_watermark: Callable[[str, int | None], None] = lambda group, watermark: None
    """Sources that are aligned: group, and their watermark; None: they hold nobody back."""
    auto_watermark_interval_ms: int = 200
    """How often users' watermark generators are asked by the clock; 0: never."""


class Operator(ABC):
    """One operator instance of one subtask. Built by the API, pickled into the job graph, opened in a slot.

    Class attributes tell the graph what it needs to know before anything runs.
    """

    face: str = "rows"
    """'columns' (vectorised), 'rows' (Python functions), shown by describe() and deciding the slice size."""
    chainable: bool = True
    stateful: bool = False
    own_watermarks: bool = False
    """Makes watermarks itself; those of its input end here."""
    side_tags: frozenset[str] = frozenset()
    most_subtasks: int | None = None
    """More than these would have nothing to do."""
    note: str = ""
    """What else describe() says of it."""
    output_type: RecordType
    batch_mode: bool = False
    """Only final results: when the last watermark comes, which is the only one. Timers of the clock fire with it."""

    accepted_modes: frozenset[ChangelogMode] = INSERTIONS
    """Which streams it can read: insertions only, unless it knows row kinds (changelog.py)."""

    context: OperatorContext
    output: Output

    def accepts(self, input_index: int) -> frozenset[ChangelogMode]:
        return self.accepted_modes

    def result_mode(self, inputs: Sequence[ChangelogMode]) -> ChangelogMode:
        """Of its results, for inputs that it accepts: they have the kinds of its records, unless it says otherwise."""
        return kept_mode(inputs)

    def way_out(self, mode: ChangelogMode) -> str:
        """What to do about a stream that it does not accept."""
        return "with_row_kinds() makes the kinds a part of the records, only_inserts() drops all but insertions"

    def in_batch_mode(self) -> Operator:
        """What runs in the place of this prototype in a job of batch mode (docs/batch-mode.md)."""
        return self.flagged_for_batch_mode()

    def flagged_for_batch_mode(self) -> Self:
        operator = copy.copy(self)
        operator.batch_mode = True
        return operator

    def open(self, context: OperatorContext, restored: RestoredState) -> None:
        self.context = context
        self.output = context.output

    def process_batch(self, batch: Batch, input_index: int) -> None:
        raise NotImplementedError

    def process_watermark(self, watermark: Watermark) -> Iterator[None]:
        """Fire what is due up to the watermark. The chain forwards the watermark when the iterator is exhausted."""
        return iter(())

    def process_status(self, status: WatermarkStatus) -> None:
        """Emit what must go before it: behind idleness nobody waits for this subtask's watermark."""

    def next_processing_timer(self) -> int | None:
        """Wall-clock ms of the earliest processing-time timer, None when there is none."""
        return None

    def advance_processing_time(self, now_ms: int) -> Iterator[None]:
        return iter(())

    def end_input(self) -> Iterator[None]:
        return iter(())

    def between_batches(self) -> None:
        """Housekeeping in small bites, called after every slice (trickling state writes, rolling files by age)."""

    def prepare_barrier(self, checkpoint_id: CheckpointId) -> None:
        """Emit what must go before the barrier."""

    def snapshot(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot] | None:
        """Freeze the state now (synchronous part); the returned program writes it out on a helper thread.

        None: the operator has no state.
        """
        return None

    def savepoint(self, checkpoint_id: CheckpointId) -> Program[OperatorSnapshot] | None:
        """Like snapshot, in a form that does not depend on the state backend (Flink's canonical savepoints)."""
        return self.snapshot(checkpoint_id)

    def take_snapshot(self, checkpoint: CheckpointId, *, canonical: bool = False) -> Program[OperatorSnapshot] | None:
        """`snapshot`, with the operator state that users' code keeps. What it puts there, and into keyed state, when
        the barrier is here, belongs to the checkpoint; so it comes first."""
        state = self.context.operator_state
        freeze = self.savepoint if canonical else self.snapshot
        if state.is_empty():
            return freeze(checkpoint)
        state.prepare(checkpoint)
        program = freeze(checkpoint) or immediate(OperatorSnapshot(self.context.operator_id))
        return state.added_to(program, checkpoint)

    def state_statistics(self) -> StateStatistics | None:
        """How much it remembers per key; asked once a second, while it is open. None: nothing."""
        return None

    def read_state(self, asked: CellRead) -> CellRows:
        """What one key has in a state now, for whoever asks from outside. StateError, KeyTypeError: that cannot be
        answered."""
        how = "keeps its state in columns: a savepoint shows it (penstock state cat)"
        if self.state_statistics() is None:
            how = "keeps nothing by key"
        raise StateError(f"operator '{self.context.operator_name}' {how}")

    def checkpoint_completed(self, checkpoint_id: CheckpointId) -> None: ...

    def checkpoint_aborted(self, checkpoint_id: CheckpointId) -> None: ...

    def close(self) -> None: ...


class WaitingOperator(Operator):
    """One that waits for answers from outside of the slot's thread, and meanwhile holds records back, and the
    watermarks and statuses behind them: the chain forwards neither, the operator emits them when it is their turn.

    Answers come as mail, which only notes them. The task calls `advance` when `next_due_ns` has come, which it looks at
    after all mail; never while its outputs are blocked. While the operator is `full` the chain gets no input, while it
    is `unfinished` the input does not end."""

    @property
    def full(self) -> bool:
        """It takes no more for now. What comes all the same, it takes."""
        raise NotImplementedError

    @property
    def unfinished(self) -> bool:
        """It holds something back. It must come to an end by itself."""
        raise NotImplementedError

    def next_due_ns(self) -> int | None:
        """Monotonic; 0: now. None: not before something comes."""
        raise NotImplementedError

    def advance(self, now_ns: int) -> None:
        """Do what is due: take answers, give out what may go out."""
        raise NotImplementedError

    def process_status(self, status: WatermarkStatus) -> None:
        raise NotImplementedError


Firing = Generator[None, None, None]


def drained(work: Iterable[None]) -> None:
    """Run interruptible work to its end at once (tests, simple operators)."""
    for _ in work:
        pass


def immediate(snapshot: OperatorSnapshot) -> Program[OperatorSnapshot]:
    """A program for a snapshot that needs no object store."""
    return snapshot
    yield  # makes this a generator


__all__ = [
    "Any",
    "Firing",
    "Operator",
    "OperatorContext",
    "Output",
    "RestoredState",
    "WaitingOperator",
    "drained",
    "immediate",
]
