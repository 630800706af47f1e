"""What stands in the logs of a process: whose line it is, everything that was printed, no secrets, no end of files."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.runtime import logs
from penstock.runtime.logs import TaskContext, list_logs, read_log, remove_old_logs, setup_logging, without_secrets

CONTEXT = TaskContext("job1", "map", 2, 7)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield setup_logging(tmp_path, "slot-1", "info")
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_line_says_when_what_and_for_which_subtask(file: Path) -> None:
    logger = logging.getLogger("users.module")
    logger.info("before %d", 1)
    with logs.use_context(CONTEXT):
        logger.warning("inside")
    logger.debug("not shown")
    first, second = file.read_text().splitlines()
    assert first[10] == "T"
    assert first.endswith("Z INFO users.module: before 1")
    assert second.endswith("Z WARNING [job1 map/2#7] users.module: inside")


def test_the_context_is_the_threads_own(file: Path) -> None:
    def other() -> None:
        logging.getLogger("x").info("from another thread")

    logs.set_context(CONTEXT)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    logging.getLogger("x").info("from this one")
    logs.set_context(None)
    first, second = file.read_text().splitlines()
    assert "[" not in first
    assert "[job1 map/2#7]" in second


def test_contexts_can_be_nested() -> None:
    with logs.use_context(CONTEXT), logs.use_context(None):
        assert logs.get_context() is None
    with logs.use_context(CONTEXT):
        with pytest.raises(ValueError, match="x"), logs.use_context(None):
            raise ValueError("x")
        assert logs.get_context() == CONTEXT
    assert logs.get_context() is None


def test_tracebacks_and_warnings_are_logged(file: Path) -> None:
    try:
        raise ValueError("the reason")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    warnings.warn("be warned", stacklevel=1)
    text = file.read_text()
    assert "it failed\nTraceback (most recent call last):\n" in text
    assert "ValueError: the reason" in text
    assert "be warned" in text


def test_setting_up_again_moves(file: Path, tmp_path: Path) -> None:
    other = setup_logging(tmp_path, "slot-2", "debug")
    logging.getLogger("x").debug("moved")
    assert (file.read_text(), "moved" in other.read_text()) == ("", True)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("s3 at http://user:hunter22@host/path", "s3 at http://******@host/path"),
        ("secret_access_key=abc/def+g region=x", "secret_access_key=****** region=x"),
        ("{'aws_secret_access_key': 'abcdef'}", "{'aws_secret_access_key': '******'}"),
        ("Authorization: Bearer abc.def.ghi", "Authorization: Bearer ******"),
        ("GET /x?X-Amz-Signature=0a1b2c&y=1", "GET /x?X-Amz-Signature=******&y=1"),
        ("password = hunter22", "password = ******"),
        ("the token was refused", "the token was refused"),
        ("http://host:8081/jobs", "http://host:8081/jobs"),
    ],
)
def test_secrets_are_masked_by_their_names(text: str, masked: str) -> None:
    assert without_secrets(text) == masked


def test_registered_secrets_are_masked_wherever_they_stand(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_hidden", set())
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
    monkeypatch.setenv("SOME_TOKEN_FILE", "/etc/some-token-file")
    setup_logging(tmp_path, "slot-1", "info")
    logs.hide("of-the-job", "abc")
    logging.getLogger("x").info("sent 0123456789abcdef and of-the-job from /etc/some-token-file to abc")
    try:
        raise ValueError("of-the-job")
    except ValueError:
        logging.getLogger("x").exception("failed")
    text = file.read_text()
    assert "sent ****** and ****** from /etc/some-token-file to abc" in text
    assert "ValueError: ******" in text


def test_files_are_rotated(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 2_000)
    path = setup_logging(file.parent, "small", "info")
    for number in range(500):
        logging.getLogger("x").info("line %d", number)
    files = sorted(file.name for file in list_logs(path.parent) if file.name.startswith("small"))
    assert files == ["small.log", "small.log.1", "small.log.2", "small.log.3"]
    assert all(file.size_bytes <= 2_000 for file in list_logs(path.parent))
    assert "line 499" in path.read_text()


PRINTING = """
import ctypes, os, sys
from pathlib import Path
from penstock.runtime.logs import OutputFile
output = OutputFile(Path(sys.argv[1]), max_bytes=1_000)
for number in range(100):
    print("printed", number)
    output.rotate()
print("an error", file=sys.stderr)
os.write(1, b"from compiled code\\n")
os.system("echo from a child")
ctypes.string_at(0)
"""


def test_what_a_process_prints_is_kept_and_rotated_and_its_last_words_too(tmp_path: Path) -> None:
    out = tmp_path / "slot-1.out"
    done = subprocess.run([sys.executable, "-c", PRINTING, str(out)], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-11, b"", b"")
    texts = [(tmp_path / f"slot-1.out{suffix}").read_text() for suffix in (".1", "")]
    printed = "".join(texts)
    assert printed.count("printed") == 100
    assert all(line in texts[1] for line in ("an error", "from compiled code", "from a child", "Segmentation fault"))


def test_the_end_of_a_log_begins_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("first line\nsecond line\nthird line\n")
    assert read_log(tmp_path, "a.log", 1_000).startswith(b"first")
    assert read_log(tmp_path, "a.log", 20) == b"third line\n"
    assert read_log(tmp_path, "a.log", 23) == b"second line\nthird line\n"
    assert read_log(tmp_path, "a.log", 0) == b""
    (tmp_path / "b.log").write_text("x" * 100)
    assert read_log(tmp_path, "b.log", 10) == b"x" * 10


@pytest.mark.parametrize("name", ["../secret", "", ".", "..", "sub", "sub/inner.log", "none.log"])
def test_only_files_of_the_directory_are_read(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "logs"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub" / "inner.log").write_text("x")
    (tmp_path / "secret").write_text("x")
    with pytest.raises(FileNotFoundError):
        read_log(directory, name, 100)


def test_logs_of_ended_processes_are_kept_up_to_a_number(tmp_path: Path) -> None:
    for age, name in enumerate(["slot-1", "slot-2", "slot-3", "slot-4"]):
        for suffix in (".log", ".log.1", ".out"):
            path = tmp_path / f"{name}{suffix}"
            path.write_text("x")
            os.utime(path, (1_000 + age, 1_000 + age))
    remove_old_logs(tmp_path, keep=frozenset({"slot-1"}), newest=2)
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"slot-1", "slot-3", "slot-4"}
    assert len(list(tmp_path.iterdir())) == 9
