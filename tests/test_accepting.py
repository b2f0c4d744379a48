"""Accepting connections when descriptors have run out: new connections are reset, and the log says so once."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay import _accepting
from hybridrelay._accepting import QUIET_SECONDS, accept_sockets, serve_listeners
from hybridrelay._shortage import OUT_OF_DESCRIPTORS
from hybridrelay.events import logged_events

from .descriptors import few_descriptors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of descriptors")


async def _echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


class _Served:
    """An echo behind a listener: with a task for each connection from its beginning, or with sockets."""

    def __init__(self, nursery: trio.Nursery, listener: trio.SocketListener, *, sockets: bool) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self._nursery = nursery
        self._listener = listener
        self._sockets = sockets

    async def start(self) -> None:
        listeners, events, what = [self._listener], logged_events(), "port x"
        if self._sockets:
            takes = dict.fromkeys(listeners, self._take)
            await self._nursery.start(partial(accept_sockets, takes, events=events, what=what))
        else:
            serve = partial(serve_listeners, _echo, listeners, handler_nursery=self._nursery)
            await self._nursery.start(partial(serve, events=events, what=what))

    def _take(self, sock: socket.socket, name: object) -> None:
        assert name == sock.getpeername()
        sock.setblocking(False)
        self._nursery.start_soon(self._echo, trio.SocketStream(trio.socket.from_stdlib_socket(sock)))

    async def _echo(self, stream: trio.SocketStream) -> None:
        async with stream:
            await _echo(stream)


@pytest.fixture(params=[False, True], ids=["tasks", "sockets"])
def sockets(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def served(nursery: trio.Nursery, sockets: bool) -> AsyncIterator[_Served]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        served = _Served(nursery, listener, sockets=sockets)
        await served.start()
        yield served
        nursery.cancel_scope.cancel()


async def _is_served(port: int) -> bool:
    """Whether a connection gets an answer; otherwise it has to be reset."""
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"x")
            return await stream.receive_some(1) == b"x"
    except (OSError, trio.BrokenResourceError):
        return False


def _messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "hybridrelay.events"]


async def test_connections_are_served(served: _Served, nursery: trio.Nursery) -> None:
    assert await _is_served(served.port)
    nursery.cancel_scope.cancel()


async def test_the_last_descriptors_are_not_given_away(
    served: _Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_accepting, "is_reserved", lambda descriptor: True)
    assert [await _is_served(served.port) for _ in range(3)] == [False] * 3
    monkeypatch.undo()
    assert await _is_served(served.port)
    (line,) = _messages(caplog)
    assert line.startswith(
        "A resource has run out, and new connections are reset: where='port x' "
        "detail='this program has run out of file descriptors' remedy="
    )
    assert "LimitNOFILE=" in line
    nursery.cancel_scope.cancel()


async def test_without_a_descriptor_newcomers_are_reset(
    served: _Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The connections are made before the descriptors run out, and wait in the backlog."""
    monkeypatch.setattr(_accepting, "is_reserved", lambda descriptor: False)
    clients = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
    with few_descriptors(0):
        for client in clients:
            client.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stream.receive_some(1)
            assert isinstance(caught.value.__cause__, ConnectionResetError)
    for client in clients:
        client.close()
    assert await _is_served(served.port)
    assert len(_messages(caplog)) == 1
    nursery.cancel_scope.cancel()


async def test_a_socket_that_cannot_be_watched_is_a_shortage(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """The system limits how many descriptors the programs of a user may register with epoll."""
    taken: list[str] = []

    def take(sock: socket.socket, _name: object) -> None:
        sock.close()
        taken.append("once more" if taken else "no room")
        if len(taken) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        await nursery.start(partial(accept_sockets, {listener: take}, events=logged_events(), what="port x"))
        with trio.fail_after(60):
            while len(taken) < 2:
                await _is_served(listener.socket.getsockname()[1])
        assert "max_user_watches" in _messages(caplog)[0]
        nursery.cancel_scope.cancel()


async def test_the_log_says_when_it_is_over(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    report = _accepting.ShortageReport(logged_events(), "port x")
    nursery.start_soon(report.run)
    for _ in range(4):
        report.note(OUT_OF_DESCRIPTORS, 1)
        await trio.sleep(QUIET_SECONDS - 1)
    assert len(_messages(caplog)) == 1
    await trio.sleep(2 * QUIET_SECONDS)
    (_, over) = _messages(caplog)
    assert over.startswith("New connections are accepted again after a resource had run out: where='port x' ")
    assert over.endswith(" connections_reset=4")
    report.note(OUT_OF_DESCRIPTORS, 1)
    await trio.sleep(0.1)
    assert len(_messages(caplog)) == 3
    nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()


async def test_a_listener_that_was_closed_is_an_error(sockets: bool) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with pytest.RaisesGroup(trio.ClosedResourceError, flatten_subgroups=True, allow_unwrapped=True):
        async with trio.open_nursery() as nursery:
            await _Served(nursery, listener, sockets=sockets).start()
            await trio.testing.wait_all_tasks_blocked()
            listener.socket.close()


def test_a_shortage_of_memory_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sockets: bool
) -> None:
    """Without memory no connection can be reset. The server neither loops without a pause nor ends."""
    caplog.set_level(logging.INFO)
    tries = []

    async def accept(listener: trio.SocketListener) -> trio.SocketStream:
        tries.append(trio.current_time())
        if len(tries) < 10:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        await trio.sleep_forever()
        raise AssertionError

    really_accept = socket.socket.accept

    def accept_socket(listener: socket.socket) -> tuple[socket.socket, object]:
        if tries[-1:] != [trio.current_time()]:  # otherwise it is the attempt to accept one and reset it
            tries.append(trio.current_time())
        if len(tries) < 10:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return really_accept(listener)

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        async with listener:
            # Until all attempts were made, there is a connection to be accepted.
            with socket.create_connection(("127.0.0.1", port)), trio.move_on_after(60):
                monkeypatch.setattr(trio.SocketListener, "accept", accept)
                monkeypatch.setattr(socket.socket, "accept", accept_socket)
                async with trio.open_nursery() as nursery:
                    await _Served(nursery, listener, sockets=sockets).start()
                    await trio.sleep_forever()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert len(tries) == 10
    assert min(pauses) > 0.05
    assert "has no memory left for connections" in _messages(caplog)[0]
