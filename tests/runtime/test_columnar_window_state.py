"""Vectorised windows: what their snapshots hold, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from penstock.runtime.aggregation import aggregates as agg
from penstock.runtime.aggregation.aggregates import Aggregate, RowAggregates
from penstock.runtime.batch import Batch
from penstock.runtime.elements import MAX_WATERMARK, Watermark
from penstock.runtime.graph.partitioning import Hash
from penstock.runtime.keys import KeyByColumns
from penstock.runtime.records.record_types import OPAQUE, SchemaType
from penstock.runtime.windows.assigners import TumblingEventTimeWindows
from penstock.runtime.windows.columnar_windows import ColumnarWindowOperator, window_result_type
from penstock.state.errors import AggregateError, IncompatibleStateError, PipelineError, RecordTypeError
from penstock.state.ids import CheckpointId
from penstock.state.snapshots import OperatorSnapshot
from penstock.taskmanager.exchange.partitioners import partitioner_for
from penstock.testing.harness import OperatorHarness, rescaled

TYPE = SchemaType(pa.schema([("name", pa.string()), ("code", pa.int32()), ("x", pa.int64())]))


def operator(
    *keys: str, size: int = 10, lateness: int = 0, aggregates: dict[str, Aggregate] | None = None
) -> ColumnarWindowOperator:
    wanted = aggregates or {"n": agg.count(), "total": agg.sum("x")}
    return ColumnarWindowOperator(KeyByColumns(keys), TumblingEventTimeWindows(size), wanted, TYPE, None, lateness)


def opened(window: ColumnarWindowOperator, *restored: OperatorSnapshot) -> OperatorHarness:
    return OperatorHarness(window, record_type=TYPE, restored=restored).open()


def push(harness: OperatorHarness, codes: Sequence[int], timestamp: int = 5) -> None:
    harness.push([{"name": None, "code": code, "x": code} for code in codes], [timestamp] * len(codes))


def names(snapshot: OperatorSnapshot) -> set[str]:
    return {file.name for handle in snapshot.keyed for file in handle.files.values()}


def test_a_snapshot_holds_what_changed_until_that_is_half_of_all() -> None:
    harness = opened(operator("code"))
    written = []
    for changed in (range(100), range(20), range(20), range(20), range(100, 103)):
        push(harness, changed)
        written.append(names(harness.snapshot()))
    base, first, second, third, fourth = written
    assert base < first < second
    assert (len(base), len(second)) == (1, 3)
    assert third.isdisjoint(second)
    assert len(third) == 1
    assert third < fourth


@pytest.mark.parametrize("aborted", [True, False])
def test_only_files_of_checkpoints_known_complete_are_referred_to(aborted: bool) -> None:
    harness = opened(operator("code"))
    push(harness, range(100))
    base = names(harness.snapshot())
    push(harness, range(3))
    lost = names(harness.finish(harness.begin_snapshot()))
    if aborted:
        harness.operator.checkpoint_aborted(CheckpointId(2))
    push(harness, range(2, 6))
    kept = harness.snapshot()
    assert names(kept) & lost == base
    assert all(file.shared for file in kept.keyed[0].files.values())
    restored = rescaled(lambda: operator("code"), [kept], 3)
    for subtask in restored:
        subtask.watermark(MAX_WATERMARK)
    counts = {row["code"]: row["n"] for subtask in restored for row in subtask.output}
    assert counts == {code: 1 + (code < 3) + (2 <= code < 6) for code in range(100)}


def test_what_a_later_checkpoint_may_have_subsumed_is_not_referred_to() -> None:
    """2 was taken before 1 was known to be complete; if 2 is complete by now, what only 1 refers to is deleted."""
    harness = opened(operator("code"))
    taken = []
    for number in (1, 2, 3, 4):
        push(harness, range(100 if number == 1 else 3))
        if number in (3, 4):
            harness.operator.checkpoint_completed(CheckpointId(1 if number == 3 else 3))
        taken.append(names(harness.finish(harness.begin_snapshot())))
    first, second, third, fourth = taken
    assert third.isdisjoint(first | second)
    assert third < fourth, "once it is known what became of them"


def test_closed_windows_leave_the_snapshot() -> None:
    harness = opened(operator("code"))
    push(harness, [1], 5)
    push(harness, [1], 15)
    harness.watermark(9)
    snapshot = harness.snapshot()
    restored = opened(operator("code"), snapshot)
    restored.watermark(MAX_WATERMARK)
    assert [row["window_start"] for row in restored.output] == [10]
    empty = restored.snapshot()
    assert empty.keyed == ()
    assert empty.watermark == MAX_WATERMARK


def test_a_snapshot_between_two_firing_windows_loses_and_repeats_nothing() -> None:
    harness = opened(operator("code", lateness=30))
    for timestamp in (5, 15, 25):
        push(harness, [1], timestamp)
    firing = harness.operator.process_watermark(Watermark(40))
    next(iter(firing))
    restored = opened(operator("code", lateness=30), harness.snapshot())
    restored.end_input()
    assert [row["window_start"] for row in [*harness.output, *restored.output]] == [0, 10, 20]


def test_keys_for_which_a_window_has_fired_are_not_given_out_again_at_another_parallelism() -> None:
    """Subtasks of an unaligned checkpoint may have come to different watermarks."""
    old = [
        OperatorHarness(operator("code", lateness=30), record_type=TYPE, subtask=i, parallelism=2).open()
        for i in (0, 1)
    ]
    split = partitioner_for(Hash(KeyByColumns(("code",))), 0, 1, 2, 128).split
    for subtask, part in split(
        Batch.of_rows(TYPE, [{"name": None, "code": code, "x": 1} for code in range(9)], [5] * 9)
    ):
        old[subtask].push_batch(part)
    old[0].watermark(12)
    old[1].watermark(5)
    fired = {row["code"] for row in old[0].output}
    assert 0 < len(fired) < 9
    (new,) = rescaled(lambda: operator("code", lateness=30), [each.snapshot() for each in old], 1, record_type=TYPE)
    changed = min(fired)
    push(new, [changed], 6)
    new.watermark(12)
    assert {row["code"]: row["n"] for row in new.output} == {
        code: 1 + (code == changed) for code in range(9) if code not in fired or code == changed
    }
    push(new, [changed], 7)
    new.end_input()
    assert [row["n"] for row in new.output if row["code"] == changed] == [2, 3]


# ---- what is refused


def test_a_sum_that_does_not_fit_names_operator_and_column() -> None:
    rows = [{"name": "a", "code": 1, "x": 2**62}] * 2
    with pytest.raises(AggregateError, match=r"operator 'operator'.*column 'x'.*64 bits"):
        opened(operator("name")).push(rows, [5, 5])
    function = RowAggregates({"total": agg.sum("x")})
    accumulator = function.add(rows[0], function.create_accumulator())
    with pytest.raises(AggregateError, match="column 'x'"):
        function.add(rows[1], accumulator)


def test_records_without_time_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"operator 'operator'.*no event timestamp"):
        opened(operator("name")).push([{"name": "a", "code": 1, "x": 1}])


def test_records_at_the_end_of_time_are_refused() -> None:
    rows = [{"name": "a", "code": code, "x": 1} for code in (1, 2)]
    with pytest.raises(RecordTypeError, match=r"operator 'operator'.*'code': 2.*last of all timestamps.*count windows"):
        opened(operator("name")).push(rows, [5, 2**63 - 1])


def test_a_changelog_is_refused() -> None:
    batch = Batch.of_rows(TYPE, [{"name": "a", "code": 1, "x": 1}], [5])
    batch.row_kinds = np.array([3], np.int8)
    with pytest.raises(PipelineError, match="changelog"):
        opened(operator("name")).push_batch(batch)


@pytest.mark.parametrize(
    ("keys", "aggregates", "part"),
    [
        (("nam",), {"n": agg.count()}, "no column 'nam'"),
        (("name",), {"n": agg.sum("z")}, "no column 'z'"),
        (("name",), {"n": agg.count("z")}, "no column 'z'"),
        (("name",), {"n": agg.sum("name")}, "sum needs numbers"),
        (("name",), {"n": agg.avg("name")}, "avg needs numbers"),
        (("name",), {"n": agg.min("name")}, "only be computed on rows"),
        (("name",), {"window_end": agg.count()}, "'window_end'"),
        (("name",), {"name": agg.count()}, "'name'"),
    ],
)
def test_refused_when_the_pipeline_is_built(keys: tuple[str, ...], aggregates: dict[str, Aggregate], part: str) -> None:
    with pytest.raises(PipelineError, match=part):
        ColumnarWindowOperator(KeyByColumns(keys), TumblingEventTimeWindows(10), aggregates, TYPE)


def test_a_stream_without_columns_is_refused() -> None:
    with pytest.raises(PipelineError, match="known type"):
        window_result_type(("a",), OPAQUE, {"n": agg.count()})


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (operator("code"), "key columns"),
        (operator("name", size=20), "windows"),
        (operator("name", aggregates={"least": agg.min("code")}), "no aggregate min:code"),
    ],
)
def test_state_of_another_operator_is_refused(other: ColumnarWindowOperator, part: str) -> None:
    harness = opened(operator("name"))
    push(harness, [1])
    with pytest.raises(IncompatibleStateError, match=part):
        opened(other, harness.snapshot())


def test_aggregates_may_be_renamed_and_left_out() -> None:
    harness = opened(operator("name"))
    push(harness, [3, 4])
    renamed = opened(operator("name", aggregates={"all": agg.sum("x")}), harness.snapshot())
    renamed.watermark(MAX_WATERMARK)
    assert renamed.output == [{"name": None, "window_start": 0, "window_end": 10, "all": 7}]


def test_times_have_extremes() -> None:
    schema = pa.schema([("k", pa.int64()), ("day", pa.date32()), ("at", pa.timestamp("us", "UTC")), ("ok", pa.bool_())])
    record_type = SchemaType(schema)
    days = [date(2013, 1, 2), None, date(1969, 12, 31)]
    rows = [
        {"k": 1, "day": day, "at": datetime(2013, 1, i + 1, tzinfo=UTC), "ok": i == 1} for i, day in enumerate(days)
    ]
    aggregates = {"first": agg.min("day"), "last": agg.max("at"), "all": agg.min("ok"), "oks": agg.sum("ok")}
    windows = ColumnarWindowOperator(KeyByColumns(["k"]), TumblingEventTimeWindows(10), aggregates, record_type)
    with OperatorHarness(windows, record_type=record_type) as harness:
        harness.push(rows, timestamps=[1, 2, 3])
        harness.end_input()
        assert harness.output == []
        harness.watermark(MAX_WATERMARK)
        assert harness.output == [
            {
                "k": 1,
                "window_start": 0,
                "window_end": 10,
                "first": date(1969, 12, 31),
                "last": datetime(2013, 1, 3, tzinfo=UTC),
                "all": False,
                "oks": 1,
            }
        ]
