"""Local ports and Unix sockets that look like the target: every connection becomes one stream.

This module is long because it also opens the ports, of every kind, and explains why one cannot be opened.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from ..._accepting import accept_sockets
from ..._check_type import check_type
from ..._datagram_address import DatagramAddress
from ..._listening import bind_datagrams, explain_listen_error, open_listeners
from ..._nursery import FlatNursery, wait_stop
from ..._own_address import OwnAddress
from ..._unix_address import UnixAddress
from ...connectivity.endpoint import format_address
from ...errors import ConfigurationError
from ...events.client import ConnectionsCutOff, ForwardOpenToOthers, OwnPortNotOpened
from ...events.stream import EventStream
from ...mux import open_bridges
from ...security import bracketed
from ...security.names import is_loopback
from ...streams.sockets import abort_socket
from ...streams.unix_sockets import SocketFile, is_listening, listen_unix_socket
from ..client import Client
from .connections import Connections
from .datagrams import serve_datagrams
from .readiness import keep_connected

__all__ = ["OpenPort", "PortService", "open_port", "run_forward"]

#: How many ports to try until one is free for both streams and datagrams.
_ATTEMPTS = 16


async def run_forward(
    client: Client,
    listen: Sequence[tuple[str, int] | DatagramAddress | UnixAddress],
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
        listen: (host, port) of each local address; port 0 means any free port. A `DatagramAddress` is for datagrams.
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
    ports: list[OpenPort] = []
    async with FlatNursery() as nursery:
        try:
            for address in listen:
                ports += [await open_port(address, events=client.events)]
            service = PortService(client, ports)
            await nursery.start(keep_connected, client)
            async with trio.open_nursery() as serving:
                await serving.start(service.run)
                task_status.started(service.bound)
                await wait_stop(stop)
                service.stop(grace)
            nursery.cancel_scope.cancel()
        finally:
            for port in ports:
                port.close()


@attrs.define(eq=False)
class OpenPort:
    """A local address on which this program listens."""

    listeners: Sequence[trio.SocketListener]
    #: The addresses of the listeners, for people.
    names: tuple[str, ...]
    #: UDP sockets.
    datagrams: Sequence[socket.socket] = ()
    #: The file of a Unix socket.
    file: SocketFile | None = None
    #: Whether only an application that this program has started can connect.
    is_private: bool = False
    #: Returns whether a connection from an address is served. None: all are.
    admits: Callable[[tuple[str, int]], bool] | None = None

    @property
    def bound(self) -> list[tuple[str, int]]:
        """The addresses and ports that others may connect to; empty for a Unix socket."""
        return (
            []
            if self.file is not None or self.is_private
            else [
                *(one.socket.getsockname()[:2] for one in self.listeners),
                *(one.getsockname()[:2] for one in self.datagrams),
            ]
        )

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self.file is not None:
            self.file.remove()
        for listener in self.listeners:
            listener.socket.close()
        for sock in self.datagrams:
            sock.close()


async def open_port(
    address: tuple[str, int] | DatagramAddress | OwnAddress | UnixAddress, *, events: EventStream
) -> OpenPort:
    """Listen on a local address, for `PortService`. The caller closes it.

    Args:
        address: a host name or an address, and a port, where 0 means any free port; or a Unix socket. The file of a
            Unix socket that a killed program has left behind is replaced. For an `OwnAddress`, another port may be
            opened, which an event reports.
        events: the stream to which events are published.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    if isinstance(address, UnixAddress):
        return await _open_unix_socket(address)
    if isinstance(address, DatagramAddress):
        return await _open_datagram_port(address, events=events)
    listeners = await (
        _open_own_port(address, events=events)
        if isinstance(address, OwnAddress)
        else _open_tcp_port(*address, events=events)
    )
    names = tuple(format_address(*listener.socket.getsockname()[:2]) for listener in listeners)
    return OpenPort(listeners, names)


async def _open_unix_socket(address: UnixAddress) -> OpenPort:
    path = Path(address.path)
    try:
        if await is_listening(path):
            raise ConfigurationError(
                f"cannot listen on {address}: a program listens there already",
                remedy="stop that program, or choose another path",
            )
        listener, file = await listen_unix_socket(path, mode=address.mode)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot listen on {address}: {exc.strerror or exc}",
            remedy="choose a short path in a directory that exists and that this user may write to; only a socket is "
            "replaced",
        ) from exc
    return OpenPort([listener], (str(address),), file=file)


async def _open_datagram_port(address: DatagramAddress, *, events: EventStream) -> OpenPort:
    """Open a UDP socket, and with streams a TCP listener at the same port. A free port may be taken in between, so
    that is tried a few times."""
    for attempt in reversed(range(_ATTEMPTS)):
        listeners = await _open_tcp_port(address.host, address.port, events=events) if address.with_streams else []
        try:
            places = [one.socket.getsockname()[:2] for one in listeners] or [(address.host, address.port)]
            found = [sock for host, port in places for sock in await bind_datagrams(host, port)]
        except OSError as exc:
            for listener in listeners:
                listener.socket.close()
            if attempt and address.port == 0 and exc.errno == errno.EADDRINUSE:
                continue
            otherwise = "or choose another --listen address; port 0 means any free port"
            text, remedy = explain_listen_error(exc, address.port, otherwise=otherwise)
            raise ConfigurationError(f"cannot receive datagrams at {address}: {text}", remedy=remedy) from exc
        names = (
            *(format_address(*one.socket.getsockname()[:2]) for one in listeners),
            *(f"{format_address(*sock.getsockname()[:2])}/udp" for sock in found),
        )
        return OpenPort(listeners, names, found)
    raise AssertionError


