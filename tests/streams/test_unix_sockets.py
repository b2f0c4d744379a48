"""The files of Unix sockets: how long their paths may be, and who removes which."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import trio

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
