"""A running connector publishes further hybrid connections, and withdraws some, while the others are used."""

from __future__ import annotations

import attrs
import pytest
import trio

from hybridrelay.client import Client
from hybridrelay.connector import Connector, ConnectorConfig
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import ConnectionString, Endpoint, Role

from ..waiting import async_wait_until
from .changed_strings import SECONDS, answers
from .deployment import Deployment, Published, echo, serve_target


@attrs.frozen
class Scene:
    deployment: Deployment
    connector: Connector
    #: The hybrid connections ``one`` and ``two`` with their connectors' strings; only the first is published.
    one: tuple[Published, ConnectionString]
    two: tuple[Published, ConnectionString]

    def client_of(self, which: tuple[Published, ConnectionString]) -> ConnectionString:
        return self.deployment.string(which[0], Role.APPLICATION)


@pytest.fixture
async def scene(deployment: Deployment, nursery: trio.Nursery) -> Scene:
    target = await serve_target(nursery, echo)
    made = [deployment.publish(name) for name in ("one", "two")]
    one, two = ((published, deployment.string(published, Role.CONNECTOR, target)) for published in made)
    connector = Connector(ConnectorConfig([one[1]]))
    await nursery.start(connector.run)
    return Scene(deployment, connector, one, two)


async def is_served(client: Client) -> None:
    async with await client.open_stream(patience=SECONDS) as stream:
        await answers(stream)


async def has_no_listener(client: Client) -> None:
    async def none() -> bool:
        return client.open_stream_count == 0 and not client.is_connected

    await async_wait_until(none, seconds=SECONDS, what="the end of the session")


def names(connector: Connector) -> list[str]:
    return [one.name for one in connector.snapshot().connections]


async def test_one_more_and_one_less(scene: Scene, nursery: trio.Nursery) -> None:
    deployment, connector = scene.deployment, scene.connector
    async with deployment.client(scene.client_of(scene.one)) as one:
        stream = await one.open_stream()
        number = connector.publish(scene.two[1])
        assert names(connector) == ["one", "two"]
        async with deployment.client(scene.client_of(scene.two)) as two:
            await is_served(two)
            ending = await two.open_stream()
            await answers(ending)
            connector.withdraw(number, grace=SECONDS)
            assert names(connector) == ["one"]
            await answers(ending)  # it drains
            await ending.send_eof()
            await ending.receive_some()
            await ending.aclose()
            await has_no_listener(two)
        await answers(stream)
        await is_served(one)
        # Once more, over the same relay.
        connector.publish(scene.two[1])
        async with deployment.client(scene.client_of(scene.two)) as two:
            await is_served(two)
        await answers(stream)
    nursery.cancel_scope.cancel()


async def test_open_streams_are_reset_after_the_grace(scene: Scene, nursery: trio.Nursery) -> None:
    async with scene.deployment.client(scene.client_of(scene.one)) as client:
        stream = await client.open_stream()
        await answers(stream)
        scene.connector.withdraw(0)
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(SECONDS):
            await stream.receive_some()
        # The connector goes on with nothing, and then with something else.
        assert names(scene.connector) == []
        scene.connector.publish(scene.two[1])
        async with scene.deployment.client(scene.client_of(scene.two)) as two:
            await is_served(two)
    nursery.cancel_scope.cancel()


async def test_another_identity_in_place_of_one(scene: Scene, nursery: trio.Nursery) -> None:
    """Open streams continue with the earlier identity for as long as they like, and new ones use the other."""
    deployment, connector = scene.deployment, scene.connector
    target = scene.one[1].target
    again = deployment.string(scene.one[0], Role.CONNECTOR, target)
    assert again.identity != scene.one[1].identity
    async with deployment.client(scene.client_of(scene.one)) as client:
        stream = await client.open_stream()
        await answers(stream)
        number = connector.publish(again, instead_of=0)
        assert names(connector) == ["one"]
        await answers(stream)
        await is_served(client)
        await answers(stream)
        with pytest.raises(KeyError):
            connector.update(0, again)
        assert connector.update(number, again).taken_up == ()
    nursery.cancel_scope.cancel()


async def test_what_cannot_be_published_changes_nothing(scene: Scene, nursery: trio.Nursery) -> None:
    deployment, connector = scene.deployment, scene.connector
    no_port = (Endpoint("127.0.0.1", dict.fromkeys(deployment.ports)),)
    async with deployment.client(scene.client_of(scene.one)) as client:
        stream = await client.open_stream()
        with pytest.raises(ConfigurationError, match="two connection strings are for one"):
            connector.publish(scene.one[1])
        with pytest.raises(ConfigurationError):
            connector.publish(attrs.evolve(scene.one[1], endpoints=no_port), instead_of=0)
        with pytest.raises(ConfigurationError, match="no Target"):
            connector.publish(scene.client_of(scene.two))
        assert names(connector) == ["one"]
        await answers(stream)
        await is_served(client)
    nursery.cancel_scope.cancel()
