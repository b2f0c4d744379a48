"""Resources that have run out on this machine are told apart from failures of the other side."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from hybridrelay._shortage import datagram_shortage_of, remedy_or, shortage_of, socket_shortage_of, text_or
from hybridrelay._threads import OutOfThreads


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "says", "do"),
    [
        (_error(errno.EMFILE), "file descriptors", "LimitNOFILE="),
        (_error(errno.ENFILE), "in all of its processes", "fs.file-max"),
        (_error(errno.ENOBUFS), "memory", "tcp_mem"),
        (_error(errno.ENOMEM), "memory", "tcp_mem"),
        (OutOfThreads(), "thread", "TasksMax="),
    ],
)
def test_what_has_run_out_is_named_with_its_remedy(error: OSError, says: str, do: str) -> None:
    shortage = shortage_of(error)
    assert shortage is not None
    assert says in shortage.text
    assert do in shortage.remedy
    assert text_or(error, "usual") == f"this machine {shortage.text}"
    assert remedy_or(error, "usual") == shortage.remedy


def test_no_space_is_about_epoll_if_it_is_the_error_of_a_socket() -> None:
    error = _error(errno.ENOSPC)
    assert shortage_of(error) is None, "a file: the disk is full"
    shortage = socket_shortage_of(error)
    assert shortage is not None
    assert "max_user_watches" in shortage.remedy
    assert socket_shortage_of(_error(errno.EMFILE)) is shortage_of(_error(errno.EMFILE))


@pytest.mark.parametrize(
    "error",
    [
        _error(errno.ECONNREFUSED),
        _error(errno.ENETUNREACH),
        _error(errno.EAGAIN),
        OSError("no number"),
        socket.gaierror(errno.EMFILE, "a number of another kind"),
    ],
)
def test_other_errors_are_not_a_shortage(error: OSError) -> None:
    assert shortage_of(error) is None
    assert (text_or(error, "usual"), remedy_or(error, "usual")) == ("usual", "usual")


def test_only_errors_of_the_system_are_shortages() -> None:
    error = ValueError("too many open files")
    assert (text_or(error, "usual"), remedy_or(error, "usual")) == ("usual", "usual")


@pytest.mark.parametrize(("number", "is_shortage"), [(None, False), (errno.EADDRINUSE, True), (errno.EACCES, False)])
def test_no_address_is_distinguished_from_no_port(
    number: int | None, is_shortage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting fails with EADDRNOTAVAIL in both cases. If no port is left, binding one fails as well."""
    kinds = []

    class Sock(socket.socket):
        def bind(self, address: object) -> None:
            kinds.append(self.type)
            if number is not None:
                raise _error(number)

    monkeypatch.setattr(socket, "socket", Sock)
    for judge, text in ((shortage_of, "no local port"), (datagram_shortage_of, "no local UDP port")):
        shortage = judge(_error(errno.EADDRNOTAVAIL))
        assert (shortage is not None) == is_shortage
        if shortage is not None:
            assert text in shortage.text
    assert kinds == [socket.SOCK_STREAM, socket.SOCK_DGRAM]


def test_a_udp_socket_for_which_there_is_no_port() -> None:
    shortage = datagram_shortage_of(_error(errno.EAGAIN))
    assert shortage is not None
    assert "no local UDP port" in shortage.text
    assert "ip_local_port_range" in shortage.remedy
    assert datagram_shortage_of(OutOfThreads()) is shortage_of(OutOfThreads())
    for number in (errno.EMFILE, errno.ENOSPC):
        assert datagram_shortage_of(_error(number)) is socket_shortage_of(_error(number))
    for other in (_error(errno.ENETUNREACH), socket.gaierror(socket.EAI_AGAIN, "later")):
        assert datagram_shortage_of(other) is None
