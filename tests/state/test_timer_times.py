"""What a timer's timestamp may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.state.errors import StateError


def fired(timers: Any) -> list[tuple[int, Any, int]]:
    return list(iter(lambda: timers.pop_due((1 << 63) - 1), None))


@pytest.mark.parametrize("timestamp", [1 << 63, 1 << 70, -(1 << 63) - 1, -(1 << 70)])
def test_a_timestamp_has_64_bits(rig: Any, timestamp: int) -> None:
    """What cannot be written must not come in, or no checkpoint would succeed any more."""
    backend = rig.open()
    timers = backend.timers("event")
    timers.register_for("a", 5, 0)
    with pytest.raises(StateError, match=f"{timestamp} does not"):
        timers.register_for("a", timestamp, 0)
    with pytest.raises(StateError, match=f"{timestamp} does not"):
        timers.register_all(["a", "b"], timestamp, 0)
    timers.delete_for("a", timestamp, 0)
    restored = rig.open(rig.snapshot(backend))
    assert fired(restored.timers("event")) == fired(timers) == [(5, "a", 0)]


def test_a_timestamp_is_an_integer(rig: Any) -> None:
    """Numpy's are as good, also those that overflow when rows are made of them."""
    backend = rig.open()
    timers = backend.timers("event")
    for change in (timers.register_for, timers.delete_for):
        with pytest.raises(TypeError, match=r"int ms, not 1\.5"):
            change("a", 1.5, 0)
    with pytest.raises(TypeError, match=r"int ms, not 1\.5"):
        timers.register_all(["a"], 1.5, 0)
    timers.register_for("a", np.int64(7), 0)
    timers.register_all(["a", "b"], np.int64(7), 0)
    timers.register_for("a", np.int64(8), 0)
    timers.delete_for("a", np.int32(8), 0)
    assert fired(rig.open(rig.snapshot(backend)).timers("event")) == [(7, "a", 0), (7, "b", 0)]
