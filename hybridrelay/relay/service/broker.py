"""The broker: rights, listeners, and which two data channels belong together.

It owns the three pure tables (registry snapshot, listeners, rendezvous), and puts them together. Only `join` (for a
listener's answer) and `meet` (for the other side) wait.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Protocol

import attrs
import trio

from ..._log_limit import LimitedLogger
from ...errors import AuthorizationError, RendezvousError, StateError
from ...protocol import control
from ...protocol.preamble import encode_status
from ...protocol.reasons import Reason
from ...security import Right, verify_token
from ..core.listeners import Listener, ListenerTable
from ..core.places import Places
from ..core.rendezvous import Ended, Event, Leg, RendezvousTable, Side
from ..limits import BORROWED_PIPES, CONTROL_CHANNELS_PER_KEY, TICKET_LIFETIME_SECONDS, Shares
from ..model import HybridConnection, KeyId, diff
from ..store.relay_id import new_relay_id
from .pump import Direction, PumpOutcome, abort, pump
from .splice import PipePool

logger = LimitedLogger("hybridrelay.relay")

#: After this time without an answer to an offer, another listener is asked (seconds).
OFFER_SECONDS = 1.0
#: Of this run of the relay; see `_sender_name`.
_SENDER_SECRET = secrets.token_bytes(32)
#: What a change of the registry may fix.
_MAY_HAVE_CHANGED = frozenset(
    {Reason.UNKNOWN_CONNECTION, Reason.UNKNOWN_RULE, Reason.WRONG_KEY, Reason.KEY_REVOKED, Reason.RIGHT_MISSING}
)
#: Listeners that are asked for one join, a second each: the client waits for 20.
MAX_ASKED = 8
#: The reasons of a listener's refusal that are passed on to the client. Any other becomes LISTENER_DECLINED: a
#: listener must not speak for the relay, and above all must not claim that the client's own key is not valid.
_PASSED_ON = {
    Reason.LISTENER_ABSENT: Reason.LISTENER_ABSENT,
    Reason.LISTENER_CANNOT_DIAL: Reason.LISTENER_CANNOT_DIAL,
    Reason.LIMIT: Reason.LIMIT,
    Reason.BUSY: Reason.LIMIT,
    Reason.GOING_AWAY: Reason.GOING_AWAY,
}
#: To get the status out to a side that has waited (seconds).
STATUS_SECONDS = 10.0


class ListenerHandle(Protocol):
    """What the broker needs of a listener's control channel."""

    async def offer(
        self,
        connection: str,
        ticket: bytes,
        lifetime_seconds: float,
        withdraw: Callable[[], None],
        sender: str = "",
    ) -> control.Accept | control.Failed:
        """Ask the listener to come; `withdraw` is called should it accept, and say later that it cannot come.

        `sender` is what `control.Offer` says of who wants to meet it.

        The caller sets the deadline. Raises `trio.BrokenResourceError` when the listener is gone.
        """

    def suspect(self) -> None:
        """It did not answer: find out whether it is alive."""

    def ended(self, connection: str, reason: Reason) -> None:
        """Its registration is over."""


@attrs.define(eq=False)
class _Meeting:
    """The two data channels of one rendezvous, as far as they have come."""

    legs: dict[Side, trio.abc.HalfCloseableStream] = attrs.field(factory=dict)
    over: trio.Event = attrs.field(factory=trio.Event)
    #: Why the one that waits is turned away; NO_ERROR where it was joined.
    reason: Reason = Reason.NO_ERROR
    pumping: trio.CancelScope | None = None
    #: How it ended, where that was not the end of the pump.
    ended: Ended | None = None
    #: Bytes that were handed on.
    moved: dict[Direction, int] = attrs.field(factory=lambda: dict.fromkeys(Direction, 0))

    def count(self, direction: Direction, moved: int) -> None:
        self.moved[direction] += moved


@attrs.define(eq=False)
class Arrival:
    """A data channel has shown a good ticket, and is on its way to `Broker.meet`."""

    leg: Leg
    meeting: _Meeting = attrs.field(repr=False)


@attrs.frozen
class Grant:
    """A verified token: which key gave the right, and until when (seconds since 1970)."""

    connection: HybridConnection
    key: KeyId
    expires_at: float


