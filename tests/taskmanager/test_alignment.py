"""Barrier alignment: what blocks, what unblocks, what is dropped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.elements import Barrier
from penstock.state.ids import CheckpointId
from penstock.taskmanager.exchange.alignment import Alignment, BarrierAligner


def barrier(checkpoint: int, exactly_once: bool = True) -> Barrier:
    return Barrier(CheckpointId(checkpoint), 0, exactly_once)


def duration_ns(alignment: Alignment | None) -> int:
    assert alignment is not None
    return alignment.duration_ns


def test_blocks_until_the_last_channel_has_delivered() -> None:
    aligner = BarrierAligner(3)
    assert aligner.barrier(0, barrier(1), now_ns=100) is None
    assert aligner.barrier(2, barrier(1), now_ns=150) is None
    assert aligner.blocked == {0, 2}
    assert duration_ns(aligner.barrier(1, barrier(1), now_ns=400)) == 300
    assert aligner.blocked == set()


def test_what_is_consumed_between_the_first_barrier_and_the_last_is_counted() -> None:
    aligner = BarrierAligner(2)
    aligner.barrier(0, barrier(1), 100, consumed_bytes=1_000)
    assert aligner.barrier(1, barrier(1), 300, consumed_bytes=1_700) == Alignment(200, 700)


def test_one_channel_aligns_at_once() -> None:
    assert duration_ns(BarrierAligner(1).barrier(0, barrier(1), now_ns=5)) == 0


def test_at_least_once_never_blocks_and_may_align_two_at_once() -> None:
    aligner = BarrierAligner(2)
    assert aligner.barrier(0, barrier(1, exactly_once=False), 0) is None
    assert aligner.barrier(0, barrier(2, exactly_once=False), 1) is None
    assert aligner.blocked == set()
    assert duration_ns(aligner.barrier(1, barrier(1, exactly_once=False), 2)) == 2
    assert duration_ns(aligner.barrier(1, barrier(2, exactly_once=False), 3)) == 2


def test_an_abort_unblocks_and_later_barriers_of_it_are_dropped() -> None:
    aligner = BarrierAligner(2)
    aligner.barrier(0, barrier(1), 0)
    aligner.abort(CheckpointId(1))
    assert aligner.blocked == set()
    assert aligner.barrier(1, barrier(1), 1) is None
    assert aligner.blocked == set()
    aligner.barrier(1, barrier(2), 2)
    assert duration_ns(aligner.barrier(0, barrier(2), 3)) == 1


def test_an_abort_that_overtakes_the_barrier() -> None:
    aligner = BarrierAligner(2)
    aligner.abort(CheckpointId(1))
    assert aligner.barrier(0, barrier(1), 0) is None
    assert aligner.blocked == set()


def test_an_abort_leaves_an_older_checkpoint_alone() -> None:
    aligner = BarrierAligner(2)
    aligner.barrier(0, barrier(1), 0)
    aligner.abort(CheckpointId(2))
    assert aligner.blocked == {0}
    assert duration_ns(aligner.barrier(1, barrier(1), 5)) == 5


def test_a_newer_barrier_ends_an_older_alignment() -> None:
    aligner = BarrierAligner(3)
    aligner.barrier(0, barrier(1), 0)
    aligner.barrier(1, barrier(2), 1)
    assert aligner.blocked == {1}
    assert aligner.barrier(0, barrier(2), 2) is None
    assert aligner.barrier(2, barrier(1), 3) is None, "checkpoint 1 has ended"
    assert duration_ns(aligner.barrier(2, barrier(2), 4)) == 3


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_every_checkpoint_aligns_at_most_once_and_nothing_stays_blocked(
    channels: int, choices: list[tuple[int, bool]]
) -> None:
    """Each channel delivers barriers 1, 2, 3 ... in order, some checkpoints are aborted in between."""
    aligner = BarrierAligner(channels)
    queues = [list(range(1, 8)) for _ in range(channels)]
    aligned: list[int] = []
    newest_abort = 0
    for choice, abort in choices:
        channel = choice % channels
        if abort:
            newest_abort = min(newest_abort + 1, 7)
            aligner.abort(CheckpointId(newest_abort))
        elif channel not in aligner.blocked and queues[channel]:
            checkpoint = queues[channel].pop(0)
            if aligner.barrier(channel, barrier(checkpoint), 0) is not None:
                aligned.append(checkpoint)
    for channel, queue in enumerate(queues):
        while queue and channel not in aligner.blocked:
            checkpoint = queue.pop(0)
            if aligner.barrier(channel, barrier(checkpoint), 0) is not None:
                aligned.append(checkpoint)
    assert aligned == sorted(set(aligned))
    if not any(queues):
        assert aligner.blocked == set()
