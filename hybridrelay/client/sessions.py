"""The sessions of a client that live: the one for new streams, and earlier ones that finish their streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import trio

from .._log_limit import LimitedLogger
from ..connectivity.data import EndToEnd
from ..errors import HybridRelayError, PeerIdentityError, SessionError
from ..mux import Budget, Session, SessionConfig, SessionRole
from ..protocol.reasons import Category, Reason
from .kept import KeptSession
from .relays.listeners import AvoidedListeners, ListenerSearch
from .relays.sender import Sender
from .relays.senders import Senders

__all__ = ["DELIVERY_SECONDS", "Sessions"]

logger = LimitedLogger("hybridrelay.client")

#: How often the data channels are looked at for whether they have to be renewed (seconds).
RENEW_CHECK_SECONDS = 60.0
#: For closed streams to deliver their last bytes at the end (seconds).
DELIVERY_SECONDS = 10.0


class Sessions:
    """Opens sessions, runs each to its end, and has them move to other data channels.

    Args:
        connection: the hybrid connection's name, for the log.
        senders: the client's relays.
        end_to_end: explains why a connector did not accept a session.
        nursery: in which the sessions run.
        config: of each session.
        budget: memory that they share.
    """

    def __init__(
        self,
        connection: str,
        senders: Senders,
        end_to_end: EndToEnd,
        nursery: trio.Nursery,
        *,
        config: SessionConfig,
        budget: Budget,
    ) -> None:
        self._connection = connection
        self._senders = senders
        self._end_to_end = end_to_end
        self._nursery = nursery
        self._config = config
        self._budget = budget
        self._avoided = AvoidedListeners()
        self._live: set[KeptSession] = set()

    def __iter__(self) -> Iterator[KeptSession]:
        return iter(tuple(self._live))

    @property
    def stream_count(self) -> int:
        """Streams that are not over, of all sessions."""
        return sum(kept.session.stream_count for kept in self)

    async def open(self) -> KeptSession:
        """A session with any connector that will do. Which one fails, and why, is final for none of the others.

        Raises:
            HybridRelayError: there is none; see `Client.connect`.
        """
        search = ListenerSearch(self._avoided)
        while True:
            channel = await self._senders.open_data_channel(search, self._senders.in_order())
            session = Session(SessionRole.INITIATOR, config=self._config, budget=self._budget)
            kept = KeptSession(session, channel, self._connection, self._senders)
            try:
                await self._nursery.start(self.run, kept)
            except SessionError as exc:
                # The connector's verdict on us arrives only now: as an alert, or as the reason of its GOAWAY.
                error = self._explain(exc)
                if not search.failed(channel.peer.instance, error, trio.current_time()):
                    raise error from exc
            else:
                return kept

    def _explain(self, exc: SessionError) -> HybridRelayError:
        if exc.reason.category is Category.IDENTITY:
            return PeerIdentityError(
                f"this application's identity is not acceptable to the connector: {exc.reason.describe}",
                reason=exc.reason,
            )
        return self._end_to_end.explain(exc)

    async def run(self, kept: KeptSession, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have this session among the others until it ends; see `KeptSession.run`."""
        self._live.add(kept)
        try:
            await kept.run(task_status=task_status)
        finally:
            self._live.discard(kept)

    async def finish(self, kept: KeptSession) -> None:
        """Let a session that has been replaced end with its last stream."""
        await kept.session.aclose(grace=math.inf)
        outcome = await kept.session.wait_ended()
        logger.info(
            "%s: the session that was replaced has ended: %s",
            self._connection,
            outcome.text or outcome.reason.describe,
        )

    def check_alive(self) -> None:
        """Ask at once, on each session, whether the connector is there."""
        for kept in self:
            kept.session.check_alive()

    async def move(self, is_needed: Callable[[KeptSession], bool], senders: Callable[[], Sequence[Sender]]) -> None:
        """Move all sessions that need it to one of these relays, one after the other."""
        for kept in self:
            if is_needed(kept):
                await kept.move(senders(), is_needed=partial(is_needed, kept))

    async def renew(self) -> None:
        """Renew data channels that are old or have carried much, until cancelled. An earlier session counts too: a
        connection may live for weeks."""
        while True:
            await trio.sleep(RENEW_CHECK_SECONDS)
            for kept in self:
                if kept.is_worn():
                    logger.info("%s: renewing the data channel", self._connection)
                    await kept.move(self._senders.in_order(kept.channel.sender), is_needed=kept.is_worn)

    async def aclose(self) -> None:
        """End all sessions. Streams that were closed still deliver what they were given; the others are reset."""
        async with trio.open_nursery() as nursery:
            for kept in self:
                kept.session.reset_open_streams(Reason.CANCELLED)
                nursery.start_soon(partial(kept.session.aclose, grace=DELIVERY_SECONDS))
