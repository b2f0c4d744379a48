"""Connections that authenticate: for whom they count, and which of them give way to others at each step."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Binding, Purpose
from hybridrelay.events import EventStream
from hybridrelay.mux import EarlySession
from hybridrelay.protocol import RemoteProtocolError
from hybridrelay.protocol.preamble import STATUS_SIZE, Preamble, decode_status_untrusted
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.rendezvous import Arrival
from hybridrelay.relay.edge.authentication import Authenticator
from hybridrelay.relay.edge.certificates import RelayCertificates
from hybridrelay.relay.edge.handshakes import HandshakeQueue
from hybridrelay.relay.edge.permits import HandshakePermit, HandshakeScheduler
from hybridrelay.relay.edge.ports import OpenPort
from hybridrelay.relay.edge.requests import RequestReader
from hybridrelay.relay.edge.slots import Slots
from hybridrelay.relay.edge.unauthenticated import UnauthenticatedConnection
from hybridrelay.relay.limits import RateLimit
from hybridrelay.security import parse_networks_untrusted
from hybridrelay.streams import receive_exactly
from hybridrelay.testing import tcp_pair
from hybridrelay_websocket import transport
from hybridrelay_websocket.stream import WebSocketStream

from ...waiting import patience

PROXY, KEY_ID, PROOF = "10.0.0.5", b"k" * 8, b"proof" + bytes(27)
UPGRADE = (
    "GET /hybridrelay HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Protocol: hybridrelay.v1\r\nX-Forwarded-For: {address}\r\n\r\n"
)


@attrs.frozen
class Relay:
    """The part of a relay that authenticates connections on one port, all of which come from a proxy."""

    authenticator: Authenticator[str]
    nursery: trio.Nursery
    port: OpenPort
    clients: list[trio.SocketStream] = attrs.field(factory=list)

    async def upgraded(self, address: str) -> tuple[WebSocketStream, trio.CancelScope]:
        """The client's end of a WebSocket that comes from `address`, and what is cancelled if its slot is needed."""
        accepted, theirs = await tcp_pair()
        self.clients.append(accepted)
        scope = trio.CancelScope()
        slot = self.authenticator.slots.take(PROXY, scope.cancel)
        permit = HandshakePermit.of_new_connection(self.authenticator.scheduler, PROXY)
        connection = UnauthenticatedConnection(self.port, theirs, PROXY, slot, permit, scope)
        self.nursery.start_soon(self._serve, connection)
        ours: trio.SocketStream | trio.SSLStream[trio.SocketStream] = accepted
        with trio.fail_after(patience(20)):
            if self.port.outer_tls:
                ours = trio.SSLStream(accepted, unverified(), server_hostname="relay")
                await ours.do_handshake()
            await ours.send_all(UPGRADE.format(address=address).encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += await ours.receive_some()
        assert head.startswith(b"HTTP/1.1 101")
        await trio.testing.wait_all_tasks_blocked()
        return WebSocketStream(ours, client=True), scope

    async def _serve(self, connection: UnauthenticatedConnection) -> None:
        try:
            await self.authenticator.authenticate(connection)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(connection.arrived)


def unverified() -> ssl.SSLContext:
    """The context of a client that verifies nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def prove(proof: bytes) -> bytes | None:
    return KEY_ID if proof == PROOF else None


def no_ticket(ticket: bytes) -> Arrival:
    raise RemoteProtocolError("there are none", reason=Reason.TICKET_UNKNOWN)


async def silent(early: EarlySession, address: str, transport: str) -> str | None:
    """Wait for a token that never arrives."""
    await trio.sleep_forever()
    raise AssertionError


def never_arrived(arrival: Arrival) -> None:
    raise AssertionError("there are no data channels")


@asynccontextmanager
async def relay(
    directory: Path,
    slots: Slots,
    *,
    handshakes_of_address: int = 100,
    outer_tls: bool = False,
    nested: int = 10,
    layered: int = 10,
) -> AsyncIterator[Relay]:
    total, each = RateLimit(100, 100), RateLimit(handshakes_of_address, 0.001)
    scheduler = HandshakeScheduler(HandshakeQueue(total, total, each, proved=total, each_key=total, remembered=10))
    authenticator = Authenticator(
        certificates=RelayCertificates.load(directory, None, now=time.time(), outer_needed=outer_tls),
        slots=slots,
        nested=Slots(nested),
        layered=Slots(layered),
        scheduler=scheduler,
        requests=RequestReader(no_ticket, prove),
        admit=silent,
        abandon=never_arrived,
        events=EventStream(),
        trusted_proxies=parse_networks_untrusted(PROXY),
    )
    port = transport.routes[0 if outer_tls else 1].port
    assert port.outer_tls is outer_tls
    listener = await transport.listen(Binding("127.0.0.1", 0))
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.run)
        made = Relay(authenticator, nursery, OpenPort(port, listener, frozenset({Purpose.CONTROL}), "websocket"))
        yield made
        nursery.cancel_scope.cancel()
    for client in made.clients:
        await trio.aclose_forcefully(client)
    assert (len(slots), len(authenticator.nested), len(authenticator.layered)) == (0, 0, 0)


async def ask(client: WebSocketStream, proof: bytes = bytes(32)) -> None:
    """Ask for a control channel, and begin its TLS handshake."""
    with trio.fail_after(patience(20)):
        await client.send_all(Preamble(Purpose.CONTROL, proof).encode())
        assert decode_status_untrusted(await receive_exactly(client, STATUS_SIZE)) is Reason.NO_ERROR
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="relay").do_handshake()
    await client.send_all(outgoing.read())
    await trio.testing.wait_all_tasks_blocked()


async def test_the_slot_of_a_websocket_counts_for_the_address_that_its_proxy_states(tmp_path: Path) -> None:
    async with relay(tmp_path, Slots(4, 1)) as served:
        addresses = ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3")
        scopes = [(await served.upgraded(address))[1] for address in addresses]
        slots = served.authenticator.slots
        with slots.held(slots.take("198.51.100.9", lambda: None)):
            # The address that has more than its share loses its oldest connection, and not the oldest of the proxy.
            assert [scope.cancel_called for scope in scopes] == [False, True, False, False]


async def test_the_handshakes_in_a_websocket_count_for_the_address_that_its_proxy_states(tmp_path: Path) -> None:
    """The HTTP upgrade counts for the proxy, because the address is known only after it."""
    async with relay(tmp_path, Slots(10), handshakes_of_address=2) as served:
        scheduler = served.authenticator.scheduler
        for address in ("192.0.2.1", "192.0.2.2"):
            client, _ = await served.upgraded(address)
            await ask(client)
            assert scheduler.waiting == 0, "the proxy has only asked for the upgrades"


async def test_a_key_that_is_proved_in_a_websocket_keeps_its_slot_from_strangers_at_the_same_address(
    tmp_path: Path,
) -> None:
    async with relay(tmp_path, Slots(4, 1)) as served:
        proved, scope = await served.upgraded("192.0.2.1")
        await ask(proved, PROOF)
        stranger, displaced = await served.upgraded("192.0.2.1")
        await ask(stranger)
        others = [await served.upgraded("192.0.2.1") for _ in range(3)]
        assert displaced.cancel_called
        assert not scope.cancel_called
        assert not any(other.cancel_called for _, other in others)


async def complete(client: WebSocketStream) -> None:
    """Ask for a control channel, and complete its TLS handshake. No token follows."""
    with trio.fail_after(patience(20)):
        await client.send_all(Preamble(Purpose.CONTROL, bytes(32)).encode())
        assert decode_status_untrusted(await receive_exactly(client, STATUS_SIZE)) is Reason.NO_ERROR
        await trio.SSLStream(client, unverified(), server_hostname="relay").do_handshake()
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("kind", ["nested", "layered"])
async def test_a_handshake_inside_outer_tls_displaces_another_one_when_too_many_are_in_progress(
    tmp_path: Path, kind: str
) -> None:
    total = {"nested": 10, "layered": 10} | {kind: 2}
    async with relay(tmp_path, Slots(10), outer_tls=True, **total) as served:
        scopes = []
        for number in range(3):
            client, scope = await served.upgraded(f"192.0.2.{number}")
            await ask(client)
            scopes.append(scope)
        assert [scope.cancel_called for scope in scopes] == [True, False, False]


async def test_a_key_that_is_proved_keeps_its_handshake_inside_outer_tls_from_strangers_at_the_same_address(
    tmp_path: Path,
) -> None:
    async with relay(tmp_path, Slots(10), outer_tls=True, nested=4, layered=4) as served:
        proved, scope = await served.upgraded("192.0.2.1")
        await ask(proved, PROOF)
        strangers = []
        for _ in range(5):
            stranger, displaced = await served.upgraded("192.0.2.1")
            await ask(stranger)
            strangers.append(displaced)
        assert [one.cancel_called for one in strangers] == [True, True, False, False, False]
        assert not scope.cancel_called


async def test_a_channel_inside_outer_tls_keeps_its_place_until_its_peer_has_authenticated(tmp_path: Path) -> None:
    """The place for the handshake itself is free again after the handshake."""
    async with relay(tmp_path, Slots(10), outer_tls=True, nested=1, layered=2) as served:
        scopes = []
        for number in range(3):
            assert (len(served.authenticator.nested), len(served.authenticator.layered)) == (0, min(number, 2))
            client, scope = await served.upgraded(f"192.0.2.{number}")
            await complete(client)
            scopes.append(scope)
        assert [scope.cancel_called for scope in scopes] == [True, False, False]


@pytest.mark.parametrize("step", ["outer TLS", "TLS", "TLS inside outer TLS"])
async def test_a_connection_that_has_done_its_handshake_does_not_give_way_to_those_that_have_not(
    tmp_path: Path, step: str
) -> None:
    """It is the oldest, but there are more of the others."""
    async with relay(tmp_path, Slots(3, 3), outer_tls=step != "TLS", layered=3) as served:
        client, scope = await served.upgraded("192.0.2.1")
        if step != "outer TLS":
            await complete(client)
        slots = served.authenticator.layered if step == "TLS inside outer TLS" else served.authenticator.slots
        displaced: list[int] = []
        others = [slots.take(f"198.51.100.{number}", partial(displaced.append, number)) for number in range(3)]
        assert displaced == [0]
        assert not scope.cancel_called
        for slot in others:
            slots.release(slot)
