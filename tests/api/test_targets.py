"""Where a pipeline runs, and jobs of this process's pipelines on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.api import targets
from penstock.api.remote_job import RemoteJob
from penstock.api.rest_client import UnreachableError
from penstock.api.targets import choose
from penstock.connectors.files import FileSource
from penstock.connectors.formats import Text
from penstock.jobmanager.events import JobState
from penstock.jobmanager.gateway import RefusedError
from penstock.runtime import versions
from penstock.state.errors import ConfigurationError, JobFailedError, PipelineError
from penstock.testing import ListSink, ListSource

ADDRESS = "http://127.0.0.1:8081"


@pytest.mark.parametrize(
    ("target", "address", "bound_here", "chosen"),
    [
        ("auto", None, [], "embedded"),
        ("auto", ADDRESS, [], "remote"),
        ("auto", None, ["list"], "local"),
        ("auto", ADDRESS, ["list"], "local"),
        ("local", ADDRESS, [], "local"),
        ("local", None, ["list"], "local"),
        ("embedded", ADDRESS, [], "embedded"),
        ("remote", ADDRESS, [], "remote"),
    ],
)
def test_the_rule(target: str, address: str | None, bound_here: list[str], chosen: str) -> None:
    config = ps.Configuration({"execution.target": target})
    if address:
        config.set("rest.address", address)
    assert choose(config, bound_here).target == chosen


@pytest.mark.parametrize("target", ["embedded", "remote"])
def test_connectors_of_one_process_are_refused_where_a_cluster_is_asked_for(target: str) -> None:
    config = ps.Configuration({"execution.target": target, "rest.address": ADDRESS})
    with pytest.raises(PipelineError, match=r"the connector of 'list' works in one process only.*--local"):
        choose(config, ["list"])


def test_remote_without_an_address() -> None:
    with pytest.raises(ConfigurationError, match="PENSTOCK_ADDRESS"):
        choose(ps.Configuration({"execution.target": "remote"}))


def test_lists_of_tests_run_here_and_it_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_ADDRESS", "http://127.0.0.1:9")
    ListSink.clear("here")
    env = ps.StreamExecutionEnvironment()
    env.from_source(ListSource([1, 2]), name="mine").sink_to(ListSink("here"), name="there")
    env.execute("lists")
    assert ListSink.results("here") == [1, 2]
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "job 'lists' runs in this process (the connector of 'mine', 'there' works in one process only)"


# jobs of a cluster


@pytest.fixture
def env(here: Path, address: str) -> ps.StreamExecutionEnvironment:
    return ps.StreamExecutionEnvironment(ps.Configuration({"rest.address": address}))


def test_a_job_is_sent_and_attended_to_its_end(
    env: ps.StreamExecutionEnvironment, address: str, gateway: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    env.from_sequence(1, 3).map(lambda x: x * 2).print()
    result = env.execute("sent")
    assert (result.job_name, result.state) == ("sent", JobState.FINISHED)
    err = capsys.readouterr().err.splitlines()
    assert err[0] == f"job 'sent' goes to the cluster at {address}"
    assert err[-1].startswith("job 'sent' has finished: 3 records in ")
    (request,) = gateway.graphs
    assert request.versions == versions.own_versions()
    assert not {"rest.address", "execution.target"} & set(request.config)
    assert gateway.uploads == 0


def test_where_nobody_answers_nothing_is_said_to_go_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = ps.StreamExecutionEnvironment(ps.Configuration({"rest.address": "http://127.0.0.1:9"}))
    env.from_sequence(1, 3).print()
    with pytest.raises(UnreachableError, match=r"no cluster answers at http://127\.0\.0\.1:9 .*PENSTOCK_ADDRESS"):
        env.execute("lost")
    assert capsys.readouterr().err == ""


def test_records_are_collected_from_the_cluster(env: ps.StreamExecutionEnvironment) -> None:
    with env.from_sequence(1, 1000).map(lambda x: x * 2).execute_and_collect("first") as rows:
        assert list(rows) == [x * 2 for x in range(1, 1001)]
        assert rows.result is not None
        assert rows.result.state is JobState.FINISHED
    assert list(env.from_sequence(1, 3).execute_and_collect("second")) == [1, 2, 3]


def test_some_records_of_an_endless_job(env: ps.StreamExecutionEnvironment, tmp_path: Path, gateway: Any) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "1").write_text("a\nb\nc\n")
    env.enable_checkpointing("50ms")
    source = FileSource(tmp_path / "lines", Text(), watch="100ms")
    with env.from_source(source, name="lines").execute_and_collect("endless", limit=2) as rows:
        assert list(rows) == ["a", "b"]
    (job,) = gateway.running.values()
    assert job.view().overview.state == "CANCELED"


def test_a_failure_on_the_cluster_is_raised_here(env: ps.StreamExecutionEnvironment) -> None:
    env.set_restart_strategy("none")
    env.from_sequence(1, 3).map(lambda x: 1 // (x - 2), name="inverted").print()
    with pytest.raises(JobFailedError, match="operator 'inverted', subtask 0: ZeroDivisionError"):
        env.execute("failing")
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        env.from_sequence(1, 3).map(lambda x: 1 // (x - 2)).execute_and_collect("failing too")


def test_a_handle_of_a_job_that_goes_on(
    env: ps.StreamExecutionEnvironment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "1").write_text("a\nb\nc\n")
    env.enable_checkpointing("50ms")
    env.from_source(FileSource(tmp_path / "lines", Text(), watch="100ms"), name="lines").print()
    job = env.execute_async("watched")
    assert isinstance(job, RemoteJob)
    assert not job.run_until(lambda: job.status().vertices != () and job.status().vertices[0].records_in >= 3)
    with pytest.raises(TimeoutError, match="'watched' has not ended"):
        job.result(timeout_s=0)
    job.stop()
    assert job.result(60).state is JobState.SUSPENDED
    job.cancel()  # too late, and harmless
    with pytest.raises(KeyboardInterrupt):  # a script that attends it goes no further, whoever has stopped it
        job.run()
    said = capsys.readouterr().err
    assert "'watched' has ended as SUSPENDED, which was not asked for here" in said
    assert f"stopped job {job.job_id}; continue it with" in said
    again = env.from_source(FileSource(tmp_path / "lines", Text(), watch="100ms"), name="lines").print()
    assert again is not None


def test_modules_beside_the_script_go_along(
    env: ps.StreamExecutionEnvironment, here: Path, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "helper.py").write_text("def double(x: int) -> int:\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(targets, "_script", lambda: here / "job.py")
    helper = __import__("helper")
    assert list(env.from_sequence(1, 3).map(helper.double).execute_and_collect("doubled")) == [2, 4, 6]
    assert list(env.from_sequence(1, 2).map(helper.double).execute_and_collect("again")) == [2, 4]
    assert gateway.uploads == 1
    (artefact,) = {artefact for request in gateway.graphs for artefact in request.artefacts}
    assert artefact.endswith("_project.zip")
    sys.modules.pop("helper")


def test_versions_that_differ_are_found_before_the_start(
    env: ps.StreamExecutionEnvironment, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**versions.own_versions(), "python": "3.9"}
    monkeypatch.setattr(targets, "own_versions", lambda: other)
    env.from_sequence(1, 3).print()
    with pytest.raises(RefusedError, match=r"python is 3\.9 at the client and 3\..* on the cluster"):
        env.execute("old")
    assert not gateway.running


def test_differences() -> None:
    ours = {"python": "3.11", "penstock": "0.1.0", "cloudpickle": "3.1.0", "numpy": "2.4.0"}
    assert versions.differences(ours, ours) == versions.Differences()
    assert versions.differences({}, ours) == versions.Differences()
    assert versions.differences({"python": "3.11.7", "cloudpickle": "3.9.9", "other": "1"}, ours).errors == ()
    found = versions.differences({"penstock": "0.2.0", "cloudpickle": "4.0", "numpy": "2.5"}, ours, them="a slot")
    assert [error.partition(":")[0] for error in found.errors] == [
        "penstock is 0.2.0 at a slot and 0.1.0 on the cluster",
        "cloudpickle is 4.0 at a slot and 3.1.0 on the cluster",
    ]
    assert found.warnings == ("numpy is 2.5 at a slot and 2.4.0 on the cluster",)
