"""Connections that do not authenticate in time are closed in whichever phase they stop. Also what happens when a key
is revoked, or a channel is lost, at an unfavorable moment."""

from __future__ import annotations

import contextlib
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from hybridrelay.abc import Purpose
from hybridrelay.connectivity import RelayEndpoint
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink, make_connection_token
from hybridrelay.protocol import Reason, control
from hybridrelay.protocol.preamble import STATUS_SIZE, Preamble, decode_status_untrusted
from hybridrelay.relay import SQLiteStore
from hybridrelay.relay.core.authorization import Grant
from hybridrelay.relay.edge import authentication, unauthenticated
from hybridrelay.relay.limits import AUTHENTICATION_DEADLINE_SECONDS
from hybridrelay.relay.service import connections
from hybridrelay.relay.service import control as relay_control
from hybridrelay.relay.service import relay as relay_module
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.control import ControlPeer
from hybridrelay.security import KeySlot, Role, control_client_context
from hybridrelay.streams import TLSStream, receive_exactly
from hybridrelay_websocket.frames import MAX_FRAMES_OF_STRANGER

from ..waiting import async_wait_until, patience
from .deployment import HOST, Deployment, deploy

DEADLINE = 0.5
PATIENCE_SECONDS = 20


def test_the_deadline_is_as_long_as_documented() -> None:
    assert AUTHENTICATION_DEADLINE_SECONDS == 15


