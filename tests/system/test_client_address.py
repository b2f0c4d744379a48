"""The connector learns the address of a client from the relay, for its audit log."""

from __future__ import annotations

import trio

from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.events import Event, EventStream, SessionOpened, StreamOpened
from hybridrelay.security import Role

from .deployment import Deployment, echo, serve_target


async def test_sessions_and_streams_have_it(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    config = ConnectorConfig([deployment.string(published, Role.CONNECTOR, target)])
    seen: list[Event] = []

    async def connector(*, task_status: trio.TaskStatus[object]) -> None:
        await run_connector(config, events=EventStream(seen.append), task_status=task_status)

    await nursery.start(connector)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        async with await client.open_stream() as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"

    about = [one for one in seen if isinstance(one, SessionOpened | StreamOpened)]
    assert [(type(one), one.client_address) for one in about] == [
        (SessionOpened, "127.0.0.1"),
        (StreamOpened, "127.0.0.1"),
    ]
    nursery.cancel_scope.cancel()