class Broker:
    """See the module.

    Args:
        connections: what is in the registry now.
        refresh: looks whether the registry has changed.
        clock: seconds since 1970.
        pairs: for data channels that are joined or wait for each other.
        control_channels: for control channels that a key has authorized.
        max_pipes: for `PipePool`.
        relay_id: of this relay; None means a new one for this run.
    """

    def __init__(
        self,
        connections: Mapping[str, HybridConnection],
        *,
        refresh: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
        pairs: Places | None = None,
        control_channels: Places | None = None,
        max_pipes: int = BORROWED_PIPES,
        relay_id: bytes | None = None,
    ) -> None:
        self._refresh = refresh
        self._connections = connections
        self._clock = clock
        self.listeners: ListenerTable[ListenerHandle] = ListenerTable(
            randbelow=secrets.randbelow, clock=trio.current_time
        )
        shares = Shares.of(None)
        self._rendezvous = RendezvousTable(
            new_relay_id() if relay_id is None else relay_id,
            token_bytes=secrets.token_bytes,
            places=Places("data channels", shares.pairs) if pairs is None else pairs,
        )
        self._control_channels = (
            Places("control channels", shares.control_channels) if control_channels is None else control_channels
        )
        self._meetings: dict[str, _Meeting] = {}
        self._pipes = PipePool(max_borrowed=max_pipes)
        #: How many control channels each key has authorized.
        self._holders: Counter[KeyId] = Counter()
        self._changed = trio.Event()

    # --- rights

    async def authorize(self, connection: str, token: str, right: Right) -> Grant:
        """Verify a token.

        Raises:
            AuthorizationError: `reason` says why not.
        """
        try:
            return self._authorize(connection, token, right)
        except AuthorizationError as exc:
            if exc.reason not in _MAY_HAVE_CHANGED:
                raise
        # Whoever just created the hybrid connection, or its key, need not wait for us to notice.
        try:
            await self._refresh()
        except StateError as exc:
            logger.error("the registry cannot be read: %s", exc)
        return self._authorize(connection, token, right)

    def _authorize(self, connection: str, token: str, right: Right) -> Grant:
        known = self._connections.get(connection)
        if known is None:
            raise AuthorizationError("no such hybrid connection", reason=Reason.UNKNOWN_CONNECTION)
        authorization = verify_token(
            token,
            hosts=known.hosts,
            entity=connection,
            right=right,
            entity_rules=known.rules,
            now=self._clock(),
        )
        key = known.key_id(authorization.rule_name, authorization.slot)
        assert key is not None, "a key that verified a token is in its rule"
        return Grant(known, key, authorization.expires_at)

    def hold(self, key: KeyId, *, first: bool) -> None:
        """Count a control channel that `key` is about to authorize, until `let_go`.

        Args:
            key: the key.
            first: it is the first that authorizes anything there. It takes the place that the channel has, until
                `leave`, whatever other keys follow.

        Raises:
            RendezvousError: with `Reason.LIMIT`, it has as many as it may. Nothing has changed.
        """
        if self._holders[key] >= CONTROL_CHANNELS_PER_KEY:
            raise RendezvousError("too many control channels of one key", reason=Reason.LIMIT)
        if first:
            self._control_channels.take(key)
        self._holders[key] += 1

    def leave(self, key: KeyId) -> None:
        """A control channel that has a place, for which this key had been the first, is over."""
        self._control_channels.give_back(key)

    def let_go(self, keys: Iterable[KeyId]) -> None:
        """The opposite of `hold`."""
        self._holders.subtract(list(keys))  # of a mapping, it would subtract the values
        self._holders += Counter()  # forgets those without any

    def update(self, connections: Mapping[str, HybridConnection]) -> None:
        """The registry has changed: end at once what keys that are gone had authorized."""
        gone = diff(self._connections, connections)
        deleted = self._connections.keys() - connections.keys()
        self._connections = connections
        for listener in self.listeners.revoke(gone):
            reason = Reason.UNKNOWN_CONNECTION if listener.connection in deleted else Reason.KEY_REVOKED
            listener.handle.ended(listener.connection, reason)
        for name in deleted:
            self.listeners.forget(name)
        for ended in self._rendezvous.revoke(gone):
            self._end(ended)

    # --- rendezvous

    async def join(
        self, grant: Grant, wanted: str | None, address: str = "", *, avoid: Collection[str] = ()
    ) -> control.Joined | control.Failed:
        """Find a listener that comes, for a sender that has the right to it. The id of the answer is 0.

        Args:
            grant: of the sender.
            wanted: the only instance that will do, or None for any.
            address: the sender's network address, as far as it counts as one (`slots.address_group`).
            avoid: instances that are not asked, where any will do.
        """
        name = grant.connection.name
        passed_over: set[str] = set()
        why = Reason.LISTENER_SILENT
        for _ in range(MAX_ASKED):
            if reason := self.why_revoked(grant.key):  # while a listener was asked
                return control.Failed(0, reason)
            if wanted is None:
                listener = self.listeners.choose(name, passed_over=passed_over.union(avoid))
            else:
                listener = None if passed_over else self.listeners.find(name, wanted)
            if listener is None:
                return control.Failed(0, why if passed_over else self.listeners.why_not(name, wanted))
            try:
                made = self._rendezvous.create(name, listener.key, grant.key, trio.current_time())
            except RendezvousError as exc:
                return control.Failed(0, exc.reason, str(exc))
            self._meetings[made.id] = _Meeting()
            self._changed.set()
            why = Reason.CANCELLED
            try:
                why = await self._offer(listener, made.id, made.listener_ticket, _sender_name(grant.key, address))
            finally:
                if why is not Reason.NO_ERROR:
                    self._withdraw(made.id)
            if why is Reason.NO_ERROR:
                return control.Joined(0, made.sender_ticket, listener.instance, TICKET_LIFETIME_SECONDS)
            if why is Reason.LISTENER_SILENT and self._is_replaced(listener):
                continue  # the offer was lost with a control channel, and the instance has another one
            passed_over.add(listener.instance)
        return control.Failed(0, why)

    def _is_replaced(self, listener: Listener[ListenerHandle]) -> bool:
        successor = self.listeners.find(listener.connection, listener.instance)
        return successor is not None and successor.handle is not listener.handle

    async def _offer(
        self, listener: Listener[ListenerHandle], rendezvous_id: str, ticket: bytes, sender: str
    ) -> Reason:
        """`Reason.NO_ERROR` if the listener is going to join, otherwise the reason for the client."""
        handle = listener.handle
        with trio.move_on_after(OFFER_SECONDS):
            try:
                answer = await handle.offer(
                    listener.connection,
                    ticket,
                    TICKET_LIFETIME_SECONDS,
                    lambda: self._withdraw(rendezvous_id),
                    sender,
                )
            except trio.BrokenResourceError:
                return Reason.LISTENER_SILENT
            if isinstance(answer, control.Accept):
                return Reason.NO_ERROR
            logger.info("%s: listener %s declined: %s", listener.connection, listener.instance, answer.reason.slug)
            return _PASSED_ON.get(answer.reason, Reason.LISTENER_DECLINED)
        logger.warning("%s: listener %s did not answer, asking another one", listener.connection, listener.instance)
        handle.suspect()
        return Reason.LISTENER_SILENT

    def _withdraw(self, rendezvous_id: str) -> None:
        if ended := self._rendezvous.end(rendezvous_id, Event.WITHDRAWN):
            self._end(ended)

    def use_ticket(self, ticket: bytes) -> Arrival:
        """A data channel shows its ticket. Pass what is returned to `meet`, or to `abandon`.

        Raises:
            RemoteProtocolError: `Reason.TICKET_UNKNOWN` or `Reason.TICKET_OF_ANOTHER_RELAY`.
        """
        leg = self._rendezvous.use(ticket, trio.current_time())
        return Arrival(leg, self._meetings[leg.rendezvous_id])

    def abandon(self, arrival: Arrival) -> None:
        """The data channel will not come to `meet`, or has been there. In the latter case nothing happens."""
        leg, meeting = arrival.leg, arrival.meeting
        if leg.side in meeting.legs or meeting.over.is_set():
            return
        # The other side's ticket may have been used as well, and then nothing but this ends the rendezvous.
        for event in (Event.WAITING_LEAVES, Event.BREAKS):
            if ended := self._rendezvous.end(leg.rendezvous_id, event):
                self._end(attrs.evolve(ended, reason=Reason.PEER_ABSENT))

    async def meet(self, arrival: Arrival, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one leg of a rendezvous to its end; closes `stream`, cancelled or not.

        The two legs may come in another order than that in which their tickets were used, and the rendezvous may have
        ended since then.
        """
        leg, meeting = arrival.leg, arrival.meeting
        meeting.legs[leg.side] = stream
        if len(meeting.legs) == len(Side) and not meeting.over.is_set():
            try:
                await self._join_legs(leg, meeting)
            finally:
                meeting.over.set()
            return
        try:
            await meeting.over.wait()
        except BaseException:
            # Before anything is awaited: this task may be cancelled.
            if meeting.pumping is not None:
                meeting.pumping.cancel()
            elif ended := self._rendezvous.end(leg.rendezvous_id, Event.WAITING_LEAVES):
                self._end(ended)
            await abort(stream)
            raise
        if meeting.reason is not Reason.NO_ERROR:
            await _turn_away(stream, meeting.reason)

    async def _join_legs(self, leg: Leg, meeting: _Meeting) -> None:
        listener, sender = meeting.legs[Side.LISTENER], meeting.legs[Side.SENDER]
        result = None
        try:
            with trio.CancelScope() as meeting.pumping:
                with trio.move_on_after(STATUS_SECONDS) as in_time:
                    status = encode_status(Reason.NO_ERROR)
                    try:
                        await sender.send_all(status)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        # A reset would make the listener doubt its way to us.
                        await _turn_away(listener, Reason.PEER_ABSENT)
                        raise
                    await listener.send_all(status)
                if not in_time.cancelled_caught:
                    logger.debug("%s: rendezvous %s joined", leg.connection, leg.rendezvous_id)
                    result = await pump(listener, sender, observer=meeting.count, pipes=self._pipes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one of them left before its status
        finally:
            # Before anything is awaited: this task may be cancelled.
            finished = result is not None and result.outcome is PumpOutcome.FINISHED
            event = Event.FINISHES if finished else Event.BREAKS
            ended = meeting.ended or self._rendezvous.end(leg.rendezvous_id, event)
            assert ended is not None, "a rendezvous that is pumped ends here, or has left word"
            self._meetings.pop(leg.rendezvous_id, None)
            _log_end(ended, meeting)
            if result is None:
                await abort(listener, sender)

    def _end(self, ended: Ended) -> None:
        """Stop the pump, or tell the side that waits."""
        meeting = self._meetings.pop(ended.rendezvous_id)
        if meeting.pumping is not None:
            meeting.ended = ended
            meeting.pumping.cancel()
        else:
            meeting.reason = ended.reason
            _log_end(ended, meeting)
            meeting.over.set()

    async def expire(self) -> None:
        """End rendezvous that no side has joined in time, until cancelled."""
        while True:
            deadline = self._rendezvous.next_deadline()
            if deadline is None:
                await self._changed.wait()
                self._changed = trio.Event()
            else:
                await trio.sleep_until(deadline)
            for ended in self._rendezvous.expire(trio.current_time()):
                self._end(ended)

    def vitals(self) -> dict[str, int]:
        """What it holds now; the names are those in docs/operating.md."""
        return {
            "listeners": self.listeners.count(),
            "open_rendezvous": self._rendezvous.open,
            "joined_pairs": self._rendezvous.joined,
            "pipes": self._pipes.borrowed + self._pipes.idle,
        }

    def close(self) -> None:
        """The relay stops; all waiting and pumping tasks are notified."""
        for ended in self._rendezvous.end_all():
            self._end(ended)
        self._pipes.close()

    def why_revoked(self, key: KeyId) -> Reason | None:
        """Why this key, which was valid once, is so no longer; None where it is."""
        known = self._connections.get(key.connection)
        if known is None:
            return Reason.UNKNOWN_CONNECTION
        return None if known.key_id(key.rule, key.slot) == key else Reason.KEY_REVOKED


def _sender_name(key: KeyId, address: str) -> str:
    """See `control.Offer.sender`. It tells a connector neither the key nor the address."""
    told = f"{key.connection}\n{key.rule}\n{key.slot}\n{key.generation}\n{address}"
    return hashlib.blake2b(told.encode(), key=_SENDER_SECRET, digest_size=8).hexdigest()


def _log_end(ended: Ended, meeting: _Meeting) -> None:
    """The one line that every rendezvous gets."""
    logger.info(
        "%s: rendezvous %s %s, %d bytes to the client, %d to the connector",
        ended.connection,
        ended.rendezvous_id,
        ended.outcome.value,
        meeting.moved[Direction.A_TO_B],
        meeting.moved[Direction.B_TO_A],
    )


async def _turn_away(stream: trio.abc.HalfCloseableStream, reason: Reason) -> None:
    with trio.move_on_after(STATUS_SECONDS):
        try:
            await stream.send_all(encode_status(reason))
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it left first
    await trio.aclose_forcefully(stream)
