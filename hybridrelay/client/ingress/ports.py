"""Local ports and Unix sockets that look like the target: every connection becomes one stream.

If the hybrid connection has several ports, and a local port stands for one of them, its streams say which.
"""

# This module is long because it also opens the ports, of every kind, and explains why one cannot be opened.

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import trio

from ..._accepting import Take, accept_sockets
from ..._check_type import check_type
from ..._datagram_address import DatagramAddress
from ..._listening import bind_datagrams, explain_listen_error, open_listeners
from ..._name_ports import NamePorts
from ..._nursery import FlatNursery, wait_stop
from ..._own_address import EveryPort
from ..._unix_address import UnixAddress
from ...connectivity.endpoint import format_address
from ...errors import ConfigurationError
from ...events.client import ConnectionsCutOff, ForwardOpenToOthers, OwnPortNotOpened, PortsLeftOut
from ...events.stream import EventStream
from ...mux import open_bridges
from ...security import bracketed
from ...security.names import is_loopback
from ...security.targets import ranges_of
from ...streams.sockets import abort_socket
from ...streams.turns import SharedTurns
from ...streams.unix_sockets import SocketFile, is_listening, listen_unix_socket
from ..client import Client
from .connections import Connections
from .datagrams import serve_datagrams
from .readiness import keep_connected

#: What listens at a port: for TCP connections, or for datagrams.
_Listening: TypeAlias = trio.SocketListener | socket.socket
#: Where `open_port` listens.
LocalAddress: TypeAlias = tuple[str, int] | DatagramAddress | NamePorts | UnixAddress

__all__ = ["OpenPort", "PortService", "open_port", "run_forward", "shown_addresses"]

#: How many ports to try until one is free for both streams and datagrams.
_ATTEMPTS = 16


