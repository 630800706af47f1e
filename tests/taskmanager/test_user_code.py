"""The code of a job: kept in the cluster's store, unpacked once per machine, and nothing escapes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.state.errors import ObjectNotFound
from penstock.state.store import artefacts
from penstock.state.store.artefacts import ArtefactError
from penstock.state.store.objects import List, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.taskmanager.processes import user_code
from penstock.taskmanager.processes.user_code import UserCode, UserCodeInstallError, activate, install, set_up


@pytest.fixture
def store(tmp_path: Path) -> ObstoreObjects:
    return ObstoreObjects(tmp_path / "store")


@pytest.fixture
def code_directory(tmp_path: Path) -> Path:
    return tmp_path / "code"


@pytest.fixture
def clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def zipped(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def uploaded(store: ObstoreObjects, path: Path, name: str | None = None) -> str:
    return run_program(artefacts.put_artefact(name or path.name, path, None, 1_000), store).id


def code_of(store: ObstoreObjects, *ids: str) -> UserCode:
    return UserCode(artefacts=ids, artefact_storage=store.location)


# artefacts --------------------------------------------------------------------------------------------------------


def test_an_artefact_is_found_fetched_and_deleted(store: ObstoreObjects, tmp_path: Path) -> None:
    file = tmp_path / "job.py"
    file.write_text("x = 1")
    put = run_program(artefacts.put_artefact("some/dir\\my job.py", file, "job.py", 1_000), store)
    assert (put.name, put.size_bytes, put.uploaded_ms, put.entry) == ("my_job.py", 5, 1_000, "job.py")
    assert put.id.endswith("_my_job.py")
    assert run_program(artefacts.get_artefact(put.id), store) == put
    run_program(artefacts.fetch_artefact(put.id, tmp_path / "fetched"), store)
    assert (tmp_path / "fetched").read_text() == "x = 1"
    run_program(artefacts.delete_artefact(put.id), store)
    assert store.execute(List("")) == []
    with pytest.raises(ObjectNotFound, match="upload it first"):
        run_program(artefacts.fetch_artefact(put.id, tmp_path / "fetched"), store)
    with pytest.raises(ObjectNotFound):
        run_program(artefacts.delete_artefact(put.id), store)


def test_the_same_upload_twice_is_one_artefact_and_the_newest_come_first(store: ObstoreObjects, tmp_path: Path) -> None:
    file = tmp_path / "job.py"
    file.write_text("x = 1")
    first = run_program(artefacts.put_artefact("job.py", file, None, 1_000), store)
    assert run_program(artefacts.put_artefact("job.py", file, None, 2_000), store) == first
    file.write_text("x = 2")
    second = run_program(artefacts.put_artefact("job.py", file, None, 3_000), store)
    assert run_program(artefacts.list_artefacts(), store) == [second, first]


def test_a_damaged_artefact_is_not_used(store: ObstoreObjects, tmp_path: Path, code_directory: Path) -> None:
    file = tmp_path / "job.py"
    file.write_text("x = 1")
    artefact = uploaded(store, file)
    (tmp_path / "store" / artefacts.CONTENTS / artefact).write_text("x = 2")
    with pytest.raises(ArtefactError, match="damaged"):
        install(code_of(store, artefact), code_directory)
    assert [path.name for path in code_directory.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize("wanted", ["", "../../secret", "0" * 64, "0" * 64 + "_../x", "0" * 64 + "_x/../../y"])
def test_ids_are_no_paths(store: ObstoreObjects, tmp_path: Path, wanted: str) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(ObjectNotFound):
        run_program(artefacts.fetch_artefact(wanted, tmp_path / "fetched"), store)


@pytest.mark.parametrize("name", ["..", "/", "", ".hidden", "ä" * 300 + ".py", "a\nb.zip"])
def test_whatever_a_client_calls_it_the_name_is_harmless(store: ObstoreObjects, tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    found = run_program(artefacts.put_artefact(name, file, None, 1), store)
    assert run_program(artefacts.get_artefact(found.id), store) == found
    assert not found.name.startswith(".")


# installing -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clean_imports")
def test_modules_of_archives_scripts_and_directories_can_be_imported(
    store: ObstoreObjects, tmp_path: Path, code_directory: Path
) -> None:
    members = {"helpers_a/__init__.py": "", "helpers_a/deep.py": "value = 1"}
    archive = uploaded(store, zipped(tmp_path / "a.zip", members))
    script = tmp_path / "helpers_b.py"
    script.write_text("value = 2")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "helpers_c.py").write_text("value = 3")
    code = UserCode((archive, uploaded(store, script)), store.location, (str(tmp_path / "own"),))
    activate(install(code, code_directory))
    import helpers_a.deep  # type: ignore[import-not-found]
    import helpers_b  # type: ignore[import-not-found]
    import helpers_c  # type: ignore[import-not-found]

    assert (helpers_a.deep.value, helpers_b.value, helpers_c.value) == (1, 2, 3)


def test_the_same_code_is_installed_once(store: ObstoreObjects, tmp_path: Path, code_directory: Path) -> None:
    code = code_of(store, uploaded(store, zipped(tmp_path / "a.zip", {"m.py": "x = 1"})))
    (entry,) = install(code, code_directory)
    before = (Path(entry) / "m.py").stat().st_ino
    assert install(code, code_directory) == [entry]
    assert (Path(entry) / "m.py").stat().st_ino == before
    other = code_of(store, uploaded(store, zipped(tmp_path / "a.zip", {"m.py": "x = 2"})))
    assert install(other, code_directory) != [entry]


def _install_slowly(directory: str, location: str, artefact: str, done: str) -> None:
    original = user_code.unpack_archive

    def slowly(archive: Path, target: Path) -> None:
        with open(done, "a") as file:
            file.write(f"{os.getpid()}\n")
        original(archive, target)

    user_code.unpack_archive = slowly
    install(UserCode((artefact,), location), Path(directory))


def test_processes_that_install_at_once_do_it_once(store: ObstoreObjects, tmp_path: Path, code_directory: Path) -> None:
    artefact = uploaded(store, zipped(tmp_path / "a.zip", {"m.py": "x = 1"}))
    context = multiprocessing.get_context("spawn")
    arguments = (str(code_directory), store.location, artefact, str(tmp_path / "done"))
    processes = [context.Process(target=_install_slowly, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((tmp_path / "done").read_text().splitlines()) == 1


def test_what_a_killed_installation_left_is_not_taken_for_the_code(
    store: ObstoreObjects, tmp_path: Path, code_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = uploaded(store, zipped(tmp_path / "a.zip", {"m.py": "x = 1", "n.py": "x = 2"}))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            install(code_of(store, artefact), code_directory)
    (entry,) = install(code_of(store, artefact), code_directory)
    assert sorted(path.name for path in Path(entry).iterdir()) == ["m.py", "n.py"]


def test_code_that_is_not_there_is_named(store: ObstoreObjects, code_directory: Path) -> None:
    with pytest.raises(ObjectNotFound, match=r"gone\.zip"):
        install(code_of(store, "0" * 64 + "_gone.zip"), code_directory)


# archives ---------------------------------------------------------------------------------------------------------


def archive_of(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return zipped(path, {"names.txt": text})


@pytest.mark.usefixtures("clean_imports")
def test_archives_lie_in_the_working_directory_of_the_process(
    store: ObstoreObjects, tmp_path: Path, code_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine, and in the code that was uploaded; of the same content there is one copy."""
    monkeypatch.chdir(tmp_path)
    here = archive_of(tmp_path / "here" / "data.zip", "here")
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.write(archive_of(tmp_path / "sent" / "data.zip", "sent"), "lists/data.zip")
    code = replace(
        code_of(
            store, uploaded(store, zipped(tmp_path / "other.zip", {"a.py": ""})), uploaded(store, tmp_path / "code.zip")
        ),
        archives=((str(here), "first"), ("lists/data.zip", "second/of")),
    )
    for _ in range(2):
        set_up(code, code_directory, {})
        assert Path("first/names.txt").read_text() == "here"
        assert Path("second/of/names.txt").read_text() == "sent"
    assert len(list(code_directory.glob("archives-*"))) == 1
    archive_of(here, "changed")
    set_up(code, code_directory, {})
    assert Path("first/names.txt").read_text() == "changed"


