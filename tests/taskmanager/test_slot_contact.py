"""Whom a slot's process hears from, by a clock that the test sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from penstock.runtime.clock import SystemClock
from penstock.state.ids import Generation, JobId
from penstock.taskmanager.processes import slot_process
from penstock.taskmanager.processes.contact import ContactState
from penstock.taskmanager.processes.leases import JobLease
from penstock.taskmanager.processes.slot_process import EXIT_LOST

Node = Any
"""Of conftest.py."""
DEADLINE_S = 60.0


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline_s, never = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        never.wait(0.01)


class SetClock(SystemClock):
    """Jumps ahead where the test says so."""

    ahead_ns = 0

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() + self.ahead_ns


def test_a_blank_slot_that_its_task_manager_forgot_ends(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_process, "WATCH_S", 0.02)
    clock = SetClock()
    slot = node.slot(clock)
    for _ in range(3):
        clock.ahead_ns += 290 * 10**9
        assert slot.status().contact_ms == 0
    assert node.exits == []
    clock.ahead_ns += 301 * 10**9
    wait_for(lambda: node.exits == [EXIT_LOST], "the end of the process")


def test_a_slot_that_installs_code_for_long_is_not_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_process, "WATCH_S", 0.02)
    clock, looks = SetClock(), 0
    slot = node.slot(clock)
    tick = slot._contact.tick

    def counted(now_ms: int) -> ContactState | None:
        nonlocal looks
        looks += 1
        entered: ContactState | None = tick(now_ms)
        return entered

    def set_up(*_: object) -> None:
        clock.ahead_ns += 400 * 10**9
        before = looks
        wait_for(lambda: looks >= before + 3, "looks of the watchdog")

    monkeypatch.setattr(slot._contact, "tick", counted)
    monkeypatch.setattr(slot_process, "set_up", set_up)
    slot.lease(JobLease(JobId("job"), "a job", Generation(1), "memory://"))
    assert node.exits == []
    assert slot.status().contact_ms < 60_000
    clock.ahead_ns += 301 * 10**9
    wait_for(lambda: node.exits == [EXIT_LOST], "the end of the process")
