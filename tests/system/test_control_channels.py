"""A listener that replaces its control channel: the new one is registered before the old one ends, without a gap."""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress

import attrs
import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.connectivity import RelayEndpoint
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.dialing import dial_directly
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink, make_connection_token
from hybridrelay.errors import RelayUnreachable
from hybridrelay.protocol import Reason, control
from hybridrelay.security import ConnectionString, Role

from ..logged_events import logged_fields
from ..waiting import patience
from .deployment import Deployment, echo, serve_target

REPLACEMENTS = 30
PATIENCE_SECONDS = 20


@attrs.define
class Side:
    """One instance, as its control channels have it."""

    deployment: Deployment
    string: ConnectionString
    link: RelayLink

    @classmethod
    def make(cls, deployment: Deployment, string: ConnectionString, role: control.PeerRole) -> Side:
        (endpoint,) = RelayEndpoint.all_from(string)
        return cls(deployment, string, RelayLink(endpoint, role, instance=new_instance(), mode="tcp"))

    def token(self) -> str:
        return make_connection_token(self.string, self.link.host, time.time())

    async def register(self) -> ControlChannel:
        """Register over another control channel, with a higher generation."""
        channel = await self.link.start_control(self.deployment.nursery)
        answer = await channel.register(control.Register(channel.next_id(), self.string.entity_path, self.token()))
        assert isinstance(answer, control.Registered)
        assert await channel.messages.receive() == answer  # it is reported in its turn as well
        return channel

    async def join(self, channel: ControlChannel, listener: str | None = None) -> control.Message:
        request = control.Join(channel.next_id(), self.string.entity_path, self.token(), listener)
        return await channel.join(request)


@pytest.fixture
def sides(deployment: Deployment) -> tuple[Side, Side]:
    published = deployment.publish()
    return (
        Side.make(deployment, deployment.string(published, Role.CONNECTOR), control.PeerRole.CONNECTOR),
        Side.make(deployment, deployment.string(published, Role.APPLICATION), control.PeerRole.CLIENT),
    )


async def test_an_offer_that_nobody_has_answered_is_made_again(
    sides: tuple[Side, Side], nursery: trio.Nursery
) -> None:
    listener, sender = sides
    first = await listener.register()
    joining = await sender.link.start_control(nursery)
    answers: list[control.Message] = []

    async def join() -> None:
        answers.append(await sender.join(joining))

    async with trio.open_nursery() as client:
        client.start_soon(join)
        assert isinstance(await first.messages.receive(), control.Offer)
        second = await listener.register()
        with trio.fail_after(patience(PATIENCE_SECONDS)):
            offer = await second.messages.receive()
        assert isinstance(offer, control.Offer)
        await second.send(control.Accept(offer.id))
    (joined,) = answers
    assert isinstance(joined, control.Joined)
    # The old one is ended by the relay, and takes nobody with it.
    with trio.fail_after(patience(PATIENCE_SECONDS)):
        async for message in first.messages:
            assert not isinstance(message, control.Offer)
    nursery.cancel_scope.cancel()


async def test_there_is_a_listener_at_every_moment(sides: tuple[Side, Side], nursery: trio.Nursery) -> None:
    """Senders join all the time while the listener goes from one control channel to the next."""
    listener, sender = sides
    instance = listener.link.own_instance.id

    async def accept_all(channel: ControlChannel) -> None:
        with suppress(RelayUnreachable):  # replaced at this very moment
            async for message in channel.messages:
                if isinstance(message, control.Offer):
                    await channel.send(control.Accept(message.id))
                    # And is not going to come, so that rendezvous do not add up to a limit.
                    await channel.send(control.Failed(message.id, Reason.LISTENER_CANNOT_DIAL))

    async def join_all_the_time(wanted: str | None) -> None:
        channel = await sender.link.start_control(nursery)
        while not replaced.is_set():
            answer = await sender.join(channel, wanted)
            assert isinstance(answer, control.Joined), answer

    replaced = trio.Event()
    nursery.start_soon(accept_all, await listener.register())
    async with trio.open_nursery() as senders:
        for wanted in (None, instance):
            senders.start_soon(join_all_the_time, wanted)
        for _ in range(REPLACEMENTS):
            nursery.start_soon(accept_all, await listener.register())
        replaced.set()
    nursery.cancel_scope.cancel()


async def test_a_lost_data_channel_makes_a_connector_ask_whether_the_relay_is_there(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client comes back over the control channel, whose loss would otherwise be noticed at the next ping."""
    dialed: list[trio.SocketStream] = []
    checked = trio.Event()
    check_alive = ControlChannel.check_alive

    async def dial(host: str, port: int) -> trio.SocketStream:
        dialed.append(await dial_directly(host, port))
        return dialed[-1]

    def checking(channel: ControlChannel) -> None:
        checked.set()
        check_alive(channel)

    published = deployment.publish()
    target = await serve_target(nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target), mode="tcp", dialer=Dialer(dial))
    async with deployment.client(deployment.string(published, Role.APPLICATION), mode="tcp") as client:
        stream = await client.open_stream()
        await stream.send_all(b"before")
        assert await stream.receive_some() == b"before"
        monkeypatch.setattr(ControlChannel, "check_alive", checking)
        with trio.fail_after(patience(PATIENCE_SECONDS)):
            await trio.aclose_forcefully(dialed[-1])
            await checked.wait()
            await stream.send_all(b"after")
            assert await stream.receive_some() == b"after"
    nursery.cancel_scope.cancel()


async def test_the_relays_log_says_where_a_listener_is(
    sides: tuple[Side, Side], nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hybridrelay.events")
    connector, _ = sides
    await connector.register()

    (registered,) = logged_fields(caplog, "listener.registered")
    assert registered["peer"].startswith("127.0.0.")
    assert re.fullmatch("[0-9a-f]{32}", registered["instance"])
    nursery.cancel_scope.cancel()
