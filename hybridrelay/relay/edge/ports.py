"""The relay's ports: opens them, and accepts connections on them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
import trio

from ..._accepting import ShortageReport, accept_sockets, serve_listeners
from ..._changing_listeners import change_listeners
from ..._listening import explain_listen_error
from ..._nursery import FlatNursery
from ..._shortage import socket_shortage_of
from ...abc import Binding, Incoming, Listener, Port, Purpose, Transport
from ...connectivity.discovery import all_ports, local_ports, purposes_by_port, transports_by_port
from ...errors import ConfigurationError
from ...events.program import ListenAddressSkipped
from ...events.relay_changes import PortClosed, PortOpened
from ...events.stream import EventStream
from ...streams.listening import StreamListener
from ...streams.sockets import close_forcefully
from ..store.state_dir import local_socket

__all__ = ["OpenPort", "Ports"]

#: Serves a connection that was just accepted.
_Handler = Callable[["OpenPort", trio.SocketStream | Incoming], Awaitable[None]]
#: Takes a socket that was just accepted, and the peer's address.
_Take = Callable[["OpenPort", socket.socket, object], None]

#: The pause after a listener could not accept for lack of descriptors or memory (seconds).
_SHORTAGE_PAUSE_SECONDS = 0.1


@attrs.define(eq=False)
class OpenPort:
    """A port on which the relay listens, at one of its bindings."""

    port: Port
    listener: Listener
    #: The purposes that channels on this port may have; others are refused with `Reason.WRONG_PORT`.
    purposes: frozenset[Purpose]
    #: The name of its transport.
    transport: str
    #: The addresses on which it listens, with the actual port in place of port 0.
    bound: tuple[Binding, ...] = ()
    #: The scope in which connections are accepted, and an event that is set when nothing is accepted any longer; None
    #: before `accept` is called.
    _accepting: tuple[trio.CancelScope, trio.Event] | None = attrs.field(default=None, init=False)

    @property
    def name(self) -> str:
        """See `Port.name`."""
        return self.port.name

    @property
    def outer_tls(self) -> bool:
        """See `Port.outer_tls`."""
        return self.port.outer_tls

    @property
    def is_plain(self) -> bool:
        """Whether the transport adds nothing to the bytes, so that the preamble comes first."""
        return isinstance(self.listener, StreamListener) and self.listener.adds_nothing

    async def accept(
        self,
        handler: _Handler,
        handler_nursery: trio.Nursery,
        take: _Take | None,
        events: EventStream,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections until cancelled or `close` is called; see `Ports.accept`."""
        ended = trio.Event()
        try:
            with trio.CancelScope() as scope:
                self._accepting = scope, ended
                handle = partial(handler, self)
                if not isinstance(self.listener, StreamListener):
                    task_status.started()
                    await _accept_from(self, handle, handler_nursery, events)
                    return
                sockets = self.listener.sockets
                serve = (
                    partial(serve_listeners, handle, sockets, handler_nursery=handler_nursery)
                    if take is None
                    else partial(accept_sockets, dict.fromkeys(sockets, partial(take, self)))
                )
                await serve(events=events, what=f"port {self.name}", task_status=task_status)
        finally:
            ended.set()

    async def close(self) -> None:
        """Accept no more connections, and stop listening. Connections that were accepted continue."""
        with trio.CancelScope(shield=True):
            if self._accepting is not None:
                scope, ended = self._accepting
                scope.cancel()
                await ended.wait()  # a socket is closed only when nothing waits for it
            await close_forcefully(self.listener)


_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - only compared


