"""What a running relay says about itself: a snapshot of what it holds, events, and a directory of its listeners."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import trio

from hybridrelay._version import __version__
from hybridrelay.events import (
    Event,
    EventStream,
    ListenerLeft,
    ListenerRegistered,
    ProgramReady,
    ProgramStarted,
    ProgramStopping,
    RendezvousEnded,
    RendezvousJoined,
    SenderJoining,
)
from hybridrelay.relay import Binding, ConnectionSnapshot, MemoryDirectory, Relay, RelayConfig, RelaySnapshot
from hybridrelay.security import Role

from ..receiving import receive_all
from ..waiting import async_wait_until, patience
from .deployment import HOST, PORTS, Deployment, echo, serve_target

DATA = b"x" * 100_000


async def test_what_a_relay_says_about_itself(tmp_path: Path) -> None:
    events: list[Event] = []
    directory = MemoryDirectory()
    relay = Relay(
        RelayConfig(state_dir=tmp_path, bindings={name: (Binding(HOST, 0),) for name in PORTS}),
        events=EventStream(events.append),
        directory=directory,
    )
    assert relay.live.snapshot() == RelaySnapshot()
    stop, began = trio.Event(), time.time()
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def run(*, task_status: trio.TaskStatus[object]) -> None:
            async with trio.open_nursery() as inner:
                task_status.started(await inner.start(partial(relay.run, stop=stop)))
            ended.set()

        deployment = Deployment(nursery, tmp_path, await nursery.start(run), nursery.cancel_scope)
        published = deployment.publish()
        target = await serve_target(nursery, echo)
        await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
        assert len(directory.find("db")) == 1
        async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
            async with await client.open_stream() as stream:
                await stream.send_all(DATA)
                await stream.send_eof()
                assert await receive_all(stream) == DATA

                live, snapshot = relay.live, relay.live.snapshot()
                (listener,), (sender,), (session,) = live.listeners(9), live.senders(9), live.sessions(9)
                assert (snapshot.listeners, snapshot.senders, snapshot.sessions) == (1, 1, 1)
                assert (listener.connection, listener.address, listener.rule, listener.slot, listener.transport) == (
                    ("db", HOST, published.rules[0].name, "primary", "tcp")
                )
                assert (sender.connection, sender.address, sender.rule) == ("db", HOST, published.rules[1].name)
                assert listener.software == sender.software == f"hybridrelay/{__version__}"
                assert (session.listener.instance, session.sender.instance) == (listener.instance, sender.instance)
                assert (session.listener.transport, session.sender.transport) == ("tcp", "tcp")
                assert began <= listener.since <= sender.since <= session.since <= time.time()
                moved = {(one.bytes_to_client, one.bytes_to_connector) for one in (listener, sender, session)}
                assert moved == {(session.bytes_to_client, session.bytes_to_connector)}
                assert session.bytes_to_client > len(DATA) < session.bytes_to_connector
                assert live.connection("db") == ConnectionSnapshot(1, 1, 1, *moved.pop())
                assert (snapshot.pairs.taken, snapshot.control_channels.taken) == (1, 2)
                assert snapshot.pairs.total > 0

        async def pair_has_ended() -> bool:
            return not relay.live.sessions(1)

        await async_wait_until(pair_has_ended, seconds=20, what="the end of the pair")
        stop.set()
        with trio.fail_after(patience(20)):
            await ended.wait()
        nursery.cancel_scope.cancel()
    assert relay.live.snapshot() == RelaySnapshot()
    assert directory.find("db") == frozenset()

    of_interest = [ProgramStarted, ProgramReady, ListenerRegistered, SenderJoining, RendezvousJoined, RendezvousEnded]
    found = [type(event) for event in events]
    assert [one for one in found if one in of_interest] == of_interest
    assert found.index(RendezvousEnded) < found.index(ProgramStopping) < found.index(ListenerLeft)
    (joined,) = [event for event in events if isinstance(event, RendezvousJoined)]
    (end,) = [event for event in events if isinstance(event, RendezvousEnded)]
    assert joined.activity_id == end.activity_id == session.id
    assert (end.outcome, end.bytes_to_client) == ("finished", max(end.bytes_to_client, session.bytes_to_client))
