"""Every installed transport passes the conformance suite, and so does the one that is shipped for tests."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable

import pytest
import trio

import hybridrelay_tcp
from hybridrelay.abc import Address, Binding, Dialer, Listener, Transport
from hybridrelay.errors import TransportError
from hybridrelay.streams.listening import StreamListener
from hybridrelay.testing import MemoryTransport, check_transport, open_pair, transport_checks


def installed_transports() -> list[Transport]:
    entry_points = importlib.metadata.entry_points(group="hybridrelay.transports")
    return [MemoryTransport(), *(entry_point.load() for entry_point in entry_points)]


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{transport.name}-{name}")
        for transport in installed_transports()
        for name, check in transport_checks(transport)
    ],
)
async def test_each_transport_passes_the_conformance_suite(check: Callable[[], Awaitable[None]]) -> None:
    await check()


def test_all_of_ours_are_installed() -> None:
    assert {"exec", "tcp", "websocket"} <= {transport.name for transport in installed_transports()}


def test_route_names_and_ranks_are_unique() -> None:
    routes = [route for transport in installed_transports() for route in transport.routes]
    assert len({route.name for route in routes}) == len({route.rank for route in routes}) == len(routes)


async def test_check_transport_names_the_check_that_failed() -> None:
    class Silent(MemoryTransport):
        async def listen(self, binding: Binding) -> Listener:
            return await StreamListener.open(binding, close)

    async def close(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    with pytest.raises(AssertionError) as caught:
        await check_transport(Silent())
    assert caught.value.__notes__ == ["in the check memory-routes of the transport memory"]


async def test_native_tcp_does_not_run_inside_outer_tls() -> None:
    with pytest.raises(TransportError):
        await hybridrelay_tcp.transport.connect(Address("127.0.0.1", 1, True), Dialer(trio.open_tcp_stream))


async def test_open_pair_closes_both() -> None:
    transport = MemoryTransport()
    async with open_pair(transport, transport.routes[0]) as (client, server):
        assert isinstance(client, trio.SocketStream)
        assert isinstance(server, trio.SocketStream)
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
    assert client.socket.fileno() == server.socket.fileno() == -1
