"""A hybrid connection with two relays: either may be down, refuse, lack the listener, drain or die."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Unpack

import attrs
import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.client import Client
from hybridrelay.connectivity import dial_directly
from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.connector.registration import entry
from hybridrelay.errors import AuthorizationError, RelayUnreachable, RendezvousError
from hybridrelay.mux import MuxStream
from hybridrelay.protocol import Reason
from hybridrelay.relay import SQLiteStore
from hybridrelay.relay.service import relay as relay_module
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    HostPort,
    KeySlot,
    Right,
    Role,
    Rule,
    Secret,
    create_authority,
    generate_key,
)

from ..waiting import async_wait_until, patience
from .deployment import ClientOptions, ConnectorOptions, Deployment, Published, deploy, echo, serve_target

HOSTS = ("127.0.0.1", "127.0.0.2")
#: For what takes a moment on a busy machine; nothing here waits for it to pass.
SOON = 30


@attrs.define
class Pair:
    """Two relays, first choice first."""

    nursery: trio.Nursery
    relays: list[Deployment]
    target: HostPort

    def publish(self, name: str = "db", *, at: tuple[int, ...] = (0, 1)) -> Published:
        """Create a hybrid connection, and import it at these relays."""
        rules = (Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND]))
        made = Published(name, create_authority(name, now=time.time()), rules)
        for index in at:
            self.import_(made, index)
        return made

    def import_(self, published: Published, index: int) -> None:
        with SQLiteStore.open(self.relays[index].state_dir) as registry:
            registry.create(published.name, HOSTS, published.rules)

    def string(
        self, published: Published, role: Role, *, relays: tuple[int, ...] = (0, 1), key: Secret | None = None
    ) -> ConnectionString:
        """A connection string that names these relays."""
        endpoints = tuple(Endpoint(HOSTS[index], self.relays[index].ports) for index in relays)
        pins = tuple(relay.info.pin for relay in self.relays)
        target = self.target if role is Role.CONNECTOR else None
        string = self.relays[0].string(published, role, target, endpoints=endpoints, relay_pins=pins)
        return string if key is None else attrs.evolve(string, key=key)

    async def connector(self, *strings: ConnectionString, **options: Unpack[ConnectorOptions]) -> trio.CancelScope:
        return await self.relays[0].connector(*strings, **options)

    def client(
        self, string: ConnectionString, **options: Unpack[ClientOptions]
    ) -> AbstractAsyncContextManager[Client]:
        return self.relays[0].client(string, **options)

    def revoke(self, index: int, rule: str) -> None:
        with SQLiteStore.open(self.relays[index].state_dir) as registry:
            registry.revoke_key("db", rule, KeySlot.PRIMARY)


@pytest.fixture
async def pair(nursery: trio.Nursery, tmp_path: Path) -> Pair:
    relays = [await deploy(nursery, tmp_path / host, host=host) for host in HOSTS]
    return Pair(nursery, relays, await serve_target(nursery, echo))


async def says(stream: MuxStream) -> None:
    """Send something, and receive it back."""
    data = os.urandom(1000)
    await stream.send_all(data)
    received = b""
    while len(received) < len(data):
        received += await stream.receive_some()
    assert received == data


@asynccontextmanager
async def talking(client: Client) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A stream that sends and receives during the block. Gives a function that waits for two more round trips."""
    rounds = 0
    round_over = trio.Condition()

    async def talk(stream: MuxStream) -> None:
        nonlocal rounds
        while True:
            await says(stream)
            async with round_over:
                rounds += 1
                round_over.notify_all()

    async def two_more() -> None:
        async with round_over:
            wanted = rounds + 2
            with trio.fail_after(SOON):
                while rounds < wanted:
                    await round_over.wait()

    async with await client.open_stream() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(talk, stream)
        await two_more()
        yield two_more
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> bool:
        return condition()

    await async_wait_until(look, seconds=SOON, what="what the test waits for")


# --- beginning


async def test_the_first_choice_is_used_and_the_connector_is_at_both(pair: Pair, nursery: trio.Nursery) -> None:
    published = pair.publish()
    await pair.connector(pair.string(published, Role.CONNECTOR))
    async with pair.client(pair.string(published, Role.APPLICATION)) as client:
        await says(await client.open_stream())
        assert client.relay == HOSTS[0]
    async with pair.client(pair.string(published, Role.APPLICATION, relays=(1,))) as client:
        with trio.fail_after(SOON):
            await says(await client.open_stream())
        assert client.relay == HOSTS[1]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["down", "drops packets"])
