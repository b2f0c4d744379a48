"""Looking for better routes to each relay while a worse one is in use, and moving sessions to them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import trio

from ..connectivity.discovery import Candidate
from ..events.endpoint import BetterRouteFound
from ..events.stream import EventStream
from .lifecycle.inputs import MoveCause
from .relays.relay_connection import RelayConnection
from .session import ClientSession
from .sessions import Sessions

__all__ = ["Upgrades"]


class Upgrades:
    """Looks for better routes to the relays of a client.

    Args:
        sessions: the client's sessions.
        events: the stream to which events are published.
    """

    def __init__(self, sessions: Sessions, events: EventStream) -> None:
        self._sessions = sessions
        self._events = events
        #: Runs the searches; None unless `run` is running.
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[RelayConnection, trio.CancelScope] = {}

    async def run(self, relays: Iterable[RelayConnection]) -> None:
        """Look for better routes to these relays, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            try:
                self.replace(relays)
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._scopes = {}

    def replace(self, relays: Iterable[RelayConnection]) -> None:
        """Look for better routes to these relays from now on, and to no others. Does nothing before `run`."""
        if self._nursery is None:
            return
        present = set(relays)
        for relay in self._scopes.keys() - present:
            self._scopes.pop(relay).cancel()
        for relay in present - self._scopes.keys():
            scope = self._scopes[relay] = trio.CancelScope()
            self._nursery.start_soon(self._upgrade, relay, scope)

    async def _upgrade(self, relay: RelayConnection, scope: trio.CancelScope) -> None:
        with scope:
            await relay.link.upgrade_route(partial(self._in_use, relay), partial(self._move, relay))

    def _in_use(self, relay: RelayConnection) -> Candidate | None:
        """Return the worst route to this relay over which a session goes; None if there is none."""
        routes = [one.channel.candidate for one in self._sessions if one.goes_through(relay)]
        return max(routes, key=lambda candidate: candidate.route.rank, default=None)

    async def _move(self, relay: RelayConnection, better: Candidate) -> None:
        """Move everything that goes through this relay to a better route.

        Raises:
            HybridRelayError: no session could move, so that the earlier route stays in use.
        """
        self._events.publish(BetterRouteFound(host=relay.link.host, route=better.route.name))
        relay.retire_control()  # the next control channel uses the better route

        def is_worse(one: ClientSession) -> bool:
            return one.goes_through(relay) and one.channel.candidate.route.rank > better.route.rank

        error = await self._sessions.move(MoveCause.BETTER_ROUTE, is_worse, lambda: [relay])
        if error is not None:
            raise error
