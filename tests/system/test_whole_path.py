"""Client, relay, connector and target together, over every transport."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.client import run_forward
from hybridrelay.connectivity import Prober, RelayEndpoint, dial_directly
from hybridrelay.connector import Connector, ConnectorConfig, PolicyFile, run_connector
from hybridrelay.errors import (
    AuthorizationError,
    ConfigurationError,
    HybridRelayError,
    PeerIdentityError,
    RelayIdentityError,
    RelayUnreachable,
    RendezvousError,
    StreamRefused,
    StreamReset,
)
from hybridrelay.events import Event, StreamClosed, StreamNotOpened, StreamRequested
from hybridrelay.protocol import Reason
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import ConnectionString, HostPort, KeySlot, Role, create_authority, generate_key

from ..keys import key_of
from ..receiving import receive_all, send_and_receive
from ..resets import reset_reason
from ..waiting import async_wait_until
from .deployment import HOST, Deployment, Published, deploy, echo, serve_target

MODES = ["tcp", "websocket"]


async def _serve(
    deployment: Deployment, handler: Callable[[trio.SocketStream], Awaitable[None]] = echo, name: str = "db"
) -> tuple[Published, trio.CancelScope]:
    """Publish a target; what was published, and what kills its connector."""
    published = deployment.publish(name)
    target = await serve_target(deployment.nursery, handler)
    connector = await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
    return published, connector


async def test_every_stream_of_the_library_ends_in_one_event(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, connector = await _serve(deployment)
    seen: list[Event] = []
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        client.events.subscribe(seen.append)
        async with await client.open_stream() as stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            assert await receive_all(stream) == b"hello"
        await client.open_stream()  # still open at the end
        connector.cancel()

        async def open_until_refused() -> None:
            while True:
                await client.open_stream(patience=0)

        with pytest.raises(HybridRelayError):
            await open_until_refused()
    requested = [event.activity_id for event in seen if isinstance(event, StreamRequested)]
    ended = {event.activity_id: event for event in seen if isinstance(event, StreamClosed | StreamNotOpened)}
    assert sorted(requested) == sorted(ended)
    assert len([event for event in seen if isinstance(event, StreamClosed | StreamNotOpened)]) == len(ended)
    assert [type(ended[requested[number]]) for number in (0, 1, -1)] == [StreamClosed, StreamClosed, StreamNotOpened]
    first = ended[requested[0]]
    assert isinstance(first, StreamClosed)
    assert (first.outcome, first.bytes_to_target, first.bytes_to_client) == ("closed", 5, 5)


@pytest.mark.parametrize("mode", MODES)
async def test_bytes_arrive_unchanged_both_ways(mode: str, deployment: Deployment, nursery: trio.Nursery) -> None:
    published, _ = await _serve(deployment)
    data = os.urandom(8 << 20)
    async with deployment.client(deployment.string(published, Role.APPLICATION), mode=mode) as client:
        stream = await client.open_stream()
        received = await send_and_receive(stream, data)
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        assert client.route in {"tcp", "wss", "ws"}
    nursery.cancel_scope.cancel()


async def test_what_was_sent_before_the_connector_has_answered_reaches_the_target(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    """The stream is closed at once, before the connector has connected to the target."""
    send, receive = trio.open_memory_channel[bytes](1)

    async def receive_message(stream: trio.SocketStream) -> None:
        send.send_nowait(await receive_all(stream))

    published, _ = await _serve(deployment, receive_message)
    data = os.urandom(100_000)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        stream = await client.open_stream(wait_opened=False)
        await stream.send_all(data)
        await stream.aclose()
        await stream.wait_opened()
        with trio.fail_after(30):
            assert await receive.receive() == data
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_the_reply_comes_after_the_request_has_ended(
    mode: str, deployment: Deployment, nursery: trio.Nursery
) -> None:
    async def digest(stream: trio.SocketStream) -> None:
        await stream.send_all(hashlib.sha256(await receive_all(stream)).digest())

    published, _ = await _serve(deployment, digest)
    data = os.urandom(1 << 20)
    async with deployment.client(deployment.string(published, Role.APPLICATION), mode=mode) as client:
        stream = await client.open_stream()
        await stream.send_all(data)
        await stream.send_eof()
        assert await receive_all(stream) == hashlib.sha256(data).digest()
    nursery.cancel_scope.cancel()


async def test_what_was_sent_before_the_client_left_still_arrives(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    got = trio.Event()
    received: list[bytes] = []

    async def collect(stream: trio.SocketStream) -> None:
        received.append(await receive_all(stream))
        got.set()

    published, _ = await _serve(deployment, collect)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        async with await client.open_stream() as stream:
            await stream.send_all(b"the last word" * 1000)
    await got.wait()
    assert received == [b"the last word" * 1000]
    nursery.cancel_scope.cancel()


async def test_one_session_serves_all_streams(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, _ = await _serve(deployment)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        session = await client.connect()
        async with trio.open_nursery() as many:

            async def talk(number: int) -> None:
                async with await client.open_stream() as stream:
                    text = f"{number}".encode()
                    await stream.send_all(text)
                    assert await stream.receive_some() == text

            for number in range(200):
                many.start_soon(talk, number)
        assert await client.connect() is session
    nursery.cancel_scope.cancel()


async def test_a_forward_resets_the_application_where_the_target_resets(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await stream.send_all(b"incomple")
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset on close

    published, _ = await _serve(deployment, cut)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        async with trio.open_nursery() as forwarding:
            (address,) = await forwarding.start(run_forward, client, [(HOST, 0)])
            async with await trio.open_tcp_stream(*address) as application:
                assert await application.receive_some() == b"incomple"
                await application.send_all(b"now")
                with pytest.raises(trio.BrokenResourceError):
                    await application.receive_some()
            forwarding.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


# --- errors, each with its own reason


async def _reason_of(deployment: Deployment, string: ConnectionString, expected: type[HybridRelayError]) -> Reason:
    async with deployment.client(string) as client:
        with pytest.raises(expected) as caught:
            await client.open_stream(patience=0)
    return caught.value.reason


async def test_the_reason_says_that_nobody_listens(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    await _serve(deployment, name="other")  # by now the relay has seen both
    string = deployment.string(published, Role.APPLICATION)
    assert await _reason_of(deployment, string, RendezvousError) is Reason.NO_LISTENER
    nursery.cancel_scope.cancel()


async def test_the_target_refuses(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    with trio.socket.socket() as unused:
        await unused.bind((HOST, 0))
        target = HostPort(HOST, unused.getsockname()[1])
        await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
        string = deployment.string(published, Role.APPLICATION)
        assert await _reason_of(deployment, string, StreamRefused) is Reason.TARGET_REFUSED
    nursery.cancel_scope.cancel()


async def test_the_target_has_no_such_name(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    target = HostPort("no-such-host.invalid", 5432)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
    string = deployment.string(published, Role.APPLICATION)
    assert await _reason_of(deployment, string, StreamRefused) is Reason.TARGET_NAME_NOT_FOUND
    nursery.cancel_scope.cancel()


async def test_refusals_of_the_relay(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, _ = await _serve(deployment)
    good = deployment.string(published, Role.APPLICATION)
    listen_key = key_of(published.rules[0])
    for string, reason in [
        (attrs.evolve(good, key=generate_key()), Reason.WRONG_KEY),
        (attrs.evolve(good, key_name="listener"), Reason.WRONG_KEY),
        (attrs.evolve(good, key_name="listener", key=listen_key), Reason.RIGHT_MISSING),
        (attrs.evolve(good, key_name="nobody"), Reason.UNKNOWN_RULE),
    ]:
        assert await _reason_of(deployment, string, AuthorizationError) is reason
    elsewhere = attrs.evolve(published, name="elsewhere", authority=create_authority("elsewhere", now=time.time()))
    string = deployment.string(elsewhere, Role.APPLICATION)
    assert await _reason_of(deployment, string, AuthorizationError) is Reason.UNKNOWN_CONNECTION
    late = deployment.client(good)
    async with late as client:
        client._relays.all[0]._clock = lambda: 1_000_000_000.0
        with pytest.raises(AuthorizationError) as caught:
            await client.open_stream(patience=0)
    assert caught.value.reason is Reason.TOKEN_EXPIRED
    assert caught.value.remedy
    nursery.cancel_scope.cancel()


async def test_a_connector_with_the_wrong_key_ends_with_the_reason(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published, _ = await _serve(deployment)
    right = deployment.string(published, Role.CONNECTOR)
    for string, reason in [
        (attrs.evolve(right, key=generate_key()), Reason.WRONG_KEY),
        (attrs.evolve(right, key_name="sender", key=key_of(published.rules[1])), Reason.RIGHT_MISSING),
    ]:
        with pytest.raises(AuthorizationError) as caught:
            await run_connector(ConnectorConfig([string]))
        assert caught.value.reason is reason
    nursery.cancel_scope.cancel()


async def test_another_relay_is_not_trusted(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, _ = await _serve(deployment)
    pin = "sha256:" + "A" * 43 + "="
    string = deployment.string(published, Role.APPLICATION, relay_pins=(pin,))
    for mode in MODES:
        async with deployment.client(string, mode=mode) as client:
            with pytest.raises((RelayIdentityError, RelayUnreachable)) as caught:
                await client.open_stream()
        assert "pin" in str(caught.value) or "pin" in str(caught.value.remedy)
    nursery.cancel_scope.cancel()


async def test_identities_are_refused_with_their_reason(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, _ = await _serve(deployment)
    stranger = attrs.evolve(published, authority=create_authority(published.name, now=time.time()))
    string = deployment.string(stranger, Role.APPLICATION)
    assert await _reason_of(deployment, string, PeerIdentityError) is Reason.IDENTITY_WRONG_AUTHORITY
    # The authority is the right one, and the role is not: refused before anything is sent.
    identity = published.authority.issue(Role.CONNECTOR, "thief", now=time.time())
    string = deployment.string(published, Role.APPLICATION, identity=identity)
    with pytest.raises(ConfigurationError):
        async with deployment.client(string):
            raise AssertionError("not reached")
    # Issued yesterday, for an hour.
    identity = published.authority.issue(Role.APPLICATION, "old", now=time.time() - 86400, valid_years=1 / 8766)
    string = deployment.string(published, Role.APPLICATION, identity=identity)
    assert await _reason_of(deployment, string, PeerIdentityError) is Reason.IDENTITY_EXPIRED
    nursery.cancel_scope.cancel()


async def test_the_string_of_a_connector_is_not_that_of_an_application(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.publish()
    with pytest.raises(ConfigurationError, match="connector's connection string"):
        async with deployment.client(deployment.string(published, Role.CONNECTOR)):
            raise AssertionError("not reached")
    nursery.cancel_scope.cancel()


async def test_what_the_block_raises_leaves_as_itself(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, _ = await _serve(deployment)
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012
        async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
            await client.open_stream()
            raise KeyError("mine")
    nursery.cancel_scope.cancel()


# --- change while running


async def test_killing_the_connector_resets_the_application(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, connector = await _serve(deployment)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        stream = await client.open_stream()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        connector.cancel()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, StreamReset)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_sessions_outlive_the_relay(mode: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    first = await deploy(nursery, tmp_path / "state")
    published, _ = await _serve(first)
    ports = {name: number for name, number in first.ports.items() if number}
    data = os.urandom(20 << 20)
    async with first.client(first.string(published, Role.APPLICATION), mode=mode) as client:
        stream = await client.open_stream()
        received = bytearray()
        async with trio.open_nursery() as transfer:

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            transfer.start_soon(send)
            while len(received) < len(data) // 4:
                received += await stream.receive_some()
            await first.kill_relay()
            second = await deploy(nursery, tmp_path / "state", ports=ports)
            assert second.info.pin == first.info.pin
            received += await receive_all(stream)
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        # And new streams find their way, too.
        stream = await client.open_stream()
        await stream.send_all(b"again")
        assert await stream.receive_some() == b"again"
    nursery.cancel_scope.cancel()


async def test_a_connector_that_does_not_come_back_is_a_reset_in_the_end(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    killed = trio.Event()

    async def dial(host: str, port: int) -> trio.SocketStream:
        if killed.is_set():
            await trio.sleep_forever()
        sockets.append(await dial_directly(host, port))
        return sockets[-1]

    sockets: list[trio.SocketStream] = []
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target), dialer=Dialer(dial))
    string = deployment.string(published, Role.APPLICATION)
    async with deployment.client(string, resume_deadline=0.5) as client:
        stream = await client.open_stream()
        killed.set()
        for one in sockets:
            await trio.aclose_forcefully(one)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert reset_reason(caught.value) is Reason.SESSION_LOST
    nursery.cancel_scope.cancel()


async def test_a_revoked_key_ends_what_it_had_authorized(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, _ = await _serve(deployment)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        stream = await client.open_stream()
        with SQLiteStore.open(deployment.state_dir) as registry:
            registry.revoke_key("db", "sender", KeySlot.PRIMARY)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(AuthorizationError):
            await client.open_stream()
    # The rule's other key goes on.
    other = deployment.string(published, Role.APPLICATION, key=key_of(published.rules[1], KeySlot.SECONDARY))
    async with deployment.client(other) as client:
        await client.open_stream()
    nursery.cancel_scope.cancel()


async def test_an_identity_that_is_denied_is_closed_at_once_and_does_not_come_back(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    file = tmp_path / "deny-list"
    file.write_text("# nobody yet\n")
    string = deployment.string(published, Role.CONNECTOR, target)
    await deployment.connector(string, policy=PolicyFile(file))
    good = deployment.string(published, Role.APPLICATION, label="good")
    bad = deployment.string(published, Role.APPLICATION, label="bad")
    async with deployment.client(good) as welcome, deployment.client(bad) as unwelcome:
        kept, lost = await welcome.open_stream(), await unwelcome.open_stream()
        file.write_text("bad\n")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await lost.receive_some()
        assert reset_reason(caught.value) is Reason.IDENTITY_DENIED
        with pytest.raises(PeerIdentityError) as refused:
            await unwelcome.open_stream()
        assert refused.value.reason is Reason.IDENTITY_DENIED
        await kept.send_all(b"still")
        assert await kept.receive_some() == b"still"
    nursery.cancel_scope.cancel()


async def test_an_identity_that_expires_ends_what_is_open(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    ahead = 0.0
    connector = Connector(
        ConnectorConfig([deployment.string(published, Role.CONNECTOR, target)]), clock=lambda: time.time() + ahead
    )
    await nursery.start(connector.run)
    # Less than a minute: a larger step of the clock would have to be confirmed. But enough for a slow machine.
    valid_seconds = 50
    identity = published.authority.issue(
        Role.APPLICATION, "short", now=time.time(), valid_years=valid_seconds / (365.25 * 86400)
    )
    assert 0 < identity.details.not_after - time.time() <= valid_seconds
    short = deployment.string(published, Role.APPLICATION, identity=identity)
    good = deployment.string(published, Role.APPLICATION, label="good")
    async with deployment.client(good) as other, deployment.client(short) as client:
        kept, lost = await other.open_stream(), await client.open_stream()
        await lost.send_all(b"before")
        assert await lost.receive_some() == b"before"
        ahead = valid_seconds + 5.0
        with pytest.raises(trio.BrokenResourceError) as caught:
            await lost.receive_some()
        assert reset_reason(caught.value) is Reason.IDENTITY_EXPIRED
        assert await send_and_receive(kept, b"still") == b"still"
    nursery.cancel_scope.cancel()


async def test_connected_is_said_when_it_is_true(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    file = tmp_path / "deny-list"
    file.write_text("bad\n")
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target), policy=PolicyFile(file))
    with caplog.at_level("INFO"):
        async with deployment.client(deployment.string(published, Role.APPLICATION, label="bad")) as unwelcome:
            with pytest.raises(PeerIdentityError):
                await unwelcome.connect()
        assert "A session was opened" not in caplog.text
        async with deployment.client(deployment.string(published, Role.APPLICATION, label="good")) as welcome:
            await welcome.connect()
        opened = r"A session was opened: connection=db activity_id=\S+ label=\S* serial=\S+ route='tcp at 127.0.0.1'"
        assert re.search(opened, caplog.text)
    nursery.cancel_scope.cancel()


async def test_a_clock_that_is_set_right_heals_an_expired_token(
    deployment: Deployment, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """This includes the first attempt: machines without a battery-backed clock start with a wrong time."""
    published = deployment.publish()
    is_right = False

    def clock() -> float:
        return time.time() if is_right else 1_000_000_000.0

    string = deployment.string(published, Role.CONNECTOR)
    connector = Connector(ConnectorConfig([string]), clock=clock)
    registered = trio.Event()

    async def run() -> None:
        await nursery.start(connector.run)
        registered.set()

    async def refused() -> bool:
        return "the token has expired" in caplog.text

    nursery.start_soon(run)
    await async_wait_until(refused, seconds=30, what="a refusal")
    assert "compare the clocks" in caplog.text
    is_right = True
    with trio.fail_after(30):
        await registered.wait()
    nursery.cancel_scope.cancel()


async def test_a_second_connector_takes_over(deployment: Deployment, nursery: trio.Nursery) -> None:
    published, first = await _serve(deployment)
    target = await serve_target(nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target, label="second"))
    first.cancel()
    string = deployment.string(published, Role.APPLICATION)
    async with deployment.client(string) as client:
        stream = await client.open_stream()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
    nursery.cancel_scope.cancel()


async def test_a_survey_trusts_no_route_to_another_relay(deployment: Deployment, nursery: trio.Nursery) -> None:
    endpoint = RelayEndpoint(HOST, deployment.ports, ("sha256:" + "A" * 43 + "=",))
    for mode in ("auto", *MODES):
        report = await Prober(endpoint, mode=mode).survey()
        assert report.chosen is None
        assert "pin" in report.as_table()
    report = await Prober(RelayEndpoint(HOST, deployment.ports, (deployment.info.pin,))).survey()
    assert report.chosen == "tcp"
    nursery.cancel_scope.cancel()
