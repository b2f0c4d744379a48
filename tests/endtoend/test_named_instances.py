"""A named instance of SQL Server, which listens on a port that only the Browser service of its host knows."""

from __future__ import annotations

import random
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import attrs
import pytest
import trio

from ..deployments import Deployment, free_port
from .targets import echo


@attrs.define
class Host:
    """A host with the Browser service, which answers as [MC-SQLR] says, and an instance."""

    address: str
    port: int = 0
    asked: int = 0

    async def answer(self, sock: trio.socket.SocketType) -> None:
        while True:
            request, peer = await sock.recvfrom(64)
            if request.upper() == b"\x04SQLEXPRESS\0":  # others are not answered
                self.asked += 1
                text = (
                    "ServerName;SQL01;InstanceName;SQLEXPRESS;IsClustered;No;Version;15.0.2000.5;"
                    rf"np;\\SQL01\pipe\MSSQL$SQLEXPRESS\sql\query;tcp;{self.port};;"
                ).encode()
                await sock.sendto(b"\x05" + len(text).to_bytes(2, "little") + text, peer)

    async def listen(self, nursery: trio.Nursery) -> trio.CancelScope:
        """Start the instance, at another port than before. Returns what stops it."""
        scope = trio.CancelScope()
        (listener,) = await trio.open_tcp_listeners(0, host=self.address)
        self.port = listener.socket.getsockname()[1]

        async def serve() -> None:
            with scope:
                async with listener:
                    await trio.serve_listeners(handle, [listener])

        async def handle(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await echo(stream)
                except trio.BrokenResourceError:
                    return

        nursery.start_soon(serve)
        return scope


@pytest.fixture
async def host(nursery: trio.Nursery) -> AsyncIterator[Host]:
    """It is at a loopback address of its own, because the port of the service is fixed."""
    address = f"127.{random.randrange(1, 64)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    host = Host(address)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((address, 1434))
        nursery.start_soon(host.answer, sock)
        yield host
        nursery.cancel_scope.cancel()


async def echoes(port: int) -> bool:
    """Whether a connection to a local port leads to the instance."""
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"ping")
            return await stream.receive_some(4) == b"ping"
    except (OSError, trio.BrokenResourceError):
        return False


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=50) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


async def test_an_instance_is_found_again_after_it_has_got_another_port(
    deployment: Deployment, nursery: trio.Nursery, host: Host
) -> None:
    running = await host.listen(nursery)
    status = free_port()
    published = deployment.create("sql", rf"{host.address}\SQLEXPRESS")
    options = ["--mode", "tcp", "--status", f"127.0.0.1:{status}", "--check-target"]
    connector = deployment.start_connector(published, arguments=options)
    forward = deployment.start_forward(published)
    for _ in range(2):
        assert await echoes(forward.port)
    assert host.asked == 1, "the port is remembered for a while"
    assert await trio.to_thread.run_sync(is_ready, status)
    told = await connector.logs(r"event='closed.* target='(\S+)' .*address='(\S+)'")
    assert told[1].replace("\\\\", "\\") == rf"{host.address}\SQLEXPRESS"
    assert told[2] == f"{host.address}:{host.port}"
    running.cancel()
    await host.listen(nursery)
    await echoes(forward.port)  # may still be tried where the instance was, which is then forgotten
    assert await echoes(forward.port)


async def test_in_parallel_it_is_asked_for_each_stream_with_the_option_and_with_the_key(
    deployment: Deployment, nursery: trio.Nursery, host: Host
) -> None:
    await host.listen(nursery)
    published = deployment.create("sql", rf"{host.address}\SQLEXPRESS")
    config = deployment.directory / "connector.toml"
    table = f'connect-in-parallel = true\n[[connection]]\nfile = "{published.connector}"\n'
    config.write_text(f"{table}connect-in-parallel = false\n")
    connector = deployment.start("connector", "--mode", "tcp", "--config", config)
    forward = deployment.start_forward(published)
    for _ in range(2):
        assert await echoes(forward.port)
    assert host.asked == 1
    config.write_text(table)
    await connector.logs("configuration.reloaded")
    for _ in range(2):
        assert await echoes(forward.port)
    assert host.asked == 3


async def test_an_unknown_instance_is_explained(deployment: Deployment, host: Host) -> None:
    published = deployment.create("sql", rf"{host.address}\OTHER")
    connector = deployment.start_connector(published, arguments=["--mode", "tcp"])
    forward = deployment.start_forward(published)
    assert not await echoes(forward.port)
    await connector.logs(r"target-timeout.*SQL Server Browser service .* knows no such instance")
