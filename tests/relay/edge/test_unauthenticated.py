"""Connections that are watched before they have a task: those of a proxy count for the addresses that it states."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

import hybridrelay_tcp
import hybridrelay_websocket
from hybridrelay.abc import Binding, Port
from hybridrelay.protocol.preamble import PREAMBLE_SIZE
from hybridrelay.relay.edge import unauthenticated
from hybridrelay.relay.edge.handshakes import HandshakeQueue
from hybridrelay.relay.edge.permits import HandshakeScheduler
from hybridrelay.relay.edge.ports import OpenPort
from hybridrelay.relay.edge.requests import ProbeRequest, Request
from hybridrelay.relay.edge.slots import Slots
from hybridrelay.relay.edge.unauthenticated import UnauthenticatedConnection, UnauthenticatedConnections
from hybridrelay.relay.limits import AUTHENTICATION_DEADLINE_SECONDS, RateLimit
from hybridrelay.security import parse_networks_untrusted

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has epoll")
PROXY = "10.0.0.5"
TCP = hybridrelay_tcp.transport.routes[0].port
#: The beginning of a ClientHello.
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"
HTTPS, HTTP = (route.port for route in hybridrelay_websocket.transport.routes)


def probe(port: OpenPort, data: bytes) -> Request:
    """Decode the preamble of a plain port. On the others, the transport's handshake comes first."""
    assert port.is_plain
    return ProbeRequest()


async def is_closed(sock: socket.socket) -> bool:
    """Whether the relay has closed a connection, once it has handled what was sent."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:  # with bytes that were not read
        return True


@attrs.define
class Watched:
    """Connections that are watched on one port."""

    connections: UnauthenticatedConnections
    slots: Slots
    scheduler: HandshakeScheduler
    port: OpenPort
    #: Those that were handed over to a task.
    served: list[UnauthenticatedConnection]
    clients: list[socket.socket] = attrs.field(factory=list)
    #: Why connections of proxies were closed.
    refusals: list[str] = attrs.field(factory=list)

    def connect(self, address: str) -> socket.socket:
        """The client's end of a connection that comes from `address`."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.clients.append(ours)
        self.connections.enter(self.port, theirs, (address, 4711))
        return ours

    async def through_proxy(self, address: str, sent: bytes = b"") -> socket.socket:
        """The client's end of a connection of a proxy that says that it comes from `address`."""
        ours = self.connect(PROXY)
        ours.send(f"PROXY TCP4 {address} 198.51.100.1 4711 443\r\n".encode() + sent)
        assert not await is_closed(ours)
        return ours


@asynccontextmanager
async def watching(
    slots: Slots, scheduler: HandshakeScheduler | None = None, *, port: Port = HTTP
) -> AsyncIterator[Watched]:
    scheduler = scheduler or HandshakeScheduler()
    served: list[UnauthenticatedConnection] = []
    refusals: list[str] = []
    connections = UnauthenticatedConnections(
        slots,
        scheduler,
        decode=probe,
        serve=served.append,
        proxies=parse_networks_untrusted(PROXY),
        refused=lambda port, address, detail: refusals.append(detail),
    )
    transport = hybridrelay_tcp.transport if port is TCP else hybridrelay_websocket.transport
    listener = await transport.listen(Binding("127.0.0.1", 0))
    open_port = OpenPort(port, listener, frozenset(), "tcp" if port is TCP else "websocket")
    watched = Watched(connections, slots, scheduler, open_port, served, refusals=refusals)
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(connections.run)
        nursery.start_soon(scheduler.run)
        yield watched
        nursery.cancel_scope.cancel()
    for one in watched.clients:
        one.close()
    for connection in served:
        slots.release(connection.slot)
        await trio.aclose_forcefully(connection.arrived)
    assert len(slots) == 0


def one_for_each_address() -> HandshakeScheduler:
    """Each address may have one handshake, and another one when its peer has authenticated."""
    total, each = RateLimit(100, 100), RateLimit(1, 0.001)
    return HandshakeScheduler(HandshakeQueue(total, total, each, proved=total, each_key=each, remembered=10))


async def test_the_slot_of_a_connection_counts_for_the_address_that_its_proxy_states() -> None:
    async with watching(Slots(4, 1)) as watched:
        addresses = ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3")
        clients = [await watched.through_proxy(address) for address in addresses]
        watched.connect("198.51.100.9")
        # The address that has more than its share loses its oldest connection, and not the oldest of the proxy.
        assert [await is_closed(one) for one in clients] == [False, True, False, False]
        assert watched.served == []