@pytest.mark.parametrize("target", ["../out", "/tmp/out", "a/../../out"])
def test_archives_stay_in_the_working_directory(
    tmp_path: Path, code_directory: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = UserCode(archives=((str(archive_of(tmp_path / "data.zip", "x")), target),))
    with pytest.raises(UserCodeInstallError, match="lies outside"):
        set_up(code, code_directory, {})
    assert not list(tmp_path.rglob("names.txt"))


def test_an_archive_that_is_not_there_is_named(code_directory: Path) -> None:
    with pytest.raises(UserCodeInstallError, match=r"archive gone\.zip is not there"):
        set_up(UserCode(archives=(("gone.zip", "data"),)), code_directory, {})


# requirements -----------------------------------------------------------------------------------------------------


def wheel(directory: Path, name: str, requires: str = "") -> Path:
    """A wheel with one module, made by hand: nothing is built and nothing is downloaded."""
    info = f"{name}-1.0.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    members = {
        f"{name}.py": "value = 42",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    return zipped(directory / f"{name}-1.0-py3-none-any.whl", members)


@pytest.mark.usefixtures("clean_imports")
def test_requirements_are_installed_once(tmp_path: Path, code_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    code = UserCode(requirements=(str(wheel(tmp_path, "needed_by_a_job")),))
    entries = install(code, code_directory)
    activate(entries)
    import needed_by_a_job  # type: ignore[import-not-found]

    assert needed_by_a_job.value == 42
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert install(code, code_directory) == entries


@pytest.mark.usefixtures("clean_imports")
def test_requirements_may_lie_beside_the_code(
    store: ObstoreObjects, tmp_path: Path, code_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    packed = wheel(tmp_path, "lies_beside")
    archive = zipped(tmp_path / "code.zip", {"libraries/more.py": "value = 43"})
    with zipfile.ZipFile(archive, "a") as opened:
        opened.write(packed, f"wheels/{packed.name}")
    code = UserCode(
        artefacts=(uploaded(store, archive),),
        artefact_storage=store.location,
        python_path=("libraries",),
        requirements=(f"./wheels/{packed.name}",),
    )
    entries = install(code, code_directory)
    activate(entries)
    import lies_beside  # type: ignore[import-not-found]
    import more  # type: ignore[import-not-found]

    assert (lies_beside.value, more.value) == (42, 43)
    assert install(code, code_directory) == entries


def test_requirements_that_cannot_be_had_are_named_with_what_pip_says(
    code_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserCodeInstallError, match=r"no-such-package==7.*cannot be installed:\n  ERROR: ") as raised:
        install(UserCode(requirements=("no-such-package==7",)), code_directory)
    assert len(str(raised.value).splitlines()) <= 7
    assert not list(code_directory.glob("requirements-*"))


def test_a_second_version_of_what_the_engine_has_loaded_is_refused(
    tmp_path: Path, code_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    old = wheel(tmp_path, "wants_an_old_numpy", "numpy==1.0")
    with pytest.raises(UserCodeInstallError, match="numpy"):
        install(UserCode(requirements=(str(old),)), code_directory)


def test_an_installation_that_hangs_is_ended_with_all_its_processes(
    tmp_path: Path, code_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nsleep 600 & echo $$ $! > {pids}.new\nmv {pids}.new {pids}\nwait\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(user_code, "INSTALL_TIMEOUT_S", 1.0)
    with pytest.raises(UserCodeInstallError, match="not installed within 1 s: some-package"):
        install(UserCode(requirements=("some-package",)), code_directory)
    deadline_s = time.monotonic() + 30
    while any(running(pid) for pid in map(int, pids.read_text().split())):
        assert time.monotonic() < deadline_s


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