class Ports:
    """The ports of a relay.

    Use it in an `async with` statement, at whose end the ports are closed.

    Args:
        transports: the transports that listen, by name.
        events: the stream to which events are published.
    """

    def __init__(self, transports: Mapping[str, Transport], events: EventStream) -> None:
        self._network = all_ports(transports)
        self._local = local_ports(transports)
        self._by_name = transports_by_port(transports)
        self._purposes = purposes_by_port(transports)
        self._events = events
        #: The open network ports, by name and requested binding.
        self._open: dict[tuple[str, Binding], OpenPort] = {}
        #: The Unix sockets.
        self._sockets: list[OpenPort] = []
        #: Accepts connections on one more port; None while connections are not accepted.
        self._accept: Callable[[OpenPort], Awaitable[None]] | None = None
        self._changing = trio.Lock()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_closed = True
        for port in (*self._open.values(), *self._sockets):
            await port.close()

    async def open(self, bindings: Mapping[str, tuple[Binding, ...]], state_dir: Path) -> None:
        """Listen on every binding, and on the Unix sockets in the state directory.

        Args:
            bindings: by the name of a network port: the addresses to listen on.
            state_dir: the relay's state directory.

        Raises:
            ConfigurationError: it is impossible to listen on one of them; the message says why.
        """
        for key in _keys(bindings):
            self._open[key] = await self._begin(key)
        for port in self._local.values():
            path = local_socket(state_dir, port.name)
            try:
                self._sockets.append(await self._listen(port, Binding("", 0, path)))
            except OSError as exc:
                # For example, the system has no Unix sockets. Peers from the network do not need this one.
                self._events.publish(ListenAddressSkipped(address=str(path), detail=exc.strerror or str(exc)))

    async def change(self, bindings: Mapping[str, tuple[Binding, ...]]) -> None:
        """Listen on these bindings from now on. Those that have not changed are not touched. Connections that were
        accepted continue.

        Args:
            bindings: see `open`.

        Raises:
            ConfigurationError: it is impossible to listen on one of them; the message says why. What was open before
                is open, except what the message names.

        If cancelled, the relay may listen on old and new bindings. Several calls run one after the other.
        """
        async with self._changing:
            before = dict(self._open)
            try:
                await change_listeners(
                    self._open,
                    _keys(bindings),
                    open=self._begin,
                    close=OpenPort.close,
                    may_exclude=_may_exclude,
                    describe=lambda key: f"port {key[0]} on {key[1]}",
                )
            finally:
                self._publish_changes(before)

    async def _begin(self, key: tuple[str, Binding]) -> OpenPort:
        """Listen, and accept connections if they are accepted at the moment.

        Raises:
            ConfigurationError: it is impossible to listen there.
        """
        try:
            opened = await self._listen(self._network[key[0]], key[1])
        except OSError as exc:
            raise _cannot_listen(key, exc, self._open.values()) from exc
        if self._is_closed:
            await opened.close()
        elif self._accept is not None:
            await self._accept(opened)
        return opened

    def _publish_changes(self, before: Mapping[tuple[str, Binding], OpenPort]) -> None:
        for key, port in before.items():
            if self._open.get(key) is not port:
                self._events.publish(PortClosed(port=port.name, address=_addresses(port)))
        for key, port in self._open.items():
            if before.get(key) is not port:
                self._events.publish(PortOpened(port=port.name, address=_addresses(port)))

    async def _listen(self, port: Port, binding: Binding) -> OpenPort:
        listener = await self._by_name[port.name].listen(binding)
        if port.outer_tls and not isinstance(listener, StreamListener):
            await trio.aclose_forcefully(listener)
            raise ConfigurationError(f"port {port.name} cannot have outer TLS: its transport accepts no streams")
        transport = self._by_name[port.name].name
        return OpenPort(port, listener, self._purposes[port.name], transport, listener.bound)

    @property
    def bound(self) -> Mapping[str, tuple[Binding, ...]]:
        """By the name of a network port: the addresses on which it listens, with the actual ports in place of port 0.

        Ports that are off are not included.
        """
        bound: dict[str, tuple[Binding, ...]] = {}
        for port in self._open.values():
            bound[port.name] = (*bound.get(port.name, ()), *port.bound)
        return bound

    async def accept(
        self,
        handler: _Handler,
        handler_nursery: trio.Nursery,
        *,
        take: _Take | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections until cancelled, and run `handler` with each of them in `handler_nursery`.

        If the listener is a `StreamListener`, the handler gets the socket's stream, before the transport's handshake.
        If there is a `take`, it is called with the socket and the peer's address instead, without starting a task;
        see `accept_sockets`.
        """
        async with FlatNursery() as nursery:

            async def accept(port: OpenPort) -> None:
                await nursery.start(partial(port.accept, handler, handler_nursery, take, self._events))

            self._accept = accept
            try:
                for port in (*self._open.values(), *self._sockets):
                    await accept(port)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._accept = None


async def _accept_from(
    port: OpenPort,
    handle: Callable[[Incoming], Awaitable[None]],
    handler_nursery: trio.Nursery,
    events: EventStream,
) -> None:
    """Accept connections from a listener with its own `accept`."""
    report = ShortageReport(events, f"port {port.name}")
    async with FlatNursery() as nursery:
        nursery.start_soon(report.run)
        while True:
            try:
                incoming = await port.listener.accept()
            except OSError as exc:
                shortage = socket_shortage_of(exc)
                if shortage is None:
                    raise
                report.note(shortage, 0)
                await trio.sleep(_SHORTAGE_PAUSE_SECONDS)
            else:
                handler_nursery.start_soon(handle, incoming)


def _keys(bindings: Mapping[str, tuple[Binding, ...]]) -> list[tuple[str, Binding]]:
    return [(name, binding) for name, addresses in bindings.items() for binding in addresses]


def _may_exclude(port: OpenPort, key: tuple[str, Binding]) -> bool:
    """Return whether an open port may be the reason why a binding cannot be opened."""
    return any(binding.port == key[1].port for binding in port.bound)


def _addresses(port: OpenPort) -> str:
    return ", ".join(map(str, port.bound))


def _overlap(one: Binding, other: Binding) -> bool:
    """Return whether the system does not allow both at the same time. False for names whose addresses are unknown."""
    if one.port != other.port or one.port == 0:
        return False
    hosts = {one.host, other.host}
    if len(hosts) == 1 or "" in hosts:
        return True
    # A wildcard address excludes only addresses of its own family.
    same_family = (":" in one.host) == (":" in other.host)
    return same_family and not hosts.isdisjoint(_WILDCARDS)


def _cannot_listen(key: tuple[str, Binding], error: OSError, others: Iterable[OpenPort]) -> ConfigurationError:
    """Return the error that a port cannot be opened, beside others that are open."""
    name, binding = key
    if error.errno == errno.EADDRINUSE:
        for other in others:
            for bound in other.bound:
                if _overlap(binding, bound):
                    return ConfigurationError(
                        f"port {name} cannot listen on {binding}: port {other.name} of this relay listens on {bound}",
                        remedy="give each port its own number, and each address once (--host, --ports)",
                    )
    otherwise = "or choose another (--host, --ports), and name the ports for connection strings with --public-ports"
    text, remedy = explain_listen_error(error, binding.port, otherwise=otherwise)
    return ConfigurationError(f"port {name} cannot listen on {binding}: {text}", remedy=remedy)
