"""The operator around a pool of models: its workers are driven by hand, its clock is set."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, make_dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.runtime.elements import Watermark
from penstock.runtime.model_pool import DEATHS_PER_BATCH, FIRST_PAUSE_MS, NO_ROOM_MS, NO_ROOM_PAUSE_MS
from penstock.runtime.model_workers import CallEnded, NoRoomError
from penstock.runtime.operators import model_pool
from penstock.runtime.operators.model_pool import ModelPoolOperator, PoolSettings
from penstock.runtime.records.record_types import record_type_of
from penstock.state.errors import ConfigurationError, RecordTypeError, UserCodeError
from penstock.testing import AsyncHarness, ManualWorkers


@dataclass
class Row:
    n: int


ROW = record_type_of(Row)


class Doubled:
    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.set_column(0, "n", pa.array(batch.column(0).to_numpy() * 2))


class Kept:
    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class DropsOdd:
    """Another number of records than it is given; none of some."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any] | None:
        kept = batch["n"][batch["n"] % 2 == 0]
        return {"n": kept} if len(kept) else None


class Refuses:
    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("I do not like it")


class CannotLoad:
    def __init__(self) -> None:
        raise OSError("no weights")


class GivesText:
    def __call__(self, batch: pa.RecordBatch) -> str:
        return "no batch"


def operator(
    model: Any = Doubled, *, face: str = "arrow", batch_size: int = 4, capacity: int = 3, workers: int = 1,
    ordered: bool = True, timeout_ms: int = 1_000,
) -> ModelPoolOperator:  # fmt: skip
    options = PoolSettings(model, face, workers, batch_size, capacity, ordered, timeout_ms, start_timeout_ms=60_000)
    return ModelPoolOperator(options, ROW, ROW)


class Harness(AsyncHarness):
    def __init__(self, pool: ModelPoolOperator, **options: Any) -> None:
        self.workers = ManualWorkers()
        self.loaded: set[int] = set()
        self.died_of: Counter[int] = Counter()
        """Batches that a worker was killed over, by their numbers; these two for whoever draws what happens."""
        super().__init__(pool, record_type=Row, workers=self.workers, **options)

    def numbers(self, *numbers: int) -> None:
        self.push([Row(n) for n in numbers], list(numbers))

    def load(self, *workers: int) -> None:
        for worker in workers:
            self.workers.load(worker)
        self.go_on()

    def run_worker(self, worker: int) -> None:
        self.workers.run(worker)
        self.go_on()

    def kill(self, worker: int) -> None:
        self.workers.kill(worker)
        self.go_on()

    def rows_of(self) -> list[int]:
        return [row.n for row in self.rows]

    @property
    def results(self) -> list[Any]:
        """Numbers, and watermarks."""
        return [event.n if isinstance(event, Row) else event for event in self.events]


def test_batches_are_filled_before_they_are_sent() -> None:
    with Harness(operator()) as harness:
        harness.load(1)
        harness.numbers(1, 2, 3)
        assert harness.workers.sent == []
        harness.numbers(4, 5)
        assert harness.workers.sent == [[0, 4]]
        harness.run_worker(1)
        assert harness.workers.sent == [[0, 4]], "the next one may still grow"
        harness.advance_time(10)
        assert harness.workers.sent == [[0, 4], [1, 1]]
        harness.run_worker(1)
        assert harness.results == [2, 4, 6, 8, 10]
        assert not harness.waiting.unfinished


def test_while_all_workers_are_busy_a_batch_goes_on_growing() -> None:
    with Harness(operator()) as harness:
        harness.load(1)
        harness.numbers(1, 2, 3, 4)
        harness.numbers(5)
        harness.advance_time(500)
        harness.numbers(6, 7)
        assert harness.workers.sent == [[0, 4]]
        harness.run_worker(1)
        assert harness.workers.sent == [[0, 4], [1, 3]]


def test_a_large_batch_is_cut_and_what_is_held_is_limited() -> None:
    with Harness(operator()) as harness:
        harness.numbers(*range(8))
        assert not harness.waiting.full
        harness.numbers(*range(8, 14))
        assert harness.waiting.full, "three batches are held, and a part of one"
        harness.load(1)
        assert harness.workers.sent == [[0, 4], [1, 4]]
        harness.run_worker(1)
        assert not harness.waiting.full


def test_so_many_bytes_are_held_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_pool, "MOST_BYTES", 5 * 8)
    with Harness(operator(batch_size=100)) as harness:
        harness.numbers(1, 2, 3, 4)
        assert not harness.waiting.full
        harness.numbers(5, 6)
        assert harness.waiting.full
        harness.advance_time(10)
        harness.load(1)
        harness.run_worker(1)
        assert harness.results == [2, 4, 6, 8, 10, 12]
        assert not harness.waiting.full


