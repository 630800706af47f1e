"""Which vertex is uneven, and whose key groups are to blame."""

from __future__ import annotations

import pytest

from penstock.jobmanager import views
from penstock.jobmanager.skew import FEWEST_RECORDS, skew_hint, skew_of
from penstock.taskmanager.views import KeyGroupRecords


def vertex(*read: int, hot: dict[int, dict[int, int]] | None = None) -> views.VertexView:
    """`hot`: of a subtask, records of key groups."""

    def subtask(index: int, records: int) -> views.SubtaskView:
        groups = tuple(KeyGroupRecords(group, n) for group, n in (hot or {}).get(index, {}).items())
        details = views.SubtaskDetails(hottest_key_groups=groups)
        return views.SubtaskView(index, "RUNNING", 1, {}, views.SubtaskMetrics(records_in=records, details=details))

    subtasks = tuple(subtask(index, records) for index, records in enumerate(read))
    return views.VertexView("v", "totals", len(read), 128, "default", (), subtasks)


def test_a_subtask_that_reads_most_is_named_with_its_hottest_key_group() -> None:
    uneven = vertex(8_000, 1_000, 1_000, hot={0: {3: 7_500, 4: 200}, 2: {100: 300}})
    skew = skew_of(uneven)
    assert (skew.total, skew.busiest, skew.times_the_mean) == (10_000, 0, pytest.approx(2.4))
    assert [(hot.key_group, hot.subtask, hot.share) for hot in skew.key_groups] == [
        (3, 0, 0.75), (100, 2, 0.03), (4, 0, 0.02)
    ]  # fmt: skip
    assert skew_hint(uneven) == (
        "'totals': subtask 0 has read 80% of the records, 2.4 times the mean; 75% are of key group 3 (docs/skew.md)"
    )


@pytest.mark.parametrize(
    "read",
    [(0, 0), (5_000,), (6_000, 4_000), (4_000, 2_000), (FEWEST_RECORDS - 1, 0, 0), ()],
    ids=["nothing", "one subtask", "even", "twice the other", "few records", "no subtask"],
)
def test_no_hint_where_there_is_nothing_to_it(read: tuple[int, ...]) -> None:
    assert skew_hint(vertex(*read)) is None
