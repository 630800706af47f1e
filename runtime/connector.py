"""What a connector implements: sources (enumerator and reader over splits) and two-phase sinks (FLIP-27, FLIP-143).

Source. The *enumerator* runs once per job, beside the job master, and knows which splits exist; the *reader* runs in
every source subtask and turns its splits into batches. Splits are what is checkpointed: the readers' own splits with
their positions, and the enumerator's unassigned ones. A split is at any time either in the enumerator's snapshot or
in exactly one reader's, because assignments are held back between the enumerator's snapshot and the readers'
barriers (PROTOCOLS 9, jobmanager/splits.py).

Sink. The *writer* runs in every sink subtask. At a barrier it hands out committables: all output since the last
barrier, made durable but invisible. They are stored in the checkpoint; once its completion is logged, the
*committer*, beside the job master, makes them visible. commit is called at least once for every committable of every
logged checkpoint, also after restores, so it must be idempotent (PROTOCOLS 16).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..state.ids import Attempt, CheckpointId
from .batch import Batch
from .changelog import INSERTIONS, ChangelogMode
from .clock import Clock
from .metrics import MetricGroup
from .records.record_types import RecordType

S = TypeVar("S")
"""A connector's own split type: picklable, immutable."""


@dataclass(frozen=True, slots=True)
class ReaderContext:
    subtask: int
    parallelism: int
    clock: Clock
    metrics: MetricGroup
    wake: Callable[[], None]
    """Thread-safe: a reader that answered NOT_READY calls it when poll may give something again."""


@dataclass(frozen=True, slots=True)
class SplitBatch:
    """Records of one split, in its order."""

    split_id: str
    batch: Batch
    side: tuple[str, Batch] | None = None
    """Records for a side output (malformed lines, where the policy says so)."""


@dataclass(frozen=True, slots=True)
class NotReady:
    """Nothing now. The task polls again after `retry_at_ms` (wall clock), or when the reader wakes it."""

    retry_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SplitFinished:
    split_id: str


@dataclass(frozen=True, slots=True)
class NeedsSplit:
    """No split is left and more may come: the task asks the enumerator, once, and polls again after add_splits."""


@dataclass(frozen=True, slots=True)
class ReaderEnd:
    """All splits are read and no more will come."""


PollResult = SplitBatch | SplitFinished | NotReady | NeedsSplit | ReaderEnd


class SourceReader(ABC, Generic[S]):
    """Reads this subtask's splits. Never blocks for long (PROTOCOLS 22)."""

    @abstractmethod
    def add_splits(self, splits: Sequence[S]) -> None:
        """New or restored splits; a restored split carries its position."""

    @abstractmethod
    def no_more_splits(self) -> None: ...

    @abstractmethod
    def poll(self, max_rows: int) -> PollResult:
        """The next records, at most max_rows (vectorised readers may give what they decode at once, up to 64 k)."""

    @abstractmethod
    def snapshot(self) -> list[S]:
        """All unfinished splits with their positions: exactly what poll has handed out so far is behind them."""

    pauses_splits: bool = False
    """It can leave splits unread while it reads others: sources that are aligned pause split by split, otherwise as a
    whole."""

    def pause_splits(self, split_ids: frozenset[str]) -> None:
        """Asked of a reader that can: these splits, and no others (nor such as are added later), are not to be read
        from here on; what is decoded already is kept back. All others must be read, whatever there is of these."""
        raise NotImplementedError

    def lag_records(self) -> int | None:
        """Records of its splits that are there and that poll has not handed out yet; None: that cannot be known. Asked
        once a second; must not ask anybody else."""
        return None

    def checkpoint_completed(self, checkpoint_id: CheckpointId) -> None: ...

    def close(self) -> None: ...


