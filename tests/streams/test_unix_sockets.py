"""The files of Unix sockets: who removes which."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from hybridrelay.streams.unix_sockets import connect_unix_socket, listen_unix_socket

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


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
