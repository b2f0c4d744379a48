"""A relay, a connector, and a client with a stream, to look at what the relay says about them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from hybridrelay.events import Event, EventStream, ListenerLeft, RendezvousEnded, SenderDropped
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import Binding, LiveRelay, Relay, RelayConfig
from hybridrelay.security import Role
from hybridrelay.streams import receive_exactly

from ..waiting import patience
from .deployment import HOST, PORTS, Deployment, Published, echo, serve_target


@attrs.frozen
class Scene:
    """A relay with a connector, a client and its stream."""

    live: LiveRelay
    stream: trio.abc.HalfCloseableStream
    events: list[Event]

    async def echoes(self, data: bytes) -> None:
        """The stream carries bytes both ways."""
        with trio.fail_after(patience(20)):
            await self.stream.send_all(data)
            assert await receive_exactly(self.stream, len(data)) == data

    def reasons(self, kind: type[ListenerLeft | RendezvousEnded | SenderDropped]) -> list[Reason]:
        return [event.reason for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def relay_and_connector(
    directory: Path, mode: str = "tcp"
) -> AsyncIterator[tuple[Relay, Deployment, Published, list[Event]]]:
    events: list[Event] = []
    config = RelayConfig(state_dir=directory, bindings={name: (Binding(HOST, 0),) for name in PORTS})
    relay = Relay(config, events=EventStream(events.append))
    async with trio.open_nursery() as nursery:
        info = await nursery.start(relay.run)
        deployment = Deployment(nursery, directory, info, nursery.cancel_scope)
        published = deployment.publish()
        target = await serve_target(nursery, echo)
        await deployment.connector(deployment.string(published, Role.CONNECTOR, target), mode=mode)
        yield relay, deployment, published, events
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def running(directory: Path, mode: str = "tcp") -> AsyncIterator[Scene]:
    async with relay_and_connector(directory, mode) as (relay, deployment, published, events):
        string = deployment.string(published, Role.APPLICATION)
        async with deployment.client(string, mode=mode) as client, await client.open_stream() as stream:
            yield Scene(relay.live, stream, events)
