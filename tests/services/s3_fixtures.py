"""Fixtures of the S3 server, for all tests (a plugin of pytest, see pyproject.toml).

`s3_server`: one for all tests of a process; `s3_location`: an empty place on it; `own_s3_server`: one for tests that
stop it. Where the server cannot be had, tests are skipped with the reason, and fail where CI is set: there it must be.

If it has to be built first, that begins when the tests are collected, and those that need it come last.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from s3_server import S3Server
from versitygw import BUILD_TIMEOUT_S, ServiceMissing, build_ahead, cached_binary

FIXTURES = frozenset({"s3_server", "own_s3_server"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if cached_binary().is_file():
        return
    waiting = [item for item in items if FIXTURES & set(getattr(item, "fixturenames", ()))]
    if not waiting:
        return
    others = [item for item in items if item not in set(waiting)]
    items[:] = [*others, *waiting]
    for item in waiting:
        item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S + 120))
    build_ahead()


def _provided(tmp_path_factory: pytest.TempPathFactory) -> S3Server:
    try:
        return S3Server(tmp_path_factory.mktemp("s3"))
    except ServiceMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = _provided(tmp_path_factory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = _provided(tmp_path_factory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_location(s3_server: S3Server) -> str:
    """A URL under which nothing is."""
    return f"{s3_server.create_bucket('penstock-tests')}/{secrets.token_hex(6)}/checkpoints"
