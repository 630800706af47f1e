"""A script in a process of its own, up to its pipeline: every way it can end has a clear outcome."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import psutil
import pytest

from penstock.jobmanager.cluster.capture import CaptureOutcome, CaptureRequest, run_capture
from penstock.jobmanager.cluster.user_process import MAX_PRINTED_BYTES
from penstock.runtime.graph.job_graph import JobGraph

PIPELINE = """
import penstock as ps
env = ps.StreamExecutionEnvironment()
env.from_sequence(1, 3).map(lambda x: x * 2, name="doubled").print()
"""
LONG_MS = 60_000


def capture(directory: Path, script: str, timeout_ms: int = LONG_MS, **settings: object) -> CaptureOutcome:
    file = directory / "job.py"
    file.write_text(script)
    return run_capture(CaptureRequest(str(file), **settings), directory, timeout_ms)  # type: ignore[arg-type]


def test_the_first_execute_ends_the_script_with_its_graph(tmp_path: Path) -> None:
    script = PIPELINE + "env.execute('first')\nopen('after', 'w')\nenv.execute('second')\n"
    outcome = capture(tmp_path, script)
    assert outcome.error is None
    assert (outcome.job_name, outcome.printed) == ("first", "")
    assert outcome.graph is not None
    graph = pickle.loads(outcome.graph)
    assert isinstance(graph, JobGraph)
    assert [operator.name for operator in graph.vertices[0].operators][1] == "doubled"
    assert outcome.plan["vertices"][0]["parallelism"] == 1
    assert "doubled (map)" in outcome.description
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize("call", ["env.execute_async('x')", "env.from_sequence(1, 2).execute_and_collect('x')"])
def test_other_ways_to_run_a_job(tmp_path: Path, call: str) -> None:
    outcome = capture(tmp_path, PIPELINE + call)
    assert outcome.error is None
    assert outcome.job_name == "x"


def test_a_description_alone(tmp_path: Path) -> None:
    outcome = capture(tmp_path, PIPELINE + "env.execute()", describe_only=True)
    assert (outcome.error, outcome.graph) == (None, None)
    assert outcome.plan["vertices"]


def test_arguments_flags_modules_and_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "dependency.py").write_text("NAME = 'from a dependency'")
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "penstock.yaml").write_text("parallelism.default: 3\npipeline.max-parallelism: 16\n")
    script = PIPELINE + (
        "import sys, beside, dependency\nfrom pathlib import Path\n"
        "assert __name__ == '__main__' and Path('beside.py').exists()\n"
        "env.execute(f'{sys.argv[1]} {dependency.NAME}')\n"
    )
    outcome = capture(
        tmp_path, script, arguments=("job",), flags={"parallelism.default": "2"}, python_path=(str(tmp_path / "extra"),)
    )
    assert outcome.error is None
    assert outcome.job_name == "job from a dependency"
    assert outcome.config == {"parallelism.default": "2", "pipeline.max-parallelism": "16"}


def test_settings_and_tokens_of_the_parent_are_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PARALLELISM", "7")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "no business of scripts")
    script = "import os\nassert 'RAY_AUTH_TOKEN' not in os.environ\n" + PIPELINE + "env.execute()"
    outcome = capture(tmp_path, script)
    assert (outcome.error, outcome.config) == (None, {})


def test_a_file_of_the_working_directory_does_not_replace_a_module(tmp_path: Path) -> None:
    for name in ("typing.py", "msgspec.py"):
        (tmp_path / name).write_text("raise AssertionError('imported by mistake')")
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "job.py"
    file.write_text(PIPELINE + "env.execute('kept')")
    outcome = run_capture(CaptureRequest(str(file)), tmp_path, LONG_MS)
    assert outcome.error is None, outcome


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (PIPELINE, "job.py ended without running a pipeline"),
        ("import sys\nsys.exit()", "job.py ended without running a pipeline"),
        ("import sys\nsys.exit('no data today')", "job.py ended itself before env.execute(): no data today"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import nope.deeper", "job.py needs the module 'nope'"),
        ("input('name? ')", "standard input is empty"),
        ("def f(:", "SyntaxError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os\nos._exit(5)", "the process of job.py ended itself with code 5"),
        ("import os\nos.kill(os.getpid(), 9)", "the process of job.py died of SIGKILL"),
        ("import argparse\nargparse.ArgumentParser().parse_args(['-x'])", "unrecognized arguments: -x"),
        (PIPELINE.replace("lambda x: x * 2", "5") + "env.execute()", "operator 'doubled' (job.py:4): a function is"),
    ],
)
def test_a_script_without_a_pipeline(tmp_path: Path, script: str, complaint: str) -> None:
    outcome = capture(tmp_path, script)
    assert outcome.graph is None
    assert outcome.error is not None
    assert complaint in outcome.error


def test_an_error_shows_the_scripts_own_frames(tmp_path: Path) -> None:
    outcome = capture(tmp_path, "def f():\n    return [][1]\n\nf()\n")
    assert outcome.error == "job.py failed before env.execute(): IndexError: list index out of range"
    assert outcome.traceback.count('  File "') == 2
    assert "/penstock/" not in outcome.traceback


def test_a_script_that_runs_for_ever_is_ended_with_its_children(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "open('pid', 'w').write(str(child.pid))\nprint('waiting', flush=True)\ntime.sleep(600)\n"
    )
    outcome = capture(tmp_path, script, timeout_ms=3_000)
    assert outcome.error is not None
    assert "did not come to env.execute() within 3s" in outcome.error
    assert outcome.error.endswith("it printed last:\nwaiting")
    pid = int((tmp_path / "pid").read_text())
    deadline_s = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline_s


@pytest.mark.parametrize(
    "stubborn",
    [
        "try:\n    env.execute('x')\nfinally:\n    import time; time.sleep(600)",
        "try:\n    env.execute('x')\nexcept BaseException:\n    pass\nwhile True:\n    pass",
        "import threading, time\nthreading.Thread(target=lambda: time.sleep(600)).start()\nenv.execute('x')",
        "import threading\nthread = threading.Thread(target=lambda: env.execute('x'))\nthread.start()\n"
        "import time; time.sleep(600)",
    ],
)
def test_a_pipeline_counts_even_if_its_script_does_not_end(tmp_path: Path, stubborn: str) -> None:
    began_s = time.monotonic()
    outcome = capture(tmp_path, PIPELINE + stubborn)
    assert outcome.error is None
    assert outcome.job_name == "x"
    assert time.monotonic() - began_s < LONG_MS / 1000


def test_what_a_script_cleans_up_is_cleaned_up(tmp_path: Path) -> None:
    script = PIPELINE + "try:\n    env.execute('x')\nfinally:\n    open('cleaned', 'w')\n"
    assert capture(tmp_path, script).error is None
    assert (tmp_path / "cleaned").exists()


def test_what_is_printed_is_told_and_limited(tmp_path: Path) -> None:
    script = "for i in range(100_000):\n    print('line', i)\n" + PIPELINE + "env.execute('x')"
    outcome = capture(tmp_path, script)
    assert outcome.error is None
    assert len(outcome.printed) <= MAX_PRINTED_BYTES
    assert outcome.printed.endswith("line 99999\n")
    (note,) = outcome.notes
    assert note.startswith("the script printed:\n… (")
    assert note.count("\n") == 21


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (tmp_path / "work").mkdir()
    before = set(psutil.Process().children(recursive=True))
    assert capture(tmp_path / "work", PIPELINE + "env.execute()").error is None
    assert list(scratch.iterdir()) == []
    assert set(psutil.Process().children(recursive=True)) <= before
    assert os.listdir(tmp_path / "work") == ["job.py"]


@pytest.mark.parametrize(
    ("connector", "where"),
    [("env.from_source(FileSource('in', Text()), name='files').print()", "'files' uses 'in'"),
     ("env.from_sequence(1, 2).sink_to(FileSink('out/x', Text()), name='files')", "'files' uses 'out/x'")],
)  # fmt: skip
def test_paths_that_the_job_would_not_find_are_refused(tmp_path: Path, connector: str, where: str) -> None:
    (tmp_path / "in").mkdir()
    imports = (
        "from penstock.connectors.files import FileSink, FileSource\nfrom penstock.connectors.formats import Text\n"
    )
    outcome = capture(tmp_path, f"{imports}{PIPELINE}{connector}\nenv.execute()")
    assert outcome.error is not None
    assert where in outcome.error
    assert "absolute path" in outcome.error
