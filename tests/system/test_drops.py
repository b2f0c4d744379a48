"""An administrator ends a listener, a sender or a session at a relay that runs: what is seen, and what comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridrelay.events import ListenerLeft, RendezvousEnded, SenderDropped
from hybridrelay.management.metrics import relay_metrics
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import RelaySnapshot
from hybridrelay.security import Role

from ..waiting import async_wait_until
from .live_scene import Scene, relay_and_connector, running

DROPPED = Reason.ADMINISTRATOR_DROPPED


@pytest.mark.parametrize(("mode", "transport"), [("tcp", "tcp"), ("websocket", "websocket")])
async def test_bytes_are_seen_before_the_stream_ends(tmp_path: Path, mode: str, transport: str) -> None:
    async with running(tmp_path, mode) as scene:
        for _ in range(3):
            before = scene.live.connection("db")
            await scene.echoes(b"x" * 100_000)
            after = scene.live.connection("db")
            assert after.bytes_to_client - before.bytes_to_client >= 100_000
            assert after.bytes_to_connector - before.bytes_to_connector >= 100_000
        lines = (await relay_metrics(scene.live, ())).splitlines()
        for line in (
            f'hybridrelay_relayed_bytes_total{{connection="db",direction="to_client"}} {after.bytes_to_client}',
            'hybridrelay_listener_connections_total{connection="db",result="success"} 1',
            'hybridrelay_sender_connections_total{connection="db",result="success"} 1',
            'hybridrelay_rendezvous_total{result="joined"} 1',
            "hybridrelay_rendezvous_seconds_count 1",
            'hybridrelay_sessions{connection="db"} 1',
        ):
            assert line in lines
        (session,), (listener,), (sender,) = scene.live.sessions(9), scene.live.listeners(9), scene.live.senders(9)
        assert {one.transport for one in (session.listener, session.sender, listener, sender)} == {transport}
        assert session.bytes_to_client == listener.bytes_to_client == sender.bytes_to_client > 300_000


async def test_a_listener_that_was_dropped_stays_away_for_a_while_and_its_sessions_go_on(tmp_path: Path) -> None:
    async with running(tmp_path) as scene:
        (listener,) = scene.live.listeners(9)
        assert not scene.live.drop_listener("db", "f" * 32)
        assert not scene.live.drop_listener("other", listener.instance)
        assert scene.live.drop_listener("db", listener.instance)
        assert not scene.live.drop_listener("db", listener.instance)
        assert scene.live.listeners(9) == []
        await scene.echoes(b"still there")
        assert scene.reasons(ListenerLeft) == [DROPPED]
        assert scene.reasons(RendezvousEnded) == []


async def test_the_sessions_of_a_listener_that_is_drained_go_on(tmp_path: Path) -> None:
    async with running(tmp_path) as scene:
        (listener,) = scene.live.listeners(9)
        await scene.echoes(b"before")
        assert scene.live.drain_listener("db", listener.instance, on=True)
        assert [one.draining for one in scene.live.listeners(9)] == [True]
        await scene.echoes(b"still there")
        assert scene.live.drain_listener("db", listener.instance, on=False)
        assert [one.draining for one in scene.live.listeners(9)] == [False]


async def test_a_session_that_was_dropped_is_resumed(tmp_path: Path) -> None:
    async with running(tmp_path) as scene:
        await scene.echoes(b"before")
        (session,) = scene.live.sessions(9)
        assert not scene.live.drop_session("other", session.id)
        assert scene.live.drop_session("db", session.id)
        await scene.echoes(b"after")
        (successor,) = scene.live.sessions(9)
        assert successor.id != session.id
        assert not scene.live.drop_session("db", session.id)
        assert scene.reasons(RendezvousEnded) == [DROPPED]
        (ended,) = (event for event in scene.events if isinstance(event, RendezvousEnded))
        assert (ended.outcome, ended.activity_id) == ("dropped", session.id)
        assert ended.bytes_to_client >= session.bytes_to_client > 0


async def test_a_sender_that_was_dropped_comes_back_when_it_needs_the_relay(tmp_path: Path) -> None:
    async with running(tmp_path) as scene:
        (sender,) = scene.live.senders(9)
        assert not scene.live.drop_sender("other", sender.id)
        assert scene.live.drop_sender("db", sender.id)
        assert not scene.live.drop_sender("db", sender.id)
        await scene.echoes(b"still there")
        assert [type(event) for event in scene.events].count(SenderDropped) == 1
        assert scene.reasons(SenderDropped) == [DROPPED]
        (session,) = scene.live.sessions(9)
        scene.live.drop_session("db", session.id)  # which the client resumes over another control channel
        await scene.echoes(b"after")
        (successor,) = scene.live.senders(9)
        assert successor.id != sender.id
        assert successor.instance == sender.instance


async def test_nothing_is_left_of_what_has_ended(tmp_path: Path) -> None:
    async with relay_and_connector(tmp_path) as (relay, deployment, published, events):
        live = relay.live
        async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
            async with await client.open_stream() as stream:
                await Scene(live, stream, events).echoes(b"x" * 1000)

        async def is_over() -> bool:
            return not live.senders(9) and not live.sessions(9)

        await async_wait_until(is_over, seconds=20, what="the end of the sender")
        (listener,), total = live.listeners(9), live.connection("db")
        assert (listener.sessions, total.sessions, total.senders) == (0, 0, 0)
        assert listener.bytes_to_client == total.bytes_to_client > 1000
    assert (live.listeners(9), live.snapshot()) == ([], RelaySnapshot())