def test_watermarks_stay_behind_the_records_before_them() -> None:
    with Harness(operator(workers=2)) as harness:
        harness.load(1, 2)
        harness.numbers(1, 2)
        harness.watermark(2)
        harness.numbers(3, 4, 5)
        harness.watermark(5)
        harness.advance_time(10)
        harness.run_worker(2)
        assert harness.results == []
        harness.run_worker(1)
        assert harness.results == [2, 4, 6, 8, Watermark(2), 10, Watermark(5)]


def test_without_order_results_come_as_they_are_done_but_not_past_a_watermark() -> None:
    with Harness(operator(workers=3, batch_size=1, ordered=False)) as harness:
        harness.load(1, 2, 3)
        harness.numbers(1, 2)
        harness.watermark(2)
        harness.numbers(3)
        harness.run_worker(3)
        harness.run_worker(2)
        assert harness.results == [4]
        harness.run_worker(1)
        assert harness.results == [4, 2, Watermark(2), 6]


def test_a_killed_worker_is_replaced_and_its_batches_are_sent_again() -> None:
    with Harness(operator()) as harness:
        harness.load(1)
        harness.numbers(*range(8))
        harness.run_worker(1)
        harness.kill(1)
        assert harness.workers.living == []
        harness.advance_time(FIRST_PAUSE_MS)
        assert harness.workers.started == [1, 2]
        harness.load(2)
        harness.run_worker(2)
        assert harness.workers.sent == [[0, 4], [1, 4], [1, 4]]
        assert harness.results == [2 * n for n in range(8)]
        assert harness.metrics.counter("model_workers_lost_total").get_count() == 1
        assert harness.metrics.counter("model_batches_sent_again_total").get_count() == 1


def test_the_answer_of_a_worker_that_is_given_up_does_not_count() -> None:
    with Harness(operator(workers=2)) as harness:
        harness.load(1, 2)
        harness.numbers(1, 2, 3, 4)
        ((number, columns),) = harness.workers.calls[1]
        harness.kill(1)
        harness.waiting._note(CallEnded(1, number, pa.Table.from_batches([columns])))  # type: ignore[attr-defined]
        harness.go_on()
        assert harness.results == []
        harness.numbers(*range(5, 9))
        for _ in range(2):
            harness.run_worker(2)
        assert harness.results == [2 * n for n in range(1, 9)]
        assert harness.waiting._pool.idle  # type: ignore[attr-defined]


def test_another_number_of_records_gets_the_newest_timestamp_of_the_batch() -> None:
    with Harness(operator(DropsOdd, face="numpy")) as harness:
        timestamps: list[int] = []
        harness.load(1)
        harness.waiting.output.emit = lambda batch: timestamps.extend(batch.timestamp_list())  # type: ignore[method-assign]
        harness.numbers(1, 2, 3, 4, 5, 7, 9, 11)
        harness.run_worker(1)
        harness.run_worker(1)
        assert timestamps == [4, 4]
        assert not harness.waiting.unfinished


def test_an_error_of_the_model_names_operator_and_first_record() -> None:
    with Harness(operator(Refuses)) as harness:
        harness.load(1)
        harness.numbers(7, 8, 9, 10)
        with pytest.raises(UserCodeError, match=r"'operator'.*I do not like it.*batch of 4 records.*Row\(n=7\)"):
            harness.run_worker(1)


def test_a_model_that_cannot_be_loaded_fails_at_once() -> None:
    with (
        Harness(operator(CannotLoad)) as harness,
        pytest.raises(UserCodeError, match=r"'operator'.*no weights.*its model cannot be loaded"),
    ):
        harness.load(1)


class NoRoom:
    def __init__(self) -> None:
        raise NoRoomError("no node has a GPU")


def test_what_no_node_has_is_hopeless_for_a_job_that_never_ran() -> None:
    with Harness(operator(NoRoom)) as harness:
        harness.load(1)
        harness.advance_time(NO_ROOM_PAUSE_MS)
        assert harness.workers.started == [1, 2], "a node may be about to join"
        harness.advance_time(NO_ROOM_MS)
        with pytest.raises(ConfigurationError, match="no node has a GPU"):
            harness.load(2)


def test_what_is_no_batch_is_refused() -> None:
    with Harness(operator(GivesText)) as harness:
        harness.load(1)
        harness.numbers(1, 2, 3, 4)
        with pytest.raises(RecordTypeError, match=r"'operator'.*returned a str"):
            harness.run_worker(1)


