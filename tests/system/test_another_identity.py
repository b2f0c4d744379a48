"""A session does not continue with another connector of the same hybrid connection, which has another identity."""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs
import pytest
import trio

from hybridrelay.client import Client
from hybridrelay.connector import channels as channels_module
from hybridrelay.mux import receive_hello
from hybridrelay.protocol.frames import Hello
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.listeners import ListenerTable
from hybridrelay.security import ConnectionString, Role

from ..resets import reset_reason
from ..waiting import async_wait_until
from .deployment import Deployment, echo, serve_target

SOON = 30


@attrs.define
class Scene:
    client: Client
    #: From now on the relay sends those who ask for one connector to the other.
    swap: Callable[[], None]
    #: HELLOs that arrived at a connector since the swap.
    hellos: list[Hello]


@pytest.fixture
def hellos(monkeypatch: pytest.MonkeyPatch) -> list[Hello]:
    """Every HELLO that reaches a connector."""
    heard: list[Hello] = []

    async def listen(channel: trio.abc.Stream) -> tuple[Hello, bytes]:
        hello, initial = await receive_hello(channel)
        heard.append(hello)
        return hello, initial

    monkeypatch.setattr(channels_module, "receive_hello", listen)
    return heard


def swap_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the relay ask another instance than the one that the client wants, and claim that it is that one."""

    def find(table: ListenerTable[object], connection: str, instance: str) -> object:
        other = next(one for one in table.of(connection) if one.instance != instance)
        return attrs.evolve(other, instance=instance)

    monkeypatch.setattr(ListenerTable, "find", find)


async def two_connectors(deployment: Deployment, nursery: trio.Nursery) -> ConnectionString:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    for label in ("one", "two"):
        await deployment.connector(deployment.string(published, Role.CONNECTOR, target, label=label))
    return deployment.string(published, Role.APPLICATION)


async def until(condition: Callable[[], object], what: str) -> None:
    async def look() -> bool:
        return bool(condition())

    await async_wait_until(look, seconds=SOON, what=what)


async def test_a_session_is_never_resumed_with_another_identity(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, hellos: list[Hello]
) -> None:
    string = await two_connectors(deployment, nursery)
    async with deployment.client(string) as client:
        stream = await client.open_stream()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        session = await client.connect()
        assert len(hellos) == 1
        swap_listeners(monkeypatch)
        session.drop_channel()
        with trio.fail_after(SOON):
            outcome = await session.wait_ended()
        assert outcome.reason is Reason.IDENTITY_CHANGED
        assert "one" in outcome.text
        assert "two" in outcome.text
        with pytest.raises(trio.BrokenResourceError) as lost:
            await stream.receive_some()
        assert reset_reason(lost.value) is Reason.IDENTITY_CHANGED
        assert len(hellos) == 1, "the session's secret reached another identity"
        # A new session, which has a secret of its own, may use the other connector.
        async with await client.open_stream() as again:
            await again.send_all(b"y")
            assert await again.receive_some() == b"y"
        assert not hellos[-1].attach
    nursery.cancel_scope.cancel()


async def test_a_session_is_never_moved_to_another_identity(
    deployment: Deployment,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    hellos: list[Hello],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Moving, and renewing an old channel, are the same thing."""
    string = await two_connectors(deployment, nursery)
    async with deployment.client(string) as client:
        stream = await client.open_stream()
        session = await client.connect()
        swap_listeners(monkeypatch)
        monkeypatch.setattr("hybridrelay.client.sessions.RENEW_CHECK_SECONDS", 0.01)
        monkeypatch.setattr("hybridrelay.client.session.MAX_CHANNEL_SECONDS", 0.0)
        caplog.set_level(logging.INFO, "hybridrelay.events")
        nursery.start_soon(client._sessions.renew)
        await until(lambda: "keeps the current one" in caplog.text, "a renewal that is not made")
        assert "the session began" in caplog.text
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        assert session.outcome is None
        assert len(hellos) == 1, "the session's secret reached another identity"
        nursery.cancel_scope.cancel()


async def test_a_session_is_moved_to_the_same_identity(
    deployment: Deployment, nursery: trio.Nursery, hellos: list[Hello]
) -> None:
    string = await two_connectors(deployment, nursery)
    async with deployment.client(string) as client:
        stream = await client.open_stream()
        session = await client.connect()
        session.drop_channel()
        await until(lambda: session.greeting_count == 2, "a resumption")
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        assert [hello.attach for hello in hellos] == [False, True]
    nursery.cancel_scope.cancel()
