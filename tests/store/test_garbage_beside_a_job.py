"""`gc` runs beside a job, op by op between the job's own: what the job needs is never taken (PROTOCOLS 4, 7)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from penstock.state.columns.accumulator_spec import AccumulatorSpec
from penstock.state.columns.column_snapshots import ColumnLayout, ColumnSnapshots
from penstock.state.columns.column_store import ColumnStore
from penstock.state.errors import ObjectNotFound
from penstock.state.ids import Attempt, CheckpointId, Generation, JobId, OperatorId, VertexId
from penstock.state.key_groups import KeyGroupRange
from penstock.state.snapshots import CheckpointMetadata, OperatorSnapshot, SubtaskSnapshot
from penstock.state.store.checkpoint_store import CheckpointStore, Uploads, objects_of
from penstock.state.store.garbage import delete_garbage, find_garbage
from penstock.state.store.job_log import AttemptStarted, CheckpointCompleted, JobLog, LeaderElected, SubsumedUpTo
from penstock.state.store.objects import List, Program, StoreOp
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.store.retained_checkpoints import RetainedCheckpoints

LIVE = JobId("live")
LATER_MS = 1 << 60
SUM = AccumulatorSpec("sum", "x", "int64")
LAYOUT = ColumnLayout("windows", (pa.int64(),), (SUM,))


class Job:
    """One subtask that survives all failovers, by region, with its real decisions about files; what it is told of its
    checkpoints is under way for as long as the dice say. And the log, the retained files and sweeps of its master."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.names = itertools.count(1)
        self.log = JobLog(LIVE, self._new_name)
        self.store = CheckpointStore(LIVE, self._new_name)
        self.retained = RetainedCheckpoints(LIVE)
        self.metadata: dict[CheckpointId, CheckpointMetadata] = {}
        self.rows = ColumnStore(LAYOUT.key_types, LAYOUT.specs)
        self.slot = ColumnSnapshots(LAYOUT, KeyGroupRange(0, 127), 128, self._uploads)
        self.subsumed = CheckpointId(0)
        """Or about to be: the entry may be in the log."""
        self.untold: list[Callable[[], None]] = []

    def _new_name(self) -> str:
        return f"n{next(self.names)}"

    def _uploads(self, checkpoint_id: CheckpointId) -> Uploads:
        return self.store.uploads(self.log.state.attempt, checkpoint_id)

    def run(self) -> Program[None]:
        yield from self.log.append(LeaderElected(Generation(1)))
        yield from self.log.append_as_leader(AttemptStarted(Attempt(1)))
        for number in range(1, 61):
            if self.dice.random() < 0.5:
                yield from self.fail_over()
            yield from self.checkpoint(CheckpointId(number))

    def fail_over(self) -> Program[None]:
        attempt = Attempt(self.log.state.attempt + 1)
        yield from self.log.append_as_leader(AttemptStarted(attempt))
        retained = [self.metadata[completed.checkpoint_id] for completed in self.log.state.completed]
        yield from self.store.sweep(attempt, retained)

    def checkpoint(self, number: CheckpointId) -> Program[None]:
        self.retained.begin(number)
        superfluous = [c.checkpoint_id for c in self.log.state.completed[:-1]]
        self.subsumed = max([self.subsumed, *superfluous])
        if superfluous:  # of the last completion, while this one is under way already
            yield from self.log.append_as_leader(SubsumedUpTo(superfluous[-1]))
            yield from self.store.delete(self.retained.subsume(superfluous[-1]))
        while self.untold and self.dice.random() < 0.4:
            self.untold.pop(0)()
        keys = self.dice.sample(range(40), self.dice.choice((2, 30)))
        self.rows.update([pa.array(keys)], {"x": pa.array(keys)}, self.slot.epoch)
        keyed = yield from self.slot.freeze(number, {0: self.rows}, ())
        subtask = SubtaskSnapshot(VertexId("v"), 0, (OperatorSnapshot(OperatorId("op"), keyed),))
        if self.retained.claim(number, [subtask]):
            self.untold.append(partial(self.slot.checkpoint_aborted, number))
            yield from self.store.delete(self.retained.abort(number))
            return
        attempt = self.log.state.attempt
        metadata = CheckpointMetadata("live", "name", attempt, number, 0, 0, {"v": 1}, {"v": 128}, (subtask,))
        name = yield from self.store.write_metadata(metadata)
        yield from self.log.append_as_leader(CheckpointCompleted(attempt, number, name))
        self.metadata[number] = metadata
        self.retained.complete(metadata)
        self.untold.append(partial(self.slot.checkpoint_completed, number))

    def needed(self) -> set[str]:
        ids = [c.checkpoint_id for c in self.log.state.completed if c.checkpoint_id > self.subsumed]
        return {name for checkpoint_id in ids for name in objects_of(self.metadata[checkpoint_id])}


class Driven:
    """A program, op by op."""

    def __init__(self, program: Program[Any], store: ObstoreObjects) -> None:
        self.program, self.store, self.answer, self.over = program, store, None, False

    def step(self) -> None:
        try:
            self.answer = self._execute(self.program.send(self.answer))
        except StopIteration:
            self.over = True

    def _execute(self, op: StoreOp) -> Any:
        try:
            return self.store.execute(op)
        except ObjectNotFound as missing:
            try:
                return self._execute(self.program.throw(missing))
            except StopIteration:
                self.over = True


def collect() -> Program[int]:
    """Whatever its age."""
    return (yield from delete_garbage((yield from find_garbage(LATER_MS, 0))))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_between_its_look_and_its_deletions_a_live_job_keeps_what_it_needs(seed: int) -> None:
    store, dice = ObstoreObjects("memory://"), random.Random(seed)
    job = Job(dice)
    pace = dice.choice((0.1, 0.3, 0.5))
    running, collecting = Driven(job.run(), store), Driven(collect(), store)
    while not running.over:
        chosen = running if dice.random() < pace else collecting
        chosen.step()
        assert job.needed() <= set(store.execute(List("")))
        if collecting.over:
            collecting = Driven(collect(), store)
