"""The relay's ports: opens them, and accepts connections on them."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Self

import trio

from ..._accepting import serve_listeners
from ..._listening import explain_listen_error, open_listeners
from ..._log_limit import LimitedLogger
from ..._nursery import FlatNursery
from ...abc import Port
from ...errors import ConfigurationError
from ...events import EventStream
from ..config import Binding

__all__ = ["Ports"]

logger = LimitedLogger("hybridrelay.relay")


class Ports:
    """Open ports. Use it with `with`: the sockets are closed at its end.

    Args:
        events: where events go.
    """

    def __init__(self, events: EventStream) -> None:
        self._events = events
        self._listeners: list[tuple[Port, list[trio.SocketListener]]] = []
        #: By port name: the same descriptors as the listeners', for calls that trio does not have.
        self._duplicates: dict[str, list[socket.socket]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for _, opened in self._listeners:
            for one in opened:
                one.socket.close()
        for duplicate in chain.from_iterable(self._duplicates.values()):
            duplicate.close()

    async def open(self, ports: Mapping[str, Port], bindings: Mapping[str, tuple[Binding, ...]]) -> None:
        """Listen on every binding.

        Args:
            ports: all ports, by name.
            bindings: by name, where to listen.

        Raises:
            ConfigurationError: one cannot be listened on; says why.
        """
        for name, addresses in bindings.items():
            opened: list[trio.SocketListener] = []
            self._listeners.append((ports[name], opened))
            for binding in addresses:
                opened += await _listen(name, binding)
            self._duplicates[name] = [socket.socket(fileno=os.dup(one.socket.fileno())) for one in opened]

    @property
    def bound(self) -> Mapping[str, tuple[Binding, ...]]:
        """By port name: where it listens, port 0 replaced. Ports that are off are not there."""
        return {
            port.name: tuple(Binding(*one.socket.getsockname()[:2]) for one in opened)
            for port, opened in self._listeners
            if opened
        }

    def waiting(self, port: Port) -> list[socket.socket]:
        """The listening sockets of a port, to accept what waits in their backlogs. They do not block."""
        return self._duplicates[port.name]

    async def accept(
        self,
        handler: Callable[[Port, trio.SocketStream], Awaitable[None]],
        handler_nursery: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections until cancelled, and run `handler` with each of them in `handler_nursery`."""
        async with FlatNursery() as nursery:
            for port, opened in self._listeners:
                if opened:
                    serve = partial(serve_listeners, partial(handler, port), opened, handler_nursery=handler_nursery)
                    await nursery.start(partial(serve, events=self._events, what=f"port {port.name}"))
            task_status.started()
            await trio.sleep_forever()


async def _listen(name: str, binding: Binding) -> list[trio.SocketListener]:
    try:
        return await open_listeners(binding.host or None, binding.port, logger=logger)
    except OSError as exc:
        otherwise = "or choose another (--host, --ports), and say with --public-ports what connection strings carry"
        text, remedy = explain_listen_error(exc, binding.port, otherwise=otherwise)
        raise ConfigurationError(f"port {name} cannot listen on {binding}: {text}", remedy=remedy) from exc
