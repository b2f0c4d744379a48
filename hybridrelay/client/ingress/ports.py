"""Local ports that look like the target: every TCP connection becomes one stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from ..._accepting import accept_sockets
from ..._check_type import check_type
from ..._listening import explain_listen_error, open_listeners
from ..._nursery import FlatNursery, wait_stop
from ...connectivity.endpoint import format_address
from ...errors import ConfigurationError
from ...events.client import ConnectionsCutOff, ForwardOpenToOthers
from ...events.stream import EventStream
from ...mux import open_bridges
from ...security import bracketed
from ...security.names import is_loopback
from ..client import Client
from .connections import Connections
from .readiness import keep_connected

__all__ = ["PortService", "open_port", "run_forward"]


async def run_forward(
    client: Client,
    listen: Sequence[tuple[str, int]],
    *,
    stop: trio.Event | None = None,
    grace: float = 0.0,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen, and forward every connection through `client` until cancelled or stopped.

    `task_status.started` passes the bound addresses, with port 0 replaced by the actual port, once the first attempt
    to connect has succeeded or failed. Whenever the session is lost, another one is opened, unless the key is no
    longer valid.

    If the target or the tunnel fails, the application's connection is reset; the application never sees an end of
    file that the target did not send. If cancelled, all connections are reset.

    Args:
        client: from `open_client`.
        listen: (host, port) of each local address; port 0 means any free port.
        stop: setting it stops gracefully: no further connections are accepted, and those that are open have up to
            `grace` seconds to finish.
        grace: seconds; after that, open connections are reset.
        task_status: for `nursery.start`.

    Raises:
        ConfigurationError: an address cannot be bound.
        RelayIdentityError: at the first attempt to connect, what answered was not the relay.
        AuthorizationError: every relay says that the key or the hybrid connection is not valid, and nothing is open.
        TypeError: `client` is not a `Client`.
    """
    check_type(client, Client, "async with open_client(...) as client")
    listeners: list[trio.SocketListener] = []
    async with FlatNursery() as nursery:
        try:
            for host, port in listen:
                listeners += await open_port(host, port, events=client.events)
            service = PortService(client, listeners)
            await nursery.start(keep_connected, client)
            async with trio.open_nursery() as serving:
                await serving.start(service.run)
                task_status.started(service.bound)
                await wait_stop(stop)
                service.stop(grace)
            nursery.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()


async def open_port(host: str, port: int, *, events: EventStream) -> list[trio.SocketListener]:
    """Listen on a local address, for `PortService`. The caller closes the listeners.

    Args:
        host: a name or an address.
        port: 0 means any free port.
        events: the stream to which events are published.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    try:
        return await open_listeners(host, port, events=events)
    except OSError as exc:
        otherwise = "or choose another --listen address; port 0 means any free port"
        text, remedy = explain_listen_error(exc, port, otherwise=otherwise)
        raise ConfigurationError(f"cannot listen on {bracketed(host)}:{port}: {text}", remedy=remedy) from exc


class PortService:
    """Forwards every connection to some listeners through a client. Publishes an event if other machines can connect.

    Args:
        client: opens the streams. `Client.listening` has the addresses while connections are accepted.
        listeners: from `open_port`. The caller closes them after `run` has returned, or passes them to another
            `PortService` after `has_stopped` is set.
    """

    def __init__(self, client: Client, listeners: Sequence[trio.SocketListener]) -> None:
        self._client = client
        self._listeners = listeners
        #: The bound addresses.
        self.bound: list[tuple[str, int]] = [listener.socket.getsockname()[:2] for listener in listeners]
        #: Set when no more connections are accepted.
        self.has_stopped = trio.Event()
        self._stop = trio.Event()
        self._scope = trio.CancelScope()
        self._report_open_to_others()

    def stop(self, grace: float) -> None:
        """Accept no more connections. Those that are open have up to `grace` seconds to finish, and are then reset.

        A second call can only shorten this time.
        """
        self._stop.set()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + grace)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped. If cancelled, all connections are reset."""
        client, addresses = self._client, tuple(format_address(*address) for address in self.bound)
        served: Connections | None = None
        client.listening = (*client.listening, *addresses)
        try:
            with self._scope:
                async with open_bridges() as bridges, trio.open_nursery() as waiting:
                    served = Connections(client, bridges, waiting)
                    async with trio.open_nursery() as accepting:
                        what = f"{client.connection} at {', '.join(addresses)}"
                        accept = partial(
                            accept_sockets, served.take, self._listeners, events=client.events, what=what
                        )
                        await accepting.start(accept)
                        task_status.started()
                        await self._stop.wait()
                        self._forget(addresses)
                        accepting.cancel_scope.cancel()
                    self.has_stopped.set()
        finally:
            self._forget(addresses)
            self.has_stopped.set()
        cut_off = 0 if served is None else served.cut_off
        if cut_off:
            client.events.publish(ConnectionsCutOff(connection=client.connection, connections=cut_off))

    def _forget(self, addresses: Sequence[str]) -> None:
        self._client.listening = tuple(one for one in self._client.listening if one not in addresses)

    def _report_open_to_others(self) -> None:
        addresses = tuple(format_address(host, port) for host, port in self.bound if not is_loopback(host))
        if addresses:
            self._client.events.publish(ForwardOpenToOthers(connection=self._client.connection, addresses=addresses))
