"""A client applies a changed connection string while its streams run."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.errors import ConfigurationError, ConnectionStringError
from hybridrelay.mux import MuxStream
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    KeySlot,
    Role,
    generate_key,
    key_fingerprint,
    tls,
)

from ..keys import key_of
from .changed_strings import ChangingScene, answers, said
from .deployment import Deployment, echo, serve_target


class Scene(ChangingScene):
    rule_name = "sender"


@pytest.fixture
async def scene(deployment: Deployment, nursery: trio.Nursery) -> Scene:
    published = deployment.publish()
    await deployment.connector(deployment.string(published, Role.CONNECTOR, await serve_target(nursery, echo)))
    return Scene(deployment, published, deployment.string(published, Role.APPLICATION))


async def test_the_other_key(scene: Scene, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    """Twice: streams move without a pause, also those of a session that takes no new ones, and nothing ends with the
    earlier key."""
    caplog.set_level("INFO")
    async with scene.deployment.client(scene.string) as client:
        leaving = await client.open_stream()
        (await client.connect()).drain()
        stream = await client.open_stream()
        for slot in (KeySlot.SECONDARY, KeySlot.PRIMARY):
            key = scene.rule.key(slot)
            assert key is not None
            caplog.clear()
            assert client.update(attrs.evolve(scene.string, key=key)).taken_up == ("shared access key",)
            await said(caplog, f"Only this key is in use now: connection=db key={key_fingerprint(key)}")
            scene.regenerate(slot.other)
            await scene.relay_has_noticed()
            for one in (leaving, stream, await client.open_stream()):
                await answers(one)
            assert "was lost" not in caplog.text
            assert "lost its data channel" not in caplog.text
            assert "ended the right of this client" not in caplog.text
    nursery.cancel_scope.cancel()


async def test_before_it_is_connected(scene: Scene, nursery: trio.Nursery) -> None:
    async with scene.deployment.client(scene.string) as client:
        client.update(attrs.evolve(scene.string, key=key_of(scene.rule, KeySlot.SECONDARY)).format())
        scene.regenerate(KeySlot.PRIMARY)
        await answers(await client.open_stream())
    nursery.cancel_scope.cancel()


async def test_while_new_streams_are_opened(scene: Scene, nursery: trio.Nursery) -> None:
    """20 changes back and forth: none of the streams fails, and all of them work at the end."""
    keys = [scene.string.key, key_of(scene.rule, KeySlot.SECONDARY)]
    streams: list[MuxStream] = []
    async with scene.deployment.client(scene.string) as client:

        async def open_one() -> None:
            stream = await client.open_stream()
            await answers(stream)
            streams.append(stream)

        async with trio.open_nursery() as opening:
            for number in range(20):
                client.update(attrs.evolve(scene.string, key=keys[(number + 1) % 2]))
                opening.start_soon(open_one)
                await answers(streams[0]) if streams else await trio.lowlevel.checkpoint()
        for stream in streams:
            await answers(stream)
        assert len(streams) == 20
    nursery.cancel_scope.cancel()


async def test_a_key_that_is_refused(scene: Scene, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    async with scene.deployment.client(scene.string) as client:
        stream = await client.open_stream()
        client.update(attrs.evolve(scene.string, key=generate_key()))
        await said(caplog, "the earlier key stays in use")
        await answers(stream)
        (await client.connect()).close()
        await answers(await client.open_stream())
        assert "Only this key is in use" not in caplog.text
    nursery.cancel_scope.cancel()


async def test_the_session_goes_to_the_relays_that_the_string_names_now(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The session goes to the relays that the string names now, and outlives the others."""
    caplog.set_level("INFO")
    published = deployment.publish()
    second = await deployment.add_relay(published, tmp_path / "second")
    first_alone = (Endpoint("127.0.0.1", deployment.ports),)
    second_alone = (Endpoint("localhost", second.ports),)
    string = deployment.string(
        published, Role.APPLICATION, relay_pins=(deployment.info.pin, second.info.pin), endpoints=first_alone
    )
    target = await serve_target(nursery, echo)
    connector = deployment.string(published, Role.CONNECTOR, target, relay_pins=string.relay_pins)
    await deployment.connector(attrs.evolve(connector, endpoints=(*first_alone, *second_alone)))
    async with deployment.client(string) as client:
        stream = await client.open_stream()
        client.update(attrs.evolve(string, endpoints=(*second_alone, *first_alone)))
        await answers(stream)
        assert client.relay == "127.0.0.1"  # it works, and is still among them
        client.update(attrs.evolve(string, endpoints=second_alone))
        await said(caplog, "route='tcp at localhost'")
        await answers(stream)
        assert client.relay == "localhost"
        await deployment.kill_relay()
        await answers(stream)
        await answers(await client.open_stream())
        assert "lost its data channel" not in caplog.text
    nursery.cancel_scope.cancel()


