"""What a connector and a client hold: registrations, sessions and streams, with their bytes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import trio

from hybridrelay.client import ClientConfig, open_client, run_forward
from hybridrelay.connectivity.counters import SUCCESS
from hybridrelay.connectivity.snapshot import EndpointSnapshot, RelayState, SessionState, StreamState
from hybridrelay.connector import Connector, ConnectorConfig, Policy
from hybridrelay.errors import HybridRelayError, StreamRefused
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, HostPort, Role

from ..waiting import async_wait_until
from .deployment import HOST, Deployment, deploy, echo, serve_target

SIZE = 300_000
SECONDS = 20.0


async def start_connector(
    deployment: Deployment, string: ConnectionString, *, policy: Policy | None = None
) -> Connector:
    connector = Connector(ConnectorConfig([string], policy=policy or Policy()))
    await deployment.nursery.start(connector.run)
    return connector


async def settled(take: Callable[[], EndpointSnapshot]) -> EndpointSnapshot:
    """A snapshot once everything was acknowledged."""

    async def look() -> EndpointSnapshot | None:
        await trio.lowlevel.checkpoint()
        found = take()
        return found if found.unacknowledged == 0 else None

    return await async_wait_until(look, seconds=SECONDS, what="everything is acknowledged")


async def test_registrations_sessions_and_streams(deployment: Deployment) -> None:
    published, before = deployment.publish(), time.time()
    target = await serve_target(deployment.nursery, echo)
    connector = await start_connector(deployment, deployment.string(published, Role.CONNECTOR, target))
    (connection,) = connector.snapshot().connections
    assert (connection.name, connection.target, connection.is_registered) == ("db", str(target), True)
    (relay,) = connection.relays
    assert (relay.host, relay.state, relay.failure) == (HOST, RelayState.REGISTERED, None)
    assert relay.since is not None
    assert before - 1 < relay.since < time.time() + 1
    assert relay.route is not None
    assert (relay.route.name, relay.route.transport, relay.route.proxy) == ("tcp", "tcp", "")
    assert relay.route.port == deployment.ports["control"]

    async with deployment.client(deployment.string(published, Role.APPLICATION, label="shop")) as client:
        idle = client.snapshot()
        assert idle.connections[0].relays[0].state is RelayState.WAITING
        async with await client.open_stream() as stream:
            await stream.send_all(b"x" * SIZE)
            received = 0
            while received < SIZE:
                received += len(await stream.receive_some())
            here, there = await settled(client.snapshot), await settled(connector.snapshot)
            (ours,), (theirs,) = here.sessions, there.sessions
            assert ours.id == theirs.id
            assert ours.rendezvous == theirs.rendezvous != ""
            assert (ours.label, theirs.label) == ("lab", "shop")
            assert ours.instance == relay.instance
            assert {one.state for one in (ours, theirs)} == {SessionState.OPEN}
            for one in (ours, theirs):
                assert (one.bytes_to_target, one.bytes_to_client, one.resumptions) == (SIZE, SIZE, 0)
                assert (one.streams, one.queued, one.unread) == (1, 0, 0)
                assert one.route.port == deployment.ports["data"]
                assert one.reserved > 0
                assert one.round_trip is None or one.round_trip < SECONDS
            (mine,), (served,) = here.streams, there.streams
            assert mine.id == served.id == f"{ours.id}-1"
            assert mine.state is served.state is StreamState.OPEN
            assert (served.label, served.target) == ("shop", str(target))
            assert {(one.bytes_to_target, one.bytes_to_client) for one in (mine, served)} == {(SIZE, SIZE)}
            assert here.connections[0].is_connected
            assert here.connections[0].relays[0].state is RelayState.REGISTERED
            assert here.transports["tcp"]
            assert there.transports == here.transports
            assert not here.transports["websocket"]
            assert here.counters.streams_opened == there.counters.streams_opened == {("db", SUCCESS): 1}
            assert sum(there.counters.target_connect.counts) == 1
            await stream.send_eof()

            async def half_closed() -> bool:
                await trio.lowlevel.checkpoint()
                return client.snapshot().streams[0].state is StreamState.HALF_CLOSED

            assert await async_wait_until(half_closed, seconds=SECONDS, what="half closed")

        async def has_ended() -> bool:
            await trio.lowlevel.checkpoint()
            return client.snapshot().stream_count == 0

        assert await async_wait_until(has_ended, seconds=SECONDS, what="its end was acknowledged")
        assert client.snapshot().counters.streams_opened == {("db", SUCCESS): 1}


async def test_lists_have_a_limit_and_numbers_do_not(deployment: Deployment) -> None:
    published = deployment.publish()
    target = await serve_target(deployment.nursery, echo)
    connector = await start_connector(deployment, deployment.string(published, Role.CONNECTOR, target))
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        streams = [await client.open_stream() for _ in range(5)]
        for one in (client.snapshot(max_streams=2), connector.snapshot(max_streams=2)):
            assert [stream.id.rpartition("-")[2] for stream in one.streams] == ["1", "3"], "the oldest"
            assert (one.stream_count, one.connections[0].streams) == (5, 5)
        for one in (client.snapshot(max_sessions=0), connector.snapshot(max_sessions=0)):
            assert (one.sessions, one.session_count) == ((), 1)
        for stream in streams:
            await stream.aclose()


async def test_a_session_that_resumes(deployment: Deployment) -> None:
    published, ports = deployment.publish(), {k: v for k, v in deployment.ports.items() if v is not None}
    target = await serve_target(deployment.nursery, echo)
    connector = await start_connector(deployment, deployment.string(published, Role.CONNECTOR, target))
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        async with await client.open_stream() as stream:
            first = client.snapshot().sessions[0]
            await deployment.kill_relay()

            async def is_lost() -> bool:
                await trio.lowlevel.checkpoint()
                (session,) = client.snapshot().sessions
                (relay,) = connector.snapshot().connections[0].relays
                return session.state is SessionState.RESUMING and relay.state is RelayState.FAILED

            await async_wait_until(is_lost, seconds=SECONDS, what="the relay is missed")
            (relay,) = connector.snapshot().connections[0].relays
            assert relay.since is None
            assert relay.failure is not None
            assert relay.failure.reason == "relay-unreachable"
            await deploy(deployment.nursery, deployment.state_dir, ports=ports)
            await stream.send_all(b"still here")
            assert await stream.receive_some() == b"still here"
            for one in (client.snapshot().sessions[0], connector.snapshot().sessions[0]):
                assert (one.id, one.resumptions) == (first.id, 1)
                assert one.rendezvous != first.rendezvous
            for counters in (client.snapshot().counters, connector.snapshot().counters):
                assert counters.session_resumes == {SUCCESS: 1}


async def test_what_is_refused_is_counted_with_its_reason(deployment: Deployment) -> None:
    published = deployment.publish()
    string = deployment.string(published, Role.CONNECTOR, HostPort(HOST, 9))
    connector = await start_connector(deployment, string, policy=Policy(frozenset({"reporting"})))
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        with pytest.raises(StreamRefused):
            await client.open_stream()
        reason = ("db", Reason.TARGET_REFUSED.slug)
        assert client.snapshot().counters.streams_opened == {reason: 1}
        assert connector.snapshot().counters.streams_opened == {reason: 1}
    denied = deployment.string(published, Role.APPLICATION, label="reporting")
    async with deployment.client(denied, open_patience=0.0) as client:
        with pytest.raises(HybridRelayError):
            await client.open_stream()
        failure = client.snapshot().connections[0].failure
        assert failure is not None
        assert failure.reason == "identity-denied"
    assert connector.snapshot().counters.policy_refusals == {"deny-list-label": 1}


async def test_a_forward_knows_the_addresses_of_its_applications(deployment: Deployment) -> None:
    published = deployment.publish()
    target = await serve_target(deployment.nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
    async with open_client(ClientConfig(deployment.string(published, Role.APPLICATION))) as client:
        assert client.snapshot().connections[0].listening == ()
        ((_, port),) = await deployment.nursery.start(run_forward, client, [(HOST, 0)])
        async with await trio.open_tcp_stream(HOST, port) as application:
            await application.send_all(b"x")
            assert await application.receive_some() == b"x"
            (connection,), (stream,) = client.snapshot().connections, client.snapshot().streams
            assert connection.listening == (f"{HOST}:{port}",)
            assert stream.application == f"{HOST}:{application.socket.getsockname()[1]}"
            assert stream.state is StreamState.OPEN
