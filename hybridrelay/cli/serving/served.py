"""One hybrid connection that a forward, or `run`, serves, and its local ports."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import attrs
import trio

from ..._nursery import FlatNursery
from ...client import Client, ClientConfig, OpenPort, PortService, keep_connected, open_client
from ...errors import AuthorizationError, HybridRelayError
from ...events.client import ForwardPortClosed
from ...events.stream import EventStream
from ...security import ConnectionString, update_string
from ..entries import Entry, Listen
from .failures import AfterFailure, LastLook, after_failure

__all__ = ["LocalPort", "Place", "Served"]

#: A local address of an entry, and how many of its earlier addresses are the same (127.0.0.1:0).
Place: TypeAlias = tuple[Listen, int]


@attrs.define(eq=False)
class LocalPort:
    """A local address, and what accepts connections there."""

    opened: OpenPort
    #: What accepts connections there, or has done so last.
    service: PortService | None = None

    @property
    def is_served(self) -> bool:
        """Whether connections are accepted, or will be as soon as the service runs."""
        return self.service is not None and not self.service.has_stopped.is_set()

    async def release(self, grace: float) -> None:
        """Accept no more connections for the current client. The listeners stay open, for another one."""
        if self.service is not None:
            self.service.stop(grace)
            await self.service.has_stopped.wait()

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
    """A hybrid connection with its client. If that fails, another client may serve at the same ports."""

    entry: Entry
    #: The connection string as it was read.
    string: ConnectionString
    #: The connection string with which the next client begins. That of the current one may be another, because relays
    #: give keys and updates.
    next_string: ConnectionString = attrs.field(
        default=attrs.Factory(lambda self: self.string, takes_self=True), kw_only=True
    )
    #: See `ClientConfig.origin`; for the next client.
    origin: ConnectionString | None = attrs.field(default=None, kw_only=True)
    ports: dict[Place, LocalPort] = attrs.field(factory=dict, kw_only=True)
    #: The addresses of fronts through which it can be reached.
    fronts: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    #: Serves connections that fronts have accepted; None while there is no client.
    from_fronts: PortService | None = attrs.field(default=None, init=False)
    #: None before the first client, between two of them, and after the last.
    client: Client | None = attrs.field(default=None, init=False)
    #: Whether the first attempt to connect is over, and connections are accepted.
    has_started: bool = attrs.field(default=False, init=False)
    #: Whether it has ended, and its ports are closed.
    is_over: bool = attrs.field(default=False, init=False)
    _stop: trio.Event = attrs.field(factory=trio.Event, init=False)
    _grace: float = attrs.field(default=math.inf, init=False)
    #: Runs the services of the current client; None while no service can be added.
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    #: The connection string with which a client has failed last.
    _failed: ConnectionString | None = attrs.field(default=None, init=False)
    _services: list[PortService] = attrs.field(factory=list, init=False)

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
        events: EventStream,
        *,
        last_look: LastLook,
        is_last: Callable[[], bool],
        forget: Callable[[], None],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve until `end` is called, or the client fails and nothing else can be done; see `failures`.

        Args:
            make_config: makes the configuration of a client.
            events: the stream to which events are published.
            last_look: awaited before it is decided what becomes of a failure. The ports stay open in that time.
            is_last: see `after_failure`.
            forget: called when this has ended, before anything else can change. May be called several times.
            task_status: `started` is called when connections are accepted.

        Raises:
            HybridRelayError: at the start, see `keep_connected` and `open_client`. Later, the client has failed, and
                the program is to end.
        """
        try:
            while (failure := await self._run_until_failure(make_config, events, task_status)) is not None:
                if self._stop.is_set():
                    break
                task_status = trio.TASK_STATUS_IGNORED  # `started` was called, and can be called only once
                async with last_look():
                    match after_failure(
                        is_ending=self._stop.is_set(),
                        has_other_string=self.next_string != self._failed,
                        is_last=is_last(),
                    ):
                        case AfterFailure.SERVE_AGAIN:
                            continue
                        case AfterFailure.END_PROGRAM:
                            raise failure
                        case AfterFailure.CLOSE_PORTS:
                            name, remedy = self.string.entity_path, failure.remedy or ""
                            events.publish(
                                ForwardPortClosed(
                                    connection=name, reason=failure.reason, detail=str(failure), remedy=remedy
                                )
                            )
                    forget()
                    return
            # Those that were taken over last may still be served for the earlier client.
            for port in list(self.ports.values()):
                await port.release(math.inf)
        finally:
            forget()

    async def _run_until_failure(
        self,
        make_config: Callable[[ConnectionString], ClientConfig],
        events: EventStream,
        task_status: trio.TaskStatus[None],
    ) -> HybridRelayError | None:
        """Serve with one client. Returns why it has failed; None if it was stopped.

        Raises:
            HybridRelayError: it has failed at the start.
        """
        self._failed = self.next_string
        try:
            await self._run_client(make_config(self.next_string), events, task_status)
        except HybridRelayError as exc:
            if not self.has_started:
                raise
            return exc
        return None

    async def _run_client(
        self, config: ClientConfig, events: EventStream, task_status: trio.TaskStatus[None]
    ) -> None:
        config = attrs.evolve(config, origin=self.origin)
        async with open_client(config, events=events) as client:
            self.client = client
            try:
                async with FlatNursery() as connecting:
                    await connecting.start(self._keep_connected, client)
                    async with FlatNursery() as nursery:
                        await self._serve_ports(client, nursery, task_status)
                    connecting.cancel_scope.cancel()
            finally:
                # Closing the client takes a while. What changes from here on is for the next one.
                self.next_string, self.origin = client.connection_string, client.keeper.origin
                self.client = self.from_fronts = None
                self._services.clear()

    async def _serve_ports(self, client: Client, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Accept connections until stopped."""
        self._nursery = nursery
        try:
            self.from_fronts = PortService(client, (), fronts=self.fronts)
            await self._start_service(nursery, self.from_fronts)
            for place in list(self.ports):
                # In the meantime, the port may have been taken away, or `add` may serve it.
                port = self.ports.get(place)
                if port is not None and not port.is_served:
                    await self._serve(port)
            self.has_started = True
            task_status.started()
            await self._stop.wait()
        finally:
            self._nursery = None

    async def _keep_connected(self, client: Client, *, task_status: trio.TaskStatus[None]) -> None:
        """See `keep_connected`. Notes what relays have refused: they may have given the client another key."""
        try:
            await keep_connected(client, at_start=not self.has_started, task_status=task_status)
        except AuthorizationError:
            self._failed = client.connection_string
            raise

    def update(self, string: ConnectionString) -> None:
        """Use a changed connection string from now on; see `Client.update`.

        Args:
            string: what was read.

        Raises:
            ConfigurationError: it cannot be used here. Nothing was changed.
        """
        if self.client is not None:
            self.client.update(string)
        else:
            self.next_string = update_string(self.next_string, string).string
            if self.origin is not None:  # as in `StringKeeper.given`
                self.origin = attrs.evolve(string, identity=self.origin.identity)
        self.string = string

    def use(self, string: ConnectionString) -> None:
        """Serve with another connection string, such as one with another identity, while there is no client."""
        assert self.client is None
        self.string = self.next_string = string
        self.origin = None

    async def add(self, place: Place, port: LocalPort) -> None:
        """Accept connections at one more port.

        Raises:
            DeniedByPolicy: the policy of the machine does not allow it. The port is closed.
        """
        self.ports[place] = port
        try:
            await self._serve(port)
        except BaseException:
            self.ports.pop(place, None)
            port.close()
            raise

    async def take_ports(self, earlier: Served) -> None:
        """Accept connections at the ports of another client in its place. The other client's open connections
        continue.

        Raises:
            DeniedByPolicy: the policy of the machine does not allow one of them, which is closed. All others were
                taken.
        """
        taken = dict(earlier.ports)
        earlier.ports.clear()
        self.ports.update(taken)
        failure: HybridRelayError | None = None
        for place, port in taken.items():
            await port.release(math.inf)
            if place in self.ports:  # otherwise, the program has stopped in the meantime
                try:
                    await self.add(place, port)
                except HybridRelayError as exc:
                    failure = failure or exc
        if failure is not None:
            raise failure

    async def _serve(self, port: LocalPort) -> None:
        if self.client is not None and self._nursery is not None:  # otherwise, the next client serves it
            port.service = PortService(self.client, [port.opened])
            await self._start_service(self._nursery, port.service)

    async def _start_service(self, nursery: trio.Nursery, service: PortService) -> None:
        self._services.append(service)
        await nursery.start(service.run)
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
        """Stop listening, because this has ended."""
        self.is_over = True
        for port in self.ports.values():
            port.close()
        self.ports.clear()
