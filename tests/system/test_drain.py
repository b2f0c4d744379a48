"""A relay that an administrator drains: nothing new begins there, and what runs goes on, elsewhere if it can."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from hybridrelay.errors import RendezvousError
from hybridrelay.events import DrainEnded, DrainStarted
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import Endpoint, Role

from ..waiting import async_wait_until
from .deployment import HOST, echo, serve_target
from .live_scene import Scene, relay_and_connector


async def test_present_sessions_stay_and_can_be_resumed_while_new_ones_are_refused(tmp_path: Path) -> None:
    async with relay_and_connector(tmp_path) as (relay, deployment, published, events):
        string = deployment.string(published, Role.APPLICATION)
        async with deployment.client(string) as client, await client.open_stream() as stream:
            scene = Scene(relay.live, stream, events)
            await scene.echoes(b"before")
            for _ in range(2):
                relay.live.drain()
            assert relay.live.snapshot().draining_since is not None
            await scene.echoes(b"while it drains")
            (session,) = relay.live.sessions(9)
            relay.live.drop_session("db", session.id)
            await scene.echoes(b"resumed")
            async with deployment.client(string, open_patience=0) as other:
                with pytest.raises(RendezvousError) as caught:
                    await other.open_stream()
                assert caught.value.reason is Reason.RELAY_DRAINING
                relay.live.undo_drain()
                async with await other.open_stream() as second:
                    await Scene(relay.live, second, events).echoes(b"again")
            await scene.echoes(b"after")
    assert [type(event) for event in events if isinstance(event, DrainStarted | DrainEnded)] == [
        DrainStarted,
        DrainEnded,
    ]


async def test_sessions_move_to_another_relay_and_new_ones_begin_there(tmp_path: Path) -> None:
    async with relay_and_connector(tmp_path / "first") as (relay, deployment, published, events):
        second = await deployment.add_relay(published, tmp_path / "second")
        endpoints = (Endpoint(HOST, deployment.ports), Endpoint("localhost", second.ports))
        pins = (deployment.info.pin, second.info.pin)
        connector, application = (
            attrs.evolve(deployment.string(published, role, target), endpoints=endpoints, relay_pins=pins)
            for role, target in (
                (Role.CONNECTOR, await serve_target(deployment.nursery, echo)),
                (Role.APPLICATION, None),
            )
        )
        for listener in relay.live.listeners(9):  # the connector that knows only the first relay
            relay.live.drop_listener("db", listener.instance)
        await deployment.connector(connector)
        async with deployment.client(application) as client, await client.open_stream() as stream:
            scene = Scene(relay.live, stream, events)
            await scene.echoes(b"before")
            assert len(relay.live.sessions(9)) == 1
            relay.live.drain()
            relay.live.undo_drain()
            relay.live.drain()

            async def has_moved() -> bool:
                return not relay.live.sessions(9)

            await async_wait_until(has_moved, seconds=20, what="the session moves")
            await scene.echoes(b"moved")
            async with deployment.client(application) as other, await other.open_stream() as new:
                await Scene(relay.live, new, events).echoes(b"begins elsewhere")
            assert relay.live.sessions(9) == []
