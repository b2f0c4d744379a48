"""The front for asyncio: in a thread of the test, with a loop of its own."""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from hybridrelay import ClientConfig, ConnectionStringError, StreamRefused, aio
from hybridrelay.abc import Dialer
from hybridrelay.client.embedding import background, shared
from hybridrelay.connectivity.dialing import dial_udp_directly
from hybridrelay.protocol import Reason
from hybridrelay.security import ConnectionString, HostPort, Role
from hybridrelay.streams.sockets import abort_stream
from hybridrelay.streams.unix_sockets import short_path

from ...certificates import CertificateAuthority
from ...waiting import wait_until
from .conftest import Site

T = TypeVar("T")


async def in_asyncio(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an asyncio loop, in debug mode, in another thread."""
    return await trio.to_thread.run_sync(lambda: asyncio.run(main, debug=True))


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    writer.write(data)
    await writer.drain()
    writer.write_eof()
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


async def test_a_reader_and_a_writer(site: Site) -> None:
    string = await site.publish()
    data = os.urandom(1_000_000)

    async def main() -> bytes:
        reader, writer = await aio.open_connection(string)
        answer, again = await asyncio.gather(
            exchange(reader, writer, data), aio.open_connection(string.format(), timeout=30)
        )
        assert await exchange(*again, b"again") == b"again"
        return answer

    assert await in_asyncio(main()) == data


async def test_a_reset_is_not_an_end_of_file(site: Site) -> None:
    async def target(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"half of the ans")
        await abort_stream(stream)

    string = await site.publish(target)

    async def main() -> None:
        reader, writer = await aio.open_connection(string)
        writer.write(b"question")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    await in_asyncio(main())


class Blocking:
    """A dialer that waits until it is released."""

    def __init__(self) -> None:
        self.dialing = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    async def dial(self, _host: str, _port: int) -> trio.SocketStream:
        self.loop.call_soon_threadsafe(self.dialing.set)
        try:
            await trio.sleep_forever()
        finally:
            self.loop.call_soon_threadsafe(self.cancelled.set)
        raise AssertionError


@pytest.mark.parametrize("what", ["connection", "forward"])
async def test_a_task_that_is_cancelled_stops_the_attempt(site: Site, what: str) -> None:
    """Meanwhile, the loop runs other tasks."""
    string = await site.publish()

    async def main() -> None:
        blocking = Blocking()
        config = ClientConfig(string, dialer=Dialer(blocking.dial, dial_udp_directly))

        async def forward() -> None:
            async with aio.open_forward(config):
                pytest.fail("the block was entered")

        task = asyncio.create_task(forward() if what == "forward" else aio.open_connection(config))
        await blocking.dialing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await blocking.cancelled.wait()

    await in_asyncio(main())


async def test_a_task_that_is_cancelled_at_any_moment_leaves_nothing(site: Site) -> None:
    """Between the first step in the loop and the last one, at twenty moments."""
    string = await site.publish()

    async def main() -> None:
        task = asyncio.create_task(aio.open_connection(string))
        usual = 0
        while not task.done():
            await asyncio.sleep(0)
            usual += 1
        task.result()[1].close()
        for moment in range(20):
            task = asyncio.create_task(aio.open_connection(string))
            for _ in range(usual * moment // 15):
                await asyncio.sleep(0)
            task.cancel()
            try:
                _, writer = await task
            except asyncio.CancelledError:
                continue
            writer.close()
        is_clean = lambda: not background.call_and_wait(count)  # noqa: E731
        await asyncio.to_thread(wait_until, is_clean, seconds=30, what="everything was closed")

    async def count(_thread: object) -> int:
        await trio.lowlevel.checkpoint()
        return sum(len(one._connections or ()) + one._opening for one in shared._CLIENTS.get())

    await in_asyncio(main())


async def test_a_forward_ends_with_its_block(site: Site) -> None:
    string = await site.publish()

    async def main() -> None:
        async with aio.open_forward(string) as (host, port):
            reader, writer = await asyncio.open_connection(host, port)
            assert await exchange(reader, writer, b"question") == b"question"
        with pytest.raises(OSError):
            await asyncio.open_connection(host, port)

    await in_asyncio(main())


async def test_a_forward_ends_with_a_block_that_is_cancelled(site: Site) -> None:
    string = await site.publish()

    async def main() -> None:
        entered = asyncio.get_running_loop().create_future()

        async def block() -> None:
            async with aio.open_forward(string) as address:
                entered.set_result(address)
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        address = await entered
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        with pytest.raises(OSError):
            await asyncio.open_connection(*address)

    await in_asyncio(main())


async def test_a_forward_at_a_unix_socket_that_only_this_user_can_use(site: Site, tmp_path: Path) -> None:
    string = await site.publish()

    path = tmp_path / "socket"

    async def main() -> None:
        async with aio.open_forward(string, listen=f"unix:{path}") as listening:
            assert listening == str(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with short_path(path) as name:
                reader, writer = await asyncio.open_unix_connection(name)
            assert await exchange(reader, writer, b"question") == b"question"
        assert not path.exists()

    await in_asyncio(main())


async def secure_target(site: Site, directory: Path) -> tuple[ConnectionString, ssl.SSLContext]:
    """A target with TLS of its own that answers what it receives, and the context for its clients."""
    authority = CertificateAuthority()
    certificate = directory / "certificate.pem"
    certificate.write_bytes(b"".join(authority.issue("sql01.corp.example")))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)

    async def target(stream: trio.SocketStream) -> None:
        async with trio.SSLStream(stream, server, server_side=True, https_compatible=True) as secure:
            with suppress(trio.BrokenResourceError):
                await secure.send_all(await secure.receive_some())

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.write(directory / "ca.pem"))
    return await site.publish(target), context


async def test_the_targets_own_tls(site: Site, tmp_path: Path) -> None:
    """Inside of that between client and connector, and verified with the target's name."""
    string, context = await secure_target(site, tmp_path)

    async def main() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await aio.open_connection(string, ssl=context, server_hostname="another.example")
        reader, writer = await aio.open_connection(string, ssl=context, server_hostname="sql01.corp.example")
        writer.write(b"question")
        assert await reader.read(100) == b"question"
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    await in_asyncio(main())


async def test_opening_that_is_cancelled_when_the_targets_handshake_ends_disturbs_no_other_connection(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next socket gets the number of the earlier one, for which asyncio must not wait any more."""
    string, context = await secure_target(site, tmp_path)
    complete = asyncio.sslproto.SSLProtocol._on_handshake_complete  # type: ignore[attr-defined]

    async def main() -> None:
        opening = partial(aio.open_connection, string, ssl=context, server_hostname="sql01.corp.example")
        for _ in range(5):
            task = asyncio.create_task(opening())

            def cancel(protocol: object, error: object, task: asyncio.Task[object] = task) -> None:
                complete(protocol, error)
                task.cancel()

            with monkeypatch.context() as patch:
                patch.setattr("asyncio.sslproto.SSLProtocol._on_handshake_complete", cancel)
                with pytest.raises(asyncio.CancelledError):
                    await task
            reader, writer = await asyncio.wait_for(opening(), 60)
            writer.write(b"question")
            assert await asyncio.wait_for(reader.read(100), 60) == b"question"
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    await in_asyncio(main())


async def test_errors_are_those_of_the_library(site: Site) -> None:
    await site.publish()
    nobody = site.deployment.publish("nobody")
    await site.deployment.connector(site.deployment.string(nobody, Role.CONNECTOR, HostPort("127.0.0.1", 1)))

    async def main() -> None:
        with pytest.raises(StreamRefused) as refused:
            await aio.open_connection(site.deployment.string(nobody, Role.APPLICATION))
        assert refused.value.reason is Reason.TARGET_REFUSED
        for open_it in (aio.open_connection, aio.open_socket):
            with pytest.raises(ConnectionStringError):
                await open_it("application.txt")
        with pytest.raises(ConnectionStringError):
            async with aio.open_forward("application.txt"):
                pytest.fail("the block was entered")
        with pytest.raises(ValueError, match="unix:/path"):
            await aio.open_forward(site.deployment.string(nobody, Role.APPLICATION), listen="/no").__aenter__()

    await in_asyncio(main())