async def _open_tcp_port(host: str, port: int, *, events: EventStream) -> list[trio.SocketListener]:
    try:
        return await open_listeners(host, port, events=events)
    except OSError as exc:
        otherwise = "or choose another --listen address; port 0 means any free port"
        text, remedy = explain_listen_error(exc, port, otherwise=otherwise)
        raise ConfigurationError(f"cannot listen on {bracketed(host)}:{port}: {text}", remedy=remedy) from exc


async def _open_own_port(address: OwnAddress, *, events: EventStream) -> list[trio.SocketListener]:
    """Listen on an address of its own. If the wanted port cannot be opened, listen on any free port of the address,
    so that the other hybrid connections can still be reached."""
    try:
        return await open_listeners(address.host, address.port, events=events)
    except OSError as exc:
        if exc.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(
                f"cannot listen on {address}: this machine has no such address",
                remedy=f"as root, add it (on macOS with 'ifconfig lo0 alias {address.host}'), or use another "
                "--listen",
            ) from exc
        if exc.errno not in (errno.EACCES, errno.EADDRINUSE):
            raise ConfigurationError(f"cannot listen on {address}: {exc.strerror or exc}") from exc
        listeners = await _open_tcp_port(address.host, 0, events=events)
        text, remedy = explain_listen_error(exc, address.port, otherwise="or let the application use the other port")
        if exc.errno == errno.EADDRINUSE:
            remedy = f"a program that listens on all addresses may be using the port: {remedy}"
        used = listeners[0].socket.getsockname()[1]
        events.publish(OwnPortNotOpened(address=str(address), used_port=used, detail=text, remedy=remedy))
        return listeners


class PortService:
    """Forwards every connection to some ports through a client. Publishes an event if other machines can connect.

    Args:
        client: opens the streams. `Client.listening` has the addresses while connections are accepted.
        ports: from `open_port`. The caller closes them after `run` has returned, or passes them to another
            `PortService` after `has_stopped` is set.
        fronts: the addresses of fronts that pass connections to `connections`.
    """

    def __init__(self, client: Client, ports: Sequence[OpenPort], *, fronts: Sequence[str] = ()) -> None:
        self._client = client
        self._listeners = [listener for port in ports for listener in port.listeners]
        self._datagrams = [sock for port in ports for sock in port.datagrams]
        self._names = (*(name for port in ports for name in port.names), *fronts)
        #: Serves connections that something else has accepted; None while no connections are accepted.
        self.connections: Connections | None = None
        self._admits = tuple(port.admits for port in ports if port.admits is not None)
        #: The bound addresses and ports.
        self.bound = [one for port in ports for one in port.bound]
        #: Set when no more connections are accepted.
        self.has_stopped = trio.Event()
        self._stop = trio.Event()
        self._scope = trio.CancelScope()
        self._report_open_to_others()

    def stop(self, grace: float) -> None:
        """Accept no more connections. Those that are open have up to `grace` seconds to finish, and are then reset.
        Flows of datagrams end at once; the next datagram from the same program begins another one.

        A second call can only shorten this time.
        """
        self._stop.set()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + grace)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped. If cancelled, all connections are reset."""
        client = self._client
        served: Connections | None = None
        client.listening = (*client.listening, *self._names)
        try:
            with self._scope:
                async with open_bridges() as bridges, trio.open_nursery() as waiting:
                    served = self.connections = Connections(client, bridges, waiting)
                    async with trio.open_nursery() as accepting:
                        what = f"{client.connection} at {', '.join(self._names)}"
                        take = partial(_take, served, self._admits)
                        accept = partial(accept_sockets, take, self._listeners, events=client.events, what=what)
                        if self._listeners or not self._datagrams:
                            await accepting.start(accept)
                        for sock in self._datagrams:
                            accepting.start_soon(serve_datagrams, client, sock)
                        task_status.started()
                        await self._stop.wait()
                        self.connections = None
                        self._forget()
                        accepting.cancel_scope.cancel()
                    self.has_stopped.set()
        finally:
            self.connections = None
            self._forget()
            self.has_stopped.set()
        cut_off = 0 if served is None else served.cut_off
        if cut_off:
            client.events.publish(ConnectionsCutOff(connection=client.connection, connections=cut_off))

    def use_fronts(self, fronts: Sequence[str]) -> None:
        """Use other addresses of fronts from now on.

        Raises:
            DeniedByPolicy: the policy of the machine does not allow it. Nothing was changed.
        """
        self._client.listening = (*(one for one in self._client.listening if one not in self._names), *fronts)
        self._names = tuple(fronts)

    def _forget(self) -> None:
        self._client.listening = tuple(one for one in self._client.listening if one not in self._names)

    def _report_open_to_others(self) -> None:
        addresses = tuple(format_address(host, port) for host, port in self.bound if not is_loopback(host))
        if addresses:
            self._client.events.publish(ForwardOpenToOthers(connection=self._client.connection, addresses=addresses))


def _take(
    served: Connections,
    admits: Sequence[Callable[[tuple[str, int]], bool]],
    accepted: socket.socket,
    peer: Any,
) -> None:
    """Serve a connection, or reset it if one of the listeners does not admit it."""
    if admits and not any(one(peer[:2]) for one in admits):
        accepted.setblocking(False)
        abort_socket(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
    else:
        served.take(accepted, peer)
