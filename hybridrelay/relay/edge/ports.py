"""The relay's ports: opens them, and accepts connections on them."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
import trio

from ..._accepting import ShortageReport, accept_sockets, serve_listeners
from ..._listening import explain_listen_error
from ..._nursery import FlatNursery
from ..._shortage import shortage_of
from ...abc import Binding, Incoming, Listener, Port, Purpose, Transport
from ...connectivity.discovery import all_ports, local_ports, purposes_by_port, transports_by_port
from ...errors import ConfigurationError
from ...events.program import ListenAddressSkipped
from ...events.stream import EventStream
from ...streams.listening import StreamListener
from ...streams.sockets import close_forcefully
from ..store.state_dir import local_socket

__all__ = ["OpenPort", "Ports"]

#: The pause after a listener could not accept for lack of descriptors or memory (seconds).
_SHORTAGE_PAUSE_SECONDS = 0.1


@attrs.frozen(eq=False)
class OpenPort:
    """A port on which the relay listens, at one of its bindings."""

    port: Port
    listener: Listener
    #: The purposes that channels on this port may have; others are refused with `Reason.WRONG_PORT`.
    purposes: frozenset[Purpose]
    #: The name of its transport.
    transport: str

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
        self._open: list[OpenPort] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await close_forcefully(*(port.listener for port in self._open))

    async def open(self, bindings: Mapping[str, tuple[Binding, ...]], state_dir: Path) -> None:
        """Listen on every binding, and on the Unix sockets in the state directory.

        Args:
            bindings: by the name of a network port: the addresses to listen on.
            state_dir: the relay's state directory.

        Raises:
            ConfigurationError: it is impossible to listen on one of them; the message says why.
        """
        for name, addresses in bindings.items():
            for binding in addresses:
                try:
                    await self._listen(self._network[name], binding)
                except OSError as exc:
                    raise _cannot_listen(name, binding, exc) from exc
        for port in self._local.values():
            path = local_socket(state_dir, port.name)
            try:
                await self._listen(port, Binding("", 0, path))
            except OSError as exc:
                # For example, the system has no Unix sockets. Peers from the network do not need this one.
                self._events.publish(ListenAddressSkipped(address=str(path), detail=exc.strerror or str(exc)))

    async def _listen(self, port: Port, binding: Binding) -> None:
        listener = await self._by_name[port.name].listen(binding)
        if port.outer_tls and not isinstance(listener, StreamListener):
            await trio.aclose_forcefully(listener)
            raise ConfigurationError(f"port {port.name} cannot have outer TLS: its transport accepts no streams")
        transport = self._by_name[port.name].name
        self._open.append(OpenPort(port, listener, self._purposes[port.name], transport))

    @property
    def bound(self) -> Mapping[str, tuple[Binding, ...]]:
        """By the name of a network port: the addresses on which it listens, with the actual ports in place of port 0.

        Ports that are off are not included.
        """
        bound: dict[str, tuple[Binding, ...]] = {}
        for port in self._open:
            if not port.port.local:
                bound[port.name] = (*bound.get(port.name, ()), *port.listener.bound)
        return bound

    async def accept(
        self,
        handler: Callable[[OpenPort, trio.SocketStream | Incoming], Awaitable[None]],
        handler_nursery: trio.Nursery,
        *,
        take: Callable[[OpenPort, socket.socket, object], None] | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections until cancelled, and run `handler` with each of them in `handler_nursery`.

        If the listener is a `StreamListener`, the handler gets the socket's stream, before the transport's handshake.
        If there is a `take`, it is called with the socket and the peer's address instead, without starting a task;
        see `accept_sockets`.
        """
        async with FlatNursery() as nursery:
            for port in self._open:
                handle = partial(handler, port)
                if isinstance(port.listener, StreamListener):
                    sockets = port.listener.sockets
                    serve = (
                        partial(serve_listeners, handle, sockets, handler_nursery=handler_nursery)
                        if take is None
                        else partial(accept_sockets, dict.fromkeys(sockets, partial(take, port)))
                    )
                    await nursery.start(partial(serve, events=self._events, what=f"port {port.name}"))
                else:
                    nursery.start_soon(_accept_from, port, handle, handler_nursery, self._events)
            task_status.started()
            await trio.sleep_forever()


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
                shortage = shortage_of(exc)
                if shortage is None:
                    raise
                report.note(shortage, 0)
                await trio.sleep(_SHORTAGE_PAUSE_SECONDS)
            else:
                handler_nursery.start_soon(handle, incoming)


def _cannot_listen(name: str, binding: Binding, error: OSError) -> ConfigurationError:
    otherwise = "or choose another (--host, --ports), and name the ports for connection strings with --public-ports"
    text, remedy = explain_listen_error(error, binding.port, otherwise=otherwise)
    return ConfigurationError(f"port {name} cannot listen on {binding}: {text}", remedy=remedy)
