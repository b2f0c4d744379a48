"""New connections while the relay or the connector is away, or a session drains: they wait, and are never reset."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ..deployments import Deployment, Forward, Program
from ..receiving import receive_all
from ..waiting import async_wait_until
from .targets import echo, serve

#: For what takes a moment on a busy machine; the patience itself is longer than anything here waits for.
SOON = 60
PATIENCE = ["--open-patience", "60"]
COUNT = 6


async def echoed(stream: trio.SocketStream) -> None:
    """Data goes both ways, and the connection ends in good order."""
    data = os.urandom(1000)
    async with stream:
        await stream.send_all(data)
        await stream.send_eof()
        assert await receive_all(stream) == data


async def served(port: int) -> None:
    """A new connection is served."""
    await echoed(await trio.open_tcp_stream("127.0.0.1", port))


async def until_reported(program: Program, pattern: str) -> None:
    await trio.to_thread.run_sync(lambda: program.wait_for_line(pattern, where="err"))


@asynccontextmanager
async def new_connections(forward: Forward) -> AsyncIterator[None]:
    """Connections that are made before the block, and have to be served when it ends."""
    with trio.fail_after(SOON):
        streams = [await trio.open_tcp_stream("127.0.0.1", forward.port) for _ in range(COUNT)]
        yield
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(echoed, stream)
    assert "stream.failed" not in forward.program.err


async def test_connections_made_while_the_relay_is_away_wait_for_it(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    # Without workers, which would keep a native session while the relay is away.
    assert deployment.programs[0].terminate() == 0
    relay = deployment.start_relay("--workers", "0")
    published = deployment.create("away", await serve(nursery, echo))
    deployment.start_connector(published)
    forward = deployment.start_forward(published, mode=mode, arguments=PATIENCE)
    await served(forward.port)
    relay.kill()
    await until_reported(forward.program, "session.interrupted")
    async with new_connections(forward):
        deployment.start_relay()
    nursery.cancel_scope.cancel()


async def test_a_connection_that_only_receives_waits_like_any_other(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    """Its application has ended its direction before there is a session, as ``nc -N host port < /dev/null`` does."""

    async def greet(stream: trio.SocketStream) -> None:
        async with stream:
            assert await receive_all(stream) == b""
            await stream.send_all(b"welcome")

    published = deployment.create("greets", await serve(nursery, greet))
    forward = deployment.start_forward(published, arguments=PATIENCE)
    with trio.fail_after(SOON):
        async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
            await stream.send_eof()
            deployment.start_connector(published)
            assert await receive_all(stream) == b"welcome"
    nursery.cancel_scope.cancel()


async def test_connections_made_while_the_connector_is_killed_wait_for_the_next(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.create("killed", await serve(nursery, echo))
    connector = deployment.start_connector(published)
    forward = deployment.start_forward(published, arguments=PATIENCE)
    await served(forward.port)
    connector.kill()
    await until_reported(forward.program, "session.not-resumed-yet: .*not connected at the moment")
    async with new_connections(forward):
        deployment.start_connector(published)
    nursery.cancel_scope.cancel()


async def test_connections_made_after_the_only_connector_was_stopped_wait_for_the_next(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.create("stopped", await serve(nursery, echo))
    connector = deployment.start_connector(published)
    forward = deployment.start_forward(published, arguments=PATIENCE)
    await served(forward.port)
    assert connector.terminate() == 0
    async with new_connections(forward):
        deployment.start_connector(published)
    nursery.cancel_scope.cancel()


async def test_while_one_connector_drains_new_connections_go_to_the_other(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.create("drains", await serve(nursery, echo))
    first = deployment.start_connector(published, arguments=["--grace", "100"])
    forward = deployment.start_forward(published, arguments=PATIENCE)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as held:
        await held.send_all(b"x")
        assert await held.receive_some(1) == b"x"
        second = deployment.start_connector(published)
        first.process.terminate()
        await until_reported(first, "The program is stopping: role=connector open=1")
        async with new_connections(forward):
            pass
        await until_reported(second, "session.opened")
        await held.send_all(b"y")
        assert await held.receive_some(1) == b"y", "an open connection stays where it is"
    nursery.cancel_scope.cancel()


async def test_without_patience_a_connection_is_reset_at_once(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.create("none", await serve(nursery, echo))
    forward = deployment.start_forward(published, arguments=["--open-patience", "0"])
    with trio.fail_after(SOON), pytest.raises((OSError, trio.BrokenResourceError, ExceptionGroup)):
        await served(forward.port)
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for sockets")
async def test_a_connection_that_its_application_resets_waits_no_longer(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.create("left", await serve(nursery, echo))
    forward = deployment.start_forward(published, arguments=PATIENCE)
    before = forward.program.sockets
    waiting = [socket.create_connection(("127.0.0.1", forward.port)) for _ in range(COUNT)]
    waiting[0].sendall(b"something was sent")
    waiting[1].shutdown(socket.SHUT_WR)
    for connection in waiting:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close() resets

    async def until(count: int) -> None:
        async def reached() -> bool:
            return forward.program.sockets == before + count

        await async_wait_until(reached, seconds=SOON, what=f"{count} connections")

    await until(COUNT)
    for connection in waiting:
        connection.close()
    await until(0)
    nursery.cancel_scope.cancel()


def test_the_option_has_to_be_a_time(deployment: Deployment) -> None:
    for value in ("-1", "nan", "x"):
        done = deployment.run("forward", "--connection-string-file", "-", f"--open-patience={value}")
        assert done.returncode == 2
        assert "--open-patience" in done.stderr
