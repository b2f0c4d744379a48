"""The file from which OpenSSL reads a private key: in memory if possible, otherwise on disk, for this user only."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from hybridrelay.errors import ConfigurationError
from hybridrelay.security import Role, create_authority
from hybridrelay.security.relay_tls import control_server_context, load_or_create_relay_certificate
from hybridrelay.security.tls import data_client_context, private_file

CONTENT = b"a key\n"


def test_nothing_is_left() -> None:
    with private_file(CONTENT) as path:
        assert Path(path).read_bytes() == CONTENT
    assert not Path(path).exists()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")
@pytest.mark.parametrize("fault", ["not permitted", "missing", "cannot be opened"])
def test_where_there_is_none_in_memory(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.memfd_create

    def refuse(name: str, flags: int) -> int:
        raise PermissionError

    def unreadable(name: str, flags: int) -> int:
        """As if /proc were not mounted: the descriptor's file cannot be opened by its path."""
        descriptor = real(name, flags)
        monkeypatch.setattr("builtins.open", fail_once)
        return descriptor

    real_open = open

    def fail_once(file: str | int, mode: str, *, closefd: bool = True) -> IO[Any]:
        if isinstance(file, str) and file.startswith("/proc/self/fd/"):
            monkeypatch.setattr("builtins.open", real_open)
            raise FileNotFoundError
        return real_open(file, mode, closefd=closefd)

    if fault == "missing":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "memfd_create", refuse if fault == "not permitted" else unreadable)
    with private_file(CONTENT) as path:
        assert not path.startswith("/proc/")
        assert Path(path).read_bytes() == CONTENT
        if sys.platform != "win32":
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(Path(path).parent).st_mode) == 0o700
    assert not Path(path).parent.exists()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")
def test_a_shortage_of_descriptors_is_reported_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(OSError, match="Too many open files"), private_file(CONTENT):
        pass


def test_descriptors_are_closed() -> None:
    with private_file(CONTENT) as path:
        pass
    if path.startswith("/proc/self/fd/"):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(int(path.rpartition("/")[2]))


def _without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)


def _with_certificate_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_or_create_relay_certificate(tmp_path, now=0.0)
    _without_descriptors(monkeypatch)
    control_server_context(own)


def _with_an_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = create_authority("orders", now=0.0)
    identity = authority.issue(Role.APPLICATION, "lab", now=0.0)
    _without_descriptors(monkeypatch)
    data_client_context(identity, authority.certificate)


@pytest.mark.parametrize("make", [_with_certificate_files, _with_an_identity])
def test_a_context_without_its_private_key_is_an_error_that_callers_expect(
    make: Callable[[Path, pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that reads its files again while it has no descriptors left reports this, and continues."""
    with pytest.raises(ConfigurationError, match="OpenSSL: this machine has run out of file descriptors") as caught:
        make(tmp_path, monkeypatch)
    assert caught.value.remedy is not None
    assert "ulimit -n" in caught.value.remedy
