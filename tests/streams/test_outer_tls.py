"""The outer TLS: it verifies nothing, and every failure in it is a `TransportError`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from hybridrelay.errors import TransportError
from hybridrelay.streams.outer_tls import accept_outer_tls, connect_outer_tls
from hybridrelay.testing import tcp_pair
from hybridrelay.testing._pairs import outer_context


async def test_carries_bytes_with_a_certificate_of_an_unknown_issuer() -> None:
    near, far = await tcp_pair()
    accepted = []

    async def accept() -> None:
        accepted.append(await accept_outer_tls(far, outer_context()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        client = await connect_outer_tls(near, "relay.example.com")
    async with client, accepted[0] as server:
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"


async def test_something_else_answers() -> None:
    near, far = await tcp_pair()
    async with far:
        await far.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(TransportError, match="outer TLS"):
            await connect_outer_tls(near, "h")
    assert near.socket.fileno() == -1


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"", bytes(1024)])
async def test_something_else_asks(sent: bytes) -> None:
    near, far = await tcp_pair()
    async with far:
        await far.send_all(sent)
        await far.send_eof()
        with pytest.raises(TransportError, match="outer TLS"):
            await accept_outer_tls(near, outer_context())
    assert near.socket.fileno() == -1


@pytest.mark.parametrize("side", [connect_outer_tls, accept_outer_tls])
async def test_cancelled_it_closes_the_connection(side: Callable[..., Awaitable[object]]) -> None:
    near, far = await tcp_pair()
    async with far:
        with trio.move_on_after(0.01):
            await (connect_outer_tls(near, "h") if side is connect_outer_tls else side(near, outer_context()))
    assert near.socket.fileno() == -1


@pytest.mark.parametrize("host", ["", ".example.com", "x" * 300])
async def test_names_that_tls_can_not_carry(host: str) -> None:
    near, far = await tcp_pair()
    async with far:
        with pytest.raises(TransportError, match="outer TLS"):
            await connect_outer_tls(near, host)
    assert near.socket.fileno() == -1
