"""Zip and tar files that come from outside: nothing escapes, nothing is too large."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from penstock.taskmanager.processes import archives
from penstock.taskmanager.processes.archives import UserCodeInstallError, unpack_archive


def zipped(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, size: int = 0, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode = size, mode
    if link:
        made.type, made.linkname = tarfile.SYMTYPE, link
    return made


def link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize("name", ["../escaped.py", "/escaped.py", "a/../../escaped.py", "..\\escaped.py", "c:\\x.py"])
def test_members_stay_inside(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "a.zip", {"fine.py": "", name: "x"})
    with pytest.raises(UserCodeInstallError, match="outside"):
        unpack_archive(archive, tmp_path / "target")
    assert not list(tmp_path.rglob("*escaped*"))


def test_links_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link("etc"), "/etc")
        archive.writestr("etc/file", "x")
    with pytest.raises(UserCodeInstallError, match="link"):
        unpack_archive(tmp_path / "a.zip", tmp_path / "target")


def test_archives_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 10_000)
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    zipped(tmp_path / "fits.zip", {"a": "x" * 5_000, "b": "x" * 5_000})
    unpack_archive(tmp_path / "fits.zip", tmp_path / "target")
    zipped(tmp_path / "large.zip", {"a": "x" * 5_000, "b": "x" * 5_001})
    with pytest.raises(UserCodeInstallError, match="more than 10000 bytes"):
        unpack_archive(tmp_path / "large.zip", tmp_path / "target")
    zipped(tmp_path / "many.zip", dict.fromkeys("abcd", ""))
    with pytest.raises(UserCodeInstallError, match="4 members"):
        unpack_archive(tmp_path / "many.zip", tmp_path / "target")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserCodeInstallError, match=r"a\.zip cannot be unpacked"):
        unpack_archive(tmp_path / "a.zip", tmp_path / "target")


def test_a_tar_file_with_its_links_and_programs(tmp_path: Path) -> None:
    tarred(
        tmp_path / "a.tar.gz", member("bin/tool", 3, mode=0o755), member("data/one", 5), member("data/two", link="one")
    )
    unpack_archive(tmp_path / "a.tar.gz", tmp_path / "target")
    assert (tmp_path / "target/data/two").read_text() == "xxxxx"
    assert (tmp_path / "target/bin/tool").stat().st_mode & stat.S_IXUSR


def test_programs_of_a_zip_file_can_be_executed(tmp_path: Path) -> None:
    tool = zipfile.ZipInfo("tool")
    tool.external_attr = (stat.S_IFREG | 0o755) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(tool, "#!/bin/sh\n")
        archive.writestr("data", "")
    unpack_archive(tmp_path / "a.zip", tmp_path / "target")
    assert (tmp_path / "target/tool").stat().st_mode & stat.S_IXUSR
    assert not (tmp_path / "target/data").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    "escaping",
    [member("../escaped", 1), member("/escaped", 1), member("out", link="../.."), member("out", link="/etc")],
    ids=["above", "absolute", "a link above", "an absolute link"],
)
def test_members_of_a_tar_file_stay_inside(tmp_path: Path, escaping: tarfile.TarInfo) -> None:
    tarred(tmp_path / "a.tar.gz", member("fine", 1), escaping)
    with pytest.raises(UserCodeInstallError):
        unpack_archive(tmp_path / "a.tar.gz", tmp_path / "target")
    assert not list(tmp_path.rglob("*escaped*"))
    assert not (tmp_path / "target/out").is_symlink()


def test_tar_files_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 10_000)
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    tarred(tmp_path / "large.tar.gz", member("a", 5_000), member("b", 5_001))
    with pytest.raises(UserCodeInstallError, match="more than 10000 bytes"):
        unpack_archive(tmp_path / "large.tar.gz", tmp_path / "target")
    tarred(tmp_path / "many.tar.gz", *(member(name) for name in "abcd"))
    with pytest.raises(UserCodeInstallError, match="4 members"):
        unpack_archive(tmp_path / "many.tar.gz", tmp_path / "target")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b cut off"])
def test_what_is_no_tar_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tgz").write_bytes(content)
    with pytest.raises(UserCodeInstallError, match=r"a\.tgz cannot be unpacked"):
        unpack_archive(tmp_path / "a.tgz", tmp_path / "target")
