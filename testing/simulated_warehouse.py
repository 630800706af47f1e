"""The world behind the simulated job's sinks: transactions that were prepared, and what has been committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..runtime.batch import Batch
from ..runtime.connector import Committer, Sink, SinkWriter, WriterContext
from ..state.errors import PenstockError
from ..state.ids import Attempt, CheckpointId
from .lists import ListSource


class CommitFailed(PenstockError):
    """The warehouse did not answer; it may have committed all, some or nothing."""


@dataclass(slots=True)
class Transaction:
    sink: str
    job_id: str
    attempt: Attempt
    rows: list[Any]


@dataclass
class Warehouse:
    """Where the job's output goes. `on_commit` is told every committable that is asked to become visible."""

    number: int
    """Its place among the warehouses of this process: sinks are pickled and find it by this."""
    random: Random
    pending: dict[str, Transaction] = field(default_factory=dict)
    visible: dict[str, list[Any]] = field(default_factory=dict)
    shown: dict[str, tuple[str, list[Any]]] = field(default_factory=dict)
    """Committed transaction -> its sink and rows."""
    aborted: dict[str, Transaction] = field(default_factory=dict)
    on_commit: list[Callable[[str], None]] = field(default_factory=list)
    failing: float = 0.0
    """How likely a commit fails, at every transaction of it."""
    sources: dict[str, ListSource] = field(default_factory=dict)
    """The same ones for every master of the job, so that each mark fails once."""

    def prepare(self, name: str, transaction: Transaction) -> None:
        self.pending[name] = transaction

    def commit(self, names: Sequence[str]) -> None:
        for name in names:
            self._may_fail()
            for observer in self.on_commit:
                observer(name)
            if name in self.shown:
                continue  # committers are idempotent
            if name not in self.pending:
                raise PenstockError(f"transaction {name} is {'aborted' if name in self.aborted else 'unknown'}")
            self.show(name)
        self._may_fail()

    def show(self, name: str) -> None:
        transaction = self.pending.pop(name)
        self.shown[name] = (transaction.sink, transaction.rows)
        self.visible.setdefault(transaction.sink, []).extend(transaction.rows)

    def abort_below(self, sink: str, job_id: str, attempt: Attempt) -> None:
        older = [n for n, t in self.pending.items() if (t.sink, t.job_id) == (sink, job_id) and t.attempt < attempt]
        for name in older:
            self.aborted[name] = self.pending.pop(name)

    def copy_as_of(self, shown: Iterable[str], pending: Iterable[str]) -> Warehouse:
        """What the world was like when that was committed, and that prepared. KeyError names what was not prepared."""
        transactions = {name: Transaction(sink, "", Attempt(0), rows) for name, (sink, rows) in self.shown.items()}
        transactions |= self.pending | self.aborted
        copy = open_warehouse(self.random)
        for name in pending:
            copy.prepare(name, transactions[name])
        for name in shown:
            copy.prepare(name, transactions[name])
            copy.show(name)
        return copy

    def _may_fail(self) -> None:
        if self.random.random() < self.failing:
            raise CommitFailed("the warehouse did not answer")


_warehouses: dict[int, Warehouse] = {}


def open_warehouse(random: Random) -> Warehouse:
    warehouse = Warehouse(len(_warehouses) and max(_warehouses) + 1, random)
    _warehouses[warehouse.number] = warehouse
    return warehouse


def close_warehouse(warehouse: Warehouse) -> None:
    _warehouses.pop(warehouse.number, None)


class WarehouseSink(Sink):
    """Transactional: a transaction per checkpoint and subtask."""

    def __init__(self, warehouse: int, name: str) -> None:
        self.warehouse = warehouse
        self.name = name

    def create_writer(self, context: WriterContext) -> SinkWriter:
        return _WarehouseWriter(self, context)

    def create_committer(self) -> Committer:
        return _WarehouseCommitter(self)

    def cleanup(self, job_id: str, attempt: Attempt) -> None:
        _warehouses[self.warehouse].abort_below(self.name, job_id, attempt)


class _WarehouseWriter(SinkWriter):
    def __init__(self, sink: WarehouseSink, context: WriterContext) -> None:
        self._sink = sink
        self._context = context
        self._rows: list[Any] = []

    def write(self, batch: Batch) -> None:
        self._rows.extend(batch.rows())

    def prepare_commit(self, checkpoint_id: CheckpointId) -> list[bytes]:
        if not self._rows:
            return []
        name = self._context.new_name()
        transaction = Transaction(self._sink.name, self._context.job_id, self._context.attempt, self._rows)
        _warehouses[self._sink.warehouse].prepare(name, transaction)
        self._rows = []
        return [name.encode()]


class _WarehouseCommitter(Committer):
    def __init__(self, sink: WarehouseSink) -> None:
        self._sink = sink

    def commit(self, committables: Sequence[bytes]) -> None:
        _warehouses[self._sink.warehouse].commit([committable.decode() for committable in committables])