async def test_a_key_that_only_the_relay_in_use_has(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a change of keys, the relay in use is lost: the earlier key is valid at the other one."""
    caplog.set_level("INFO")
    published = deployment.publish()
    second = await deployment.add_relay(published, tmp_path / "second")
    endpoints = (Endpoint("127.0.0.1", deployment.ports), Endpoint("localhost", second.ports))
    pins = (deployment.info.pin, second.info.pin)
    target = await serve_target(nursery, echo)
    connector = deployment.string(published, Role.CONNECTOR, target, relay_pins=pins)
    await deployment.connector(attrs.evolve(connector, endpoints=endpoints))
    string = deployment.string(published, Role.APPLICATION, relay_pins=pins, endpoints=endpoints)
    async with deployment.client(string) as client:
        stream = await client.open_stream()
        assert client.relay == "127.0.0.1"
        with SQLiteStore.open(deployment.state_dir) as registry:
            key = registry.regenerate_key("db", "sender", KeySlot.SECONDARY)
        client.update(attrs.evolve(string, key=key))
        await said(
            caplog,
            f"Only this key is in use now: connection=db key={key_fingerprint(key)} missing=localhost",
        )
        await answers(stream)
        await deployment.kill_relay()
        await answers(stream)
        await answers(await client.open_stream())
        assert client.relay == "localhost"
        assert "the earlier key stays in use: connection=db host=localhost" in caplog.text
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["name", "role", "relays", "text"])
async def test_what_cannot_be_used_changes_nothing(scene: Scene, nursery: trio.Nursery, what: str) -> None:
    changes: dict[str, str | ConnectionString] = {
        "name": scene.deployment.string(scene.deployment.publish("other"), Role.APPLICATION),
        "role": scene.deployment.string(scene.published, Role.CONNECTOR),
        "relays": attrs.evolve(
            scene.string, endpoints=(Endpoint("127.0.0.1", dict.fromkeys(scene.deployment.ports)),)
        ),
        "text": "Endpoint=hr://x/;what",
    }
    async with scene.deployment.client(scene.string) as client:
        stream = await client.open_stream()
        with pytest.raises((ConfigurationError, ConnectionStringError)):
            client.update(changes[what])
        await answers(stream)
        await answers(await client.open_stream())
    nursery.cancel_scope.cancel()


async def test_after_its_end(scene: Scene, nursery: trio.Nursery) -> None:
    async with scene.deployment.client(scene.string) as client:
        await client.open_stream()
        client.update(attrs.evolve(scene.string, key=key_of(scene.rule, KeySlot.SECONDARY)))
    client.update(scene.string)
    nursery.cancel_scope.cancel()


async def test_a_string_that_cannot_be_checked_for_lack_of_descriptors_changes_nothing(
    scene: Scene, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with scene.deployment.client(scene.string) as client:
        key = key_of(scene.rule, KeySlot.SECONDARY)
        with monkeypatch.context() as context:
            context.setattr(tls, "_file_in_memory", refuse)
            for use in (client.refresh, partial(client.update, attrs.evolve(scene.string, key=key))):
                with pytest.raises(ConfigurationError, match="run out of file descriptors"):
                    use()
        assert client.connection_string == scene.string
        await answers(await client.open_stream())
    nursery.cancel_scope.cancel()
