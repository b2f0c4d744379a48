"""A connected pair of TCP sockets of this machine, and what a forked child keeps of a Trio run's sockets."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import pytest
import trio

from hybridrelay.streams.forking import OwnSockets, close_in_children
from hybridrelay.streams.loopback import loopback_pair
from hybridrelay.streams.sockets import abort_socket

with socket.socket() as _sock:
    #: The class of sockets, of which `trio.socket.SocketType` is only the interface.
    TRIO_SOCKET = type(trio.socket.from_stdlib_socket(_sock))


async def test_the_two_ends_are_connected_to_each_other() -> None:
    application, stream = await loopback_pair()
    with application:
        async with stream:
            assert application.getblocking()
            assert application.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert application.getpeername() == stream.socket.getsockname()
            assert stream.socket.getpeername() == application.getsockname()
            application.sendall(b"to the process")
            assert await stream.receive_some() == b"to the process"
            await stream.send_all(b"to the library")
            await stream.send_eof()
            assert application.recv(100) == b"to the library"
            assert application.recv(100) == b""


async def test_a_reset_can_be_told_from_an_end() -> None:
    application, stream = await loopback_pair()
    with application:
        abort_socket(stream)
        with pytest.raises(ConnectionResetError):
            application.recv(1)


async def test_nobody_else_becomes_the_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program connects as soon as there is a port."""
    strangers: list[socket.socket] = []
    listen = TRIO_SOCKET.listen

    def listen_and_be_found(self: trio.socket.SocketType, backlog: int = 5) -> None:
        listen(self, backlog)
        strangers.append(socket.create_connection(self.getsockname()))

    monkeypatch.setattr(TRIO_SOCKET, "listen", listen_and_be_found)
    application, stream = await loopback_pair()
    (stranger,) = strangers
    with application, stranger:
        async with stream:
            application.sendall(b"secret")
            assert await stream.receive_some() == b"secret"
            with pytest.raises(ConnectionResetError):
                stranger.recv(1)


async def test_a_machine_without_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = TRIO_SOCKET.bind

    async def has_only_ipv6(self: trio.socket.SocketType, address: tuple[str, int]) -> None:
        # An address of a network for documentation (RFC 5737), which no machine has.
        await bind(self, ("192.0.2.1", 0) if self.family == socket.AF_INET else address)

    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        monkeypatch.setattr(TRIO_SOCKET, "bind", has_only_ipv6)
        application, stream = await loopback_pair()
        with application:
            assert application.family == socket.AF_INET6
        await stream.aclose()


async def test_nothing_stays_open_if_it_is_cancelled() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for steps in range(6):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel(steps: int = steps, scope: trio.CancelScope = scope) -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                application, stream = await loopback_pair()
                application.close()
                await stream.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_child_closes_its_copies_and_the_connection_goes_on() -> None:
    own = OwnSockets()
    own.use()
    application, stream = await loopback_pair()
    listener = trio.socket.socket()
    accepted = socket.socket()
    close_in_children(accepted)
    descriptors = [stream.socket.fileno(), listener.fileno(), accepted.fileno()]
    pid = os.fork()
    if pid == 0:
        own.close_copies()
        kept = application.fileno() != -1
        for descriptor in descriptors:
            with suppress(OSError):
                os.fstat(descriptor)
                kept = False
        os._exit(0 if kept else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with application, accepted, listener:
        application.sendall(b"x")
        assert await stream.receive_some() == b"x"
        await stream.aclose()
