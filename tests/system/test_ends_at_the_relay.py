"""What the relay's log calls the end of a pair of data channels: finished by both sides, or closed by one side."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.connectivity import dial_directly
from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.mux import MuxStream
from hybridrelay.security import ConnectionString, HostPort, Role
from hybridrelay.streams.sockets import abort_stream

from ..logged_events import logged_fields
from ..receiving import receive_all
from ..waiting import async_wait_until
from .deployment import Deployment, Published, echo, serve_target

#: By route: the mode that leads there, and the port that must be closed.
ROUTES: dict[str, tuple[str, str | None]] = {
    "tcp": ("tcp", None),
    "wss": ("websocket", None),
    "ws": ("websocket", "https"),
}
END_SECONDS = 20

SOME_DATA = bytes(100_000)


@pytest.fixture(params=ROUTES)
def to_client(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


@pytest.fixture(params=ROUTES)
def to_connector(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


@pytest.fixture
def first_end(caplog: pytest.LogCaptureFixture) -> Callable[[], Awaitable[str]]:
    """Waits for the first pair of data channels that ends; what the log calls it."""
    caplog.set_level(logging.INFO, "hybridrelay.events")

    async def ends() -> list[str]:
        return [fields["outcome"] for fields in logged_fields(caplog, "rendezvous.ended")]

    async def wait() -> str:
        return (await async_wait_until(ends, seconds=END_SECONDS, what="the end of a pair"))[0]

    return wait


def _string(
    deployment: Deployment, published: Published, role: Role, route: str, target: HostPort | None = None
) -> ConnectionString:
    closed = ROUTES[route][1]
    ports = deployment.ports if closed is None else {**deployment.ports, closed: None}
    return deployment.string(published, role, target, ports=ports)


async def _exchange(stream: MuxStream) -> None:
    await stream.send_all(SOME_DATA)
    await stream.send_eof()
    assert await receive_all(stream) == SOME_DATA


async def test_a_client_that_ends_its_session(
    deployment: Deployment,
    nursery: trio.Nursery,
    first_end: Callable[[], Awaitable[str]],
    to_client: str,
    to_connector: str,
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    listening = _string(deployment, published, Role.CONNECTOR, to_connector, target=target)
    await deployment.connector(listening, mode=ROUTES[to_connector][0])
    string = _string(deployment, published, Role.APPLICATION, to_client)
    async with deployment.client(string, mode=ROUTES[to_client][0]) as client:
        async with await client.open_stream() as stream:
            await _exchange(stream)
        assert client.route == to_client
    assert await first_end() == "finished"
    nursery.cancel_scope.cancel()


async def test_a_connector_that_stops(
    deployment: Deployment,
    nursery: trio.Nursery,
    first_end: Callable[[], Awaitable[str]],
    to_client: str,
    to_connector: str,
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    stop = trio.Event()

    async def connector(*, task_status: trio.TaskStatus[tuple[ConnectionString, ...]]) -> None:
        listening = _string(deployment, published, Role.CONNECTOR, to_connector, target=target)
        await run_connector(
            ConnectorConfig([listening], mode=ROUTES[to_connector][0]), stop=stop, grace=10, task_status=task_status
        )

    await nursery.start(connector)
    string = _string(deployment, published, Role.APPLICATION, to_client)
    async with deployment.client(string, mode=ROUTES[to_client][0]) as client:
        async with await client.open_stream() as stream:
            await _exchange(stream)
        stop.set()
        assert await first_end() == "finished"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cut", [abort_stream, trio.aclose_forcefully], ids=["reset", "end of file"])
async def test_a_cut_in_the_network_is_reported_as_that(
    deployment: Deployment,
    nursery: trio.Nursery,
    first_end: Callable[[], Awaitable[str]],
    to_client: str,
    to_connector: str,
    cut: Callable[[trio.abc.AsyncResource], Awaitable[None]],
) -> None:
    """The client's connections are cut in the middle: only the network reports it, in one way or the other."""
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    listening = _string(deployment, published, Role.CONNECTOR, to_connector, target=target)
    await deployment.connector(listening, mode=ROUTES[to_connector][0])
    sockets: list[trio.SocketStream] = []

    async def dial(host: str, port: int) -> trio.SocketStream:
        sockets.append(await dial_directly(host, port))
        return sockets[-1]

    string = _string(deployment, published, Role.APPLICATION, to_client)
    async with deployment.client(string, mode=ROUTES[to_client][0], dialer=Dialer(dial)) as client:
        stream = await client.open_stream()
        await stream.send_all(SOME_DATA)
        for one in sockets:
            await cut(one)
        assert await first_end() == "closed by one side"
    nursery.cancel_scope.cancel()
