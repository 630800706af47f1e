"""What keys have in the state of a job that runs: the verbs, over REST and a real job."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.api.remote_job import RemoteJob
from penstock.api.rest_client import Accepted, RestClient
from penstock.connectors.discard import DiscardingSink
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Text
from penstock.jobmanager.gateway import ConflictError, RefusedError, StateQuestion, UnavailableError, UnknownError
from penstock.state.errors import PenstockError
from penstock.testing.commands import penstock
from penstock.testing.lists import ListSource

PATIENCE_S = 60.0


class Keep(ps.KeyedProcessFunction):
    """Of every word, by its length, in states of all kinds."""

    def open(self, context: Any) -> None:
        self.last = context.get_state(ps.ValueStateDescriptor("last", str))
        self.words = context.get_list_state(ps.ListStateDescriptor("words", str))
        self.counts = context.get_map_state(ps.MapStateDescriptor("counts", str, int))
        self.longest = context.get_reducing_state(ps.ReducingStateDescriptor("longest", max, str))
        self.mean = context.get_aggregating_state(ps.AggregatingStateDescriptor("mean", Mean(), tuple[int, int]))

    def process_element(self, word: str, context: Any) -> None:
        self.last.update(word)
        self.words.add(word)
        self.counts.put(word, (self.counts.get(word) or 0) + 1)
        self.longest.add(word)
        self.mean.add(len(word))


class Mean(ps.AggregateFunction):
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add(self, value: int, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator[0] + value, accumulator[1] + 1

    def get_result(self, accumulator: tuple[int, int]) -> float:
        return accumulator[0] / accumulator[1]

    def merge(self, one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        return one[0] + other[0], one[1] + other[1]


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    directory = tmp_path / "watched"
    directory.mkdir()
    (directory / "first.txt").write_text("a\nbb\ncc\nbb\n")
    return directory


@pytest.fixture
def job(here: Path, address: str, watched: Path, gateway: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of one that keeps what it finds in files and waits for more, on the cluster of PENSTOCK_ADDRESS."""
    monkeypatch.setenv("PENSTOCK_ADDRESS", address)
    env = ps.StreamExecutionEnvironment(ps.Configuration({"rest.address": address}))
    env.set_parallelism(2)
    env.enable_checkpointing("1h")
    lines = env.from_source(FileSource(str(watched), Text(), watch="50ms"), name="watched").uid("watched")
    lines.key_by(len, key_type=int).process(Keep(), name="keep words").uid("words").print()
    lines.key_by(lambda word: (word[0], len(word))).count(name="running count").print()
    return env.execute_async("words").job_id


def answered(client: RestClient, job: str, state: str, key: str, expected: Any, **more: Any) -> None:
    """Until it is that."""
    deadline_s = time.monotonic() + PATIENCE_S
    value = None
    while value != expected:
        assert time.monotonic() < deadline_s, value
        value = client.state(job, StateQuestion("words", state, key, **more))["value"]


@pytest.fixture
def rest(address: str) -> Iterator[RestClient]:
    client = RestClient(address)
    yield client
    client.close()


def test_every_kind_of_state_by_the_verbs(job: str, rest: RestClient, watched: Path) -> None:
    answered(rest, job, "words", "2", ["bb", "cc", "bb"])
    expected = {
        "last": "bb", "words": ["bb", "cc", "bb"], "counts": {"bb": 2, "cc": 1}, "longest": "cc", "mean": [6, 3],
    }  # fmt: skip
    for state, value in expected.items():
        code, out, err = penstock("state", "get", "words", "keep words", state, "2")
        assert (code, json.loads(out), err) == (0, value, ""), state
    assert json.loads(penstock("state", "get", job, "words", "counts", "2", "--map-key", "cc")[1]) == 1
    assert RemoteJob(rest, Accepted(job, "words")).read_state("words", "counts", 2, map_key="bb")["value"] == 2
    answer = json.loads(penstock("state", "get", job[:8], "words", "last", "1", "-o", "json")[1])
    assert (answer["found"], answer["value"], answer["kind"], answer["truncated"]) == (True, "a", "value", False)
    assert penstock("state", "get", job, "words", "last", "9") == (
        0,
        "null\n",
        "the key has nothing there; state of windows is asked for with --namespace and the window's start\n",
    )
    (watched / "second.txt").write_text("dd\n")
    answered(rest, job, "last", "2", "dd")
    (row,) = [row for row in rest.jobs() if row.id == job]
    assert row.state == "RUNNING"


