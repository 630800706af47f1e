"""The file sink: whatever dies and whenever, the final files hold exactly the committed records."""

from __future__ import annotations

import gc
import itertools
import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.connectors.files import FileSink
from penstock.connectors.files import sink as sink_module
from penstock.connectors.files.filesystem import CommitError, find_files
from penstock.connectors.files.sink import FileCommitter, FileWriter, PendingPart
from penstock.connectors.formats import Csv, Json, Parquet, Raw, Text
from penstock.runtime.batch import NO_TIMESTAMP, Batch
from penstock.runtime.connector import WriterContext
from penstock.runtime.metrics import MetricGroup
from penstock.runtime.records.record_types import OPAQUE, RecordType, record_type_of
from penstock.state.errors import PipelineError, RecordTypeError
from penstock.state.ids import Attempt, CheckpointId


@dataclass
class Item:
    id: int
    kind: str | None = None


@dataclass
class SetClock:
    """A clock that stands still until it is set."""

    ms: int = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ns(self) -> int:
        return self.ms * 1_000_000


ITEM = record_type_of(Item)
_names = itertools.count()


def writer_of(
    sink: FileSink, attempt: int = 1, subtask: int = 0, job: str = "job-1", clock: SetClock | None = None
) -> FileWriter:
    context = WriterContext(
        job, "sink", subtask, 2, Attempt(attempt), clock or SetClock(), MetricGroup(), lambda: f"n{next(_names)}"
    )
    writer = sink.create_writer(context)
    assert isinstance(writer, FileWriter)
    return writer


def items(ids: range, timestamps: list[int] | None = None, record_type: RecordType = ITEM) -> Batch:
    return Batch.of_rows(record_type, [Item(i) for i in ids], timestamps)


def final_ids(target: Path) -> list[int]:
    """Of what a reader of the directory sees, in the order of the files."""
    lines = [line for file in find_files(str(target)) for line in Path(file.path).read_text().splitlines()]
    return [json.loads(line)["id"] for line in lines]


def pending(target: Path) -> list[str]:
    return sorted(path.name for path in target.rglob("*.pending"))


class Killed(Exception):
    """The process is gone: nothing of it runs any more, also no clean-up."""


class Job:
    """What the engine does with a sink: checkpoints, a log, restores. `kill_at` numbers the steps it may die before."""

    def __init__(self, sink: FileSink, records: int, kill_at: set[int]) -> None:
        self.sink, self.records, self.kill_at = sink, records, kill_at
        self.step = 0
        self.logged: tuple[int, list[bytes]] = (0, [])
        """Records before the last logged checkpoint, and its committables: all that survives a death."""

    def may_die(self) -> None:
        self.step += 1
        if self.step in self.kill_at:
            raise Killed

    def run(self) -> int:
        """How many attempts it took."""
        for attempt in itertools.count(1):
            try:
                self._attempt(attempt)
            except Killed:
                continue
            return attempt
        raise AssertionError

    def _attempt(self, attempt: int) -> None:
        done, committables = self.logged
        self._commit(committables)
        self.sink.cleanup("job-1", Attempt(attempt))
        self.may_die()
        writers = [writer_of(self.sink, attempt, subtask) for subtask in range(2)]
        while done < self.records:
            for writer in writers:
                writer.write(items(range(done, done + 3)))
                done += 3
                self.may_die()
            committables = []
            for writer in writers:
                committables += writer.prepare_commit(CheckpointId(done))
                self.may_die()
            self.logged = (done, committables)
            self.may_die()
            self._commit(committables)
        for writer in writers:
            writer.close()

    def _commit(self, committables: list[bytes]) -> None:
        committer = pickle.loads(pickle.dumps(self.sink)).create_committer()
        for committable in committables:
            committer.commit([committable])
            self.may_die()
        committer.commit(committables)
        self.may_die()


def steps_without_death(target: Path) -> int:
    job = Job(FileSink(target, Json(), roll_rows=2), 12, set())
    assert job.run() == 1
    return job.step


def test_death_before_every_step(tmp_path: Path) -> None:
    steps = steps_without_death(tmp_path / "0")
    assert steps == 22
    for kill_at in range(1, steps + 1):
        target = tmp_path / f"kill-{kill_at}"
        job = Job(FileSink(target, Json(), roll_rows=2), 12, {kill_at, kill_at + 5})
        assert job.run() >= 2
        assert sorted(final_ids(target)) == list(range(12)), kill_at
        assert pending(target) == [], kill_at


