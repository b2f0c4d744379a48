"""A system that refuses to splice, and a splice that finds that a connection has ended."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest


def failing_splice(monkeypatch: pytest.MonkeyPatch, *, call: int, number: int) -> Callable[[], int]:
    """Let the `call`-th splice and all later ones fail with this error. Returns a function that counts the calls."""
    assert sys.platform == "linux"
    real, calls = os.splice, 0

    def splice(*args: Any, **kwargs: Any) -> int:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, "splice", splice)
    return lambda: calls


def splice_that_finds_an_end(
    monkeypatch: pytest.MonkeyPatch, *, call: int, end: Callable[[], object], number: int
) -> None:
    """At the `call`-th splice, call `end`, which ends the connection of the socket, and fail with this error. It is
    reported only here. The kernel does this after an ICMP message."""
    assert sys.platform == "linux"
    real, calls = os.splice, 0

    def splice(source: int, sink: int, *args: Any, **kwargs: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == call:
            end()
            sock = socket.socket(fileno=os.dup(source if call % 2 else sink))
            with sock:
                while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    pass
            raise OSError(number, os.strerror(number))
        return real(source, sink, *args, **kwargs)

    monkeypatch.setattr(os, "splice", splice)


#: Errors that an ICMP message causes, and that a system that refuses to splice may return as well.
ICMP_ERRORS = (errno.EACCES, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