def _shorten_the_deadline(monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the deadline, which leaves a busy machine enough time for the handshakes before it."""
    seconds = patience(DEADLINE)
    for module in (connections, unauthenticated):
        monkeypatch.setattr(module, "AUTHENTICATION_DEADLINE_SECONDS", seconds)
    return seconds


async def _says_nothing(stream: trio.abc.HalfCloseableStream) -> None:
    pass


async def _half_a_preamble(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.send_all(Preamble(Purpose.CONTROL).encode()[:10])


async def _only_a_preamble(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.send_all(Preamble(Purpose.CONTROL).encode())
    await receive_exactly(stream, STATUS_SIZE)


async def _only_tls(stream: trio.abc.HalfCloseableStream) -> None:
    await _only_a_preamble(stream)
    await TLSStream(stream, control_client_context(["sha256:" + "A" * 43 + "="])).do_handshake()


async def _half_a_request(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.send_all(b"GET /hybridrelay HTTP/1.1\r\nHost: x\r\n")


async def _half_a_hello(stream: trio.abc.HalfCloseableStream) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    await stream.send_all(outgoing.read()[:100])


# Where there is no epoll, a task waits for each connection.
@pytest.mark.parametrize(
    "platform", [pytest.param(sys.platform, id="here"), pytest.param("other", id="other systems")]
)
@pytest.mark.parametrize(
    ("port", "phase"),
    [
        *[(port, _says_nothing) for port in ("probe", "control", "data", "http", "https")],
        ("control", _half_a_preamble),
        ("control", _only_a_preamble),
        ("control", _only_tls),
        ("http", _half_a_request),
        ("https", _half_a_hello),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_a_peer_that_is_too_slow_is_cut_off(
    nursery: trio.Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    port: str,
    phase: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]],
    platform: str,
) -> None:
    monkeypatch.setattr(relay_module, "sys", SimpleNamespace(platform=platform))
    deadline = _shorten_the_deadline(monkeypatch)
    deployment = await deploy(nursery, tmp_path / "state")
    number = deployment.ports[port]
    assert number is not None
    stream = await trio.open_tcp_stream(HOST, number)
    began = trio.current_time()
    await phase(stream)
    with trio.fail_after(patience(PATIENCE_SECONDS)):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
    assert trio.current_time() >= began + deadline * 0.9, "not before its time"
    await stream.aclose()
    nursery.cancel_scope.cancel()


async def test_a_stranger_sends_few_websocket_frames(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connections, unauthenticated):  # the deadline is not what ends the connection
        monkeypatch.setattr(module, "AUTHENTICATION_DEADLINE_SECONDS", 3600)
    number = deployment.ports["http"]
    assert number is not None
    with trio.fail_after(patience(PATIENCE_SECONDS)):
        async with await trio.open_tcp_stream(HOST, number) as stream:
            await stream.send_all(
                b"GET /hybridrelay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"Sec-WebSocket-Protocol: hybridrelay.v1\r\n\r\n"
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            with contextlib.suppress(trio.BrokenResourceError):
                pings = (b"\x89\x80" + bytes(4)) * (MAX_FRAMES_OF_STRANGER + 1)
                await stream.send_all(pings)
                async for _ in stream:  # pongs, and then the end
                    pass
    nursery.cancel_scope.cancel()


async def test_a_key_that_is_revoked_while_it_authorizes_opens_nothing(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is revoked after the request was granted, and before its answer is sent."""
    monkeypatch.setattr(relay_control, "REVOKED_CHANNEL_SECONDS", 0.5)
    published = deployment.publish()
    send = ControlPeer.send

    async def slow_send(peer: ControlPeer, message: control.Message) -> None:
        if isinstance(message, control.Registered):
            with SQLiteStore.open(deployment.state_dir) as registry:
                key = registry.get("db").key_id(published.rules[0].name, KeySlot.PRIMARY)
                assert key is not None
                registry.revoke_key("db", published.rules[0].name, KeySlot.PRIMARY)

            async def noticed() -> bool:
                return peer._broker.authorization.why_revoked(key) is not None

            await async_wait_until(noticed, seconds=PATIENCE_SECONDS, what="the relay to notice")
        await send(peer, message)

    monkeypatch.setattr(ControlPeer, "send", slow_send)
    string = deployment.string(published, Role.CONNECTOR)
    (endpoint,) = RelayEndpoint.all_from(string)
    link = RelayLink(endpoint, control.PeerRole.CONNECTOR, instance=new_instance(), mode="tcp")
    channel = await link.start_control(nursery)
    token = make_connection_token(string, HOST, time.time())
    await channel.send(control.Register(channel.next_id(), "db", token))
    with trio.fail_after(patience(PATIENCE_SECONDS)):
        async for _ in channel.messages:
            pass
    nursery.cancel_scope.cancel()


async def test_what_registers_too_late_is_forgotten(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session is over already when its request is granted."""
    registered = trio.Event()
    brokers: list[BrokerService] = []
    grant_now = ControlPeer._grant

    async def late(peer: ControlPeer, message: control.Register, grant: Grant) -> None:
        peer._session.close()
        await peer._session.wait_ended()
        await trio.testing.wait_all_tasks_blocked(0.01)  # all that follows from that has happened
        await grant_now(peer, message, grant)
        brokers.append(peer._broker)
        assert peer._broker.listeners.count() == 1
        registered.set()

    monkeypatch.setattr(ControlPeer, "_grant", late)
    string = deployment.string(deployment.publish(), Role.CONNECTOR)
    (endpoint,) = RelayEndpoint.all_from(string)
    channel = await RelayLink(
        endpoint, control.PeerRole.CONNECTOR, instance=new_instance(), mode="tcp"
    ).start_control(nursery)
    await channel.send(control.Register(channel.next_id(), "db", make_connection_token(string, HOST, time.time())))
    with trio.fail_after(patience(PATIENCE_SECONDS)):
        await registered.wait()

    async def forgotten() -> bool:
        return brokers[0].listeners.count() == 0 and len(brokers[0].core.control_channels) == 0

    await async_wait_until(forgotten, seconds=PATIENCE_SECONDS, what="the relay to forget it")
    nursery.cancel_scope.cancel()


async def test_a_data_channel_that_is_lost_before_it_meets_the_other_ends_the_rendezvous(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ticket is used. The other data channel does not wait for ever for one that has gone."""

    def fail(sock: object) -> None:
        raise OSError("gone")

    published = deployment.publish()
    tickets: list[bytes] = []
    channels: dict[Role, ControlChannel] = {}
    strings = {role: deployment.string(published, role) for role in (Role.CONNECTOR, Role.APPLICATION)}
    for role, string in strings.items():
        (endpoint,) = RelayEndpoint.all_from(string)
        who = control.PeerRole.CONNECTOR if role is Role.CONNECTOR else control.PeerRole.CLIENT
        link = RelayLink(endpoint, who, instance=new_instance(), mode="tcp")
        channels[role] = await link.start_control(nursery)
    listener, sender = channels[Role.CONNECTOR], channels[Role.APPLICATION]
    token = make_connection_token(strings[Role.CONNECTOR], HOST, time.time())
    registered = await listener.register(control.Register(listener.next_id(), "db", token))
    assert isinstance(registered, control.Registered)

    async def accept() -> None:
        async for message in listener.messages:
            if isinstance(message, control.Offer):
                tickets.append(message.ticket)
                await listener.send(control.Accept(message.id))

    nursery.start_soon(accept)
    token = make_connection_token(strings[Role.APPLICATION], HOST, time.time())
    joined = await sender.join(control.Join(sender.next_id(), "db", token))
    assert isinstance(joined, control.Joined)
    number = deployment.ports["data"]
    assert number is not None
    waiting = await trio.open_tcp_stream(HOST, number)
    await waiting.send_all(Preamble(Purpose.DATA, joined.ticket).encode())
    await trio.testing.wait_all_tasks_blocked(0.05)
    monkeypatch.setattr(authentication, "tune_socket", fail)
    lost = await trio.open_tcp_stream(HOST, number)
    await lost.send_all(Preamble(Purpose.DATA, tickets[0]).encode())
    with trio.fail_after(patience(PATIENCE_SECONDS)):
        assert decode_status_untrusted(await receive_exactly(waiting, STATUS_SIZE)) is Reason.PEER_ABSENT
    await waiting.aclose()
    await lost.aclose()
    nursery.cancel_scope.cancel()
