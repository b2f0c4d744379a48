"""The fronts of a forward, and changing them while the program runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import attrs
import trio

from ..._nursery import FlatNursery
from ..._unix_address import UnixAddress
from ...client import Front, open_port
from ...client.ingress.fronts import FindConnections
from ...client.ingress.handshake import CheckUser, FrontHandshake
from ...client.ingress.socks import SocksHandshake
from ...client.ingress.users import FrontUsers
from ...client.names.name_server import FindAddresses, open_name_server
from ...events.stream import EventStream
from .front_options import FrontKey, FrontOptions

__all__ = ["Fronts"]


def _http_proxy(check_user: CheckUser | None) -> FrontHandshake:
    from ...client.ingress.http_connect import HttpConnectHandshake  # imported here, because few have such a front

    return HttpConnectHandshake(check_user)


_PROTOCOLS: Mapping[str, Callable[[CheckUser | None], FrontHandshake]] = {
    "socks": SocksHandshake,
    "http-proxy": _http_proxy,
}


class _Server(Protocol):
    """What serves a front."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None: ...


@attrs.define(eq=False)
class _Running:
    server: _Server
    #: Closes its listeners.
    close: Callable[[], None]
    #: The addresses at which hybrid connections can be reached, for the policy. A name server has none.
    names: tuple[str, ...]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class Fronts:
    """The fronts that run.

    Args:
        find: finds what is published.
        find_addresses: finds the addresses of published names.
        use_names: called with the addresses of all fronts, before they accept connections. Raises `DeniedByPolicy` if
            the policy of the machine does not allow them.
        events: the stream to which events are published.
        stop: the program's stop. No connections are accepted after that.
    """

    def __init__(
        self,
        find: FindConnections,
        find_addresses: FindAddresses,
        use_names: Callable[[tuple[str, ...]], None],
        events: EventStream,
        stop: trio.Event,
    ) -> None:
        self._find = find
        self._find_addresses = find_addresses
        self._use_names = use_names
        self._events = events
        self._stop = stop
        self._running: dict[FrontKey, _Running] = {}
        self._users: FrontUsers | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self, options: FrontOptions, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until stopped.

        Raises:
            ConfigurationError: a front cannot listen, or the policy does not allow it.
        """
        try:
            async with FlatNursery() as self._nursery:
                await self.use(options)
                task_status.started()
                await self._stop.wait()
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            for one in self._running.values():
                one.close()

    async def use(self, options: FrontOptions) -> None:
        """Change over to other fronts, while `run` runs. Connections that were made through a front that is gone
        continue.

        Raises:
            ConfigurationError: see `run`. Nothing was changed.
        """
        opened: dict[FrontKey, _Running] = {}
        try:
            for key in options.addresses:
                if key not in self._running:
                    opened[key] = await self._open(*key)
            after = {key: self._running.get(key) or opened[key] for key in options.addresses}
            self._use_names(tuple(name for one in after.values() for name in one.names))
        except BaseException:
            for one in opened.values():
                one.close()
            raise
        before, self._running, self._users = self._running, after, options.users
        for key, one in before.items():
            if key not in after:
                one.scope.cancel()
                one.close()
        for one in opened.values():
            assert self._nursery is not None
            await self._nursery.start(_serve, one)

    async def _open(self, kind: str, address: tuple[str, int] | UnixAddress) -> _Running:
        if kind == "dns":
            assert not isinstance(address, UnixAddress)
            server = await open_name_server(address, self._find_addresses, events=self._events)
            return _Running(server, server.close, ())
        port = await open_port(address, events=self._events)
        front = Front(
            kind,
            port,
            partial(self._handshake, kind),
            demands_user=lambda: self._users is not None,
            find=self._find,
            events=self._events,
        )
        return _Running(front, port.close, port.names)

    def _handshake(self, kind: str) -> FrontHandshake:
        return _PROTOCOLS[kind](None if self._users is None else self._users.check)


async def _serve(running: _Running, *, task_status: trio.TaskStatus[None]) -> None:
    with running.scope:
        await running.server.run(task_status=task_status)
