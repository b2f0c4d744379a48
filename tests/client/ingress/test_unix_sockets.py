"""Listening on a Unix socket."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from hybridrelay._unix_address import UnixAddress, parse_unix_address
from hybridrelay.client import open_port
from hybridrelay.errors import ConfigurationError
from hybridrelay.events.stream import EventStream
from hybridrelay.streams.unix_sockets import connect_unix_socket, short_path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets there")
EVENTS = EventStream()


def bind(sock: socket.socket, path: Path) -> None:
    with short_path(path) as name:
        sock.bind(name)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x", UnixAddress("/run/x")),
        ("unix:/run/x,mode=660", UnixAddress("/run/x", 0o660)),
        ("unix:/run/a,b", UnixAddress("/run/a,b")),
        ("unix:x", None),
        ("unix:", None),
        ("unix:/run/x,mode=999", None),
        ("unix:/run/x,mode=66", None),
        ("unix:/run/x,mode=660,mode=600", None),
        ("unix:/run/x\0", None),
    ],
)
def test_the_address_of_a_unix_socket_has_a_path(text: str, address: UnixAddress | None) -> None:
    if address is None:
        with pytest.raises(ValueError, match="expected unix:/path"):
            parse_unix_address(text)
    else:
        assert parse_unix_address(text) == address
        assert str(address) == f"unix:{address.path}"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_who_may_connect(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "socket"
    before = os.umask(0o077)
    try:
        port = await open_port(UnixAddress(str(path), mode), events=EVENTS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert (port.names, port.bound) == ((f"unix:{path}",), [])
    async with await connect_unix_socket(path):
        pass
    port.close()
    assert not path.exists()


async def test_a_socket_that_a_killed_program_has_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as sock:
        bind(sock, path)
    assert path.exists()
    port = await open_port(UnixAddress(str(path)), events=EVENTS)
    async with await connect_unix_socket(path):
        pass
    port.close()


@pytest.mark.parametrize("what", ["in use", "file", "directory", "no directory"])
async def test_what_is_not_replaced(tmp_path: Path, what: str) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as sock:
        if what == "in use":
            bind(sock, path)
            sock.listen()
        elif what == "file":
            path.write_text("mine")
        elif what == "directory":
            path.mkdir()
        else:
            path = tmp_path / "missing" / "socket"
        with pytest.raises(ConfigurationError, match="cannot listen on unix:"):
            await open_port(UnixAddress(str(path)), events=EVENTS)
        assert path.exists() == (what != "no directory")
        assert what != "file" or path.read_text() == "mine"


@pytest.mark.parametrize("what", ["too long", "below a file"])
async def test_a_path_that_no_socket_can_have(tmp_path: Path, what: str) -> None:
    """The message says so, and not that a program listens there."""
    (tmp_path / "file").touch()
    path = tmp_path / ("x" * 200 if what == "too long" else "file/socket")
    with pytest.raises(ConfigurationError, match=r"too long|Not a directory"):
        await open_port(UnixAddress(str(path)), events=EVENTS)


async def test_a_file_of_another_program_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    port = await open_port(UnixAddress(str(path)), events=EVENTS)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        bind(sock, path)
        port.close()
        assert path.exists()
