"""How scripts and pipelines come to a cluster: what goes along with them, and what their users see."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.api.operations import awaited
from penstock.jobmanager.gateway import ConflictError, RefusedError, StateQuestion

if TYPE_CHECKING:
    from conftest import Cluster, Project, WaitFor

    from penstock.api.rest_client import RestClient
    from penstock.jobmanager.views import JobView

PENSTOCK = Path(sys.executable).with_name("penstock")
JOB_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def cluster_settings() -> dict[str, object]:
    return {"cluster__id": "submissions", "taskmanager__numberOfTaskSlots": 3, "slot__request__timeout": "20 s"}


def wheel(directory: Path, name: str) -> str:
    """With one module, made by hand: nothing is built and nothing is downloaded."""
    info = f"{name}-1.0.dist-info"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "def wrap(n):\n    return f'wheel {n}'\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path.name


def collected(text: str) -> list[str]:
    return sorted(text.split("\n")[:-1])


# what goes along ---------------------------------------------------------------------------------------------------


def test_modules_of_the_working_directory_and_arguments(project: Project) -> None:
    """Modules beside the script, a package below, the script itself in a subdirectory, and what stands behind --."""
    project.write("jobs/beside.py", "def beside(n):\n    return n * 10\n")
    project.write("shop/__init__.py", "")
    project.write("shop/prices.py", "def price(n):\n    return n + 1\n")
    project.write(
        "jobs/job.py",
        """
        import argparse
        import penstock as ps
        from beside import beside
        from shop.prices import price
        parser = argparse.ArgumentParser()
        parser.add_argument("--count", type=int)
        parser.add_argument("rest", nargs="*")
        given = parser.parse_args()
        env = ps.StreamExecutionEnvironment()
        numbers = env.from_sequence(1, given.count).map(beside).map(price).map(lambda n: (n, given.rest))
        numbers.execute_and_collect("with arguments")
        """,
    )
    told = project.penstock("run", "jobs/job.py", "--", "--count", "3", "a", "b=c")
    assert told.code == 0, told.err
    assert collected(told.out) == ["(11, ['a', 'b=c'])", "(21, ['a', 'b=c'])", "(31, ['a', 'b=c'])"]
    assert "submitted job" in told.err
    assert "has finished: 3 records" in told.err
    assert "RUNNING" not in told.all, "nobody watches"


def test_requirements_and_added_files(project: Project) -> None:
    """A wheel beside the code by --requirements; another one and a directory by the script itself."""
    by_flag, by_script = (
        wheel(project.directory / "wheels", "by_flag"),
        wheel(project.directory / "wheels", "by_script"),
    )
    project.write("requirements.txt", f"# ours\n--no-index\n./wheels/{by_flag}\n")
    project.write("more.txt", f"--no-index\n./wheels/{by_script}\n")
    project.write("libraries/in_a_library.py", "def third(n):\n    return f'library {n}'\n")
    project.write(
        "job.py",
        """
        import by_flag
        import penstock as ps
        env = ps.StreamExecutionEnvironment()
        env.add_python_file("libraries").set_python_requirements("more.txt")
        def wrapped(n):
            import by_script
            import in_a_library
            return by_flag.wrap(n), by_script.wrap(n), in_a_library.third(n)
        env.from_sequence(1, 2).map(wrapped).execute_and_collect("with requirements")
        """,
    )
    told = project.penstock("run", "job.py", "--requirements", "requirements.txt")
    assert told.code == 0, told.err
    assert collected(told.out) == ["('wheel 1', 'wheel 1', 'library 1')", "('wheel 2', 'wheel 2', 'library 2')"]


@pytest.mark.parametrize("command", ["penstock run", "python"])
def test_archives_lie_in_the_working_directory(command: str, project: Project) -> None:
    """The script runs there, or here: either way its functions find what it has added, by content."""
    with zipfile.ZipFile(project.directory / "words.zip", "w") as archive:
        archive.writestr("words.txt", f"one two {command}")
    project.write(
        "job.py",
        """
        import penstock as ps
        def words(n):
            with open("lists/words.txt") as file:
                return file.read()
        env = ps.StreamExecutionEnvironment()
        env.add_python_archive("words.zip", "lists")
        for row in env.from_sequence(1, 1).map(words).execute_and_collect("with an archive"):
            print(repr(row))
        """,
    )
    told = project.penstock("run", "job.py") if command != "python" else project.run(project.python, "job.py")
    assert told.code == 0, told.err
    assert collected(told.out) == [f"'one two {command}'"]


def test_flags(project: Project, rest: RestClient, wait_for: WaitFor) -> None:
    project.write(
        "job.py",
        """
        import penstock as ps
        env = ps.StreamExecutionEnvironment()
        env.from_sequence(1, 9).key_by(lambda n: n).count().print()
        env.execute()
        """,
    )
    project.write("penstock.yaml", "pipeline.name: from the file\nexecution.checkpointing.interval: 7s\n")
    flags = ("-p", "2", "-n", "-c", "pipeline.max-parallelism=64", "-c", "execution.checkpointing.interval=5s")
    told = project.penstock("submit", "job.py", *flags)
    assert told.code == 0, told.err
    assert JOB_ID.fullmatch(told.out.strip()), "a detached submission prints the id and nothing else"
    view = wait_for(lambda: (view := rest.job(told.out.strip())).overview.state == "FINISHED" and view, "its end")
    assert view.overview.name == "from the file"
    assert view.max_parallelism == 64
    assert max(vertex.parallelism for vertex in view.vertices) == 2
    assert view.checkpoint_config is not None
    assert view.checkpoint_config.interval_ms == 5_000
    as_json = project.penstock("submit", "job.py", "--output", "json")
    assert json.loads(as_json.out)["job_name"] == "from the file"


def test_progress_is_shown_where_a_person_watches(project: Project) -> None:
    """In pipes, as in the other tests here, it is not."""
    project.write(
        "job.py",
        """
        import time
        import penstock as ps
        def slowly(n):
            time.sleep(0.01)
            return n
        env = ps.StreamExecutionEnvironment()
        env.from_sequence(1, 600).map(slowly).execute_and_collect("watched")
        """,
    )
    code, seen = project.on_a_terminal(PENSTOCK, "run", "job.py", "-c", "execution.checkpointing.interval=500ms")
    shown = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", seen)
    assert code == 0, shown
    assert re.search(r"RUNNING · [1-9][0-9]* records, [0-9,]+/s · [0-9]+ checkpoints\r", shown), shown
    assert "\x1b[2K" in seen, "each line takes the place of the one before"
    assert "job 'watched' has finished: 600 records" in shown.splitlines()[-1]
    assert [line for line in shown.splitlines() if line.isdigit()] == [str(n) for n in range(1, 601)]


# records come once, whatever dies -------------------------------------------------------------------------------------


def test_records_are_collected_once_though_the_dispatcher_is_killed(
    project: Project, cluster: Cluster, rest: RestClient, wait_for: WaitFor
) -> None:
    project.write(
        "job.py",
        """
        import time
        import penstock as ps
        def slowly(n):
            time.sleep(0.01)
            return n
        env = ps.StreamExecutionEnvironment()
        env.enable_checkpointing("300ms")
        with env.from_sequence(1, 600).map(slowly).execute_and_collect("collected once") as rows:
            for row in rows:
                print(row, flush=True)
        """,
    )
    running = project.start(project.python, "job.py")
    assert running.stdout is not None
    first = [running.stdout.readline() for _ in range(20)]
    dispatcher = cluster.actor("Dispatcher")
    dispatcher.kill()
    rest_of_it = project.rest_of(running)
    assert rest_of_it.code == 0, rest_of_it.err
    rows = Counter([*first, *rest_of_it.out.splitlines(keepends=True)])
    assert rows == Counter(f"{n}\n" for n in range(1, 601))
    wait_for(lambda: [p for p in cluster.actors("Dispatcher") if p.pid != dispatcher.pid], "a new dispatcher")


# savepoints ---------------------------------------------------------------------------------------------------------

COUNTS = """
import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Json, Text
env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("1h")
words = env.from_source(FileSource("{0}/in", Text(), watch="50ms"), name="words").uid("words").rebalance()
counts = words.map(lambda word: (word, 1)).key_by(lambda row: row[0])
counts = counts.reduce(lambda one, other: (one[0], one[1] + other[1])).uid("counts")
counts.map(lambda row: dict(word=row[0], n=row[1])).sink_to(FileSink("{0}/out", Json())).uid("out")
env.execute("counted words")
"""


def counted(directory: Path) -> list[tuple[str, int]]:
    """What is committed."""
    files = [file for file in (directory / "out").rglob("part-*") if not file.name.startswith((".", "_"))]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted((row["word"], row["n"]) for row in rows)


@pytest.mark.timeout(300)
def test_savepoints_over_rest_and_a_job_that_goes_on_from_one(
    project: Project, rest: RestClient, wait_for: WaitFor, tmp_path: Path
) -> None:
    kept = str(tmp_path / "kept")
    (tmp_path / "in").mkdir()
    project.write("counts.py", COUNTS.format(tmp_path))

    def reads(job: str, words: str, total: int) -> None:
        name = f"{total}.txt"
        (tmp_path / name).write_text("\n".join(words) + "\n")
        (tmp_path / name).rename(tmp_path / "in" / name)
        wait_for(lambda: has_read(rest.job(job)) == total, f"{total} records")

    job = project.penstock("submit", "counts.py").out.strip()
    reads(job, "aba", 3)
    request = rest.begin_savepoint(job, kept)
    plain = awaited(lambda: rest.savepoint(job, request), timeout_s=60).location
    assert counted(tmp_path) == [], "a plain savepoint commits nothing"
    reads(job, "a", 4)
    request = rest.begin_savepoint(job, kept, stop=True)
    last = awaited(lambda: rest.savepoint(job, request), timeout_s=60).location
    wait_for(lambda: rest.job(job).overview.state == "FINISHED", "its end")
    assert rest.savepoint(job, request).location == last, "it is still told"
    assert counted(tmp_path) == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]
    latest = rest.checkpoints(job)["latest"]["savepoint"]
    assert (latest["external_path"], latest["checkpoint_type"]) == (last, "SYNC_SAVEPOINT")

    project.write("others.py", COUNTS.format(tmp_path).replace('"counts"', '"others"').replace('"out"', '"other out"'))
    jobs = len(rest.jobs())
    refused = project.penstock("submit", "others.py", "-s", last)
    assert refused.code == 1
    assert "state of operators that the job does not have: counts (state '" in refused.err
    assert len(rest.jobs()) == jobs, "it is refused before there is one"

    again = project.penstock("submit", "counts.py", "-s", last, "-p", "2").out.strip()
    reads(again, "ab", 2)
    told = project.penstock("stop", again, "--savepoint-path", kept)
    assert told.code == 0, told.err
    assert counted(tmp_path) == [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1), ("b", 2)]
    assert rest.checkpoints(again)["latest"]["restored"]["external_path"] == last

    for path in (plain, last, told.out.strip()):
        request = rest.begin_disposal(path)
        awaited(lambda request=request: rest.disposal(request), timeout_s=60)
    assert list((tmp_path / "kept").iterdir()) == []


def has_read(view: JobView) -> int:
    """Records that its last task has taken in."""
    return sum(subtask.metrics.records_in for vertex in view.vertices[-1:] for subtask in vertex.subtasks)


# state of a job that runs ---------------------------------------------------------------------------------------------

PLACES = """
import time
from typing import NamedTuple
import penstock as ps
class Place(NamedTuple):
    country: str
    number: int