class SplitEnumerator(ABC, Generic[S]):
    """Knows the splits of one source. Pure: called on the job master's thread, does no I/O except in discover().

    What it has given out never comes back to it: a split of a reader that restarts is given to that reader again
    (jobmanager/splits.py), or, at another parallelism, to others (jobmanager/restore.py)."""

    discovery_interval_ms: int | None = None
    """None: discover() runs once, when the whole job starts afresh or is restored."""

    @abstractmethod
    def discover(self) -> Any:
        """Look for splits (list a directory, ask a broker). Runs on a helper thread, must not touch own state."""

    @abstractmethod
    def discovered(self, found: Any) -> None:
        """Take the result of discover() in."""

    @abstractmethod
    def next_splits(self, subtask: int, parallelism: int) -> list[S] | None:
        """Splits for a reader that asks: empty = none now (ask again after discovery), None = never again."""

    @abstractmethod
    def snapshot(self) -> bytes: ...


class Source(ABC, Generic[S]):
    """A source as the user writes it down: picklable, no open files."""

    bounded: bool
    record_type: RecordType
    in_process: bool = False
    """Works only where the pipeline was built (data in a variable of the program): such a job goes to no cluster."""
    gives_timestamps: bool = True
    """Its records may have timestamps before a watermark strategy assigns any."""
    changelog_mode: ChangelogMode = ChangelogMode.INSERT_ONLY
    """Another one: its batches have row kinds."""

    @abstractmethod
    def create_enumerator(self, restored: bytes | None) -> SplitEnumerator[S]: ...

    @abstractmethod
    def create_reader(self, context: ReaderContext) -> SourceReader[S]: ...

    @abstractmethod
    def split_id(self, split: S) -> str: ...

    @abstractmethod
    def encode_split(self, split: S) -> bytes: ...

    @abstractmethod
    def decode_split(self, state: bytes) -> S: ...

    @property
    def side_tags(self) -> frozenset[str]:
        return frozenset()

    def validate(self) -> None:
        """Raise PipelineError for what cannot work, before submission (missing file, unreadable directory)."""


@dataclass(frozen=True, slots=True)
class WriterContext:
    job_id: str
    operator_id: str
    subtask: int
    parallelism: int
    attempt: Attempt
    clock: Clock
    metrics: MetricGroup
    new_name: Callable[[], str]
    changelog_mode: ChangelogMode = ChangelogMode.INSERT_ONLY
    """Of the stream that is written; another one: its batches may have row kinds."""


class SinkWriter(ABC):
    """Writes one subtask's records. What it writes stays invisible until committed."""

    @abstractmethod
    def write(self, batch: Batch) -> None: ...

    @abstractmethod
    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        """Make everything written so far durable and hand out its committables (synchronous, at the barrier)."""

    def between_batches(self) -> None: ...

    def next_timer(self) -> int | None:
        """Wall-clock ms at which between_batches wants to run even without input (rolling by age)."""
        return None

    def close(self) -> None:
        """Called also after failures: what is not yet handed out is dropped and cleaned up where possible."""


class Committer(ABC):
    """Makes committables visible. Runs on a helper thread of the job master; blocking is fine."""

    @abstractmethod
    def commit(self, committables: Sequence[bytes]) -> None:
        """Idempotent. Raises if something can neither be committed nor is committed already (data would be lost)."""

    def close(self) -> None: ...


class Sink(ABC):
    """A sink as the user writes it down: picklable."""

    delivery: str = "exactly-once"
    """'exactly-once' or 'at-least-once' (no committer)."""
    in_process: bool = False
    """As a source's."""
    accepted_modes: frozenset[ChangelogMode] = INSERTIONS
    """Which streams it can write: what only appends takes insertions, what overwrites by key takes upserts, too."""

    @abstractmethod
    def create_writer(self, context: WriterContext) -> SinkWriter: ...

    def create_committer(self) -> Committer | None:
        return None

    def cleanup(self, job_id: str, attempt: Attempt) -> None:
        """Before the writers of this attempt start: remove pending output of all attempts below it, where the connector
        can find it (PROTOCOLS 16), and of no other: a master that was replaced may still be at it when a later attempt
        writes already. Runs on a helper thread."""

    def validate(self, input_type: RecordType) -> None:
        """Raise PipelineError for what cannot work, before submission."""
