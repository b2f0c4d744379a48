"""Both ends of every kind of stream that can be used without waiting, and of such streams on top of each other."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from hybridrelay.security import Role, create_authority, data_client_context, data_server_context
from hybridrelay.streams import TLSStream
from hybridrelay.testing import session_pair, tcp_pair
from hybridrelay_websocket.stream import WebSocketStream

NOW = time.time()
AUTHORITY = create_authority("orders", now=NOW)
SERVER = data_server_context(AUTHORITY.issue(Role.CONNECTOR, "a", now=NOW), AUTHORITY.certificate)
CLIENT = data_client_context(AUTHORITY.issue(Role.APPLICATION, "b", now=NOW), AUTHORITY.certificate)

Pair = tuple[trio.abc.Stream, trio.abc.Stream]
Maker = Callable[[trio.Nursery], Awaitable[Pair]]


async def sockets(_nursery: trio.Nursery) -> tuple[trio.SocketStream, trio.SocketStream]:
    return await tcp_pair()


async def memory(_nursery: trio.Nursery) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
    return trio.testing.memory_stream_pair()


async def tls(below: Pair) -> tuple[TLSStream, TLSStream]:
    pair = TLSStream(below[0], CLIENT), TLSStream(below[1], SERVER, server_side=True)
    async with trio.open_nursery() as shaking:
        for one in pair:
            shaking.start_soon(one.do_handshake)
    return pair


def websocket(below: Pair) -> tuple[WebSocketStream, WebSocketStream]:
    return WebSocketStream(below[0], client=True), WebSocketStream(below[1], client=False)


async def tls_over_sockets(nursery: trio.Nursery) -> Pair:
    return await tls(await tcp_pair())


async def tls_over_memory(nursery: trio.Nursery) -> Pair:
    return await tls(await memory(nursery))


async def websocket_over_sockets(_nursery: trio.Nursery) -> Pair:
    return websocket(await tcp_pair())


async def all_of_wss(_nursery: trio.Nursery) -> Pair:
    return await tls(websocket(await tls(await tcp_pair())))


async def session_streams(nursery: trio.Nursery) -> Pair:
    client, server = await session_pair(nursery)
    ours = client.open_stream_nowait()
    return ours, (await server.offers.receive()).accept()


MAKERS_OVER_SOCKETS: list[Maker] = [sockets, tls_over_sockets, websocket_over_sockets, all_of_wss]
MAKERS: list[Maker] = [*MAKERS_OVER_SOCKETS, memory, tls_over_memory, session_streams]


def names(maker: Maker) -> str:
    return maker.__name__
