"""The files of Unix sockets: how long their paths may be, and who removes which."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from pathlib import Path

import pytest
import trio

from hybridrelay.streams import unix_sockets
from hybridrelay.streams.unix_sockets import connect_unix_socket, listen_unix_socket, short_path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")


async def test_the_file_is_removed_once(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    listener, file = await listen_unix_socket(path)
    async with listener:
        file.remove()
        assert not path.exists()
        path.write_text("of somebody else")
        file.remove()
        assert path.exists()


async def test_the_socket_of_a_later_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    earlier, file = await listen_unix_socket(path)
    later, later_file = await listen_unix_socket(path)
    async with earlier, later:
        file.remove()
        await trio.aclose_forcefully(await connect_unix_socket(path))
        later_file.remove()
    assert not path.exists()


async def test_a_file_that_is_gone_is_no_error(tmp_path: Path) -> None:
    listener, file = await listen_unix_socket(tmp_path / "a.sock")
    async with listener:
        (tmp_path / "a.sock").unlink()
        file.remove()


@pytest.mark.parametrize("umask", [0o022, 0o077])
async def test_the_file_has_its_mode_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener, _ = await listen_unix_socket(tmp_path / "a.sock", mode=0o666)
    finally:
        os.umask(before)
    async with listener:
        assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o666


@pytest.mark.parametrize("kind", ["link", "file", "second name of a socket"])
@pytest.mark.skipif(sys.platform != "linux", reason="the mode is changed in another way on other systems")
async def test_the_mode_of_nothing_else_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The owner of the directory replaces the socket before it gets its mode."""
    path, other = tmp_path / "a.sock", tmp_path / "other"
    if kind == "second name of a socket":
        with socket.socket(socket.AF_UNIX) as sock:
            with short_path(other) as name:
                sock.bind(name)
    else:
        other.touch()
    other.chmod(0o600)
    set_mode = unix_sockets._set_mode

    def swap_first(path: Path, mode: int) -> None:
        path.unlink()
        if kind == "link":
            path.symlink_to(other)
        else:
            path.hardlink_to(other)
        set_mode(path, mode)

    monkeypatch.setattr(unix_sockets, "_set_mode", swap_first)
    with pytest.raises(FileExistsError):
        await listen_unix_socket(path, mode=0o666)
    assert stat.S_IMODE(other.stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="there are no longer paths on other systems")
async def test_the_path_may_be_longer_than_the_address_of_a_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("a" * 200)
    directory.mkdir()
    path = directory / "a.sock"
    descriptors = len(os.listdir("/proc/self/fd"))
    listener, file = await listen_unix_socket(path)
    async with listener, await connect_unix_socket(path) as near, await listener.accept() as far:
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        file.remove()
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another limit for the whole path")
async def test_a_name_that_is_too_long_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 150)
    for attempt in (listen_unix_socket, connect_unix_socket):
        with pytest.raises(OSError, match="too long for a Unix socket") as caught:
            await attempt(path)
        assert caught.value.errno == errno.ENAMETOOLONG
        assert caught.value.filename == str(path)


def test_a_short_path_is_used_as_it_is() -> None:
    with short_path(Path("relative.sock")) as name:
        assert name == "relative.sock"
