"""A script that builds a pipeline and never runs it is told so, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BUILDS = "import penstock as ps\nenv = ps.StreamExecutionEnvironment()\nenv.from_sequence(1, 3).print()\n"
NOTE = "note: job.py has built a pipeline and never run it; a pipeline runs when env.execute() is called\n"


def run(here: Path, script: str, *command: str) -> tuple[int, str, str]:
    (here / "job.py").write_text(script)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    done = subprocess.run(
        [sys.executable, *(command or ("job.py",))],
        cwd=here, env=environ | {"PENSTOCK__EXECUTION__TARGET": "local"}, input="", capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "script",
    [
        BUILDS,
        "def main():\n    " + BUILDS.replace("\n", "\n    ") + "\nif __name__ == '__main__':\n    main()\n",
        f"{BUILDS}ps.StreamExecutionEnvironment()\nimport sys\nsys.exit(0)\n",
        f"{BUILDS}other = ps.StreamExecutionEnvironment()\nother.from_sequence(1, 3).print()\nother.execute()\n",
    ],
    ids=["at the top", "in a function that is over", "an exit", "another one was run"],
)
def test_a_pipeline_that_is_never_run_is_told_once(here: Path, script: str) -> None:
    code, _, err = run(here, script)
    assert code == 0
    assert err.endswith(NOTE)
    assert err.count(NOTE) == 1


@pytest.mark.parametrize(
    "script",
    [
        "import penstock as ps\nps.StreamExecutionEnvironment()\n",
        f"{BUILDS}env.execute()\n",
        f"{BUILDS}env.execute()\nenv.from_sequence(1, 3).print()\n",
        f"{BUILDS}print(env.describe())\n",
        f"{BUILDS}print(env.get_execution_plan())\n",
        "import penstock as ps\nenv = ps.StreamExecutionEnvironment()\nlist(env.from_sequence(1, 3)"
        ".execute_and_collect())\n",
        f"{BUILDS}1 / 0\n",
        f"{BUILDS}raise KeyboardInterrupt\n",
        f"{BUILDS}env.set_parallelism(-1)\ntry:\n    env.execute()\nexcept Exception:\n    pass\n",
        "import unittest\nclass Builds(unittest.TestCase):\n    def test(self):\n        "
        + BUILDS.replace("\n", "\n        ")
        + "\nunittest.main()\n",
    ],
    ids=[
        "nothing built", "run", "run once", "described", "planned", "collected", "failed", "interrupted", "refused",
        "tested",
    ],
)  # fmt: skip
def test_others_are_not(here: Path, script: str) -> None:
    assert "never run it" not in run(here, script)[2]


def test_not_in_a_prompt_nor_in_a_child_that_imports_the_script(here: Path) -> None:
    assert "never run it" not in run(here, BUILDS, "-i", "job.py")[2]
    assert "never run it" not in run(here, "", "-c", BUILDS)[2]
    spawns = "import multiprocessing\nif __name__ == '__main__':\n    env.execute()\n"
    child = "    process = multiprocessing.get_context('spawn').Process(target=print)\n    process.start()\n"
    assert "never run it" not in run(here, f"{BUILDS}{spawns}{child}    process.join()\n")[2]


def test_the_command_tells_it_once(here: Path) -> None:
    _, _, err = run(here, BUILDS, "-m", "penstock.api.command_line", "run", "--local", "job.py")
    assert err == "note: job.py has run no job; a pipeline runs when env.execute() is called\n"
