"""A task at its end of input answers barriers, and emits nothing any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Json


class Reminds(ps.KeyedProcessFunction):
    """Registers a processing-time timer that is due soon after the input has ended."""

    def process_element(self, value: int, context: Any) -> Iterator[str]:
        now_ms = context.timer_service().current_processing_time()
        context.timer_service().register_processing_time_timer(now_ms + 1)
        yield f"seen {value}"

    def on_timer(self, timestamp: int, context: Any) -> Iterator[str]:
        yield "timer"


def test_processing_timers_do_not_fire_after_the_end_of_input(tmp_path: Path) -> None:
    env = ps.StreamExecutionEnvironment()
    env.enable_checkpointing("10s", storage=tmp_path / "checkpoints")
    stream = env.from_collection(list(range(200))).key_by(lambda v: v % 50).process(Reminds(), output_type=str)
    stream.rebalance().map(str).sink_to(FileSink(tmp_path / "out", Json()))
    env.execute("reminders")
    lines = [line for path in (tmp_path / "out").iterdir() for line in path.read_text().splitlines()]
    assert sum("seen" in line for line in lines) == 200


def test_the_files_of_a_finished_job_are_complete(tmp_path: Path) -> None:
    """A second job reads exactly what the first one has committed at its end."""
    env = ps.StreamExecutionEnvironment()
    env.set_parallelism(2)
    env.enable_checkpointing("10s", storage=tmp_path / "checkpoints")
    env.from_sequence(1, 1_000).sink_to(FileSink(tmp_path / "out", Json()))
    env.execute("numbers")
    again = ps.StreamExecutionEnvironment()
    numbers = again.from_source(FileSource(tmp_path / "out", Json(int)))
    assert sorted(numbers.execute_and_collect()) == list(range(1, 1_001))