async def run_forward(
    client: Client,
    listen: Sequence[tuple[str, int] | DatagramAddress | EveryPort | UnixAddress],
    *,
    stop: trio.Event | None = None,
    grace: float = 0.0,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen, and forward every connection through `client` until cancelled or stopped.

    `task_status.started` passes the bound addresses, with port 0 replaced by the actual port, once the first attempt
    to connect has succeeded or failed. Whenever the session is lost, another one is opened, unless the key is no
    longer valid.

    If the target or the session fails, the application's connection is reset; the application never sees an end of
    file that the target did not send. If cancelled, all connections are reset.

    Args:
        client: from `open_client`.
        listen: (host, port) of each local address, which leads to the first port of the target; port 0 means any free
            port. A `DatagramAddress` is for datagrams, a `UnixAddress` is a Unix socket. ``EveryPort(host)`` means
            every port of the local name in the connection string, at this address; `open_port` says what happens if
            one of them cannot be opened.
        stop: setting it stops gracefully: no further connections are accepted, and those that are open have up to
            `grace` seconds to finish.
        grace: seconds; after that, open connections are reset.
        task_status: for `nursery.start`.

    Raises:
        ConfigurationError: an address cannot be bound, or there is no local name for `EveryPort`.
        RelayIdentityError: at the first attempt to connect, what answered was not the relay.
        AuthorizationError: every relay says that the key or the hybrid connection is not valid, and nothing is open.
        TypeError: `client` is not a `Client`.
    """
    check_type(client, Client, "async with open_client(...) as client")
    ports: list[OpenPort] = []
    async with FlatNursery() as nursery:
        try:
            for one in listen:
                ports += [await open_port(_with_ports(one, client), events=client.events)]
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


def _with_ports(address: tuple[str, int] | DatagramAddress | EveryPort | UnixAddress, client: Client) -> LocalAddress:
    if isinstance(address, EveryPort):
        return NamePorts.every(address, client.connection_string.local_name)
    return address


@attrs.define(eq=False)
class OpenPort:
    """A local address on which this program listens."""

    listeners: list[trio.SocketListener]
    #: The addresses of the listeners, for people; a range of ports is one of them.
    names: tuple[str, ...]
    #: UDP sockets.
    datagrams: list[socket.socket] = attrs.field(factory=list)
    #: The port of a local name for which a listener or UDP socket stands.
    stands_for: dict[_Listening, int] = attrs.field(factory=dict, kw_only=True)
    #: Whether streams and flows say for which port they are, because the local name has several. Otherwise they are
    #: for the first port of the target.
    says_port: bool = attrs.field(default=False, kw_only=True)
    #: The ports of the local name on which this program could not listen, as `names`; without the first one, in place
    #: of which it listens on another port, unless another program has it.
    left_out: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    #: The file of a Unix socket.
    file: SocketFile | None = None
    #: Whether only an application that this program has started can connect.
    is_private: bool = False
    #: Returns whether a connection from an address, to one of the listeners, is served. None: all are.
    admits: Callable[[tuple[str, int], tuple[str, int]], bool] | None = None

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

    @property
    def taken_from_here(self) -> set[tuple[str, int, bool]]:
        """What `take_from` can take from here: addresses, ports, and whether they are for datagrams."""
        return {(*_bound_at(one), isinstance(one, socket.socket)) for one in self.stands_for}

    def take_from(self, other: OpenPort, wanted: NamePorts) -> None:
        """Take over what another `OpenPort` has open at the same address for ports that are wanted here. It is not
        closed in between."""
        here = {(isinstance(one, socket.socket), port) for one, port in self.stands_for.items()}
        for one, port in list(other.stands_for.items()):
            datagrams = isinstance(one, socket.socket)
            is_wanted = wanted.protocols.has_datagrams if datagrams else wanted.protocols.has_streams
            if is_wanted and port in wanted.ports and (datagrams, port) not in here:
                if isinstance(one, socket.socket):
                    other.datagrams.remove(one)
                    self.datagrams.append(one)
                else:
                    other.listeners.remove(one)
                    self.listeners.append(one)
                self.stands_for[one] = other.stands_for.pop(one)
        self.names = _names_of(self.listeners, self.datagrams)

    def port_of(self, one: _Listening) -> int | None:
        """Return which port of the target the connections of a listener, or the datagrams of a UDP socket, are for;
        None: the first one."""
        return self.stands_for.get(one) if self.says_port else None

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self.file is not None:
            self.file.remove()
        for listener in self.listeners:
            listener.socket.close()
        for sock in self.datagrams:
            sock.close()


async def open_port(
    address: LocalAddress, *, events: EventStream, held: Container[tuple[int, bool]] = ()
) -> OpenPort:
    """Listen on a local address, for `PortService`. The caller closes it.

    Args:
        address: a host name or an address, and a port, where 0 means any free port; or a Unix socket. The file of a
            Unix socket that a killed program has left behind is replaced. For `NamePorts`, some ports may not be
            opened, which events report: in place of the first one, another port is opened, and others are left out.
        events: the stream to which events are published.
        held: ports of `NamePorts`, and whether for datagrams, that are left to `OpenPort.take_from`.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    if isinstance(address, UnixAddress):
        return await _open_unix_socket(address)
    if isinstance(address, DatagramAddress):
        return await _open_datagram_port(address, events=events)
    if isinstance(address, NamePorts):
        return await _open_name_ports(address, held, events=events)
    listeners = await _open_tcp_port(*address, events=events)
    names = tuple(format_address(*listener.socket.getsockname()[:2]) for listener in listeners)
    return OpenPort(listeners, names)


def shown_addresses(bound: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    """Return addresses with their ports for people and logs. Consecutive ports are one range."""
    by_host: dict[str, list[int]] = {}
    for host, port in bound:
        by_host.setdefault(host, []).append(port)
    return tuple(
        format_address(host, first) if first == last else f"{format_address(host, first)}-{last}"
        for host, ports in by_host.items()
        for first, last in ranges_of(ports)
    )


def _shown(bound: Iterable[tuple[str, int]], *, datagrams: bool) -> tuple[str, ...]:
    return tuple(f"{one}/udp" if datagrams else one for one in shown_addresses(bound))


def _names_of(listeners: Iterable[trio.SocketListener], datagrams: Iterable[socket.socket]) -> tuple[str, ...]:
    """Return the addresses of listeners and UDP sockets, for people."""
    return (
        *_shown(map(_bound_at, listeners), datagrams=False),
        *_shown(map(_bound_at, datagrams), datagrams=True),
    )


def _bound_at(one: _Listening) -> tuple[str, int]:
    host, port, *_ = (one if isinstance(one, socket.socket) else one.socket).getsockname()
    return host, port


async def _open_unix_socket(address: UnixAddress) -> OpenPort:
    path = Path(address.path)
    try:
        if await is_listening(path):
            raise ConfigurationError(
                f"cannot listen on {address}: a program already listens there",
                remedy="stop that program, or choose another path",
            ) from OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        listener, file = await listen_unix_socket(path, mode=address.mode)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot listen on {address}: {exc.strerror or exc}",
            remedy="choose a short path in a directory that exists and that this user may write to; an existing file "
            "is replaced only if it is a socket",
        ) from exc
    return OpenPort([listener], (str(address),), file=file)


async def _open_datagram_port(address: DatagramAddress, *, events: EventStream) -> OpenPort:
    """Open UDP sockets, and with streams TCP listeners at the same port. If this may be any free port, another
    program may take it before both are open, so several ports are tried."""
    for attempt in reversed(range(_ATTEMPTS)):
        listeners = await _open_tcp_port(address.host, address.port, events=events) if address.with_streams else []
        found: list[socket.socket] = []
        try:
            places = [one.socket.getsockname()[:2] for one in listeners] or [(address.host, address.port)]
            for host, port in places:
                found += await bind_datagrams(host, port)
        except BaseException as exc:
            for listener in listeners:
                listener.socket.close()
            for sock in found:
                sock.close()
            if not isinstance(exc, OSError):
                raise
            if attempt and address.port == 0 and exc.errno == errno.EADDRINUSE:
                continue
            otherwise = "or choose another --listen address; port 0 means any free port"
            text, remedy = explain_listen_error(exc, address.port, otherwise=otherwise, datagrams=True)
            raise ConfigurationError(f"cannot receive datagrams at {address}: {text}", remedy=remedy) from exc
        return OpenPort(listeners, _names_of(listeners, found), found)
    raise AssertionError


async def _open_tcp_port(host: str, port: int, *, events: EventStream) -> list[trio.SocketListener]:
    try:
        return await open_listeners(host, port, events=events)
    except OSError as exc:
        otherwise = "or choose another --listen address; port 0 means any free port"
        text, remedy = explain_listen_error(exc, port, otherwise=otherwise)
        raise ConfigurationError(f"cannot listen on {bracketed(host)}:{port}: {text}", remedy=remedy) from exc


async def _open_name_ports(address: NamePorts, held: Container[tuple[int, bool]], *, events: EventStream) -> OpenPort:
    """Listen on the ports of a local name. One that cannot be opened does not affect the others."""
    opened = OpenPort([], (), says_port=address.are_several)
    kinds = [kind for kind in (False, True) if (address.protocols.has_streams, address.protocols.has_datagrams)[kind]]
    try:
        for datagrams in kinds:
            missing: list[tuple[int, OSError]] = []
            for number, port in enumerate(address.ports):
                if (port, datagrams) in held:
                    continue
                try:
                    await _add(opened, address.host, port, datagrams=datagrams, events=events)
                except OSError as exc:
                    if number:
                        missing.append((port, exc))
                    else:
                        await _add_another(opened, address.host, port, exc, datagrams=datagrams, events=events)
            for _, same in groupby(missing, key=lambda one: one[1].errno):
                ports = list(same)
                left_out = _shown(((address.host, port) for port, _ in ports), datagrams=datagrams)
                _report_left_out(left_out, ports[0], events)
                opened.left_out += left_out
    except BaseException:
        opened.close()
        raise
    opened.names = _names_of(opened.listeners, opened.datagrams)
    return opened


async def _add(opened: OpenPort, host: str, port: int, *, datagrams: bool, events: EventStream) -> None:
    """Listen on a port of a local name, for TCP connections or for datagrams.

    Raises:
        OSError: another program has the port, or this one may not have it.
        ConfigurationError: no port of this address can be had.
    """
    if datagrams:
        sockets = await _receive_at(host, port)
        opened.datagrams += sockets
        opened.stands_for |= dict.fromkeys(sockets, port)
    else:
        listeners = await _listen(host, port, events=events)
        opened.listeners += listeners
        opened.stands_for |= dict.fromkeys(listeners, port)


async def _receive_at(host: str, port: int) -> list[socket.socket]:
    """Receive datagrams at a port of a local name. Errors as for `_add`."""
    with _explained(host, port):
        return await bind_datagrams(host, port)


async def _listen(host: str, port: int, *, events: EventStream) -> list[trio.SocketListener]:
    """Listen on a port of a local name. Errors as for `_add`."""
    with _explained(host, port):
        return await open_listeners(host, port, events=events)


@contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    """Turn errors of the address, and not of one port, into a ConfigurationError."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EADDRINUSE):
            raise
        at = format_address(host, port)
        if exc.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(
                f"cannot listen on {at}: this machine has no such address",
                remedy=f"as root, add it (on macOS with 'ifconfig lo0 alias {host}'), or use another --listen",
            ) from exc
        text, remedy = explain_listen_error(exc, port, otherwise="or choose another --listen address")
        raise ConfigurationError(f"cannot listen on {at}: {text}", remedy=remedy) from exc


async def _add_another(
    opened: OpenPort, host: str, port: int, error: OSError, *, datagrams: bool, events: EventStream
) -> None:
    """Listen on any free port in place of the first port of a local name, and report that. If another program has the
    port, that is what applications reach which know only the name, so the port is shown as left out, too."""
    before = set(opened.stands_for)
    await _add(opened, host, 0, datagrams=datagrams, events=events)
    for one in opened.stands_for.keys() - before:
        opened.stands_for[one] = port
        _, used = _bound_at(one)
    text, remedy = _why_not_opened(error, port, "or let the application use the other port")
    (address,) = _shown([(host, port)], datagrams=datagrams)
    if error.errno == errno.EADDRINUSE:
        opened.left_out += (address,)
    events.publish(OwnPortNotOpened(address=address, used_port=used, detail=text, remedy=remedy))


def _report_left_out(addresses: tuple[str, ...], first: tuple[int, OSError], events: EventStream) -> None:
    port, error = first
    text, remedy = _why_not_opened(error, port, "or leave the port out of the local name")
    events.publish(PortsLeftOut(addresses=addresses, detail=text, remedy=remedy))


def _why_not_opened(error: OSError, port: int, otherwise: str) -> tuple[str, str]:
    text, remedy = explain_listen_error(error, port, otherwise=otherwise)
    if error.errno == errno.EADDRINUSE:
        text = f"{text}: applications that connect to it reach another program"
        remedy = f"a program that listens on all addresses may be using the port, or another forward: {remedy}"
    return text, remedy


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
        self._ports = tuple(ports)
        self._datagrams = {sock: port.port_of(sock) for port in ports for sock in port.datagrams}
        self._left_out = tuple(one for port in ports for one in port.left_out)
        self._names = (*(name for port in ports for name in port.names), *fronts)
        #: Serves connections that something else has accepted; None while no connections are accepted.
        self.connections: Connections | None = None
        #: The bound addresses and ports.
        self.bound = [one for port in ports for one in port.bound]
        #: Set when no more connections are accepted.
        self.has_stopped = trio.Event()
        self._stop = trio.Event()
        self._scope = trio.CancelScope()
        self._report_open_to_others()

    def stop(self, grace: float) -> None:
        """Accept no more connections. Those that are open have up to `grace` seconds to finish, and are then reset.
        Flows of datagrams end immediately; the next datagram from the same program begins another one.

        A second call can only shorten this time.
        """
        self._stop.set()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + grace)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped. If cancelled, all connections are reset.

        `task_status.started` is called when connections are accepted, or when `stop` has prevented that.
        """
        client = self._client
        served: Connections | None = None
        has_started = False
        try:
            client.set_listening((*client.listening, *self._names), left_out=(*client.left_out, *self._left_out))
            with self._scope:
                async with open_bridges() as bridges, trio.open_nursery() as waiting:
                    served = self.connections = Connections(client, bridges, waiting)
                    async with trio.open_nursery() as accepting:
                        what = f"{client.connection} at {', '.join(self._names)}"
                        takes = self._takes(served)
                        accept = partial(accept_sockets, takes, events=client.events, what=what)
                        if takes or not self._datagrams:
                            await accepting.start(accept)
                        turns = SharedTurns()
                        for sock, port in self._datagrams.items():
                            accepting.start_soon(partial(serve_datagrams, client, sock, port, turns=turns))
                        has_started = True
                        task_status.started()
                        await self._stop.wait()
                        self.connections = None
                        self._forget()
                        accepting.cancel_scope.cancel()
                    self.has_stopped.set()
        finally:
            self.connections = None
            try:
                self._forget()
            finally:
                self.has_stopped.set()
        if not has_started:
            task_status.started()
        cut_off = 0 if served is None else served.cut_off
        if cut_off:
            client.events.publish(ConnectionsCutOff(connection=client.connection, connections=cut_off))

    def use_fronts(self, fronts: Sequence[str]) -> None:
        """Use other addresses of fronts from now on.

        Raises:
            DeniedByPolicy: the policy of the machine does not allow it. Nothing was changed.
        """
        client = self._client
        others = [one for one in client.listening if one not in self._names]
        client.set_listening((*others, *fronts), left_out=client.left_out)
        self._names = tuple(fronts)

    def _forget(self) -> None:
        client = self._client
        client.set_listening(
            [one for one in client.listening if one not in self._names],
            left_out=[one for one in client.left_out if one not in self._left_out],
        )

    def _takes(self, served: Connections) -> dict[trio.SocketListener, Take]:
        """Return what takes the connections of each listener."""
        return {
            listener: partial(_take, served, port.admits, port.port_of(listener))
            for port in self._ports
            for listener in port.listeners
        }

    def _report_open_to_others(self) -> None:
        addresses = shown_addresses(one for one in self.bound if not is_loopback(one[0]))
        if addresses:
            self._client.events.publish(ForwardOpenToOthers(connection=self._client.connection, addresses=addresses))


def _take(
    served: Connections,
    admits: Callable[[tuple[str, int], tuple[str, int]], bool] | None,
    port: int | None,
    accepted: socket.socket,
    peer: Any,
) -> None:
    """Serve a connection, or reset it if it is not admitted.

    Args:
        served: serves it.
        admits: see `OpenPort.admits`.
        port: the port of the target; None: its first one.
        accepted: the connection.
        peer: where it comes from.
    """
    if admits is not None and not admits(peer[:2], accepted.getsockname()[:2]):
        accepted.setblocking(False)
        abort_socket(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
    else:
        served.take(accepted, port)
