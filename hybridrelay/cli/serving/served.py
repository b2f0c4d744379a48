"""One hybrid connection that a forward, or `run`, serves, and its local ports."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import attrs
import trio

from ..._nursery import FlatNursery
from ...client import Client, ClientConfig, OpenPort, PortService, keep_connected, open_client
from ...errors import AuthorizationError
from ...events.stream import EventStream
from ...security import ConnectionString
from ..entries import Entry, Listen

__all__ = ["LocalPort", "Place", "Served"]

#: A local address of an entry, and how many of its earlier addresses are the same (127.0.0.1:0).
Place: TypeAlias = tuple[Listen, int]


@attrs.define(eq=False)
class LocalPort:
    """A local address, and what accepts connections there."""

    opened: OpenPort
    service: PortService | None = None

    async def release(self, grace: float) -> None:
        """Accept no more connections for the current client. The listeners stay open, for another one."""
        service, self.service = self.service, None
        if service is not None:
            service.stop(grace)
            await service.has_stopped.wait()

    async def end(self) -> None:
        """Accept no more connections, and stop listening. Open connections continue."""
        await self.release(math.inf)
        self.close()
        self.opened = OpenPort([], ())

    def close(self) -> None:
        """Stop listening."""
        self.opened.close()


@attrs.define(eq=False)
class Served:
    """A hybrid connection with its client."""

    entry: Entry
    string: ConnectionString
    ports: dict[Place, LocalPort] = attrs.field(factory=dict)
    #: The addresses of fronts through which it can be reached.
    fronts: tuple[str, ...] = ()
    #: Serves connections that fronts have accepted.
    from_fronts: PortService | None = None
    client: Client | None = None
    #: See `ClientConfig.origin`.
    origin: ConnectionString | None = None
    #: Whether the first attempt to connect is over, and connections are accepted.
    has_started: bool = False
    _stop: trio.Event = attrs.field(factory=trio.Event)
    _grace: float = math.inf
    _nursery: trio.Nursery | None = None
    #: The connection string that relays have refused last.
    _refused: ConnectionString | None = None
    _services: list[PortService] = attrs.field(factory=list)

    def end(self, grace: float) -> None:
        """Accept no more connections. Open ones may continue for `grace` seconds; a second call can only shorten
        this."""
        self._grace = min(self._grace, grace)
        self._stop.set()
        for service in self._services:
            service.stop(self._grace)

    async def run(
        self,
        make_config: Callable[[ConnectionString], ClientConfig],
        string: ConnectionString,
        events: EventStream,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve with a connection string until `end` is called, or relays refuse it.

        A client takes some time to end after a refusal. If it is given another connection string in that time, the
        ports stay open, and another client serves with that one.

        Raises:
            HybridRelayError: see `keep_connected` and `open_client`.
        """
        while True:
            try:
                await self._run_client(make_config(string), events, task_status)
            except AuthorizationError:
                if not self.has_started or self._stop.is_set():
                    raise
                assert self.client is not None
                string, self.origin = self.client.connection_string, self.client.keeper.origin
                if string == self._refused:
                    raise
                task_status = trio.TASK_STATUS_IGNORED  # `started` was called, and can be called only once
            else:
                return

    async def _run_client(
        self, config: ClientConfig, events: EventStream, task_status: trio.TaskStatus[None]
    ) -> None:
        config = attrs.evolve(config, origin=self.origin)
        async with open_client(config, events=events) as self.client, FlatNursery() as connecting:
            try:
                await connecting.start(self._keep_connected, self.client)
                async with FlatNursery() as self._nursery:
                    self.from_fronts = PortService(self.client, (), fronts=self.fronts)
                    await self._start_service(self.from_fronts)
                    for place in list(self.ports):
                        # In the meantime, the port may have been taken away, or `add` may serve it.
                        port = self.ports.get(place)
                        if port is not None and port.service is None:
                            await self._serve(port)
                    self.has_started = True
                    task_status.started()
                    await self._stop.wait()
                connecting.cancel_scope.cancel()
            finally:
                self._nursery = None
                self._services.clear()
                for port in self.ports.values():
                    port.service = None
        self.client = None

    async def _keep_connected(self, client: Client, *, task_status: trio.TaskStatus[None]) -> None:
        """See `keep_connected`. Remembers what relays have refused."""
        try:
            await keep_connected(client, task_status=task_status)
        except AuthorizationError:
            self._refused = client.connection_string
            raise

    async def add(self, place: Place, port: LocalPort) -> None:
        """Accept connections at one more port."""
        self.ports[place] = port
        await self._serve(port)

    async def take_ports(self, earlier: Served) -> None:
        """Accept connections at the ports of another client in its place. The other client's open connections
        continue."""
        # All at once, because the other one closes those that it still has if it ends by itself in the meantime.
        taken = dict(earlier.ports)
        earlier.ports.clear()
        self.ports.update(taken)
        for place, port in taken.items():
            await port.release(math.inf)
            await self.add(place, port)

    async def _serve(self, port: LocalPort) -> None:
        assert self.client is not None
        if self._nursery is not None:  # otherwise, the client has ended by itself
            port.service = PortService(self.client, [port.opened])
            await self._start_service(port.service)

    async def _start_service(self, service: PortService) -> None:
        assert self._nursery is not None
        self._services.append(service)
        await self._nursery.start(service.run)
        if self._stop.is_set():
            service.stop(self._grace)

    def use_fronts(self, names: tuple[str, ...]) -> None:
        """Use other addresses of fronts from now on.

        Raises:
            DeniedByPolicy: see `PortService.use_fronts`.
        """
        if self.from_fronts is not None:
            self.from_fronts.use_fronts(names)
        self.fronts = names

    def close_ports(self) -> None:
        """Stop listening."""
        for port in self.ports.values():
            port.close()
        self.ports.clear()