async def test_the_first_relay_is_not_there(pair: Pair, nursery: trio.Nursery, how: str) -> None:
    async def dial(host: str, port: int) -> trio.SocketStream:
        if how == "drops packets" and host == HOSTS[0]:
            await trio.sleep_forever()
        return await dial_directly(host, port)

    published = pair.publish()
    if how == "down":
        pair.relays[0].scope.cancel()
    with trio.fail_after(SOON):
        await pair.connector(pair.string(published, Role.CONNECTOR), dialer=Dialer(dial))
        async with pair.client(pair.string(published, Role.APPLICATION), dialer=Dialer(dial)) as client:
            await says(await client.open_stream())
            assert client.relay == HOSTS[1]
    nursery.cancel_scope.cancel()


async def test_a_listener_at_the_second_relay_alone_is_found(pair: Pair, nursery: trio.Nursery) -> None:
    published = pair.publish()
    await pair.connector(pair.string(published, Role.CONNECTOR, relays=(1,)))
    async with pair.client(pair.string(published, Role.APPLICATION)) as client:
        await says(await client.open_stream())
        assert client.relay == HOSTS[1]
    nursery.cancel_scope.cancel()


async def test_no_listener_anywhere_names_both(pair: Pair, nursery: trio.Nursery) -> None:
    published = pair.publish()
    async with pair.client(pair.string(published, Role.APPLICATION)) as client:
        with pytest.raises(RendezvousError) as caught:
            await client.open_stream(patience=0)
    assert caught.value.reason is Reason.NO_LISTENER
    assert all(f"{host}: db: no connector" in str(caught.value) for host in HOSTS)
    nursery.cancel_scope.cancel()


async def test_both_relays_down(pair: Pair, nursery: trio.Nursery) -> None:
    published = pair.publish()
    string = pair.string(published, Role.APPLICATION)
    for relay in pair.relays:
        relay.scope.cancel()
    async with pair.client(string) as client:
        with pytest.raises(RelayUnreachable) as caught:
            await client.open_stream(patience=0)
    assert all(host in str(caught.value) for host in HOSTS)
    assert caught.value.remedy
    nursery.cancel_scope.cancel()


# --- what one relay refuses


