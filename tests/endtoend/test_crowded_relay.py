"""One hybrid connection takes all the pairs of data channels that it can get. Another one is served as before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from hybridrelay.abc import Purpose
from hybridrelay.connectivity import RelayEndpoint, open_channel
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.discovery import Candidate
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink, make_connection_token
from hybridrelay.errors import HybridRelayError
from hybridrelay.protocol import Reason, control
from hybridrelay.relay.limits import Shares
from hybridrelay.security import ConnectionString, load_connection_string

from ..deployments import Deployment
from ..waiting import patience
from .targets import echo, serve

DESCRIPTORS = 256
#: More than the relay has descriptors.
TRIES = 200


async def _open_data_channel(string: ConnectionString, candidate: Candidate, ticket: bytes) -> trio.abc.Stream:
    (endpoint,) = RelayEndpoint.all_from(string)
    return await open_channel(endpoint, candidate, Purpose.DATA, ticket=ticket)


async def take_all(connector: Path, application: Path) -> tuple[list[trio.abc.Stream], Reason | None]:
    """With both keys of a hybrid connection and no identity: join until the relay refuses. What is held, and why."""
    listening, sending = load_connection_string(connector), load_connection_string(application)
    held: list[trio.abc.Stream] = []
    refused: Reason | None = None

    async def come(string: ConnectionString, ticket: bytes) -> None:
        with suppress(HybridRelayError):  # on a busy machine it may be too late for its ticket
            held.append(await _open_data_channel(string, candidate, ticket))

    async def accept_all(listener: ControlChannel) -> None:
        async for message in listener.messages:
            if isinstance(message, control.Offer):
                await listener.send(control.Accept(message.id))
                data_channels.start_soon(come, listening, message.ticket)

    async with trio.open_nursery() as channels:
        links = []
        for string, role in ((listening, control.PeerRole.CONNECTOR), (sending, control.PeerRole.CLIENT)):
            (endpoint,) = RelayEndpoint.all_from(string)
            links.append(RelayLink(endpoint, role, instance=new_instance(), mode="tcp"))
        listener, sender = [await link.start_control(channels) for link in links]
        candidate = await links[0].choose()
        token = make_connection_token(listening, links[0].host, time.time())
        registered = await listener.register(control.Register(listener.next_id(), listening.entity_path, token))
        assert isinstance(registered, control.Registered)
        async with trio.open_nursery() as data_channels:
            channels.start_soon(accept_all, listener)
            for _ in range(TRIES):
                token = make_connection_token(sending, links[1].host, time.time())
                answer = await sender.join(control.Join(sender.next_id(), sending.entity_path, token))
                if isinstance(answer, control.Failed):
                    refused = answer.reason
                    break
                assert isinstance(answer, control.Joined)
                await come(sending, answer.ticket)
        channels.cancel_scope.cancel()
    return held, refused


async def _echo(port: int) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"hello")
        with trio.fail_after(patience(20)):
            return bytes(await stream.receive_some())


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


@pytest.mark.parametrize("arguments", [(), ("--max-pairs-per-connection", "5")], ids=["shares", "fixed"])
async def test_somebody_else_is_served_as_before(
    deployment: Deployment, nursery: trio.Nursery, arguments: tuple[str, ...]
) -> None:
    relay = deployment.start_relay(*arguments, descriptors=DESCRIPTORS)
    greedy = deployment.create("greedy", ("127.0.0.1", 9))
    other = deployment.create("other", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, other)
    forward = await trio.to_thread.run_sync(deployment.start_forward, other)
    assert await _echo(forward.port) == b"hello"
    held, refused = await take_all(greedy.connector, greedy.application)
    try:
        assert refused is Reason.LIMIT
        # One key gets as many as it leaves: half of them.
        most = 5 if arguments else -(-Shares.of(DESCRIPTORS).pairs // 2)
        assert most // 2 <= len(held) // 2 <= most
        assert await _echo(forward.port) == b"hello"
        newcomer = await trio.to_thread.run_sync(deployment.start_forward, other)
        assert await _echo(newcomer.port) == b"hello"
    finally:
        for stream in held:
            await trio.aclose_forcefully(stream)
    assert "Too many open files" not in relay.err
    nursery.cancel_scope.cancel()


async def ask_without_end(application: Path, joined: list[bytes]) -> None:
    """With a Send key and no identity: join, go to each rendezvous and say nothing there."""
    string = load_connection_string(application)
    (endpoint,) = RelayEndpoint.all_from(string)
    link = RelayLink(endpoint, control.PeerRole.CLIENT, instance=new_instance(), mode="tcp")

    async def hold(ticket: bytes) -> None:
        with suppress(HybridRelayError, trio.BrokenResourceError):
            stream = await _open_data_channel(string, candidate, ticket)
            async with stream:
                while await stream.receive_some():
                    pass

    async with trio.open_nursery() as nursery:
        sender = await link.start_control(nursery)
        candidate = await link.choose()
        while True:
            token = make_connection_token(string, link.host, time.time())
            answer = await sender.join(control.Join(sender.next_id(), string.entity_path, token))
            if isinstance(answer, control.Joined):
                joined.append(answer.ticket)
                nursery.start_soon(hold, answer.ticket)
            await trio.sleep(1.0)


async def test_a_holder_of_a_key_without_an_identity_keeps_no_other_holder_out(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    """All of them come from one address, so that nothing but a proved identity tells them apart."""
    relay = deployment.start_relay("--max-pairs-per-key", "6")
    db = deployment.create("db", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, db)
    forward = await trio.to_thread.run_sync(deployment.start_forward, db)
    assert await _echo(forward.port) == b"hello"
    tickets: list[bytes] = []
    nursery.start_soon(ask_without_end, db.application, tickets)
    with trio.fail_after(60):
        while len(tickets) < 8:  # more than there is room for: some of its own made room
            await trio.sleep(0.1)
    newcomer = await trio.to_thread.run_sync(deployment.start_forward, db)
    assert await _echo(newcomer.port) == b"hello"
    assert await _echo(forward.port) == b"hello"
    assert await relay.logs("outcome=displaced")
    # Nothing was said over any of these: the pairs that have proved an identity stayed.
    displaced = [line for line in relay.err.splitlines() if "outcome=displaced" in line]
    assert not [line for line in displaced if "bytes_to_client=0" not in line]
    nursery.cancel_scope.cancel()
