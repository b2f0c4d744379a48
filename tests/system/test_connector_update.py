"""A connector applies a changed connection string while streams run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Unpack

import attrs
import pytest
import trio

from hybridrelay.client import Client
from hybridrelay.connector import Connector, ConnectorConfig
from hybridrelay.errors import ConfigurationError, StreamRefused
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import (
    Endpoint,
    HostPort,
    KeySlot,
    Role,
    generate_key,
    key_fingerprint,
)

from ..keys import key_of
from .changed_strings import ChangingScene, answers, said
from .deployment import ClientOptions, Deployment, StringChanges, echo, serve_target


@attrs.frozen
class Scene(ChangingScene):
    rule_name = "listener"

    connector: Connector

    def client(self, **options: Unpack[ClientOptions]) -> AbstractAsyncContextManager[Client]:
        return self.deployment.client(self.deployment.string(self.published, Role.APPLICATION), **options)


@pytest.fixture
async def scene(deployment: Deployment, nursery: trio.Nursery) -> Scene:
    published = deployment.publish()
    string = deployment.string(published, Role.CONNECTOR, await serve_target(nursery, echo))
    connector = Connector(ConnectorConfig([string]))
    await nursery.start(connector.run)
    return Scene(deployment, published, string, connector)


async def test_the_other_key(scene: Scene, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    """Twice: the end of the earlier key ends nothing, neither a stream nor the registration."""
    caplog.set_level("INFO")
    string = scene.string
    async with scene.client() as client:
        stream = await client.open_stream()
        for slot in (KeySlot.SECONDARY, KeySlot.PRIMARY):
            caplog.clear()
            key = scene.rule.key(slot)
            assert key is not None
            string = attrs.evolve(string, key=key)
            assert scene.connector.update(0, string).taken_up == ("shared access key",)
            await answers(stream)
            await said(caplog, "Only this key is in use now")
            caplog.clear()
            scene.regenerate(slot.other)
            await scene.relay_has_noticed()
            await answers(stream)
            await answers(await client.open_stream())
            assert "was lost" not in caplog.text
            assert "lost its data channel" not in caplog.text
    nursery.cancel_scope.cancel()


async def test_a_key_that_is_refused(scene: Scene, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    """The earlier one stays in use, and the connector goes on."""
    scene.connector.update(0, attrs.evolve(scene.string, key=generate_key()))
    await said(caplog, "the earlier key stays in use")
    async with scene.client() as client:
        await answers(await client.open_stream())
        scene.connector.update(0, scene.string)
        await answers(await client.open_stream())
    nursery.cancel_scope.cancel()


async def test_another_target_is_used_for_later_streams(scene: Scene, nursery: trio.Nursery) -> None:
    """It is used for streams that are opened from now on."""

    async def shout(stream: trio.SocketStream) -> None:
        await stream.send_all(b"another")

    async with scene.client() as client:
        stream = await client.open_stream()
        scene.connector.update(0, attrs.evolve(scene.string, target=await serve_target(nursery, shout)))
        other = await client.open_stream()
        assert await other.receive_some() == b"another"
        await answers(stream)
        closed = HostPort("127.0.0.1", 9)
        scene.connector.update(0, attrs.evolve(scene.string, target=closed))
        with pytest.raises(StreamRefused):
            await client.open_stream()
        await answers(stream)
    nursery.cancel_scope.cancel()


async def test_a_session_outlives_the_relay_that_is_taken_away(
    scene: Scene, nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is added, and the first is taken away: a session that goes through it lives on."""
    caplog.set_level("DEBUG")
    second = await scene.deployment.add_relay(scene.published, tmp_path / "second")
    pins = (scene.deployment.info.pin, second.info.pin)
    both = (*scene.string.endpoints, Endpoint("localhost", second.ports))
    async with scene.client() as client:
        stream = await client.open_stream()
        assert scene.connector.update(0, attrs.evolve(scene.string, endpoints=both, relay_pins=pins)).taken_up == (
            "relays",
            "relay pins",
        )
        await said(caplog, "registered at a relay: connection=db host=localhost")
        await answers(stream)
        # The pins have changed, so that the first relay has another registration as well. It stays published there.
        await said(caplog, "has replaced the one that was made before")
        assert "no longer published" not in caplog.text
        assert "The control channel to a relay was lost" not in caplog.text
        scene.connector.update(0, attrs.evolve(scene.string, endpoints=both[1:], relay_pins=pins))
        await answers(stream)
        await said(
            caplog,
            "withdrawn from a relay that the connection string no longer names: connection=db host=127",
        )
        application = scene.deployment.string(scene.published, Role.APPLICATION, relay_pins=pins)
        async with scene.deployment.client(attrs.evolve(application, endpoints=both[1:])) as other:
            await answers(await other.open_stream())
        await answers(stream)
    nursery.cancel_scope.cancel()


