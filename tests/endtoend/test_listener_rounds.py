"""Local ports of every kind whose program is killed and started again, round after round, while they are in use.

Each round has to find all of them again at the same addresses, and the connector may keep nothing of a round.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay._own_address import own_addresses

from ..deployments import Deployment, Program
from ..leaks import assert_back_to, of_program, settled
from .talking import ROUND_SECONDS
from .targets import echo
from .test_datagrams import ask
from .test_datagrams import echo as echo_datagrams

#: A few where every change is tested; the soak session asks for twenty.
ROUNDS = int(os.environ.get("HYBRIDRELAY_ROUNDS", "2"))
NAME = "dc1.corp.example"
ADDRESS = own_addresses([NAME])[NAME]


async def echo_until_broken(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        async with stream:
            await echo(stream)


async def echo_until_cancelled(sock: trio.socket.SocketType) -> None:
    with sock:
        await echo_datagrams(sock)


async def target_port(nursery: trio.Nursery) -> int:
    """A port that sends back what it gets, over TCP and UDP."""
    while True:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = int(listener.socket.getsockname()[1])
        sock = trio.socket.from_stdlib_socket(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        try:
            await sock.bind(("127.0.0.1", port))
        except OSError:  # in use for UDP
            sock.close()
            await listener.aclose()
            continue
        nursery.start_soon(trio.serve_listeners, echo_until_broken, [listener])
        nursery.start_soon(echo_until_cancelled, sock)
        return port


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room in the address of a Unix socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


async def repeats(stream: trio.SocketStream) -> None:
    """A connection works."""
    await stream.send_all(b"hello")
    received = b""
    while len(received) < 5:
        received += await stream.receive_some()
    assert received == b"hello"


async def through_front(stream: trio.SocketStream, port: int) -> None:
    await stream.send_all(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += await stream.receive_some(1)
    assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.timeout(ROUND_SECONDS * (ROUNDS + 4))
async def test_every_kind_of_local_port_comes_back_after_a_kill(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path, short_directory: Path
) -> None:
    first, second = await target_port(nursery), await target_port(nursery)
    dc1 = deployment.create("dc1", f"127.0.0.1:{first},{second}/tcp+udp", local_name=f"{NAME}:{first},{second}")
    connector = deployment.start_connector(dc1, arguments=["--mode", "tcp", *deployment.datagrams_allowed()])
    path, front, config = short_directory / "port.sock", short_directory / "front.sock", tmp_path / "forward.toml"
    config.write_text(
        f'mode = "tcp"\nhttp-proxy = "unix:{front}"\n[[connection]]\nfile = "{dc1.application}"\n'
        f'listen = ["own/tcp+udp", "unix:{path}"]\n'
    )

    async def one_round() -> None:
        forward: Program = await trio.to_thread.run_sync(partial(deployment.start, "forward", "--config", config))
        assert "left-out" not in forward.out
        async with (
            await trio.open_tcp_stream(ADDRESS, first) as one,
            await trio.open_tcp_stream(ADDRESS, second) as other,
            await trio.open_unix_socket(path) as by_file,
            await trio.open_unix_socket(front) as by_front,
        ):
            await through_front(by_front, second)
            for stream in (one, other, by_file, by_front):
                await repeats(stream)
            for port in (first, second):
                assert await ask(port, b"ping", host=ADDRESS) == [b"re: ping"]
            forward.kill()
        assert "own-port-not-opened" not in forward.err

    await one_round()
    base = await settled(partial(of_program, connector))
    for _ in range(ROUNDS):
        await one_round()
    await assert_back_to(base, partial(of_program, connector), what="connector", or_less=True)
    nursery.cancel_scope.cancel()