async def test_one_relay_knows_nothing_of_it(
    pair: Pair, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    published = pair.publish(at=(1,))
    with caplog.at_level(logging.INFO):
        await pair.connector(pair.string(published, Role.CONNECTOR))
        await until(lambda: "the relay that has refused is tried again after" in caplog.text)
    assert (
        f"A relay refuses a hybrid connection: connection=db host={HOSTS[0]} reason=unknown-connection" in caplog.text
    )
    async with pair.client(pair.string(published, Role.APPLICATION)) as client:
        await says(await client.open_stream())
        assert client.relay == HOSTS[1]
    nursery.cancel_scope.cancel()


async def test_what_is_imported_later_is_found_without_a_restart(
    pair: Pair, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "ASK_AGAIN_SECONDS", 0.1)
    published = pair.publish(at=(0,))
    await pair.connector(pair.string(published, Role.CONNECTOR))
    pair.import_(published, 1)
    async with pair.client(pair.string(published, Role.APPLICATION, relays=(1,))) as client:
        with trio.fail_after(SOON):
            while client.relay is None:
                with suppress(RendezvousError):
                    await client.connect()
            await says(await client.open_stream())
    nursery.cancel_scope.cancel()


async def test_a_string_that_no_relay_takes_ends_nobody_else(
    pair: Pair, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """This is so at one relay, at the start."""
    good = pair.string(pair.publish("good"), Role.CONNECTOR, relays=(0,))
    bad = pair.string(pair.publish("bad"), Role.CONNECTOR, relays=(0,), key=generate_key())
    served = await nursery.start(run_connector, ConnectorConfig([bad, good]))
    assert served == (good,)
    assert "Every relay refuses a hybrid connection, so it is not served: connection=bad" in caplog.text
    nursery.cancel_scope.cancel()


async def test_nothing_left_at_any_relay_ends_the_connector(pair: Pair, nursery: trio.Nursery) -> None:
    bad = pair.string(pair.publish(), Role.CONNECTOR, key=generate_key())
    with trio.fail_after(SOON), pytest.raises(AuthorizationError) as caught:
        await run_connector(ConnectorConfig([bad]))
    assert caught.value.reason is Reason.WRONG_KEY
    assert all(host in str(caught.value) for host in HOSTS)
    nursery.cancel_scope.cancel()


async def test_keys_are_revoked_at_each_relay(pair: Pair, nursery: trio.Nursery) -> None:
    """Where one is revoked at one relay, sessions go on through the other; with the last, everything ends."""
    published = pair.publish()
    string = pair.string(published, Role.CONNECTOR)
    ended = trio.Event()

    async def connector(*, task_status: trio.TaskStatus[object]) -> None:
        with pytest.raises(AuthorizationError):
            await run_connector(ConnectorConfig([string]), task_status=task_status)
        ended.set()

    await nursery.start(connector)
    async with pair.client(pair.string(published, Role.APPLICATION)) as client:
        async with talking(client) as two_more:
            pair.revoke(0, "sender")
            await until(lambda: client.relay == HOSTS[1])
            await two_more()
            pair.revoke(0, "listener")
            await two_more()
            assert not ended.is_set()
    pair.revoke(1, "listener")
    with trio.fail_after(SOON):
        await ended.wait()
    nursery.cancel_scope.cancel()


# --- what happens while streams run


@pytest.mark.parametrize("mode", ["tcp", "websocket"])
async def test_a_session_goes_on_over_the_other_relay(pair: Pair, nursery: trio.Nursery, mode: str) -> None:
    published = pair.publish()
    await pair.connector(pair.string(published, Role.CONNECTOR), mode=mode)
    async with pair.client(pair.string(published, Role.APPLICATION), mode=mode) as client:
        session = await client.connect()
        async with talking(client) as two_more:
            pair.relays[0].scope.cancel()
            await until(lambda: client.relay == HOSTS[1])
            await two_more()
            assert await client.connect() is session
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", ["tcp", "websocket"])
async def test_a_session_leaves_a_relay_that_drains(
    pair: Pair,
    nursery: trio.Nursery,
    mode: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "STOP_GRACE_SECONDS", SOON)  # so that it cannot be late on a busy machine
    published = pair.publish()
    await pair.connector(pair.string(published, Role.CONNECTOR), mode=mode)
    with caplog.at_level(logging.INFO):
        async with pair.client(pair.string(published, Role.APPLICATION), mode=mode) as client:
            async with talking(client) as two_more:
                pair.relays[0].stop.set()
                await until(lambda: client.relay == HOSTS[1])
                await two_more()
                # New sessions go there, too.
                await says(await client.open_stream())
    assert "moved to another data channel" in caplog.text
    assert "lost its data channel" not in caplog.text
    nursery.cancel_scope.cancel()


async def test_where_no_other_relay_has_the_listener_a_session_stays(
    pair: Pair, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    published = pair.publish()
    await pair.connector(pair.string(published, Role.CONNECTOR, relays=(0,)))
    first = pair.relays[0]
    ports = {name: number for name, number in first.ports.items() if number}
    with caplog.at_level(logging.INFO):
        async with pair.client(pair.string(published, Role.APPLICATION)) as client:
            async with talking(client) as two_more:
                first.stop.set()
                await until(lambda: "keeps the current one" in caplog.text)
                await until(lambda: "is being resumed" in caplog.text)
                with trio.fail_after(patience(20)):
                    await first.relay_ended.wait()  # it lets go of its state directory last
                await deploy(nursery, first.state_dir, host=first.host, ports=ports)
                await two_more()
                assert client.relay == HOSTS[0]
    nursery.cancel_scope.cancel()


async def test_with_one_relay_a_drain_is_waited_for(
    pair: Pair, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    published = pair.publish(at=(0,))
    await pair.connector(pair.string(published, Role.CONNECTOR, relays=(0,)))
    first = pair.relays[0]
    ports = {name: number for name, number in first.ports.items() if number}
    with caplog.at_level(logging.INFO):
        async with pair.client(pair.string(published, Role.APPLICATION, relays=(0,))) as client:
            async with talking(client) as two_more:
                first.stop.set()
                await until(lambda: "is being resumed" in caplog.text)
                with trio.fail_after(patience(20)):
                    await first.relay_ended.wait()  # it lets go of its state directory last
                await deploy(nursery, first.state_dir, host=first.host, ports=ports)
                await two_more()
    assert "keeps the current one" not in caplog.text
    assert "moved to another data channel" not in caplog.text
    nursery.cancel_scope.cancel()


async def test_instances_are_the_same_at_every_relay(pair: Pair, nursery: trio.Nursery) -> None:
    """Two connectors at both relays: a session finds its own one again."""
    published = pair.publish()
    string = pair.string(published, Role.CONNECTOR)
    for _ in range(3):
        await pair.connector(string)
    async with pair.client(pair.string(published, Role.APPLICATION)) as client:
        async with talking(client) as two_more:
            pair.relays[0].scope.cancel()
            await until(lambda: client.relay == HOSTS[1])
            await two_more()
    nursery.cancel_scope.cancel()
