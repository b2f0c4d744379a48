"""The fronts of a forward, and changing them while the program runs.

A change is first prepared, and made only when everything else of the same configuration can be made, too. So a
configuration that cannot be used changes no front, either.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import attrs
import trio

from ..._nursery import FlatNursery
from ..._unix_address import UnixAddress
from ...client import Front, OpenPort, open_port
from ...client.ingress.fronts import FindConnections
from ...client.ingress.handshake import CheckUser, FrontHandshake
from ...client.ingress.socks import SocksHandshake
from ...client.ingress.users import FrontUsers
from ...client.names.name_server import FindAddresses, open_name_server
from ...errors import DeniedByPolicy
from ...events.stream import EventStream
from .front_options import FrontKey, FrontOptions

__all__ = ["FrontChange", "Fronts"]


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
    #: The port; None for a name server.
    port: OpenPort | None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    has_ended: trio.Event = attrs.field(factory=trio.Event)

    @property
    def names(self) -> tuple[str, ...]:
        """The addresses at which hybrid connections can be reached, for the policy. A name server has none."""
        return () if self.port is None else self.port.names


@attrs.define(eq=False)
class FrontChange:
    """A change of the fronts that is prepared. Made by `Fronts.changing`."""

    _fronts: Fronts
    _options: FrontOptions
    #: The fronts afterwards, and those of them that are new.
    after: Mapping[FrontKey, _Running]
    opened: Mapping[FrontKey, _Running]
    is_made: bool = False
    _lent: set[int] = attrs.field(factory=set)

    def lend(self, address: object) -> OpenPort | None:
        """Return the open port of a front that goes away, for something else that is to listen at its address; None
        if there is none. It may be used once the change was made; if the change is not made, the front keeps it."""
        for key, one in self._fronts.running.items():
            if (
                key not in self.after
                and key[1] == address
                and one.port is not None
                and id(one.port) not in self._lent
            ):
                self._lent.add(id(one.port))
                return one.port
        return None

    async def make(self) -> None:
        """Apply the change. Connections that were made through a front that is gone continue."""
        self.is_made = True
        await self._fronts.change_over(self._options, self, self._lent)


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
        #: What runs, by its kind and address.
        self.running: dict[FrontKey, _Running] = {}
        self._users: FrontUsers | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self, options: FrontOptions, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until stopped.

        Raises:
            ConfigurationError: a front cannot listen, or the policy does not allow it.
        """
        try:
            async with FlatNursery() as self._nursery:
                async with self.changing(options) as change:
                    await change.make()
                task_status.started()
                await self._stop.wait()
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            for one in self.running.values():
                one.close()

    @asynccontextmanager
    async def changing(self, options: FrontOptions) -> AsyncIterator[FrontChange]:
        """Prepare a change to other fronts, while `run` runs. If the block does not make it, nothing is changed.

        Raises:
            ConfigurationError: see `run`. Nothing was changed.
        """
        opened: dict[FrontKey, _Running] = {}
        change: FrontChange | None = None
        try:
            for key in options.addresses:
                if key not in self.running:
                    opened[key] = await self._open(*key)
            after = {key: self.running.get(key) or opened[key] for key in options.addresses}
            self._use_names(_names(after))
            change = FrontChange(self, options, after, opened)
            yield change
        finally:
            if change is None or not change.is_made:
                for one in opened.values():
                    one.close()
                if change is not None:
                    # If the policy denies it by now, the task that watches the policy applies that.
                    with contextlib.suppress(DeniedByPolicy):
                        self._use_names(_names(self.running))

    async def change_over(self, options: FrontOptions, change: FrontChange, lent: Collection[int]) -> None:
        """Make a change; see `FrontChange.make`. Ports with an id in `lent` stay open."""
        before, self.running, self._users = self.running, dict(change.after), options.users
        for key, one in before.items():
            if key not in self.running:
                one.scope.cancel()
                if one.port is not None and id(one.port) in lent:
                    await one.has_ended.wait()
                else:
                    one.close()
        for one in change.opened.values():
            assert self._nursery is not None
            await self._nursery.start(_serve, one)

    async def _open(self, kind: str, address: tuple[str, int] | UnixAddress) -> _Running:
        if kind == "dns":
            assert not isinstance(address, UnixAddress)
            server = await open_name_server(address, self._find_addresses, events=self._events)
            return _Running(server, server.close, None)
        port = await open_port(address, events=self._events)
        front = Front(
            kind,
            port,
            partial(self._handshake, kind),
            requires_password=lambda: self._users is not None,
            find=self._find,
            events=self._events,
        )
        return _Running(front, port.close, port)

    def _handshake(self, kind: str) -> FrontHandshake:
        return _PROTOCOLS[kind](None if self._users is None else self._users.check)


async def _serve(running: _Running, *, task_status: trio.TaskStatus[None]) -> None:
    try:
        with running.scope:
            await running.server.run(task_status=task_status)
    finally:
        running.has_ended.set()


def _names(running: Mapping[FrontKey, _Running]) -> tuple[str, ...]:
    return tuple(name for one in running.values() for name in one.names)