def place(n: int) -> Place:
    time.sleep(0.001)
    return Place("DE", n % 4)
env = ps.StreamExecutionEnvironment()
env.enable_checkpointing("200ms")
env.from_sequence(1, 10**8).map(place).key_by(lambda place: place).count().uid("counts").print()
env.execute("places")
"""


@pytest.mark.timeout(300)
def test_keys_are_asked_for_while_slots_work_and_after_one_was_killed(
    project: Project, rest: RestClient, cluster: Cluster, wait_for: WaitFor
) -> None:
    """Of a class that only the job's processes know."""
    project.write("places.py", PLACES)
    job = project.penstock("submit", "places.py", "-p", "2").out.strip()

    def count(number: int) -> int:
        try:
            return rest.state(job, StateQuestion("counts", "running", f'["DE", {number}]'))["value"] or 0
        except ConflictError as error:
            raise ConflictError(f"{error}; {rest.job(job).exceptions[:1]}") from error

    wait_for(lambda: rest.job(job).overview.state == "RUNNING", "it runs")
    for number in range(4):
        seen = wait_for(lambda n=number: count(n), f"number {number}")
        wait_for(lambda n=number, seen=seen: count(n) > seen, "it goes on")
    told = project.penstock("state", "get", job, "counts", "running", '["DE", 3]', "-o", "json")
    found = json.loads(told.out)
    assert (found["kind"], found["found"], found["subtask"] in (0, 1)) == ("value", True, True), told.err
    assert [(state["name"], state["key"]) for state in rest.states(job)] == [("running", "Place(str, int)")]
    with pytest.raises(RefusedError, match=r"of type Place\(str, int\)"):
        rest.state(job, StateQuestion("counts", "running", "DE"))
    (manager,) = rest.task_managers()
    slots = cluster.get(f"/taskmanagers/{manager['id']}")["slots"]
    os.kill(next(slot["pid"] for slot in slots if slot["jobId"] == job), signal.SIGKILL)
    wait_for(lambda: rest.job(job).restarts > 0, "it restarts")
    seen = wait_for(lambda: count(0), "asked again until it answers")
    wait_for(lambda: count(0) > seen, "it goes on")
    assert project.penstock("cancel", job, "--yes").code == 0
    with pytest.raises(ConflictError, match="has ended as CANCELED"):
        count(0)


# logs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_lines_say_which_subtask_and_are_found_by_job(project: Project) -> None:
    project.write(
        "job.py",
        """
        import logging, time
        import penstock as ps
        def tell(n):
            logging.getLogger("shop").warning("saw %d", n)
            print("printed", n)
            time.sleep(0.001)
        env = ps.StreamExecutionEnvironment()
        env.from_sequence(1, 10**7).map(tell, name="teller").print()
        env.execute("talkative")
        """,
    )
    job_id = project.penstock("submit", "job.py", "-p", "2").out.strip()
    lines: list[str] = []
    for _ in range(10):
        lines = project.penstock("logs", job_id).out.splitlines()
        subtasks = {match[1] for line in lines if (match := re.search(rf"\[{job_id} .+/(\d)#\d+\] shop: saw", line))}
        if subtasks == {"0", "1"}:
            break
    else:
        pytest.fail("\n".join(lines[-20:]))
    assert any("job" in line and "shop" not in line for line in lines), "the master's lines, too"
    assert "printed" in project.penstock("logs", job_id, "--stdout").out
    assert project.penstock("cancel", job_id, "--yes").code == 0
