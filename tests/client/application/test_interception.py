"""What is read about the threads of an application, which chooses their names, and connects that fail."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import sys
import threading

import pytest
from trio.testing import MockClock

from hybridrelay.client.application import linux
from hybridrelay.client.application.addresses import Address
from hybridrelay.client.application.interception import Redirected, _Interception, _process_of
from hybridrelay.client.application.seccomp import Notification, SocketAddress, error_response
from hybridrelay.events import EventStream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses prctl(2) and /proc")

_PR_SET_NAME = 15


@pytest.mark.parametrize(
    "name",
    [b"a", b"a\rTgid:\t1", b"a\rTgid:\tx", b"a\rTgid:", b"a\nTgid:\t1", b"a\x0bTgid:\t1", b"a\x85Tgid:\t1", b"\xff"],
)
def test_a_threads_name_does_not_change_its_process(name: bytes) -> None:
    found: list[int] = []

    def look() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name)
        found.append(_process_of(threading.get_native_id()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [os.getpid()]


def test_the_socket_of_a_call_that_was_interrupted_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may have ended, and the number may be that of a thread of another program by now."""
    own, other = socket.socketpair()
    reading, writing = os.pipe()
    copies: list[int] = []

    def take(_process: int, descriptor: int) -> int:
        copies.append(os.dup(descriptor))
        return copies[-1]

    valid: list[bool] = []
    monkeypatch.setattr(linux, "take_descriptor", take)
    monkeypatch.setattr(linux, "notification_is_valid", lambda _descriptor, identifier: identifier == 7)
    with own, other:
        interception = _Interception(reading, Redirected({}, None), EventStream())
        for identifier in (7, 8):
            call = Notification(identifier, threading.get_native_id(), own.fileno(), 0, 16)
            taken = interception._socket_of(call)
            valid.append(taken is not None)
            if taken is not None:
                taken.close()
        assert valid == [True, False]
        for copy in copies:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(copy)
    os.close(reading)
    os.close(writing)


async def test_a_connect_that_was_not_answered_in_time_is_not_admitted_later(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    answers: list[bytes] = []
    noted: list[Address] = []

    class Noting(Redirected):
        def note(self, local: Address) -> None:
            noted.append(local)
            super().note(local)

    monkeypatch.setattr(linux, "send_response", lambda _descriptor, response: answers.append(response))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        target = listener.getsockname()
        for _ in range(8):  # more than the listener's queue takes, so that it answers no more
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(target)
        redirected = Noting({("10.0.0.1", 80): target}, None)
        interception = _Interception(listener.fileno(), redirected, EventStream())
        call = Notification(7, 1, 3, 0, 16)
        await interception._connect(call, socket.socket(), SocketAddress("10.0.0.1", 80), target)
    (local,) = noted
    assert answers == [error_response(7, errno.ETIMEDOUT)]
    assert not redirected.admits(local)
