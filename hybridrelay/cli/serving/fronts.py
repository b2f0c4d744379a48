"""The fronts of a forward, and changing them while the program runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import attrs
import trio

from ..._nursery import FlatNursery
from ..._unix_address import UnixAddress
from ...client import Front, OpenPort, open_port
from ...client.ingress.fronts import FindConnections
from ...client.ingress.handshake import CheckUser, FrontHandshake
from ...client.ingress.http_connect import HttpConnectHandshake
from ...client.ingress.socks import SocksHandshake
from ...client.ingress.users import FrontUsers, load_front_users
from ...events.stream import EventStream

__all__ = ["FrontOptions", "Fronts", "read_front_options"]

#: The kind of a front, and its address.
_Key: TypeAlias = tuple[str, tuple[str, int] | UnixAddress]
_PROTOCOLS: Mapping[str, Callable[[CheckUser | None], FrontHandshake]] = {
    "socks": SocksHandshake,
    "http-proxy": HttpConnectHandshake,
}


@attrs.frozen
class FrontOptions:
    """Which fronts there are."""

    addresses: tuple[_Key, ...] = ()
    #: The users of whom one is demanded; None if none is.
    users: FrontUsers | None = None


def read_front_options(args: argparse.Namespace, *, again: bool = False) -> FrontOptions:
    """Read the options of fronts, and the file with users.

    Args:
        args: the options of a forward.
        again: whether the program runs already, so that a pipe cannot be read.

    Raises:
        ConfigurationError: the file with users cannot be used.
    """
    keys = (*(("socks", one) for one in args.socks), *(("http-proxy", one) for one in args.http_proxy))
    file = args.front_users_file
    users = None if file is None or not keys else load_front_users(file, regular=again)
    return FrontOptions(tuple(dict.fromkeys(keys)), users)


@attrs.define(eq=False)
class _Running:
    port: OpenPort
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class Fronts:
    """The fronts that run.

    Args:
        find: finds what is published.
        use_names: called with the addresses of all fronts, before they accept connections. Raises `DeniedByPolicy` if
            the policy of the machine does not allow them.
        events: the stream to which events are published.
        stop: the program's stop. No connections are accepted after that.
    """

    def __init__(
        self,
        find: FindConnections,
        use_names: Callable[[tuple[str, ...]], None],
        events: EventStream,
        stop: trio.Event,
    ) -> None:
        self._find = find
        self._use_names = use_names
        self._events = events
        self._stop = stop
        self._running: dict[_Key, _Running] = {}
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
                one.port.close()

    async def use(self, options: FrontOptions) -> None:
        """Change over to other fronts, while `run` runs. Connections that were made through a front that is gone
        continue.

        Raises:
            ConfigurationError: see `run`. Nothing was changed.
        """
        opened: dict[_Key, _Running] = {}
        try:
            for key in options.addresses:
                if key not in self._running:
                    opened[key] = _Running(await open_port(key[1], events=self._events))
            after = {key: self._running.get(key) or opened[key] for key in options.addresses}
            self._use_names(tuple(name for one in after.values() for name in one.port.names))
        except BaseException:
            for one in opened.values():
                one.port.close()
            raise
        before, self._running, self._users = self._running, after, options.users
        for key, one in before.items():
            if key not in after:
                one.scope.cancel()
                one.port.close()
        for key, one in opened.items():
            assert self._nursery is not None
            await self._nursery.start(self._serve, key[0], one)

    async def _serve(self, kind: str, running: _Running, *, task_status: trio.TaskStatus[None]) -> None:
        front = Front(
            kind,
            running.port,
            partial(self._handshake, kind),
            demands_user=lambda: self._users is not None,
            find=self._find,
            events=self._events,
        )
        with running.scope:
            await front.run(task_status=task_status)

    def _handshake(self, kind: str) -> FrontHandshake:
        return _PROTOCOLS[kind](None if self._users is None else self._users.check)