def test_death_between_two_steps_of_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the rename, before its directory is durable; and before the rename."""
    for when in ("before", "after"):
        target = tmp_path / when
        sink = FileSink(target, Json())
        writer = writer_of(sink)
        writer.write(items(range(3)))
        committables = writer.prepare_commit(CheckpointId(1))
        name = "make_directory_durable" if when == "after" else "publish"

        def die(*_: Any) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(sink_module, name, die)
            with pytest.raises(Killed):
                sink.create_committer().commit(committables)
        assert final_ids(target) == ([] if when == "before" else [0, 1, 2])
        sink.create_committer().commit(committables)
        assert final_ids(target) == [0, 1, 2]


def test_nothing_is_visible_before_the_commit(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, Json(), roll_rows=2)
    writer = writer_of(sink)
    writer.write(items(range(5)))
    assert find_files(str(tmp_path)) == []
    committables = writer.prepare_commit(CheckpointId(1))
    assert find_files(str(tmp_path)) == []
    assert writer.prepare_commit(CheckpointId(2)) == []
    sink.create_committer().commit(committables)
    assert final_ids(tmp_path) == [0, 1, 2, 3, 4]
    assert [Path(file.path).name.split("-")[:5] for file in find_files(str(tmp_path))] == [
        ["part", "job1", "0000", "0001", f"{i:06d}"] for i in range(3)
    ]


def test_lost_and_foreign_files_are_errors(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, Json())
    writer = writer_of(sink)
    writer.write(items(range(2)))
    (committable,) = writer.prepare_commit(CheckpointId(1))
    part = msgspec.json.decode(committable, type=PendingPart)
    part.final_path.write_text("somebody else's")
    with pytest.raises(CommitError, match="exists already"):
        FileCommitter().commit([committable])
    assert part.final_path.read_text() == "somebody else's"
    part.final_path.unlink()
    part.pending_path.unlink()
    with pytest.raises(CommitError) as caught:
        FileCommitter().commit([committable])
    assert str(part.pending_path) in str(caught.value)
    assert str(part.final_path) in str(caught.value)


def test_cleanup_removes_only_lower_attempts_of_this_job(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, Json(), partition_by=lambda item: f"a/{item.id}")
    writers = {
        (job, attempt): writer_of(sink, attempt, job=job) for job in ("job-1", "job-12") for attempt in (2, 3, 10)
    }
    for writer in writers.values():
        writer.write(items(range(1)))
    sink.cleanup("job-1", Attempt(10))
    left = {(name.split("-")[1], int(name.split("-")[3])) for name in pending(tmp_path)}
    assert left == {("job1", 10), ("job12", 2), ("job12", 3), ("job12", 10)}


def test_closing_drops_what_was_not_handed_out(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, Json(), roll_rows=2)
    writer = writer_of(sink)
    writer.write(items(range(2)))
    committables = writer.prepare_commit(CheckpointId(1))
    writer.write(items(range(2, 5)))
    assert len(pending(tmp_path)) == 3
    writer.close()
    assert len(pending(tmp_path)) == 1
    sink.create_committer().commit(committables)
    assert final_ids(tmp_path) == [0, 1]


def test_a_given_up_parquet_file_goes_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    writer = writer_of(FileSink(tmp_path, Parquet()))
    writer.write(items(range(3)))
    writer.close()
    del writer
    gc.collect()
    assert told == []
    assert pending(tmp_path) == []


def commit_all(sink: FileSink, writer: FileWriter) -> Iterator[PendingPart]:
    committables = writer.prepare_commit(CheckpointId(1))
    committer = sink.create_committer()
    committer.commit(committables)
    for committable in committables:
        yield msgspec.json.decode(committable, type=PendingPart)


def test_parts_roll_by_rows_size_and_age(tmp_path: Path) -> None:
    by_rows = FileSink(tmp_path / "rows", Json(), roll_rows=4)
    writer = writer_of(by_rows)
    writer.write(items(range(3)))
    writer.write(items(range(3, 10)))
    assert [part.rows for part in commit_all(by_rows, writer)] == [4, 4, 2]
    assert final_ids(tmp_path / "rows") == list(range(10))

    by_size = FileSink(tmp_path / "size", Json(), roll_size=60)
    writer = writer_of(by_size)
    for i in range(6):
        writer.write(items(range(i, i + 1)))
    sizes = [part.bytes for part in commit_all(by_size, writer)]
    assert len(sizes) == 2
    assert all(60 <= size < 90 for size in sizes)

    clock = SetClock(5_000)
    by_age = FileSink(tmp_path / "age", Json(), roll_interval="10s")
    writer = writer_of(by_age, clock=clock)
    assert writer.next_timer() is None
    writer.write(items(range(1)))
    assert writer.next_timer() == 15_000
    clock.ms = 14_999
    writer.between_batches()
    writer.write(items(range(1, 2)))
    clock.ms = 15_000
    writer.between_batches()
    assert writer.next_timer() is None
    writer.write(items(range(2, 3)))
    assert [part.rows for part in commit_all(by_age, writer)] == [2, 1]


def day(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("pattern", "directories"),
    [
        (
            "day=%Y-%m-%d/hour=%H",
            {"day=2013-01-01/hour=05": [0, 2], "day=2013-01-01/hour=06": [1], "day=1969-12-31/hour=23": [3]},
        ),
        ("%Y", {"2013": [0, 1, 2], "1969": [3]}),
        ("%M", {"59": [0, 3], "00": [1, 2]}),
        ("%S-%f", {"59-999000": [0, 3], "00-000000": [1], "00-001000": [2]}),
        ("%j", {"001": [0, 1, 2], "365": [3]}),
    ],
)
def test_partition_by_event_time(tmp_path: Path, pattern: str, directories: dict[str, list[int]]) -> None:
    sink = FileSink(tmp_path, Json(), partition_by=pattern)
    writer = writer_of(sink)
    writer.write(
        items(
            range(4), [day("2013-01-01T05:59:59.999"), day("2013-01-01T06:00:00"), day("2013-01-01T05:00:00.001"), -1]
        )
    )
    list(commit_all(sink, writer))
    assert {name: final_ids(tmp_path / name) for name in directories} == directories
    assert len(final_ids(tmp_path)) == 4


def test_partition_by_column_and_function(tmp_path: Path) -> None:
    for record_type in (ITEM, OPAQUE):
        sink = FileSink(tmp_path / str(record_type)[:3], Json(), partition_by="kind")
        writer = writer_of(sink)
        rows = [Item(0, "a/b"), Item(1, None), Item(2, "x y"), Item(3, "a/b")]
        writer.write(Batch.of_rows(record_type, rows))
        found = {part.directory.removeprefix(sink.path): part.rows for part in commit_all(sink, writer)}
        assert found == {"/kind=a%2Fb": 2, "/kind=__HIVE_DEFAULT_PARTITION__": 1, "/kind=x y": 1}
    for wrong in ("../up", "/root", "", "a//b", "_hidden", "a/.b", 5):
        sink = FileSink(tmp_path / "wrong", Json(), partition_by=lambda item, wrong=wrong: wrong)  # type: ignore[misc]
        with pytest.raises(PipelineError, match="relative path"):
            writer_of(sink).write(items(range(1)))


def test_records_without_timestamp_under_a_pattern(tmp_path: Path) -> None:
    writer = writer_of(FileSink(tmp_path, Json(), partition_by="%Y"))
    for timestamps in (None, [5, NO_TIMESTAMP]):
        with pytest.raises(PipelineError, match="assign timestamps"):
            writer.write(items(range(2), timestamps))


def test_open_parts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "MAX_OPEN_PARTS", 2)
    sink = FileSink(tmp_path, Json(), partition_by="kind")
    writer = writer_of(sink)
    for i, kind in enumerate("abacab"):
        writer.write(Batch.of_rows(ITEM, [Item(i, kind)]))
        assert len(writer._open) <= 2
    parts = [(part.directory[-1], part.rows) for part in commit_all(sink, writer)]
    assert parts == [("b", 1), ("c", 1), ("a", 3), ("b", 1)]  # b was written to before a, c before a
    assert sorted(final_ids(tmp_path)) == list(range(6))


def test_validate_names_what_cannot_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PipelineError, match=r"cannot be written to .*/file/out: Not a directory"):
        FileSink(tmp_path / "file" / "out", Json()).validate(ITEM)
    with pytest.raises(PipelineError, match="'color' is not in"):
        FileSink(tmp_path, Json(), partition_by="color").validate(ITEM)
    for form in (Csv(), Parquet()):
        with pytest.raises(PipelineError, match="opaque"):
            FileSink(tmp_path, form).validate(OPAQUE)
    with pytest.raises(PipelineError, match=r"cannot hold field 'value' of type list"):
        FileSink(tmp_path, Csv()).validate(record_type_of(list[int]))
    with pytest.raises(PipelineError, match="Raw writes bytes"):
        FileSink(tmp_path, Raw()).validate(ITEM)
    with pytest.raises(PipelineError, match="roll_rows"):
        FileSink(tmp_path, Json(), roll_rows=0)
    with pytest.raises(PipelineError, match="relative path"):
        FileSink(tmp_path, Json(), partition_by="_%Y")
    FileSink(tmp_path / "new" / "directory", Json()).validate(OPAQUE)
    assert (tmp_path / "new" / "directory").is_dir()
    assert list((tmp_path / "new" / "directory").iterdir()) == []


@pytest.mark.parametrize(
    ("form", "row"), [(Text(), "a\nb"), (Raw(), b"a\nb"), (Raw(), "a"), (Json(), object()), (Json(), {1j: 1})]
)
def test_records_that_have_no_line_are_refused(tmp_path: Path, form: Any, row: Any) -> None:
    with pytest.raises(RecordTypeError):
        writer_of(FileSink(tmp_path, form)).write(Batch.of_rows(OPAQUE, [row]))
