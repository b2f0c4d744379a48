"""Records without data after the handshake, of which a peer needs very few. The peer is OpenSSL's own client."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.security import control_server_context, load_or_create_relay_certificate
from hybridrelay.streams import TLSStream
from hybridrelay.streams.nowait import READ_BYTES, SMALL_READ_BYTES

from ..stream_pairs import NOW

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")


@attrs.frozen
class Peer:
    """OpenSSL's client, connected to `stream`."""

    stream: TLSStream
    process: trio.Process

    async def update_keys(self, times: int) -> None:
        """Send key updates, each in a record of its own. Returns when all were sent."""
        stdin, stderr = self.process.stdin, self.process.stderr
        assert stdin is not None
        assert stderr is not None
        for _ in range(times):
            await stdin.send_all(b"k\n")
            seen = b""
            while b"KEYUPDATE" not in seen:
                piece = await stderr.receive_some()
                assert piece, seen
                seen += piece

    async def say(self, text: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text)


@asynccontextmanager
async def peer(directory: Path) -> AsyncIterator[Peer]:
    context = control_server_context(load_or_create_relay_certificate(directory, now=NOW))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            lambda task_status: trio.run_process(
                ["openssl", "s_client", "-connect", address, "-tls1_3"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
                task_status=task_status,
            )
        )
        async with listener, TLSStream(await listener.accept(), context, server_side=True) as stream:
            await stream.do_handshake()
            yield Peer(stream, process)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("max_bytes", [SMALL_READ_BYTES, READ_BYTES])
async def test_a_few_key_updates_are_accepted(tmp_path: Path, max_bytes: int) -> None:
    with trio.fail_after(60):
        async with peer(tmp_path) as connected:
            await connected.say(b"before\n")
            assert await connected.stream.receive_some(max_bytes) == b"before\n"
            await connected.update_keys(50)
            await connected.say(b"after\n")
            assert await connected.stream.receive_some(max_bytes) == b"after\n"
            await connected.stream.send_all(b"answer")


@pytest.mark.parametrize("max_bytes", [SMALL_READ_BYTES, READ_BYTES])
async def test_a_flood_of_key_updates_breaks_the_stream(tmp_path: Path, max_bytes: int) -> None:
    with trio.fail_after(60):
        async with peer(tmp_path) as connected:
            await connected.say(b"before\n")
            assert await connected.stream.receive_some(max_bytes) == b"before\n"
            await connected.update_keys(80)
            with pytest.raises(trio.BrokenResourceError, match="too many TLS records without data"):
                await connected.stream.receive_some(max_bytes)
