"""UDP sockets at which programs send, on Linux: which errors say that a program has closed its socket."""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys

import pytest

from hybridrelay._wildcard_datagrams import LocalSocket, _says_refused

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports these errors")

ICMP, LOCAL = 2, 1
PROGRAM = ("127.0.0.1", 40_000)


def control(number: int, origin: int, reporter: str) -> tuple[int, int, bytes]:
    """The control message of an error, as in ip(7)."""
    error = struct.pack("=IBBBBII", number, origin, 3, 3, 0, 0, 0)
    return socket.IPPROTO_IP, 11, error + struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(reporter))


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([control(errno.ECONNREFUSED, ICMP, "127.0.0.1")], True),
        ([(socket.IPPROTO_IP, 8, bytes(12)), control(errno.ECONNREFUSED, ICMP, "127.0.0.1")], True),
        ([control(errno.ECONNREFUSED, ICMP, "192.0.2.9")], False),
        ([control(errno.EHOSTUNREACH, ICMP, "127.0.0.1")], False),
        ([control(errno.EMSGSIZE, LOCAL, "127.0.0.1")], False),
        ([(socket.IPPROTO_IP, 11, bytes(16))], False),
        ([], False),
    ],
)
def test_only_the_system_of_the_program_says_that_it_has_gone(
    messages: list[tuple[int, int, bytes]], says: bool
) -> None:
    assert _says_refused(socket.AF_INET, messages, PROGRAM) is says


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_errors_are_read_once_and_name_the_program(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock, socket.socket(family, socket.SOCK_DGRAM) as program:
        for one in (sock, program):
            one.bind((host, 0))
        sock.setblocking(False)
        local, address = LocalSocket(sock), program.getsockname()
        assert local.errors() == []
        program.close()
        local.send(b"answer", (address, ()))
        assert select.select([sock], [], [], 60)[0], "it is readable, so that somebody reads the error"
        with pytest.raises(ConnectionRefusedError):
            local.receive(100)
        assert [error and error[:2] for error in local.errors()] == [address[:2]]
        assert local.errors() == []
        with pytest.raises(BlockingIOError):
            local.receive(100)


def test_other_errors_name_no_program() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        local = LocalSocket(sock)
        with pytest.raises(OSError, match="too long"):
            local.send(bytes(65_508), (PROGRAM, ()))
        assert all(error is None for error in local.errors())
