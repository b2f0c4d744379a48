"""A session of a client, and the way it goes: opened, resumed over another data channel, moved to a better one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import trio

from .._log_limit import LimitedLogger
from .._nursery import FlatNursery
from ..connectivity.backoff import Backoff
from ..connectivity.refusals import is_final
from ..errors import HybridRelayError, PeerIdentityError, RendezvousError, SessionError
from ..mux import Session
from ..protocol.reasons import Reason
from ..streams import TLSStream
from .relays.sender import DataChannel, Sender
from .relays.senders import Senders

logger = LimitedLogger("hybridrelay.client")

#: Channels that are lost within this time (seconds) are failed attempts to resume: after the second one in a row,
#: there is a pause before the next.
_HELD_SECONDS = 1.0
#: The longest wait between two tries to resume (seconds).
_RESUME_BACKOFF = 2.0
#: The first try to resume comes at a random moment within so much time (seconds): all sessions of a relay lose it at
#: the same moment, and must not come back at the same moment.
_RESUME_JITTER = 0.25
#: A relay that drains stays for a second: all that leave it spread over the first half of that, and have the second
#: for another try where the connector was asked by too many at once (seconds).
_LEAVE_JITTER = 0.5
_LEAVE_AGAIN_SECONDS = 0.25

#: A data channel is replaced after this many seconds or bytes, and the identities are checked again: one day, and
#: 128 GiB, far below what AES-GCM may encrypt under one TLS key schedule with its automatic updates.
MAX_CHANNEL_SECONDS = 24 * 3600.0
MAX_CHANNEL_BYTES = 128 << 30


class KeptSession:
    """A session with one instance of the connector, through whichever relay leads there.

    Args:
        session: not running yet.
        channel: its first.
        connection: the hybrid connection's name, for the log.
        senders: the client's relays.
    """

    def __init__(self, session: Session, channel: DataChannel, connection: str, senders: Senders) -> None:
        self.session = session
        #: The data channel that it was given last.
        self.channel = channel
        #: On how many the connector had greeted before that one.
        self._greetings = 0
        #: On a later channel the peer must have exactly this identity: nobody else may learn the session's secret.
        self._peer = channel.peer
        self._connection = connection
        self._senders = senders
        #: Set while it resumes and a relay has said that the connector is not there.
        self._absent = trio.Event()
        self._backoff = Backoff(first_seconds=0.5, max_seconds=_RESUME_BACKOFF)
        #: When it was given its present channel (on Trio's clock).
        self._taken_at = -math.inf
        #: How many channels in a row were lost within `_HELD_SECONDS`.
        self._lost_early = 0
        #: Held during a move.
        self._moving = trio.Lock()

    def _take(self, channel: DataChannel) -> None:
        self.channel, self._greetings = channel, self.session.greetings
        self._taken_at = trio.current_time()

    def _was_of_no_use(self) -> bool:
        """The connector has not greeted on the present channel: the relay lets too little pass."""
        return self.session.greetings == self._greetings

    def goes_through(self, sender: Sender) -> bool:
        """Whether it has a channel, and this relay carries that. It need not take further streams."""
        return self.session.is_attached and self.channel.sender is sender

    def is_worn(self) -> bool:
        """Whether its data channel has to be renewed."""
        session = self.session
        return session.channel_age > MAX_CHANNEL_SECONDS or session.channel_bytes > MAX_CHANNEL_BYTES

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the session to its end; started when the connector has greeted.

        Raises:
            SessionError: it never did.
        """
        async with FlatNursery() as nursery:
            try:
                await nursery.start(self._run_session, nursery)
            except SessionError:
                self.channel.sender.failed()
                raise
            logger.info("%s: connected over %s", self._connection, self.channel)
            task_status.started()

    async def wait_absent(self) -> None:
        """Wait until a relay says that the connector of this session, which lost its channel, is not there now."""
        await self._absent.wait()

    async def _run_session(self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]) -> None:
        async def reconnect() -> TLSStream:
            channel = await self._reconnect()
            nursery.start_soon(self._log_resumed, channel)
            return channel.stream

        await self.session.run(self.channel.stream, reconnect=reconnect, task_status=task_status)

    async def _reconnect(self) -> DataChannel:
        """Another channel for a session that lost its own, to the same instance of the connector. Tries for ever.

        Raises:
            HybridRelayError: there is no use in trying: the connector is gone, or every relay refuses us for good.
        """
        logger.warning("%s: the data channel was lost, resuming; it went over %s", self._connection, self.channel)
        lost = self.channel
        lost.sender.data_channel_lost()
        first: Sender | None = lost.sender
        if self._was_of_no_use():
            lost.sender.failed()
            first = None
        backoff = self._backoff
        if trio.current_time() - self._taken_at >= _HELD_SECONDS:
            backoff.reset()
            self._lost_early = 0
        else:
            self._lost_early += 1
            if self._lost_early > 1:
                await trio.sleep(backoff.next_wait())
        logged = ""
        while True:
            await self._senders.wait_for_one(_RESUME_JITTER)
            every = self._senders.in_order(first)
            senders = [sender for sender in every if not sender.is_away] or every
            try:
                channel = await self._senders.open_data_channel(self._peer, senders)
            except HybridRelayError as exc:
                if isinstance(exc, (RendezvousError, PeerIdentityError)):
                    self._absent.set()
                if _is_gone(exc) or (_ends_session(exc) and senders == every):
                    raise
                if (why := str(exc)) != logged:  # many tries fail in the same way
                    logger.info("%s: not resumed yet: %s", self._connection, why)
                logged = why
            else:
                self._absent = trio.Event()
                if self.channel is lost:  # otherwise a move came first, and the session closes this one
                    self._take(channel)
                return channel
            await trio.sleep(backoff.next_wait())

    async def _log_resumed(self, channel: DataChannel) -> None:
        if await self._wait_used(channel):
            logger.info("%s: resumed over %s", self._connection, channel)

    async def _wait_used(self, channel: DataChannel) -> bool:
        """Wait until the session, which was given this channel, has one. Returns whether it is this one."""
        await self.session.wait_open()
        return self.session.outcome is None and self.channel is channel

    async def move(self, senders: Sequence[Sender], *, is_needed: Callable[[], bool] = lambda: True) -> Reason:
        """Go to a fresh data channel through one of these relays while the present one lives; or stay.

        Moves are made one after the other. One ends when the session is open over its new channel, or over another
        one, if that was lost at once.

        Args:
            senders: the relays to try, in this order.
            is_needed: whether there is still a reason to move when other moves have been made. The default is that
                there is.

        Returns:
            Why it stays; NO_ERROR where it has moved, or there is nothing to be done.
        """
        async with self._moving:
            if not self.session.is_attached or not senders or not is_needed():
                return Reason.NO_ERROR
            try:
                channel = await self._senders.open_data_channel(self._peer, senders)
            except HybridRelayError as exc:
                logger.warning("%s: the session stays where it is: %s", self._connection, exc)
                return exc.reason
            self._take(channel)
            await self.session.replace_channel(channel.stream)
            if await self._wait_used(channel):
                logger.info("%s: moved to %s", self._connection, channel)
            return Reason.NO_ERROR

    async def leave(self, sender: Sender) -> None:
        """One relay is about to go: move to another, if there is one that leads to the same connector."""
        await trio.sleep(_LEAVE_JITTER * random.random())  # noqa: S311 - spreads load, hides nothing
        backoff = Backoff(first_seconds=_LEAVE_AGAIN_SECONDS, max_seconds=_LEAVE_AGAIN_SECONDS)
        while self.goes_through(sender):
            others = [one for one in self._senders.in_order() if not one.is_away]
            if await self.move(others, is_needed=lambda: self.goes_through(sender)) is not Reason.LIMIT:
                break
            await trio.sleep(backoff.next_wait())


def _ends_session(error: HybridRelayError) -> bool:
    """Whether no later attempt to resume can succeed.

    The relay has refused our key over its control channel, or a connector with another valid certificate of the same
    authority is in the peer's place. Every other failure of a data channel comes from something that has proved
    nothing: whatever answers on the way can send a status, a TLS alert, or a certificate of its own.
    """
    return is_final(error) or error.reason is Reason.IDENTITY_CHANGED


def _is_gone(error: HybridRelayError) -> bool:
    """Whether a relay has said that the connector of the session will never come back."""
    return isinstance(error, RendezvousError) and error.reason is Reason.LISTENER_GONE
