"""The file operations of an audit directory: no file outside of it is written through a link, and errors name the
file."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridrelay.audit.disk import AppendedFile, Disk

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such links by default")

WRITES: dict[str, Callable[[Disk], object]] = {
    "append_to": lambda disk: disk.append_to("file"),
    "overwrite": lambda disk: disk.overwrite("file"),
    "create": lambda disk: disk.create("file", b"new"),
    "lock": lambda disk: disk.lock(),
}


@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, operation: str, exists: bool) -> None:
    directory, victim = tmp_path / "audit", tmp_path / "victim"
    directory.mkdir()
    if exists:
        victim.write_bytes(b"precious")
    (directory / ("lock" if operation == "lock" else "file")).symlink_to(victim)
    with pytest.raises(OSError) as caught:
        WRITES[operation](Disk(directory))
    assert caught.value.errno in (errno.ELOOP, errno.EEXIST)
    assert victim.exists() == exists
    assert not exists or victim.read_bytes() == b"precious"


def test_a_compressed_copy_takes_the_place_of_a_link(tmp_path: Path) -> None:
    directory, victim = tmp_path / "audit", tmp_path / "victim"
    directory.mkdir()
    victim.write_bytes(b"precious")
    (directory / "file").write_bytes(b"lines")
    (directory / "file.gz.part").symlink_to(victim)
    Disk(directory).compress("file")
    assert victim.read_bytes() == b"precious"
    assert not (directory / "file.gz.part").is_symlink()


def test_a_link_that_is_put_there_meanwhile_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the removal of an incomplete copy, and the new one."""
    directory, victim = tmp_path / "audit", tmp_path / "victim"
    directory.mkdir()
    (directory / "file").write_bytes(b"lines")
    unlink = Path.unlink

    def replaced(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        os.symlink(victim, path)

    (directory / "file.gz.part").write_bytes(b"")
    monkeypatch.setattr(Path, "unlink", replaced)
    with pytest.raises(FileExistsError):
        Disk(directory).compress("file")
    assert not victim.exists()


READS: dict[str, Callable[[Disk], object]] = {
    "read": lambda disk: disk.read("mem"),
    "first_line": lambda disk: disk.first_line("mem", 100),
    "last_line": lambda disk: disk.last_line("mem", 100),
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a file that can be opened and not read")
@pytest.mark.parametrize("operation", READS)
def test_an_error_while_reading_names_the_file(operation: str) -> None:
    with pytest.raises(OSError) as caught:
        READS[operation](Disk(Path("/proc/self")))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "/proc/self/mem")


def test_an_error_while_closing_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError) as caught:
        AppendedFile(path, -1).close()
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, str(path))


def test_an_error_while_syncing_names_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError) as caught:
        Disk(tmp_path).sync_names()
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path))
