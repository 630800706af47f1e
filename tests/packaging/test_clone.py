"""The layout holds in a clone whose folder is named as no module can be (docs/decisions/0001)."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import venv
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def python(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that is lent this one's packages, with the clone installed editable."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but .pth files in there are not run: our own editable install stays unknown.
    (packages / "lent.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    python = environment / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable"]
    command: list[str | Path] = [python, *install, clone]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def test_names_in_a_clone_called_x_y_z(clone: Path, python: Path) -> None:
    folder = clone / "tests" / "packaging"
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("test_loaded_names.py"), folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
