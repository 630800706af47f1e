"""How long a slot goes on without whoever it belongs to."""

from __future__ import annotations

import pytest

from penstock.taskmanager.processes.contact import Contact, ContactState, poll_wait_s

CANCEL, EXIT = 60_000, 300_000


@pytest.fixture
def contact() -> Contact:
    return Contact(1_000, CANCEL, EXIT)


def entered(contact: Contact, *times_ms: int) -> list[ContactState | None]:
    return [contact.tick(at) for at in times_ms]


def test_a_master_that_speaks_keeps_it_going(contact: Contact) -> None:
    contact.leased(2_000)
    for at in range(2_000, 1_000_000, CANCEL - 1):
        assert contact.tick(at) is None
        contact.heard_master(at)


def test_silence_cancels_once_and_then_ends(contact: Contact) -> None:
    contact.leased(2_000)
    assert entered(contact, 61_999, 62_000, 62_001, 301_999) == [None, ContactState.SILENT, None, None]
    assert entered(contact, 302_000, 302_001) == [ContactState.LOST, None]


def test_an_installation_is_no_silence_within_its_limit(contact: Contact) -> None:
    contact.leased(2_000)
    contact.installing(2_000, 1_000_000)
    assert entered(contact, 62_000, 302_000, 1_002_000, 1_061_999) == [None] * 4
    assert contact.silent_ms(500_000) == 0
    assert entered(contact, 1_062_000, 1_302_000) == [ContactState.SILENT, ContactState.LOST]


def test_silence_counts_from_the_end_of_the_installation(contact: Contact) -> None:
    contact.leased(2_000)
    contact.installing(2_000, 1_000_000)
    contact.leased(400_000)
    assert entered(contact, 459_999, 460_000, 700_000) == [None, ContactState.SILENT, ContactState.LOST]


def test_whoever_comes_back_in_time_is_served_and_the_next_silence_counts_anew(contact: Contact) -> None:
    contact.leased(2_000)
    assert contact.tick(100_000) is ContactState.SILENT
    contact.heard_master(150_000)
    assert entered(contact, 200_000, 210_000, 449_000) == [None, ContactState.SILENT, None]
    assert contact.tick(450_000) is ContactState.LOST


def test_who_was_stopped_for_long_ends_without_cancelling_first(contact: Contact) -> None:
    contact.leased(2_000)
    assert contact.tick(1_000_000) is ContactState.LOST


def test_there_is_no_way_back_from_lost(contact: Contact) -> None:
    contact.leased(2_000)
    assert contact.tick(400_000) is ContactState.LOST
    contact.heard_master(400_001)
    assert contact.silent_ms(400_001) == 398_001


def test_a_blank_slot_has_nothing_to_cancel_and_listens_for_its_task_manager(contact: Contact) -> None:
    assert entered(contact, 61_000, 300_999) == [None, None]
    contact.heard_task_manager(300_999)
    assert entered(contact, 301_001, 600_998) == [None, None]
    assert contact.tick(600_999) is ContactState.LOST


def test_the_task_manager_is_no_master(contact: Contact) -> None:
    contact.leased(2_000)
    contact.heard_task_manager(60_000)
    assert contact.tick(62_000) is ContactState.SILENT


def test_cancelling_cannot_come_after_the_end() -> None:
    contact = Contact(0, cancel_after_ms=500, exit_after_ms=100)
    contact.leased(0)
    assert entered(contact, 99, 100) == [None, ContactState.LOST]


@pytest.mark.parametrize(("timeout_ms", "wait_s"), [(10_000, 2.0), (50_000, 2.0), (2_000, 0.5), (400, 0.1)])
def test_an_idle_slot_is_heard_several_times_per_timeout(timeout_ms: int, wait_s: float) -> None:
    assert poll_wait_s(timeout_ms) == wait_s