def test_a_model_that_does_not_answer_fails_the_operator() -> None:
    with Harness(operator()) as harness:
        harness.load(1)
        harness.numbers(1, 2, 3, 4)
        with pytest.raises(UserCodeError, match=r"no result within 1000 ms.*Row\(n=1\)"):
            harness.advance_time(1_000)


def test_the_time_of_a_batch_begins_when_its_worker_begins_with_it() -> None:
    with Harness(operator()) as harness:
        harness.load(1)
        harness.numbers(*range(8))
        assert harness.workers.sent == [[0, 4], [1, 4]]
        harness.advance_time(900)
        harness.run_worker(1)
        harness.advance_time(900)
        harness.run_worker(1)
        assert harness.results == [2 * n for n in range(8)]
        harness.numbers(*range(8))
        harness.advance_time(900)
        harness.run_worker(1)
        with pytest.raises(UserCodeError, match=r"no result within 1000 ms.*Row\(n=4\)"):
            harness.advance_time(1_000)


def test_a_field_may_be_called_as_the_timestamp_is_in_checkpoints() -> None:
    strange = make_dataclass("Strange", [("__timestamp", int)])
    kind = record_type_of(strange)
    pool = ModelPoolOperator(PoolSettings(Kept, "arrow", 1, 4, 3, True, 1_000, 60_000), kind, kind)
    workers = ManualWorkers()
    with AsyncHarness(pool, record_type=strange, workers=workers) as harness:
        harness.push([strange(1)], [7])
        behind = harness.snapshot()
    workers = ManualWorkers()
    with AsyncHarness(pool, record_type=strange, workers=workers, restored=[behind]) as harness:
        harness.go_on()
        workers.load(1)
        harness.advance_time(10)
        workers.run(1)
        harness.go_on()
        assert harness.rows == [strange(1)]


def test_workers_end_with_the_operator() -> None:
    with Harness(operator()) as harness:
        harness.load(1)
    assert harness.workers.closed


@pytest.mark.parametrize(("workers", "parallelism", "shares"), [(5, 2, [3, 2]), (2, 2, [1, 1]), (1, 1, [1])])
def test_subtasks_share_the_workers(workers: int, parallelism: int, shares: list[int]) -> None:
    found = []
    for subtask in range(parallelism):
        with Harness(operator(workers=workers), subtask=subtask, parallelism=parallelism) as harness:
            found.append(len(harness.workers.started))
    assert found == shares


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 3), st.integers(1, 3))
def test_whatever_dies_and_wherever_it_is_cut_every_result_comes_once(
    seed: int, ordered: bool, before: int, after: int
) -> None:
    """Workers answer and die at random, the job restarts in the middle at another parallelism."""
    draw = random.Random(seed)
    pool = operator(batch_size=draw.choice((1, 3, 7)), workers=3, ordered=ordered, timeout_ms=1_000_000)
    numbers = list(range(draw.randint(1, 60)))
    results: list[int] = []
    snapshots = []
    half = draw.randint(0, len(numbers))
    for subtask in range(before):
        with Harness(pool, subtask=subtask, parallelism=before) as harness:
            _push(harness, draw, numbers[:half][subtask::before])
            _work(harness, draw, draw.randint(0, 10))
            snapshots.append(harness.snapshot())
            results += harness.rows_of()
            assert not ordered or harness.rows_of() == sorted(harness.rows_of())
    for subtask in range(after):
        with Harness(pool, subtask=subtask, parallelism=after, restored=snapshots) as harness:
            _push(harness, draw, numbers[half:][subtask::after])
            while harness.waiting.unfinished:
                _work(harness, draw, 10)
            results += harness.rows_of()
    assert sorted(results) == [2 * n for n in numbers]


def _push(harness: Any, draw: random.Random, numbers: list[int]) -> None:
    while numbers:
        count = draw.randint(1, len(numbers))
        harness.numbers(*numbers[:count])
        harness.watermark(numbers[count - 1])
        numbers = numbers[count:]


def _work(harness: Any, draw: random.Random, steps: int) -> None:
    loaded: set[int] = harness.loaded
    for _ in range(steps):
        harness.advance_time(draw.choice((0, 10, 100)))
        living = harness.workers.living
        if not living:
            harness.advance_time(10_000 if draw.random() < 0.1 else 400)
            continue
        worker = draw.choice(living)
        if worker not in loaded:
            loaded.add(worker)
            harness.load(worker)
        elif draw.random() < 0.08:
            calls = harness.workers.calls[worker]
            harness.died_of.update(number for number, _ in calls[:1])
            if not calls or harness.died_of[calls[0][0]] < DEATHS_PER_BATCH:
                harness.kill(worker)
        elif harness.workers.calls[worker]:
            harness.run_worker(worker)
