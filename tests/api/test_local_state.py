"""What keys have in the state of a job of this process, asked while it runs on a thread of its own."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import penstock as ps
from penstock.api.operations import _as_text
from penstock.connectors.discard import DiscardingSink
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Text
from penstock.jobmanager.gateway import ConflictError, RefusedError, UnknownError


class Keep(ps.KeyedProcessFunction):
    def open(self, context: Any) -> None:
        self.last = context.get_state(ps.ValueStateDescriptor("last", str))
        self.counts = context.get_map_state(ps.MapStateDescriptor("counts", str, int))

    def process_element(self, word: str, context: Any) -> None:
        self.last.update(word)
        self.counts.put(word, (self.counts.get(word) or 0) + 1)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "words.txt").write_text("a\nbb\ncc\nbb\n")
    env = ps.StreamExecutionEnvironment(ps.Configuration({"execution.target": "local"}))
    lines = env.from_source(FileSource(str(tmp_path), Text(), watch="50ms"), name="watched")
    lines.key_by(len, key_type=int).process(Keep(), output_type=str).uid("words").sink_to(DiscardingSink())
    job = env.execute_async("local state")
    yield job
    job.cancel()
    job.result(60)


def test_a_local_job_is_asked_in_python(job: Any) -> None:
    answer: dict[str, Any] = {}
    while answer.get("value") != {"bb": 2, "cc": 1}:
        answer = job.read_state("words", "counts", 2)
    assert (answer["found"], answer["kind"], answer["truncated"]) == (True, "map", False)
    assert job.read_state("words", "counts", 2, map_key="cc")["value"] == 1
    assert job.read_state("words", "last", 9)["found"] is False
    with pytest.raises(UnknownError, match="has no state 'first'"):
        job.read_state("words", "first", 2)
    with pytest.raises(RefusedError, match="these are of type int"):
        job.read_state("words", "last", "2")
    job.cancel()
    job.result(60)
    with pytest.raises(ConflictError, match="'local state' has ended"):
        job.read_state("words", "last", 2)


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Place:
    row: int
    colour: Colour


class Pair(NamedTuple):
    first: str
    place: Place


def test_keys_are_written_as_rest_takes_them() -> None:
    written = {"ada": '"ada"', "2": '"2"', 2: "2", (1, "x"): '[1,"x"]', Colour.RED: '"RED"', b"\x00": '"AA=="'}
    assert {key: _as_text(key) for key in written} == written
    assert _as_text(Pair("a", Place(1, Colour.RED))) == '["a",[1,"RED"]]'