def test_which_states_can_be_asked(job: str, rest: RestClient) -> None:
    answered(rest, job, "last", "1", "a")
    deadline_s = time.monotonic() + PATIENCE_S
    while len({state["name"] for state in rest.states(job)}) < 6:
        assert time.monotonic() < deadline_s
    code, out, _err = penstock("state", "show", job)
    assert code == 0
    rows = {tuple(line.split()[1:3]): line for line in out.splitlines()}
    assert "int, of the map str" in rows["counts", "map"]
    assert rows["mean", "aggregating"].split()[3] == "int"
    assert "tuple[int, int]" in rows["mean", "aggregating"]
    (running,) = [state for state in rest.states(job) if state["name"] == "running"]
    assert (running["key"], running["operator-name"]) == ("tuple[str, int]", "running count")
    question = StateQuestion("running count", "running", '["b", 2]')
    assert rest.state(job, question)["value"] == 2


def test_what_is_wrong_is_told(job: str, rest: RestClient, gateway: Any) -> None:
    answered(rest, job, "last", "1", "a")
    for question, kind, text in (
        (StateQuestion("words", "last", "alice"), RefusedError, "'alice' is none of its keys: these are of type int"),
        (StateQuestion("words", "first", "1"), UnknownError, "has no state 'first', only 'counts', 'last', 'longest'"),
        (StateQuestion("sums", "last", "1"), UnknownError, "the job has no operator 'sums'; those with state by key"),
        (StateQuestion("watched", "last", "1"), RefusedError, "operator 'watched' keeps nothing by key"),
        (StateQuestion("words", "last", "1", entry="a"), RefusedError, "only those of maps have entries"),
        (StateQuestion("words", "counts", "1", entry="7"), None, ""),
    ):
        if kind is None:
            assert rest.state(job, question)["found"] is False
            continue
        with pytest.raises(kind, match=text):
            rest.state(job, question)
    code, _out, err = penstock("state", "get", job, "words", "first", "1")
    assert (code, "has no state 'first'" in err) == (1, True)
    assert penstock("state", "get", "nobody", "words", "last", "1")[0] == 2
    running = gateway.running[job]
    running.close()
    with pytest.raises(ConflictError, match="has ended"):
        rest.state(job, StateQuestion("words", "last", "1"))


def test_during_a_restart_it_is_asked_again(job: str, rest: RestClient, gateway: Any) -> None:
    answered(rest, job, "words", "2", ["bb", "cc", "bb"])
    cluster = gateway.running[job].job.cluster
    impatient = RestClient(rest.address, patience_s=0)
    try:
        for slot in list(cluster.slots):
            cluster.loop.ask(lambda slot=slot: cluster.kill_slot(slot), 30)
        with pytest.raises(UnavailableError, match="try again"):
            impatient.state(job, StateQuestion("words", "words", "2"))
    finally:
        impatient.close()
    answered(rest, job, "words", "2", ["bb", "cc", "bb"])
    assert gateway.running[job].job.restarts >= 1


def test_under_load_answers_come_and_the_job_goes_on(here: Path, address: str, gateway: Any) -> None:
    """Each answer is a state that there was: the numbers of a key come in order."""
    env = ps.StreamExecutionEnvironment(ps.Configuration({"rest.address": address}))
    env.set_parallelism(2)
    env.enable_checkpointing("100ms")
    source = ListSource(list(range(200_000)), splits=2, batch_rows=500, pause_ms=20)
    source.in_process = False  # the cluster of these tests is this process
    by_digit = env.from_source(source, name="numbers").key_by(lambda n: n % 10, key_type=int)
    by_digit.reduce(max).uid("max").sink_to(DiscardingSink())
    job = env.execute_async("load").job_id
    client = RestClient(address)
    asked = threading.Event()

    def ask(key: int) -> list[int]:
        seen: list[int] = []
        while gateway.running[job].view().overview.state in ("CREATED", "STARTING", "RUNNING") and len(seen) < 30:
            try:
                answer = client.state(job, StateQuestion("max", "running", str(key)))
            except PenstockError:
                assert gateway.running[job].job.ended
                break
            if answer["found"]:
                seen.append(answer["value"])
                asked.set()
        return seen

    with ThreadPoolExecutor(4) as threads:
        for key, seen in enumerate(threads.map(ask, range(4))):
            assert seen, "it was answered while it ran"
            assert seen == sorted(seen)
            assert {value % 10 for value in seen} == {key}
    assert gateway.running[job].job.restarts == 0
    client.close()
