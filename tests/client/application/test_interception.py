"""What is read about the threads of an application, which chooses their names, and connects that fail."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from hybridrelay.client.application import linux
from hybridrelay.client.application.addresses import Address
from hybridrelay.client.application.interception import Redirected, _Interception, _process_of
from hybridrelay.client.application.seccomp import (
    Notification,
    SocketAddress,
    continue_response,
    error_response,
)
from hybridrelay.events import ApplicationNotRedirected, Event, EventStream

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


@contextlib.contextmanager
def _listener_that_answers_no_more() -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        for _ in range(8):  # more than its queue takes
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listener.getsockname())
        yield listener


@pytest.mark.parametrize("is_blocking", [True, False])
async def test_a_connect_that_was_not_answered_in_time_is_not_admitted_later(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, is_blocking: bool
) -> None:
    """Until then, nobody else can have its local address, even if the application gives up earlier. A blocking call
    waits in the kernel."""
    answers: list[bytes] = []
    noted: list[Address] = []

    class Noting(Redirected):
        def note(self, local: Address, listener: Address) -> None:
            noted.append(local)
            super().note(local, listener)

    monkeypatch.setattr(linux, "send_response", lambda _descriptor, response: answers.append(response))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listener_that_answers_no_more())
        target = listener.getsockname()
        redirected = Noting({("10.0.0.1", 80): target}, None)
        interception = _Interception(listener.fileno(), redirected, EventStream())
        call = Notification(7, 1, 3, 0, 16)
        sock = socket.socket()
        sock.setblocking(is_blocking)
        async with trio.open_nursery() as nursery:
            interception._redirect(call, sock, SocketAddress("10.0.0.1", 80), target, nursery)
            await trio.testing.wait_all_tasks_blocked()
            (local,) = noted
            assert answers == [continue_response(7) if is_blocking else error_response(7, errno.EINPROGRESS)]
            assert os.get_blocking(sock.fileno()) is is_blocking
            with socket.socket() as another:
                another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    another.bind(local)
    assert len(answers) == 1
    assert not redirected.admits(local, target)


@pytest.mark.parametrize("are_short", [True, False])
async def test_the_copy_of_a_connecting_socket_is_kept_only_while_descriptors_are_not_short(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, are_short: bool
) -> None:
    monkeypatch.setattr(linux, "send_response", lambda _descriptor, _response: None)
    with _listener_that_answers_no_more() as listener, socket.socket() as sock:
        target = listener.getsockname()
        redirected = Redirected({("10.0.0.1", 80): target}, None)
        interception = _Interception(listener.fileno(), redirected, EventStream())
        call = Notification(7, 1, 3, 0, 16)
        sock.setblocking(False)
        limit = sock.fileno() + 1 if are_short else 2 * sock.fileno() + 2
        monkeypatch.setattr("hybridrelay._descriptors.descriptor_limit", lambda: limit)
        async with trio.open_nursery() as nursery:
            interception._redirect(call, sock, SocketAddress("10.0.0.1", 80), target, nursery)
            await trio.testing.wait_all_tasks_blocked()
            assert (sock.fileno() == -1) is are_short
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("code", "answer"), [(errno.EMFILE, errno.ENOBUFS), (errno.ENFILE, errno.ENOBUFS), (errno.EPERM, None)]
)
def test_without_a_descriptor_a_call_fails_instead_of_reaching_another_machine(
    monkeypatch: pytest.MonkeyPatch, code: int, answer: int | None
) -> None:
    answers: list[bytes] = []
    happened: list[Event] = []

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(linux, "send_response", lambda _descriptor, response: answers.append(response))
    with socket.socket() as sock:
        redirected = Redirected({("10.0.0.1", 80): ("127.0.0.1", 1)}, None)
        interception = _Interception(sock.fileno(), redirected, EventStream(happened.append))
        call = Notification(7, threading.get_native_id(), 3, 0, 16)
        interception.answer(call, None)  # type: ignore[arg-type]
    assert answers == [continue_response(7) if answer is None else error_response(7, answer)]
    assert [type(event) for event in happened] == [ApplicationNotRedirected]
