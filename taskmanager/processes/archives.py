"""Zip and tar files of users, unpacked: code, and what functions read.

They come from outside. Members that would lie outside of the directory, links that lead out of it (of zip files: all
links), devices, and archives that unpack to more than the limits are refused, each with its name.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ...state.errors import PenstockError

TAR_FILES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_FILES = 50_000
MAX_UNPACKED_BYTES = 2 << 30
"""Of one archive: eight times the largest upload."""
_COPY_BYTES = 1 << 20
_EXECUTABLE = 0o111
_UNREADABLE = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError, UnicodeError,
)  # fmt: skip


class UserCodeInstallError(PenstockError):
    """The job's code cannot be installed; says what is wrong with it."""


def unpack_archive(archive: Path, directory: Path) -> None:
    """Its members, each below `directory`. UserCodeInstallError names what is wrong with it."""
    try:
        if archive.name.endswith(TAR_FILES):
            with tarfile.open(archive) as opened_tar:
                _unpack_tar(opened_tar, archive, directory)
            return
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            _check_count(archive, len(members))
            left = MAX_UNPACKED_BYTES
            for member in members:
                left -= _unpack_member(opened, member, directory, left)
    except _UNREADABLE as error:
        raise UserCodeInstallError(f"{archive.name} cannot be unpacked: {error}") from error


def _check_count(archive: Path, members: int) -> None:
    if members > MAX_FILES:
        raise UserCodeInstallError(f"{archive.name} has {members} members; the limit is {MAX_FILES}")


def check_name(archive: str | Path | None, name: str) -> None:
    """UserCodeInstallError: it would lie outside of the directory that the archive is unpacked to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise UserCodeInstallError(f"{archive}: the member {name!r} lies outside of the archive")


def check_archive(archive: Path) -> None:
    """UserCodeInstallError: it cannot be unpacked, or not there alone where it should be."""
    with tempfile.TemporaryDirectory(prefix="penstock-archive-") as scratch:
        unpack_archive(archive, Path(scratch))


def _unpack_tar(opened: tarfile.TarFile, archive: Path, directory: Path) -> None:
    """Links may stay that lead to other members (tarfile's filter 'data')."""
    left = MAX_UNPACKED_BYTES
    for number, member in enumerate(opened, start=1):
        _check_count(archive, number)
        check_name(archive, member.name)
        left -= member.size
        if left < 0:
            raise UserCodeInstallError(f"{archive} unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        opened.extract(member, directory, filter="data")


def _unpack_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, directory: Path, left: int) -> int:
    check_name(opened.filename, member.filename)
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserCodeInstallError(f"{opened.filename}: the member {member.filename!r} is a link or a device")
    target = directory / member.filename
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(member) as source, target.open("wb") as file:
        while chunk := source.read(_COPY_BYTES):  # what the header says of the size need not be true
            written += len(chunk)
            if written > left:
                raise UserCodeInstallError(f"{opened.filename} unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            file.write(chunk)
    if mode & _EXECUTABLE:
        target.chmod(target.stat().st_mode | _EXECUTABLE)
    return written
