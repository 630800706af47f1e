"""Whole jobs in this process, driven step by step: run until something holds, kill a slot, stop, go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

import penstock as ps
from penstock.jobmanager.events import JobState, JobStatus
from penstock.jobmanager.local_job import LocalJob
from penstock.runtime.connector import NotReady, PollResult, ReaderContext, Source, SourceReader, SplitBatch
from penstock.testing.lists import ListSink, ListSource


class Held(Source[Any]):
    """Every subtask gives `held_after` rows, and the others once the file `gate` is there. Goes before a source."""

    gate: str
    held_after: int

    def create_reader(self, context: ReaderContext) -> SourceReader[Any]:
        reader = super().create_reader(context)
        poll, left = reader.poll, self.held_after

        def held_poll(max_rows: int) -> PollResult:
            nonlocal left
            if not Path(self.gate).exists():
                if left == 0:
                    return NotReady(context.clock.now_ms() + 2)
                max_rows = min(max_rows, left)
            result = poll(max_rows)
            if isinstance(result, SplitBatch):
                left = max(0, left - len(result.batch))
            return result

        reader.poll = held_poll  # type: ignore[method-assign]
        return reader


class HeldSource(Held, ListSource):
    def __init__(self, values: list[Any], gate: Path, held_after: int, **settings: Any) -> None:
        super().__init__(values, **settings)
        self.gate, self.held_after = str(gate), held_after


def held(source: Source[Any], gate: Path, held_after: int) -> Source[Any]:
    """This source, holding."""
    holding: Any = type(source).__new__(type("Held", (Held, type(source)), {}))
    vars(holding).update(vars(source), gate=str(gate), held_after=held_after)
    return cast("Source[Any]", holding)


class QuietSource(ListSource):
    """Gives `first` records, and the others once the file `gate` is there. Until then its split is silent, as one is
    that has nothing to give; one of a `Held` source is not even asked for."""

    def __init__(self, values: list[Any], gate: Path, first: int, **settings: Any) -> None:
        super().__init__(values, **settings)
        self.gate, self.first = str(gate), first

    def create_reader(self, context: ReaderContext) -> SourceReader[Any]:
        reader = super().create_reader(context)
        poll, left = reader.poll, self.first

        def quiet_poll(max_rows: int) -> PollResult:
            nonlocal left
            result = poll(max_rows if Path(self.gate).exists() else min(max_rows, left))
            if isinstance(result, SplitBatch):
                left = max(0, left - len(result.batch))
                return result if len(result.batch) else NotReady(context.clock.now_ms() + 2)
            return result

        reader.poll = quiet_poll  # type: ignore[method-assign]
        return reader


class Driven:
    """A job that the test drives."""

    def __init__(self, env: ps.StreamExecutionEnvironment, name: str = "job") -> None:
        self.job = LocalJob(env.job_graph(name), env.configuration)

    @property
    def status(self) -> JobStatus:
        return self.job.status()

    def until(self, condition: Callable[[JobStatus], bool]) -> Driven:
        """On until the condition holds; the job must not end before."""
        checks = 0

        def holds() -> bool:
            nonlocal checks
            checks += 1
            return checks % 20 == 0 and condition(self.job.status())  # a status is not free

        self.job.run(holds)
        assert not self.job.ended, self.status.last_failure
        return self

    def checkpoints(self, more: int = 2) -> Driven:
        self.until(lambda status: status.state is JobState.RUNNING)
        before = self.status.checkpoints.completed
        return self.until(lambda status: status.checkpoints.completed >= before + more)

    def kill(self) -> Driven:
        """One of its slots."""
        before = self.job.restarts
        self.job.cluster.kill_slot(next(iter(self.job.cluster.slots)))
        return self.until(lambda status: status.restarts > before)

    def end(self) -> JobStatus:
        """To its last state. JobFailedError if it fails."""
        try:
            self.job.run()
            self.job.result()
        finally:
            self.job.close()
        return self.status

    def stop(self) -> str:
        """With a last checkpoint; its path."""
        self.job.stop()
        status = self.end()
        assert status.state is JobState.SUSPENDED
        return f"{self.job.location}/{status.checkpoints.last_metadata_name}"


@pytest.fixture
def drive() -> type[Driven]:
    return Driven


@pytest.fixture
def hold() -> Callable[[Source[Any], Path, int], Source[Any]]:
    return held


@pytest.fixture
def held_source() -> type[HeldSource]:
    return HeldSource


@pytest.fixture
def quiet_source() -> type[QuietSource]:
    return QuietSource


@pytest.fixture
def new_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ps.StreamExecutionEnvironment]:
    """Environments of one working directory: what one job leaves behind another one finds."""
    monkeypatch.chdir(tmp_path)

    def new(parallelism: int = 1, restore: str | None = None) -> ps.StreamExecutionEnvironment:
        env = ps.StreamExecutionEnvironment().set_parallelism(parallelism).set_buffer_timeout("1ms")
        env.enable_checkpointing("10ms").set_restart_strategy("fixed-delay", attempts=5, delay="1ms")
        return env.configure(ps.Configuration({"execution.state-recovery.path": restore}))

    return new


@pytest.fixture
def results() -> Iterator[Callable[[str], list[Any]]]:
    """What the ListSinks of these names hold; nothing is left by other tests, or for them."""
    ListSink.clear()
    yield ListSink.results
    ListSink.clear()


# what may not change results ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Circumstances:
    """Under which a test with `given` runs."""

    parallelism: int = 3
    mode: str = "exactly-once"
    backend: str = "rocksdb"
    checkpoints: bool = True
    encode: bool = False
    chaining: bool = True
    fails: str = ""
    """The restart strategy under which the source fails twice."""
    killed: bool = False
    empty: bool = False
    batch: bool = False
    """Batch mode."""

    def __str__(self) -> str:
        said = [str(self.parallelism), self.mode, self.backend]
        said += [name for name in ("encode", "killed", "empty", "batch") if getattr(self, name)]
        said += [f"no {name}" for name in ("checkpoints", "chaining") if not getattr(self, name)]
        return " ".join([*said, *([f"fails {self.fails}"] if self.fails else [])])


MATRIX = [
    Circumstances(1, backend="heap"),
    Circumstances(1, encode=True, chaining=False, killed=True),
    Circumstances(1, backend="heap", fails="exponential-delay"),
    Circumstances(1, "at-least-once", backend="heap", encode=True),
    Circumstances(1, backend="heap", checkpoints=False, encode=True, chaining=False, fails="fixed-delay"),
    Circumstances(3, encode=True, chaining=False, fails="fixed-delay"),
    Circumstances(3, backend="heap", chaining=False, killed=True),
    Circumstances(3, "at-least-once", chaining=False),
    Circumstances(3, checkpoints=False),
    Circumstances(3, backend="heap", fails="exponential-delay", killed=True),
    Circumstances(3, backend="heap", empty=True),
    Circumstances(3, batch=True, killed=True),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "given" in metafunc.fixturenames:
        metafunc.parametrize("given", MATRIX, ids=str)