async def test_the_other_key_at_two_relays(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both sides change to their other keys; then the earlier ones are revoked at one relay after the other."""
    caplog.set_level("INFO")
    published = deployment.publish()
    second = await deployment.add_relay(published, tmp_path / "second")
    endpoints = (Endpoint("127.0.0.1", deployment.ports), Endpoint("localhost", second.ports))
    changes: StringChanges = {"endpoints": endpoints, "relay_pins": (deployment.info.pin, second.info.pin)}
    string = deployment.string(published, Role.CONNECTOR, await serve_target(nursery, echo), **changes)
    application = deployment.string(published, Role.APPLICATION, **changes)
    listener, sender = (rule.secondary for rule in published.rules)
    assert listener is not None
    assert sender is not None
    connector = Connector(ConnectorConfig([string]))
    await nursery.start(connector.run)
    await said(caplog, "registered at a relay: connection=db host=localhost")
    async with deployment.client(application) as client:
        stream = await client.open_stream()
        connector.update(0, attrs.evolve(string, key=listener))
        await said(caplog, f"Only this key is in use now: connection=db key={key_fingerprint(listener)}")
        client.update(attrs.evolve(application, key=sender))
        await said(caplog, f"Only this key is in use now: connection=db key={key_fingerprint(sender)}")
        await answers(stream)
        caplog.clear()
        for state_dir in (deployment.state_dir, second.state_dir):
            with SQLiteStore.open(state_dir) as registry:
                for rule in published.rules:
                    registry.revoke_key("db", rule.name, KeySlot.PRIMARY)
        for relay in (deployment, second):
            await Scene(relay, published, string, connector).relay_has_noticed()
            await answers(stream)
            await answers(await client.open_stream())
        assert "was lost" not in caplog.text
        assert "lost its data channel" not in caplog.text
        assert "ended the right of this client" not in caplog.text
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("with_another_relay", [False, True])
async def test_a_wrong_pin_ends_no_registration_that_worked(
    scene: Scene, nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture, with_another_relay: bool
) -> None:
    """The earlier registration stays until the pin is right, even if another relay accepts the changed string."""
    caplog.set_level("INFO")
    published, string, pins = scene.published, scene.string, (scene.deployment.info.pin,)
    wrong: tuple[str, ...] = (f"sha256:{'A' * 43}=",)
    if with_another_relay:
        second = await scene.deployment.add_relay(published, tmp_path / "second")
        endpoints = (*string.endpoints, Endpoint("localhost", second.ports))
        string = attrs.evolve(string, endpoints=endpoints, relay_pins=(*pins, second.info.pin))
        scene.connector.update(0, string)
        await said(caplog, "registered at a relay: connection=db host=localhost")
        wrong = (second.info.pin,)
    async with scene.client() as client:  # it knows the first relay alone
        stream = await client.open_stream()
        scene.connector.update(0, attrs.evolve(string, relay_pins=wrong))
        await said(caplog, "the earlier registration stays there: connection=db host=127.0.0.1 reason=wrong-identity")
        await answers(stream)
        async with scene.client() as other:
            await answers(await other.open_stream())
        scene.connector.update(0, string)
        async with scene.client() as other:
            await answers(await other.open_stream())
        await answers(stream)
    assert "no longer published" not in caplog.text
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["name", "role", "relays"])
async def test_what_cannot_be_used_changes_nothing(scene: Scene, nursery: trio.Nursery, what: str) -> None:
    changed = {
        "name": scene.deployment.string(scene.deployment.publish("other"), Role.CONNECTOR),
        "role": scene.deployment.string(scene.published, Role.APPLICATION),
        "relays": attrs.evolve(
            scene.string, endpoints=(Endpoint("127.0.0.1", dict.fromkeys(scene.deployment.ports)),)
        ),
    }[what]
    with pytest.raises(ConfigurationError):
        scene.connector.update(0, changed)
    async with scene.client() as client:
        await answers(await client.open_stream())
    nursery.cancel_scope.cancel()


async def test_another_identity_needs_a_restart(scene: Scene, nursery: trio.Nursery) -> None:
    reissued = scene.deployment.string(scene.published, Role.CONNECTOR, scene.string.target)
    update = scene.connector.update(0, reissued)

    assert (update.taken_up, update.needs_restart) == ((), ("identity",))
    assert str(update) == "the changed identity needs a restart"
    async with scene.client() as client:
        await answers(await client.open_stream())
    nursery.cancel_scope.cancel()


async def test_many_updates_at_once(scene: Scene, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    """Back and forth while streams run: the last one counts."""
    caplog.set_level("INFO")
    keys = [scene.string.key, key_of(scene.rule, KeySlot.SECONDARY)]
    async with scene.client() as client:
        stream = await client.open_stream()
        for number in range(21):
            scene.connector.update(0, attrs.evolve(scene.string, key=keys[(number + 1) % 2]))
            await answers(stream)
        await said(caplog, f"Only this key is in use now: connection=db key={key_fingerprint(keys[1])}")
        scene.revoke(KeySlot.PRIMARY)
        await scene.relay_has_noticed()
        await answers(stream)
        await answers(await client.open_stream())
        last = [record.message for record in caplog.records if "Only this key is in use now" in record.message][-1]
        assert key_fingerprint(keys[1]) in last
    nursery.cancel_scope.cancel()


async def test_stopped_while_it_updates(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        connector, stop = Connector(ConnectorConfig([scene.string])), trio.Event()
        await nursery.start(partial(connector.run, stop=stop))
        key = key_of(scene.rule, KeySlot.SECONDARY)
        connector.update(0, attrs.evolve(scene.string, key=key))
        stop.set()
        await trio.lowlevel.checkpoint()
        connector.update(0, scene.string)
    connector.update(0, attrs.evolve(scene.string, key=key))  # after its end
