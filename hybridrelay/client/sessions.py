"""The sessions of a client that have not ended: the one for new streams, and earlier ones whose streams finish."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import trio

from ..connectivity.data import EndToEnd
from ..errors import HybridRelayError, PeerIdentityError, SessionError
from ..events.stream import EventStream
from ..mux import Budget, Session, SessionConfig, SessionRole
from ..protocol.reasons import Category, Reason
from ..streams.turns import SharedTurns
from .lifecycle.inputs import MoveCause
from .relays.listeners import AvoidedListeners, ListenerSearch
from .relays.relay_connection import RelayConnection
from .relays.relays import Relays
from .session import ClientSession

__all__ = ["DELIVERY_SECONDS", "Sessions"]

#: How often to check whether data channels have to be renewed (seconds).
RENEW_CHECK_SECONDS = 60.0
#: How long closed streams may take to deliver their last bytes when the client is closed (seconds).
DELIVERY_SECONDS = 10.0


class Sessions:
    """Opens sessions, runs each until it ends, and moves them to other data channels. They share turns.

    Args:
        connection: the hybrid connection's name, for events.
        relays: the client's relays.
        end_to_end: the end-to-end TLS of new sessions.
        nursery: runs the sessions.
        config: the configuration of each session.
        budget: the memory budget that the sessions share.
        events: the stream to which events are published.
    """

    def __init__(
        self,
        connection: str,
        relays: Relays,
        end_to_end: EndToEnd,
        nursery: trio.Nursery,
        *,
        config: SessionConfig,
        budget: Budget,
        events: EventStream,
    ) -> None:
        self._connection = connection
        self._relays = relays
        self._end_to_end = end_to_end
        self._nursery = nursery
        self._config = config
        self._budget = budget
        self._events = events
        #: Shared by all sessions, so that a connector gains nothing by letting the client open many.
        self._turns = SharedTurns()
        self._avoided = AvoidedListeners()
        #: The serials of earlier identities, by the ids of the sessions that were opened with them.
        self._earlier: dict[bytes, str] = {}
        #: The sessions that have not ended, in the order in which they began.
        self._live: dict[ClientSession, None] = {}

    def __iter__(self) -> Iterator[ClientSession]:
        """Iterate over the sessions that were opened, the oldest first."""
        return iter([one for one in self._live if one.was_opened])

    @property
    def stream_count(self) -> int:
        """The number of streams that have not ended, in all sessions."""
        return sum(one.session.stream_count for one in self)

    def serial_of(self, session_id: bytes) -> str:
        """Return the serial of the identity with which a session was opened."""
        return self._earlier.get(session_id, self._end_to_end.serial)

    def describe(self, session_id: bytes) -> tuple[str, str]:
        """Return the serial of the identity with which a session was opened, and the relay and route of its data
        channel (``tcp at relay.example.com``); the latter is empty if the session has ended."""
        routes = (str(one.channel) for one in self._live if one.session.session_id == session_id)
        return self.serial_of(session_id), next(routes, "")

    def use(self, end_to_end: EndToEnd) -> None:
        """Open sessions with another identity from now on. A session that was opened before can be resumed only with
        the identity with which it was opened."""
        ids = {one.session.session_id: one.serial for one in self}
        earlier = {**self._earlier, **ids}
        self._end_to_end = end_to_end
        self._earlier = {id_: serial for id_, serial in earlier.items() if id_ in ids and serial != end_to_end.serial}

    async def open(self, end_to_end: EndToEnd | None = None, *, other_than: Collection[str] = ()) -> ClientSession:
        """Open a session with any acceptable connector. If one connector fails, others are tried.

        Args:
            end_to_end: has the identity; None means the one that is in use.
            other_than: instances of connectors that are not acceptable.

        Raises:
            HybridRelayError: no session could be opened; see `Client.connect`.
        """
        end_to_end = self._end_to_end if end_to_end is None else end_to_end
        opened = ClientSession(
            self._connection,
            end_to_end,
            self._relays,
            ListenerSearch(self._avoided, tuple(other_than)),
            new_session=partial(
                Session.create,
                SessionRole.INITIATOR,
                config=self._config,
                budget=self._budget,
                turns=self._turns,
            ),
            explain=partial(_explain, end_to_end),
            events=self._events,
        )
        await self._nursery.start(self.run, opened)
        return opened

    async def run(
        self, opened: ClientSession, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Open a session, and keep it among the others until it ends; see `ClientSession.run`."""
        self._live[opened] = None
        try:
            await opened.run(task_status=task_status)
        finally:
            del self._live[opened]

    async def finish(self, replaced: ClientSession) -> None:
        """Wait until the last stream of a session that has been replaced has ended, and close that session."""
        await replaced.session.aclose(grace=math.inf)

    def check_alive(self) -> None:
        """Immediately send a ping on each session, to find out whether its data channel still works."""
        for one in self:
            one.session.check_alive()

    async def move(
        self,
        cause: MoveCause,
        is_needed: Callable[[ClientSession], bool],
        relays: Callable[[], Sequence[RelayConnection]],
    ) -> HybridRelayError | None:
        """Move the sessions for which `is_needed` is true, one after the other.

        Args:
            cause: why they are moved, for events.
            is_needed: returns whether a session has to be moved; asked again during its move.
            relays: returns the relays to try, in order; called once for each session.

        Returns:
            The error of the last move, if no session has moved; None if at least one has moved, or none had to.
        """
        moved, failure = False, None
        for one in self:
            if is_needed(one):
                error = await one.move(relays(), cause, is_needed=partial(is_needed, one))
                if error is None:
                    moved = True
                elif is_needed(one):
                    failure = error
        return None if moved else failure

    async def renew(self) -> None:
        """Replace data channels that are old or have carried much, until cancelled.

        This includes those of earlier sessions, since a connection of an application may stay open for weeks.
        """
        while True:
            await trio.sleep(RENEW_CHECK_SECONDS)
            for one in self:
                if one.needs_renewal():
                    await one.move(
                        self._relays.in_order(one.channel.relay), MoveCause.RENEWAL, is_needed=one.needs_renewal
                    )

    async def aclose(self) -> None:
        """End all sessions. Closed streams have `DELIVERY_SECONDS` for their last bytes; open ones are reset."""
        async with trio.open_nursery() as nursery:
            for one in self:
                one.session.reset_open_streams(Reason.CANCELLED)
                nursery.start_soon(partial(one.session.aclose, grace=DELIVERY_SECONDS))


def _explain(end_to_end: EndToEnd, exc: SessionError) -> HybridRelayError:
    if exc.reason.category is Category.IDENTITY:
        return PeerIdentityError(
            f"this application's identity is not acceptable to the connector: {exc.reason.describe}",
            reason=exc.reason,
        )
    return end_to_end.explain(exc)
