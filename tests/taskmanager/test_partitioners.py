"""Partitioners: every record goes to exactly the targets it should, in order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.batch import Batch
from penstock.runtime.graph.partitioning import Broadcast, Custom, Forward, Global, Hash, Rebalance, Rescale
from penstock.runtime.keys import KeyByColumns, KeyByFunction
from penstock.runtime.records.record_types import SchemaType, record_type_of
from penstock.state.errors import PipelineError
from penstock.state.key_groups import key_group, subtask_of
from penstock.taskmanager.exchange.partitioners import connected, partitioner_for, rescale_targets

INTS = record_type_of(int)


def ints(values: list[int]) -> Batch:
    return Batch.of_rows(INTS, values, list(range(len(values))))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=200), st.integers(1, 7))
def test_hash_sends_each_key_to_the_owner_of_its_key_group(values: list[int], parallelism: int) -> None:
    partitioner = partitioner_for(Hash(KeyByFunction(lambda v: v)), 0, 1, parallelism, 128)
    parts = partitioner.split(ints(values))
    for target, part in parts:
        assert all(subtask_of(key_group(v, 128), parallelism, 128) == target for v in part.rows())
        assert [values[t] for t in part.timestamp_list()] == part.rows(), "timestamps stay with their records"
        assert part.timestamp_list() == sorted(part.timestamp_list()), "order is kept"
    assert sorted(v for _, part in parts for v in part.rows()) == sorted(values)


def test_hash_on_columns_and_on_rows_agree() -> None:
    columns = pa.record_batch({"user": [f"user-{i % 17}" for i in range(300)], "n": list(range(300))})
    record_type = SchemaType(columns.schema)
    by_columns = partitioner_for(Hash(KeyByColumns(("user",))), 0, 1, 4, 128)
    by_rows = partitioner_for(Hash(KeyByFunction(lambda row: row["user"])), 0, 1, 4, 128)
    split_columns = {t: p.rows() for t, p in by_columns.split(Batch.of_columns(record_type, columns))}
    split_rows = {t: p.rows() for t, p in by_rows.split(Batch.of_rows(record_type, columns.to_pylist()))}
    assert split_columns == split_rows
    assert len(split_rows) == 4


def test_rebalance_spreads_one_large_batch_and_many_small_ones() -> None:
    partitioner = partitioner_for(Rebalance(), 1, 2, 3, 128)
    assert [(t, len(p)) for t, p in partitioner.split(ints(list(range(9))))] == [(1, 3), (2, 3), (0, 3)]
    assert [t for _ in range(4) for t, _ in partitioner.split(ints([1]))] == [1, 2, 0, 1]


def test_broadcast_gives_every_target_its_own_rows() -> None:
    rows = Batch.of_rows(record_type_of(dict), [{"a": [1]}])
    (_, first), (_, second) = partitioner_for(Broadcast(), 0, 1, 2, 128).split(rows)
    first.rows()[0]["a"].append(2)
    assert second.rows() == [{"a": [1]}]


def test_global_and_forward() -> None:
    assert [t for t, _ in partitioner_for(Global(), 2, 3, 4, 128).split(ints([1, 2]))] == [0]
    assert [t for t, _ in partitioner_for(Forward(), 2, 3, 3, 128).split(ints([1, 2]))] == [2]


def test_custom_sends_where_the_function_says_and_refuses_what_is_no_subtask() -> None:
    even_odd = partitioner_for(Custom(lambda key, n: key % n, KeyByFunction(lambda v: v)), 0, 1, 2, 128)
    assert {t: p.rows() for t, p in even_odd.split(ints([1, 2, 3, 4]))} == {0: [2, 4], 1: [1, 3]}
    of_numpy = partitioner_for(Custom(lambda key, n: np.int64(key) % n, KeyByFunction(lambda v: v)), 0, 1, 2, 128)
    assert [t for t, _ in of_numpy.split(ints([1]))] == [1]
    wrong = partitioner_for(Custom(lambda key, n: n, KeyByFunction(lambda v: v)), 0, 1, 2, 128)
    with pytest.raises(PipelineError, match="gave 2, not a subtask number from 0 to 1"):
        wrong.split(ints([1]))


@given(st.integers(1, 12), st.integers(1, 12))
def test_rescale_reaches_every_target_from_as_few_sources_as_possible(sources: int, targets: int) -> None:
    reached = [rescale_targets(source, sources, targets) for source in range(sources)]
    assert sorted({t for r in reached for t in r}) == list(range(targets))
    assert all(len(r) >= 1 for r in reached)
    if sources <= targets:
        assert sum(map(len, reached)) == targets, "each target has one source"
    assert all(list(connected(Rescale(), s, sources, targets)) == list(r) for s, r in enumerate(reached))


def test_take_of_columns_keeps_timestamps_and_key_groups() -> None:
    batch = Batch.of_columns(INTS, pa.record_batch({"value": [10, 20, 30]}), np.array([1, 2, 3]))
    batch.key_groups = np.array([7, 8, 9], np.uint16)
    taken = batch.take(np.array([2, 0]))
    assert taken.rows() == [30, 10]
    assert taken.timestamp_list() == [3, 1]
    assert taken.key_groups is not None
    assert taken.key_groups.tolist() == [9, 7]
