"""Connections that are watched before they have a task: those of a proxy count for the addresses that it states."""

from __future__ import annotations

import socket
import sys

import pytest
import trio
import trio.testing

from hybridrelay.abc import Binding
from hybridrelay.relay.edge.permits import HandshakeScheduler
from hybridrelay.relay.edge.ports import OpenPort
from hybridrelay.relay.edge.requests import Request
from hybridrelay.relay.edge.slots import Slots
from hybridrelay.relay.edge.unauthenticated import UnauthenticatedConnection, UnauthenticatedConnections
from hybridrelay.security import parse_networks_untrusted
from hybridrelay_websocket import transport

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has epoll")
PROXY = "10.0.0.5"


def no_preamble(port: OpenPort, data: bytes) -> Request:
    raise AssertionError("the transport's handshake comes first")


async def is_closed(sock: socket.socket) -> bool:
    """Whether the relay has closed a connection, once it has handled what was sent."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


async def test_the_slot_of_a_connection_counts_for_the_address_that_its_proxy_states() -> None:
    slots, served = Slots(4, 1), list[UnauthenticatedConnection]()
    watched = UnauthenticatedConnections(
        slots,
        HandshakeScheduler(),
        decode=no_preamble,
        serve=served.append,
        proxies=parse_networks_untrusted(PROXY),
    )
    listener = await transport.listen(Binding("127.0.0.1", 0))
    port = OpenPort(transport.routes[1].port, listener, frozenset(), "websocket")
    clients: list[socket.socket] = []
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            watched.enter(port, theirs, (PROXY, 4711))
            ours.send(f"PROXY TCP4 {address} 198.51.100.1 4711 443\r\n".encode())
            assert not await is_closed(ours)
            clients.append(ours)
        newest, theirs = socket.socketpair()
        watched.enter(port, theirs, ("198.51.100.9", 4711))
        # The address that has more than its share loses its oldest connection, and not the oldest of the proxy.
        assert [await is_closed(one) for one in clients] == [False, True, False, False]
        nursery.cancel_scope.cancel()
    for one in (*clients, newest):
        one.close()
    assert len(slots) == 0
    assert served == []
