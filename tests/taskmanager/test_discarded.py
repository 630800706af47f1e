"""What a subtask has written for checkpoints that came to nothing is deleted, once, and again if the store did not."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.state.errors import ObjectStoreDenied
from penstock.state.ids import CheckpointId
from penstock.state.store.objects import Delete
from penstock.taskmanager import discarded
from penstock.taskmanager.discarded import DiscardedUploads


class Slot:
    """Carries programs out when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Delete, Any]] = []
        self.uploads = DiscardedUploads(self._submit)

    def _submit(self, program: Any, done: Any) -> None:
        self.asked.append((next(program), done))

    def noted(self, checkpoint: int, *names: str) -> None:
        self.uploads.noted(CheckpointId(checkpoint)).update(dict.fromkeys(names, 1))

    def answer(self, error: Exception | None = None) -> tuple[str, ...]:
        delete, done = self.asked.pop(0)
        done(None, error)
        return delete.names


def test_only_what_is_discarded_is_deleted() -> None:
    slot = Slot()
    slot.noted(1, "a", "b")
    slot.noted(2, "c")
    slot.noted(3, "d")
    slot.uploads.keep(CheckpointId(2))
    slot.uploads.discard(CheckpointId(1))
    assert slot.answer() == ("a", "b")
    slot.uploads.discard(CheckpointId(1))
    slot.uploads.discard(CheckpointId(2))
    assert slot.asked == []


def test_what_the_store_did_not_delete_is_deleted_with_the_next() -> None:
    slot = Slot()
    slot.noted(1, "a")
    slot.uploads.discard(CheckpointId(1))
    slot.noted(2, "b")
    slot.uploads.discard(CheckpointId(2))
    assert len(slot.asked) == 1, "one at a time"
    assert slot.answer(ObjectStoreDenied("no")) == ("a",)
    assert slot.asked == [], "not before something happens"
    slot.uploads.keep(CheckpointId(3))
    assert slot.answer() == ("a", "b")
    slot.uploads.keep(CheckpointId(4))
    assert slot.asked == []


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discarded, "MOST_NAMES", 3)
    monkeypatch.setattr(discarded, "DELETE_BATCH", 2)
    slot = Slot()
    slot.noted(1, *"abcdef")
    slot.uploads.discard(CheckpointId(1))
    assert [slot.answer(), slot.answer(), slot.asked] == [("a", "b"), ("c",), []]
    for checkpoint in range(2, 2 * discarded.MOST_CHECKPOINTS):
        slot.noted(checkpoint, "x")
    slot.uploads.discard(CheckpointId(2))
    assert slot.asked == [], "it was forgotten"
