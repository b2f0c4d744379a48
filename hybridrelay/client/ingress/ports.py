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
from ...mux import open_bridges
from ...security import bracketed
from ...security.names import is_loopback
from ..client import Client
from .connections import Connections
from .readiness import keep_connected

__all__ = ["run_forward"]


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
                listeners += await _listen(client, host, port)
            _report_open_to_others(client, listeners)
            await nursery.start(keep_connected, client)
            bound = [listener.socket.getsockname()[:2] for listener in listeners]
            client.listening = tuple(format_address(*address) for address in bound)
            what = f"{client.connection} at {', '.join(client.listening)}"
            served: Connections | None = None
            with trio.CancelScope() as scope:
                async with open_bridges() as bridges, trio.open_nursery() as waiting:
                    served = Connections(client, bridges, waiting)
                    async with trio.open_nursery() as accepting:
                        accept = partial(accept_sockets, served.take, listeners, events=client.events, what=what)
                        await accepting.start(accept)
                        task_status.started(bound)
                        await wait_stop(stop)
                        client.listening = ()
                        accepting.cancel_scope.cancel()
                    scope.deadline = trio.current_time() + grace
            cut_off = 0 if served is None else served.cut_off
            if cut_off:
                client.events.publish(ConnectionsCutOff(connection=client.connection, connections=cut_off))
            nursery.cancel_scope.cancel()
        finally:
            client.listening = ()
            for listener in listeners:
                listener.socket.close()


def _report_open_to_others(client: Client, listeners: Sequence[trio.SocketListener]) -> None:
    bound = [listener.socket.getsockname()[:2] for listener in listeners]
    addresses = tuple(format_address(host, port) for host, port in bound if not is_loopback(host))
    if addresses:
        client.events.publish(ForwardOpenToOthers(connection=client.connection, addresses=addresses))


async def _listen(client: Client, host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await open_listeners(host, port, events=client.events)
    except OSError as exc:
        otherwise = "or choose another --listen address; port 0 means any free port"
        text, remedy = explain_listen_error(exc, port, otherwise=otherwise)
        raise ConfigurationError(f"cannot listen on {bracketed(host)}:{port}: {text}", remedy=remedy) from exc
