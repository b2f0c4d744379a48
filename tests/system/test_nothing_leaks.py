"""Relay, connector and client in one Trio run: after each cycle its tasks, descriptors and counts are as before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Unpack

import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.client import Client
from hybridrelay.connectivity import dial_directly
from hybridrelay.connector import served_stream
from hybridrelay.errors import AuthorizationError, HybridRelayError, RendezvousError, StreamRefused
from hybridrelay.mux import Budget
from hybridrelay.protocol import Reason
from hybridrelay.relay.core.rendezvous import RendezvousTable
from hybridrelay.relay.service import broker as broker_module
from hybridrelay.security import ConnectionString, HostPort, Role, generate_key

from ..deployments import free_port
from ..leaks import SETTLING_SECONDS, assert_back_to, of_this_run, settled
from ..receiving import receive_all
from ..waiting import async_wait_until
from .deployment import HOST, Deployment, Options, Published, echo, serve_target

CYCLES = 2
STREAMS = 10
SOME_DATA = bytes(100_000)


@pytest.fixture(params=["tcp", "websocket"])
def mode(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


async def assert_cycles_leave_nothing(cycle: Callable[[], Awaitable[None]]) -> None:
    """Only the first cycle may leave something behind: a control channel, and the route that worked."""
    await cycle()
    base = await settled(of_this_run)
    for number in range(CYCLES):
        await cycle()
        await assert_back_to(base, of_this_run, what=f"cycle {number}")


async def _publish(deployment: Deployment, target: HostPort | None = None, **options: Unpack[Options]) -> Published:
    published = deployment.publish()
    target = target or await serve_target(deployment.nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target), **options)
    return published


async def _exchange(client: Client) -> None:
    async with await client.open_stream() as stream:
        await stream.send_all(SOME_DATA)
        await stream.send_eof()
        assert await receive_all(stream) == SOME_DATA


async def test_clients_that_come_and_go(deployment: Deployment, nursery: trio.Nursery, mode: str) -> None:
    published = await _publish(deployment, mode=mode)
    string = deployment.string(published, Role.APPLICATION)
    budget = Budget(1 << 24)

    async def cycle() -> None:
        async with deployment.client(string, mode=mode, budget=budget) as client:
            async with trio.open_nursery() as streams:
                for _ in range(STREAMS):
                    streams.start_soon(_exchange, client)
        assert (budget.base, budget.elastic) == (0, 0)

    await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()


async def test_clients_that_leave_in_the_middle(deployment: Deployment, nursery: trio.Nursery, mode: str) -> None:
    """They leave in the middle of a write, without a goodbye: the connector waits for them until its deadline."""
    published = await _publish(deployment, mode=mode, resume_deadline=0.5)
    string = deployment.string(published, Role.APPLICATION)
    budget = Budget(1 << 24)

    async def cycle() -> None:
        with trio.CancelScope() as scope:
            async with deployment.client(string, mode=mode, budget=budget) as client:
                for _ in range(STREAMS):
                    stream = await client.open_stream()
                    await stream.send_all(SOME_DATA)
                scope.cancel()
        assert (budget.base, budget.elastic) == (0, 0)
        await async_wait_until(given_up, seconds=SETTLING_SECONDS, what="the connector waits no more")

    async def given_up() -> bool:
        return "data_sessions" not in await of_this_run()

    await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()


async def test_streams_that_are_reset_or_not_read(deployment: Deployment, nursery: trio.Nursery, mode: str) -> None:
    published = await _publish(deployment, mode=mode)
    async with deployment.client(deployment.string(published, Role.APPLICATION), mode=mode) as client:

        async def cycle() -> None:
            for _ in range(STREAMS):
                stream = await client.open_stream()
                await stream.send_all(SOME_DATA)
                stream.reset()
                closed = await client.open_stream()
                await closed.send_all(SOME_DATA)
                await closed.aclose()

        await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who", [Role.APPLICATION, Role.CONNECTOR])
async def test_sessions_that_resume(deployment: Deployment, nursery: trio.Nursery, mode: str, who: Role) -> None:
    """All connections of one side are cut while streams are open; they go on, and then are closed."""
    sockets: list[trio.SocketStream] = []

    async def dial(host: str, port: int) -> trio.SocketStream:
        sockets.append(await dial_directly(host, port))
        return sockets[-1]

    dials = {role: dial if role is who else dial_directly for role in (Role.CONNECTOR, Role.APPLICATION)}
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    listening = deployment.string(published, Role.CONNECTOR, target)
    await deployment.connector(listening, mode=mode, dialer=Dialer(dials[Role.CONNECTOR]))
    string = deployment.string(published, Role.APPLICATION)
    async with deployment.client(string, mode=mode, dialer=Dialer(dials[Role.APPLICATION])) as client:

        async def cycle() -> None:
            streams = [await client.open_stream() for _ in range(STREAMS)]
            cut, sockets[:] = list(sockets), []
            for one in cut:
                await trio.aclose_forcefully(one)
            for stream in streams:
                async with stream:
                    await stream.send_all(SOME_DATA)
                    await stream.send_eof()
                    assert await receive_all(stream) == SOME_DATA
            await _exchange(client)

        await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()


async def test_opens_that_the_target_refuses(deployment: Deployment, nursery: trio.Nursery, mode: str) -> None:
    published = await _publish(deployment, HostPort(HOST, free_port()), mode=mode)
    async with deployment.client(deployment.string(published, Role.APPLICATION), mode=mode) as client:

        async def cycle() -> None:
            for _ in range(STREAMS):
                with pytest.raises(StreamRefused) as caught:
                    await client.open_stream()
                assert caught.value.reason is Reason.TARGET_REFUSED

        await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()


async def test_opens_that_are_cancelled(
    deployment: Deployment, nursery: trio.Nursery, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They leave while the connector dials a target that does not answer."""
    dialing = trio.Semaphore(0)

    async def open_target(target: HostPort, **_: object) -> trio.SocketStream:
        dialing.release()
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(served_stream, "open_target", open_target)
    published = await _publish(deployment, mode=mode)
    async with deployment.client(deployment.string(published, Role.APPLICATION), mode=mode) as client:

        async def cycle() -> None:
            async with trio.open_nursery() as opening:
                for _ in range(STREAMS):
                    opening.start_soon(client.open_stream)
                for _ in range(STREAMS):
                    await dialing.acquire()
                opening.cancel_scope.cancel()

        await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()


