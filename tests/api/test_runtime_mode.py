"""Which mode a job runs in, and who says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.connectors.collections import CollectionSource
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Text
from penstock.runtime.configuration import options
from penstock.state.errors import ConfigurationError, PipelineError
from penstock.testing.lists import ListSink


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ps.StreamExecutionEnvironment:
    monkeypatch.chdir(tmp_path)
    return ps.StreamExecutionEnvironment(ps.Configuration({"execution.target": "local"}))


def counted(env: ps.StreamExecutionEnvironment) -> ps.StreamExecutionEnvironment:
    stream = env.from_source(CollectionSource(["a", "b", "a"]), name="letters").set_parallelism(1)
    stream.key_by(lambda letter: letter).count().sink_to(ListSink("counts"), name="counts")
    return env


def endless(env: ps.StreamExecutionEnvironment, directory: Path) -> None:
    env.from_source(FileSource(str(directory), Text(), watch="1s"), name="watched").sink_to(ListSink("lines"))


def mode_of(env: ps.StreamExecutionEnvironment) -> str | None:
    return env.job_graph().config.get(options.RUNTIME_MODE.key)


def test_streaming_unless_told_otherwise(env: ps.StreamExecutionEnvironment) -> None:
    graph = counted(env).job_graph()
    assert (graph.batch_mode, mode_of(env)) == (False, "streaming")


@pytest.mark.parametrize("mode", [ps.RuntimeExecutionMode.BATCH, "BATCH", "batch", "AUTOMATIC"])
def test_a_bounded_job_in_batch_mode_gives_one_result_per_key(
    env: ps.StreamExecutionEnvironment, mode: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ListSink.clear("counts")
    env.set_runtime_mode(mode)
    assert counted(env).describe().startswith("job 'penstock job' in batch mode\n")
    assert mode_of(env) == "batch"
    env.execute()
    assert "runs in this process (execution.target is local), in batch mode" in capsys.readouterr().err
    assert sorted(ListSink.results("counts")) == [1, 2]
    ListSink.clear("counts")


def test_the_option_does_as_well(env: ps.StreamExecutionEnvironment) -> None:
    counted(env).configure(ps.Configuration({"execution.runtime-mode": "BATCH"}))
    assert env.job_graph().batch_mode


def test_automatic_is_streaming_with_one_source_that_never_ends(
    env: ps.StreamExecutionEnvironment, tmp_path: Path
) -> None:
    endless(counted(env).set_runtime_mode("automatic"), tmp_path)
    assert mode_of(env) == "streaming"


def test_batch_mode_refuses_a_source_that_never_ends_and_names_it(
    env: ps.StreamExecutionEnvironment, tmp_path: Path
) -> None:
    endless(counted(env).set_runtime_mode(ps.RuntimeExecutionMode.BATCH), tmp_path)
    message = r"^operator 'watched' \(test_runtime_mode.py:\d+\): the source has no end.*execution.runtime-mode"
    with pytest.raises(PipelineError, match=message):
        env.job_graph()


def test_another_word_is_refused(env: ps.StreamExecutionEnvironment) -> None:
    with pytest.raises(ConfigurationError, match=r"execution.runtime-mode.*'micro-batch' is none of streaming, batch"):
        env.set_runtime_mode("micro-batch")
