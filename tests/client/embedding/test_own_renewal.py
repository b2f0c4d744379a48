"""Clients of the library renew an identity that an issuer has signed: in the file that it was read from, and without
a break for what is open."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay import forward_in_thread, open_socket
from hybridrelay.client import Client, ClientConfig, open_client
from hybridrelay.client.embedding import shared
from hybridrelay.client.embedding.background import call_and_wait
from hybridrelay.connectivity.string_files import NO_FILE
from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.events import Event, EventStream, IdentityIssued, IdentityRenewed, StreamClosed, StreamOpened
from hybridrelay.security import (
    ConnectionString,
    Identity,
    Role,
    authority_for_connectors,
    create_issuer,
    load_connection_string,
    make_request,
    new_private_key,
    parse_connection_string_untrusted,
    parse_request_untrusted,
)

from ...system.deployment import deploy, echo, serve_target
from ...waiting import async_wait_until
from .conftest import stop_background


@attrs.define
class Scene:
    """An application whose identity is to be renewed at once, and a connector with the issuer."""

    #: The application's connection string.
    file: Path
    #: The identity in it at the beginning.
    earlier: Identity
    #: What the connector publishes.
    events: list[Event]
    #: What the client publishes.
    published: list[Event] = attrs.field(factory=list)

    @property
    def string(self) -> ConnectionString:
        """The content of the file."""
        return load_connection_string(self.file)

    @property
    def stored(self) -> Identity:
        """The identity in the file."""
        identity, _ = self.string.require_identity()
        return identity

    @property
    def issued(self) -> list[str]:
        """The serials that the connector has issued."""
        return [event.serial for event in self.events if isinstance(event, IdentityIssued)]

    async def renewed(self, client: Client) -> str:
        """Wait until the client uses another identity, and return its serial."""

        async def serial() -> str | None:
            identity, _ = client.connection_string.require_identity()
            return None if identity == self.earlier else identity.serial

        return await async_wait_until(serial, seconds=30, what="the renewed identity")

    async def stored_another(self) -> Identity:
        """Wait until the file has another identity, and return it."""

        async def stored() -> Identity | None:
            return None if self.stored == self.earlier else self.stored

        return await async_wait_until(stored, seconds=30, what="another identity in the file")

    def events_of_clients(self) -> EventStream:
        return EventStream(self.published.append)


@pytest.fixture
async def scene(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Scene]:
    if sys.platform == "win32":
        pytest.skip("the relay runs on Linux")
    deployment = await deploy(nursery, tmp_path / "state")
    target = await serve_target(deployment.nursery, echo)
    published = deployment.publish()
    issuer = create_issuer(published.authority, now=time.time())
    connector = attrs.evolve(
        deployment.string(published, Role.CONNECTOR, target),
        issuer=issuer,
        authority=authority_for_connectors(published.authority),
    )
    events: list[Event] = []
    run = partial(run_connector, ConnectorConfig([connector]), events=EventStream(events.append))
    await nursery.start(run)
    key = new_private_key()
    request = parse_request_untrusted(make_request(key))
    issued = issuer.sign(published.name, "billing", request, now=time.time() - 5400, seconds=6000)
    identity = Identity(issued.certificate, key, issued.issuer)
    file = tmp_path / "application"
    file.write_text(deployment.string(published, Role.APPLICATION, identity=identity).format())
    file.chmod(0o600)
    yield Scene(file, identity, events)
    await trio.to_thread.run_sync(stop_background)  # before its relay ends
    nursery.cancel_scope.cancel()


async def talk(stream: trio.abc.Stream, data: bytes) -> None:
    await stream.send_all(data)
    with trio.fail_after(30):
        assert await stream.receive_some() == data


@pytest.mark.parametrize("from_file", [True, False])
async def test_a_client_renews_and_uses_its_identity(scene: Scene, from_file: bool) -> None:
    """New streams use the new one, and those that are open resume with the earlier one. Without a file, it is kept in
    memory."""
    string = scene.string if from_file else parse_connection_string_untrusted(scene.file.read_text())
    async with open_client(string, events=scene.events_of_clients()) as client, await client.open_stream() as first:
        await talk(first, b"before")
        serial = await scene.renewed(client)
        assert scene.issued == [serial]
        assert scene.stored.serial == (serial if from_file else scene.earlier.serial)
        async with await client.open_stream() as second:
            await talk(second, b"with the new one")
            await talk(first, b"with the earlier one")
            assert [one.serial for one in client._sessions] == [scene.earlier.serial, serial]
            for session in client._sessions:
                await trio.aclose_forcefully(session.channel.stream)
            await talk(second, b"resumed with the new one")
            await talk(first, b"resumed with the earlier one")
            streams = {one.id: one.session for one in client.snapshot().streams}
            sessions = [one.id for one in client.snapshot().sessions]
        await first.send_eof()
        with trio.fail_after(30):
            assert await first.receive_some() == b""
        (credential,) = client.credentials()
        assert (credential.serial, credential.is_problem) == (serial, False)
    assert sorted(streams.values()) == sorted(sessions)
    (renewed,) = [event for event in scene.published if isinstance(event, IdentityRenewed)]
    assert (renewed.serial, renewed.kept, renewed.detail) == (serial, from_file, "" if from_file else NO_FILE)
    # Both sides have the same ids of the streams, although their sessions have different identities.
    opened = {event.activity_id: event.serial for event in scene.events if isinstance(event, StreamOpened)}
    closed = [event.stream_id for event in scene.published if isinstance(event, StreamClosed)]
    assert {opened[id_] for id_ in closed} == {scene.earlier.serial, serial}
    assert set(streams) == set(closed) == set(opened)


async def test_a_client_that_is_told_not_to_renews_nothing(scene: Scene) -> None:
    config = ClientConfig(scene.string, renews_identity=False)
    async with open_client(config, events=scene.events_of_clients()) as client, await client.open_stream() as stream:
        await talk(stream, b"x")
        assert client.identity.renewer is None
    assert not scene.issued
    assert scene.stored == scene.earlier


async def test_sockets_share_a_client_that_has_renewed_its_identity(scene: Scene) -> None:
    """Whether the program keeps its connection string, or reads the file again."""
    string = scene.string

    async def exchange(string: ConnectionString) -> None:
        sock = await trio.to_thread.run_sync(open_socket, string)
        sock.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            await talk(stream, b"x")

    await exchange(string)
    stored = await scene.stored_another()

    async def is_used() -> bool:
        await exchange(string)
        return any(event.serial == stored.serial for event in scene.events if isinstance(event, StreamOpened))

    await async_wait_until(is_used, seconds=30, what="a connection with the renewed identity")
    await exchange(scene.string)
    assert scene.issued == [stored.serial]
    assert await trio.to_thread.run_sync(shared_clients) == 1


def shared_clients() -> int:
    """How many clients the background thread has."""

    async def count(_: object) -> int:
        return len(shared._CLIENTS.get())

    return call_and_wait(count)


async def test_a_forward_in_a_thread_renews_its_identity(scene: Scene) -> None:
    """This includes those of `aio`, which run in the same way."""

    def run(stored: trio.Event, token: trio.lowlevel.TrioToken) -> bytes:
        with (
            forward_in_thread(scene.string) as address,
            socket.create_connection(address) as first,
        ):
            trio.from_thread.run(stored.wait, trio_token=token)
            with socket.create_connection(address) as second:
                second.sendall(b"a")
                first.sendall(b"b")
                return second.recv(1) + first.recv(1)

    is_stored = trio.Event()

    async def watch() -> None:
        await scene.stored_another()
        is_stored.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        token = trio.lowlevel.current_trio_token()
        assert await trio.to_thread.run_sync(run, is_stored, token) == b"ab"
    assert scene.issued == [scene.stored.serial]


async def test_what_another_process_has_renewed_is_used_from_the_file(scene: Scene) -> None:
    """Several processes of a server may have read the same file. None of them asks a connector again."""
    string = scene.string
    async with open_client(string) as client:
        await client.connect()
        serial = await scene.renewed(client)
    async with open_client(string, events=scene.events_of_clients()) as another:
        assert await scene.renewed(another) == serial
        async with await another.open_stream() as stream:
            await talk(stream, b"x")
    assert scene.issued == [serial]
    (renewed,) = [event for event in scene.published if isinstance(event, IdentityRenewed)]
    assert (renewed.serial, renewed.kept) == (serial, True)
    assert "another program has renewed it in the same file" in renewed.detail
    (opened,) = [event for event in scene.events if isinstance(event, StreamOpened)]
    assert opened.serial == serial