async def test_a_handshake_counts_for_the_address_that_the_proxy_states() -> None:
    async with watching(Slots(10), one_for_each_address()) as watched:
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
            await watched.through_proxy(address, b"GET ")
        assert [one.address for one in watched.served] == ["192.0.2.1", "192.0.2.2"]


async def test_a_peer_that_leaves_while_it_waits_for_its_handshake_is_not_served() -> None:
    async with watching(Slots(10), one_for_each_address()) as watched:
        for client in (watched.connect("192.0.2.1"), watched.connect("192.0.2.1")):
            client.send(b"GET ")
            assert not await is_closed(client)
        assert (len(watched.served), watched.scheduler.waiting) == (1, 1)
        client.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert watched.scheduler.waiting == 0
        watched.served[0].permit.authenticated()  # so that another handshake may begin
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(watched.served) == 1


async def test_a_connection_that_has_a_task_is_cancelled_if_its_slot_is_needed() -> None:
    async with watching(Slots(1)) as watched:
        watched.connect("192.0.2.1").send(b"GET ")
        await trio.testing.wait_all_tasks_blocked(0.01)
        (served,) = watched.served
        is_cancelled = [served.scope.cancel_called]
        watched.connect("192.0.2.2")
        is_cancelled.append(served.scope.cancel_called)
        assert is_cancelled == [False, True]
        assert len(watched.connections) == 1


async def test_a_peer_that_sends_tiny_pieces_without_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unauthenticated, "MAX_LOOKS", 5)
    async with watching(Slots(10), one_for_each_address()) as watched:
        watched.connect("192.0.2.1").send(b"GET ")
        await trio.testing.wait_all_tasks_blocked(0.01)
        client = watched.connect("192.0.2.1")
        closed = []
        for _ in range(5):
            client.send(b"G")
            closed.append(await is_closed(client))
        assert closed == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("sent", "refusals"),
    [
        pytest.param(b"PROXY ", ["no complete PROXY header has arrived in 5 parts"], id="in the header"),
        pytest.param(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n" + HELLO, [], id="behind the header"),
    ],
)
async def test_a_proxy_that_sends_its_header_in_tiny_pieces_is_reported(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, refusals: list[str]
) -> None:
    """What follows the header is sent by the proxy's client."""
    monkeypatch.setattr(unauthenticated, "MAX_LOOKS", 5)
    async with watching(Slots(10), port=HTTPS) as watched:
        client = watched.connect(PROXY)
        for piece in (sent, *[b"x"] * 3):
            client.send(piece)
            assert not await is_closed(client)
        client.send(b"x")
        assert await is_closed(client)
        assert watched.refusals == refusals


@pytest.mark.parametrize(
    ("port", "address", "sent", "closed"),
    [
        pytest.param(HTTP, PROXY, b"PROXY ", True, id="in a PROXY header"),
        pytest.param(HTTPS, "192.0.2.1", b"\x16\x03\x01", True, id="in a ClientHello"),
        pytest.param(TCP, "192.0.2.1", bytes(PREAMBLE_SIZE), True, id="after the preamble"),
        pytest.param(HTTP, "192.0.2.1", b"", False, id="in HTTP"),
    ],
)
async def test_a_peer_that_can_send_no_more_is_closed_unless_it_may_wait_for_an_answer(
    port: Port, address: str, sent: bytes, closed: bool
) -> None:
    """An HTTP client may still wait for one."""
    async with watching(Slots(10), port=port) as watched:
        client = watched.connect(address)
        client.send(sent)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with contextlib.suppress(BlockingIOError):
            client.recv(100)  # the answer to the preamble
        assert not await is_closed(client)
        client.shutdown(socket.SHUT_WR)
        assert await is_closed(client) is closed
        assert len(watched.slots) == (0 if closed else 1)


@pytest.mark.parametrize("address", [PROXY, "192.0.2.1"])
async def test_a_peer_that_sends_nothing_is_closed_at_the_deadline(
    mock_clock: trio.testing.MockClock, address: str
) -> None:
    async with watching(Slots(10)) as watched:
        first = watched.connect(address)
        mock_clock.jump(1)
        second = watched.connect(address)
        assert not await is_closed(first)
        mock_clock.jump(AUTHENTICATION_DEADLINE_SECONDS - 1)
        # Not until all tasks are blocked: a watcher that does not close a late connection never is.
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert first.recv(1) == b""
        with pytest.raises(BlockingIOError):
            second.recv(1)
        assert (len(watched.connections), len(watched.slots)) == (1, 1)
        seconds = f"{AUTHENTICATION_DEADLINE_SECONDS:g} s"
        why = [f"no complete PROXY header has arrived within {seconds}"]
        assert watched.refusals == (why if address == PROXY else [])