async def test_clients_that_are_refused(deployment: Deployment, nursery: trio.Nursery, mode: str) -> None:
    """The relay refuses them, because it does not know the key, or has no listener."""
    published = deployment.publish()
    right = deployment.string(published, Role.APPLICATION)
    wrong = deployment.string(published, Role.APPLICATION, key=generate_key())

    async def refused(string: ConnectionString, error: type[HybridRelayError]) -> None:
        async with deployment.client(string, mode=mode) as client:
            with pytest.raises(error):
                await client.open_stream(patience=0)

    async def cycle() -> None:
        async with trio.open_nursery() as clients:
            clients.start_soon(refused, right, RendezvousError)
            clients.start_soon(refused, wrong, AuthorizationError)

    await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()


@pytest.fixture
def short_tickets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connector waits so long for a client that does not come to the rendezvous."""
    monkeypatch.setattr(broker_module, "RendezvousTable", partial(RendezvousTable, lifetime=0.5))


async def test_connections_that_are_cancelled_on_their_way(
    short_tickets: None, deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    """They are cancelled at every step: with the first TCP connection of a client, with the second, and so on."""
    published = await _publish(deployment, mode=mode)
    string = deployment.string(published, Role.APPLICATION)

    async def cancelled_at(step: int) -> bool:
        """Whether there was such a step."""
        dials = 0

        async def dial(host: str, port: int) -> trio.SocketStream:
            nonlocal dials
            stream = await dial_directly(host, port)
            dials += 1
            if dials == step:
                scope.cancel()
            return stream

        with trio.CancelScope() as scope:
            async with deployment.client(string, mode=mode, dialer=Dialer(dial)) as client:
                await client.connect()
        return scope.cancelled_caught

    async def cycle() -> None:
        step = 1
        while await cancelled_at(step):
            step += 1
        assert step > 2

    await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()


async def test_connectors_that_come_and_go(deployment: Deployment, nursery: trio.Nursery, mode: str) -> None:
    """Each with a client that has to find another one, while the hybrid connection stays."""
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    listening = deployment.string(published, Role.CONNECTOR, target)
    string = deployment.string(published, Role.APPLICATION)

    async def cycle() -> None:
        scope = await deployment.connector(listening, mode=mode)
        async with deployment.client(string, mode=mode) as client:
            await _exchange(client)
            scope.cancel()

    await assert_cycles_leave_nothing(cycle)
    nursery.cancel_scope.cancel()
