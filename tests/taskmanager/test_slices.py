"""Slices adapt to what a pass through the chain costs."""

from __future__ import annotations

from penstock.taskmanager.slices import FIRST_ROWS, LONG_NS, MAX_COLUMNAR_ROWS, MAX_ROWS, SliceSizer


def test_grows_while_passes_are_short_and_halves_when_they_are_long() -> None:
    sizer = SliceSizer(columnar=False)
    assert sizer.rows == FIRST_ROWS
    while sizer.rows < MAX_ROWS:
        sizer.took(sizer.rows, 1_000)
    sizer.took(sizer.rows, 1_000)
    assert sizer.rows == MAX_ROWS
    sizer.took(MAX_ROWS, LONG_NS + 1)
    sizer.took(MAX_ROWS, LONG_NS + 1)
    assert sizer.rows == MAX_ROWS // 2


def test_the_first_pass_can_be_too_long() -> None:
    sizer = SliceSizer(columnar=False)
    sizer.took(FIRST_ROWS, LONG_NS + 1)
    assert sizer.rows == FIRST_ROWS // 2


def test_a_thread_that_had_to_wait_for_a_processor_now_and_then_keeps_its_slices() -> None:
    sizer = SliceSizer(columnar=False)
    while sizer.rows < MAX_ROWS:
        sizer.took(sizer.rows, 1_000)
    for _ in range(10):
        sizer.took(MAX_ROWS, 3 * LONG_NS)
        sizer.took(300, 1_000_000)
    assert sizer.rows == MAX_ROWS


def test_a_short_rest_between_long_passes_does_not_hide_that_rows_are_slow() -> None:
    sizer = SliceSizer(columnar=False)
    while sizer.rows < MAX_ROWS:
        sizer.took(sizer.rows, 1_000)
    for _ in range(3):
        sizer.took(sizer.rows, 2 * LONG_NS)
        sizer.took(10, 2 * LONG_NS * 10 // MAX_ROWS)
    assert sizer.rows < MAX_ROWS


def test_never_below_one_row_and_a_short_rest_says_nothing() -> None:
    sizer = SliceSizer(columnar=False)
    sizer.took(3, 1_000)
    assert sizer.rows == FIRST_ROWS, "3 rows in no time do not show that more would fit"
    for _ in range(20):
        sizer.took(sizer.rows, 10 * LONG_NS)
    assert sizer.rows == 1


def test_columnar_chains_take_whole_batches() -> None:
    assert SliceSizer(columnar=True).rows == MAX_COLUMNAR_ROWS
