"""Several ports of one host: an application reaches all of them at one address, and no other port of the host."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay import Reason, StreamRefused, load_connection_string, open_client, open_socket
from hybridrelay._own_address import own_addresses
from hybridrelay.aio import open_connection

from ..deployments import Deployment, free_port
from ..waiting import async_wait_until

NAME = "many.corp.example"
ADDRESS = own_addresses([NAME])[NAME]


async def say_port(stream: trio.SocketStream) -> None:
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(str(stream.socket.getsockname()[1]).encode())


async def asked(host: str, port: int) -> str:
    """Which port of the target a local port leads to; empty if there is none, or the connection is reset."""
    try:
        async with await trio.open_tcp_stream(host, port) as stream:
            return b"".join([part async for part in stream]).decode()
    except (OSError, trio.BrokenResourceError):
        return ""


class Scene:
    """A target with two ports at which something listens, and one port beside them that is not published."""

    def __init__(self, deployment: Deployment, first: int, second: int, closed: int) -> None:
        self.deployment = deployment
        self.first, self.second, self.closed = first, second, closed
        self.published = deployment.create("many", f"127.0.0.1:{first},{second}")
        self.connector = deployment.start_connector(self.published, arguments=["--mode", "tcp"])

    async def name(self, *ports: int) -> None:
        """Let the application know these ports; only its own file is changed."""
        name = f"{NAME}:{','.join(map(str, ports))}"
        await self.run("set-local-name", "many", "--local-name", name, "--update", self.published.application)

    async def run(self, *arguments: str | Path) -> None:
        done = await trio.to_thread.run_sync(partial(self.deployment.run, "connections", *arguments))
        assert done.returncode == 0, done.stderr


@pytest.fixture
async def scene(deployment: Deployment, nursery: trio.Nursery) -> AsyncIterator[Scene]:
    ports: list[int] = []
    while len(ports) < 3:
        port = free_port()
        if all(abs(port - other) > 1 for other in ports):  # else they are shown as a range
            with contextlib.suppress(OSError):
                listen = partial(trio.serve_tcp, say_port, port, host="127.0.0.1", handler_nursery=nursery)
                await nursery.start(listen)
                ports.append(port)
    yield Scene(deployment, *ports)
    nursery.cancel_scope.cancel()


async def test_all_ports_are_open_at_one_address_and_one_that_is_not_is_named(scene: Scene) -> None:
    first, second = scene.first, scene.second
    taken = free_port()
    await scene.name(first, second, taken)
    with socket.socket() as other:
        other.bind(("0.0.0.0", taken))  # as a program that listens on all addresses
        other.listen()
        # Where it listens is not said: any free port could not stand for all of them.
        files = ("--connection-string-file", scene.published.application)
        forward = scene.deployment.start("forward", *files, "--mode", "tcp")
        left_out = await forward.logs(r"forward\.ports-left-out: .* addresses=(\S+)")
        assert left_out[1] == f"{ADDRESS}:{taken}"
        for port in (first, second):
            assert await asked(ADDRESS, port) == str(port)
            assert f"{ADDRESS}:{port}" in forward.out
        assert f"many={ADDRESS}:" in forward.out
        assert forward.out.endswith(f" many:left-out={ADDRESS}:{taken}")


async def test_ports_that_stay_are_not_closed_by_a_reload(scene: Scene) -> None:
    first, second = scene.first, scene.second
    await scene.name(first, second)
    files = ("--connection-string-file", scene.published.application)
    forward = scene.deployment.start("forward", *files, "--listen", "127.0.0.9:*", "--mode", "tcp")
    assert await asked("127.0.0.9", second) == str(second)
    more = free_port()
    await scene.name(first, second, more)

    async def is_open() -> bool:
        with contextlib.suppress(OSError):
            async with await trio.open_tcp_stream("127.0.0.9", more):
                return True
        return False

    await async_wait_until(is_open, seconds=60, what="the new port is open")
    for port in (first, second):
        assert await asked("127.0.0.9", port) == str(port)
    await scene.name(second)  # a single port leads to the first port of the target

    async def leads_to_first() -> bool:
        return await asked("127.0.0.9", second) == str(first)

    await async_wait_until(leads_to_first, seconds=60, what="the other ports are gone")
    assert await asked("127.0.0.9", first) == ""
    assert "ports-left-out" not in forward.err
    assert "own-port-not-opened" not in forward.err


async def test_fronts_lead_to_the_port_that_is_asked_for(scene: Scene) -> None:
    files = ("--connection-string-file", scene.published.application)
    await scene.name(scene.first, scene.second)
    front = free_port()
    scene.deployment.start("forward", *files, "--http-proxy", f"127.0.0.1:{front}", "--mode", "tcp")

    async def connect(port: int) -> str:
        async with await trio.open_tcp_stream("127.0.0.1", front) as stream:
            await stream.send_all(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return b"".join([part async for part in stream]).decode()

    for port in (scene.first, scene.second):
        assert (await connect(port)).endswith(f"\r\n\r\n{port}")
    assert " 200 " not in (await connect(scene.closed)).splitlines()[0]


async def test_a_connector_dials_no_port_that_its_own_string_does_not_have(scene: Scene) -> None:
    """Whatever an application asks for, and whatever is in its own file."""
    await scene.name(scene.second, scene.closed)
    async with open_client(load_connection_string(scene.published.application)) as client:
        with pytest.raises(StreamRefused, match=f"no port {scene.closed}") as caught:
            await client.open_stream(port=scene.closed)
        assert caught.value.reason is Reason.PORT_NOT_PUBLISHED
        async with await client.open_stream(port=scene.second) as stream:
            assert b"".join([part async for part in stream]) == str(scene.second).encode()
        async with await client.open_stream() as stream:
            assert b"".join([part async for part in stream]) == str(scene.first).encode()
    told = await scene.connector.logs(
        r"event='refused' .* target='127\.0\.0\.1:(\d+)' .* reason='port-not-published'"
    )
    assert told[1] == str(scene.closed)


def _read(sock: socket.socket) -> bytes:
    with sock:
        return b"".join(iter(partial(sock.recv, 100), b""))


async def test_sockets_for_libraries_lead_to_the_port_that_was_named(scene: Scene) -> None:
    string = scene.published.application.read_text()
    for port, expected in ((scene.second, scene.second), (None, scene.first)):
        sock = await trio.to_thread.run_sync(partial(open_socket, string, port=port))
        assert await trio.to_thread.run_sync(_read, sock) == str(expected).encode()
    with pytest.raises(ValueError, match="from 1 to 65535"):
        await open_connection(string, port=65536)
