"""The relays of a client, and the order in which they are tried.

The rules:

1. The relay that worked last is tried first, for as long as it works; the others follow in the order of the
   connection string. A relay that failed, or refused because it is draining, is tried after the others for a while,
   and a relay that has just announced that it drains or stops is tried last.
2. The next relay is tried when one has failed, or in parallel if it has neither succeeded nor failed after
   `NEXT_RELAY_SECONDS`: a remembered route on which packets are dropped takes up to a minute to fail.
3. A connector counts as gone only if the session's own relay says so, or if every relay does. Otherwise a hostile
   relay could end sessions that go through another relay, whenever that one is unavailable for a moment.

Each relay is tried once per call; the caller decides whether to try again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from ..._nursery import FlatNursery
from ...connectivity.data import EndToEnd
from ...connectivity.refusals import all_failed
from ...errors import HybridRelayError, RendezvousError
from ...protocol.reasons import Category, Reason
from .listeners import ListenerSearch
from .relay_connection import DataChannel, Peer, RelayConnection

#: How long to wait for one relay before the next is tried in parallel (seconds). A probe fails after 2.5 s if all
#: packets are dropped. A working relay seldom takes longer, and if it does, trying another does no harm.
NEXT_RELAY_SECONDS = 3.0
#: How long a relay that failed is tried after the others (seconds). If packets to it are dropped, each attempt takes
#: 2.5 s, which must not delay every new session. Using another relay in the meantime costs nothing, because all
#: relays are equivalent.
SET_BACK_SECONDS = 60.0


class Relays:
    """The client's connections to its relays.

    Args:
        relays: in the order of the connection string.
    """

    def __init__(self, relays: Sequence[RelayConnection]) -> None:
        self.all = tuple(relays)
        #: The relay that worked last.
        self._preferred = self.all[0]

    def replace(self, relays: Sequence[RelayConnection]) -> None:
        """Use these relays from now on, in this order."""
        self.all = tuple(relays)
        if self._preferred not in self.all:
            self._preferred = self.all[0]

    def in_order(self, first: RelayConnection | None = None) -> list[RelayConnection]:
        """Return the relays in the order in which to try them. `first` comes first, unless it has announced that it
        drains or stops."""
        set_back_before = trio.current_time() - SET_BACK_SECONDS

        def key(relay: RelayConnection) -> tuple[bool, bool, bool, bool]:
            return (
                relay.is_away,
                first is not None and relay is not first,
                relay.failed_at > set_back_before,
                relay is not self._preferred,
            )

        return sorted(self.all, key=key)

    async def open_data_channel(
        self,
        to: Peer | ListenerSearch,
        relays: Sequence[RelayConnection],
        end_to_end: EndToEnd,
        *,
        home: RelayConnection | None = None,
    ) -> DataChannel:
        """Open a data channel through the first of these relays that leads to an acceptable peer.

        Args:
            to: the only acceptable peer, or the search for any.
            relays: the relays to try, in this order.
            end_to_end: the end-to-end TLS, with the identity of this application.
            home: the session's own relay, through which its last data channel went; None for a new session.

        Raises:
            HybridRelayError: all failed; the message names each with its reason. The error's own reason is
                `Reason.LISTENER_GONE` only if `home` has given this reason, or if every relay of the client has.

        If cancelled, no data channel stays open.
        """
        failures: dict[RelayConnection, HybridRelayError] = {}
        try:
            channel = await self._try(relays, to, end_to_end, failures)
            if channel is None:
                raise self._error(failures, home)
            return channel
        finally:
            failures.clear()  # the tracebacks of the exceptions refer to this variable

    @property
    def away_until(self) -> float:
        """When a relay may be contacted again if all have announced that they stop, on Trio's clock.

        If one of them may be contacted now, the result is a time in the past.
        """
        return min(relay.away_until for relay in self.all)

    async def _try(
        self,
        relays: Sequence[RelayConnection],
        to: Peer | ListenerSearch,
        end_to_end: EndToEnd,
        failures: dict[RelayConnection, HybridRelayError],
    ) -> DataChannel | None:
        """Try each relay once. Returns None if all have failed, and puts their errors into `failures`."""
        opened: list[DataChannel] = []

        async def attempt(relay: RelayConnection, failed: trio.Event) -> None:
            try:
                if isinstance(to, Peer):
                    opened.append(await relay.open_data_channel(to, end_to_end))
                else:
                    opened.append(await relay.open_data_channel_probing(to, end_to_end))
            except HybridRelayError as exc:
                failures[relay] = exc
                # If there is no other connector, the relay has not failed.
                if isinstance(to, Peer) or not to.other_than:
                    relay.record_failure(exc)
                # A failed rendezvous is not the relay's fault, unless it is draining or a quota is used up.
                accepts_nothing = exc.reason is Reason.RELAY_DRAINING or exc.reason.category is Category.QUOTA
                if accepts_nothing or not isinstance(exc, RendezvousError):
                    relay.failed()
                failed.set()
            else:
                nursery.cancel_scope.cancel()

        try:
            async with FlatNursery() as nursery:
                for relay in relays:
                    failed = trio.Event()
                    nursery.start_soon(attempt, relay, failed)
                    with trio.move_on_after(NEXT_RELAY_SECONDS):
                        await failed.wait()
        except BaseException:
            for channel in opened:
                await trio.aclose_forcefully(channel.stream)
            raise
        # Two channels may have been opened at the same moment.
        for channel in opened[1:]:
            await trio.aclose_forcefully(channel.stream)
        if not opened:
            return None
        self._preferred = opened[0].relay
        self._preferred.failed_at = -math.inf
        return opened[0]

    def _error(
        self, failures: dict[RelayConnection, HybridRelayError], home: RelayConnection | None
    ) -> HybridRelayError:
        """Make one error of the failures at all relays that were tried; see rule 3."""
        gone = [relay for relay, error in failures.items() if _says_gone(error)]
        if home in gone:
            return failures[home]
        if len(gone) < len(self.all):
            for relay in gone:
                failures[relay] = RendezvousError(str(failures[relay]), reason=Reason.LISTENER_ABSENT)
        return all_failed({relay.link.host: error for relay, error in failures.items()})


def _says_gone(error: HybridRelayError) -> bool:
    return isinstance(error, RendezvousError) and error.reason is Reason.LISTENER_GONE
