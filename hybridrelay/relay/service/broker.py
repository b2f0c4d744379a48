"""The shell of the broker: does what `core.Broker` decides, with streams, listeners and a clock.

Only `authorize`, `join` and `meet` wait. After each input, `carry_out` does what the broker says and publishes its
events.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

import attrs
import trio

from ..._exception_groups import leaves
from ...errors import AuthorizationError
from ...events import EventStream, logged_events
from ...protocol import control
from ...protocol.preamble import encode_status
from ...protocol.reasons import Reason
from ...security import Right
from ..core.authorization import Authorization, Grant, may_have_changed
from ..core.broker import (
    AskListener,
    Broker,
    CheckListener,
    EndRegistration,
    JoinMade,
    StopMoving,
    TurnAway,
)
from ..core.join import Answer
from ..core.listeners import ListenerTable
from ..core.places import Places
from ..core.rendezvous import Arrival, Input, RendezvousTable, Side, State
from ..limits import BORROWED_PIPES, CONTROL_CHANNELS_PER_KEY, TICKET_LIFETIME_SECONDS, Shares
from ..model import HybridConnection, StoreChange
from ..snapshot import RendezvousSnapshot
from ..store.relay_id import new_relay_id
from .pump import Direction, PumpOutcome, abort, pump
from .splice import PipePool

__all__ = ["OFFER_SECONDS", "STATUS_SECONDS", "BrokerService", "ListenerHandle"]

#: After this time without an answer to an offer, another listener is asked (seconds).
OFFER_SECONDS = 1.0
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

        `sender` is what `control.Offer` says of the sender.

        The caller sets the deadline. Raises `trio.BrokenResourceError` when the listener is gone.
        """

    def check_alive(self) -> None:
        """It did not answer: find out whether it is alive."""

    def ended(self, connection: str, reason: Reason) -> None:
        """Its registration is over."""


@attrs.define(eq=False)
class _Channels:
    """The data channels of one rendezvous that are ready, and the bytes that were moved between them."""

    by_side: dict[Side, trio.abc.HalfCloseableStream] = attrs.field(factory=dict)
    #: Around the moving of bytes; None before it begins.
    moving: trio.CancelScope | None = None
    #: Set when the rendezvous is over.
    over: trio.Event = attrs.field(factory=trio.Event)
    #: What the channel that waits is told; NO_ERROR where it was joined.
    told: Reason = Reason.NO_ERROR
    moved: dict[Direction, int] = attrs.field(factory=lambda: dict.fromkeys(Direction, 0))

    def count(self, direction: Direction, moved: int) -> None:
        self.moved[direction] += moved

    # The connector's channel is the first of the two that `pump` joins.

    @property
    def bytes_to_client(self) -> int:
        return self.moved[Direction.A_TO_B]

    @property
    def bytes_to_connector(self) -> int:
        return self.moved[Direction.B_TO_A]


class BrokerService:
    """See the module.

    Args:
        connections: what is in the store now.
        refresh: looks whether the store has changed; does not raise.
        clock: seconds since 1970.
        pairs: places for data channels that are joined or wait for each other.
        control_channels: places for control channels that a key has authorized.
        max_pipes: for `PipePool`.
        relay_id: of this relay; None means a new one for this run.
        events: where events go; None means the log.
        sender_secret: 32 random bytes, from which `control.Offer.sender` is computed; None makes them.
        channels_per_key: how many control channels one key may authorize at a time.
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
        events: EventStream | None = None,
        sender_secret: bytes | None = None,
        channels_per_key: int = CONTROL_CHANNELS_PER_KEY,
    ) -> None:
        self.events = logged_events() if events is None else events
        self._refresh = refresh
        self._clock = clock
        shares = Shares.of(None)
        places = Places("control channels", shares.control_channels) if control_channels is None else control_channels
        self.authorization = Authorization(connections, places, channels_per_key=channels_per_key)
        self.listeners: ListenerTable[ListenerHandle] = ListenerTable(
            randbelow=secrets.randbelow, clock=trio.current_time
        )
        self._rendezvous = RendezvousTable(
            new_relay_id() if relay_id is None else relay_id,
            token_bytes=secrets.token_bytes,
            places=Places("data channels", shares.pairs) if pairs is None else pairs,
        )
        #: What decides. After a call of one of its methods that changes something, call `carry_out`.
        self.core: Broker[ListenerHandle] = Broker(
            self.authorization,
            self.listeners,
            self._rendezvous,
            sender_secret=secrets.token_bytes(32) if sender_secret is None else sender_secret,
        )
        self._channels: dict[str, _Channels] = {}
        self._pipes = PipePool(max_borrowed=max_pipes, events=self.events)
        self._deadline_changed = trio.Event()

    def carry_out(self) -> None:
        """Do what the broker has decided, and publish its events. To be called after each input; it never waits."""
        for output in self.core.take():
            match output:
                case CheckListener(listener):
                    listener.handle.check_alive()
                case EndRegistration(listener, reason):
                    listener.handle.ended(listener.connection, reason)
                case TurnAway(rendezvous_id, reason):
                    if channels := self._channels.pop(rendezvous_id, None):
                        channels.told = Reason.NO_ERROR if channels.moving is not None else reason
                        channels.over.set()
                case StopMoving(rendezvous_id):
                    moving = self._channels[rendezvous_id].moving
                    assert moving is not None, "only what is moved can be stopped"
                    moving.cancel()
                case event:
                    self.events.publish(event)

    # --- keys and listeners

    async def authorize(self, connection: str, token: str, right: Right) -> Grant:
        """Verify a token.

        Raises:
            AuthorizationError: `reason` says why it gives no right.
        """
        try:
            return self.authorization.verify(connection, token, right, self._clock())
        except AuthorizationError as exc:
            if not may_have_changed(exc):
                raise
        # Somebody who just created the hybrid connection, or its key, need not wait until the relay notices.
        await self._refresh()
        return self.authorization.verify(connection, token, right, self._clock())

    def update(self, change: StoreChange) -> None:
        """See `Broker.update`."""
        self.core.update(change, trio.current_time())
        self.carry_out()

    # --- joins

    async def join(
        self, grant: Grant, wanted: str | None, address: str = "", *, avoid: Collection[str] = ()
    ) -> control.Joined | control.Failed:
        """Find a listener that comes, for a sender that has the right to it. The id of the answer is 0.

        Args:
            grant: of the sender.
            wanted: the only instance that will do, or None for any.
            address: the sender's network address, as far as it counts as one (`address_group`).
            avoid: instances that are not asked, where any will do.

        Cancelled, the offer that is under way is withdrawn.
        """
        step = self.core.join(grant, wanted, address, avoid=avoid, now=trio.current_time())
        while isinstance(step, AskListener):
            self.carry_out()
            self._deadline_changed.set()
            ask = step
            try:
                answer, reason = await self._ask(ask)
            except BaseException:
                self.core.cancel_join(ask, trio.current_time())
                self.carry_out()
                raise
            step = self.core.answered(ask, answer, trio.current_time(), reason=reason)
        self.carry_out()
        if isinstance(step, JoinMade):
            return control.Joined(0, step.ticket, step.instance, TICKET_LIFETIME_SECONDS)
        return control.Failed(0, step.reason, step.detail)

    async def _ask(self, ask: AskListener[ListenerHandle]) -> tuple[Answer, Reason]:
        def withdraw() -> None:
            self.core.withdraw(ask.rendezvous_id, trio.current_time())
            self.carry_out()

        listener = ask.listener
        with trio.move_on_after(OFFER_SECONDS):
            try:
                answer = await listener.handle.offer(
                    listener.connection, ask.ticket, TICKET_LIFETIME_SECONDS, withdraw, ask.sender
                )
            except trio.BrokenResourceError:
                return Answer.LOST, Reason.LISTENER_SILENT
            if isinstance(answer, control.Accept):
                return Answer.ACCEPTED, Reason.NO_ERROR
            return Answer.DECLINED, answer.reason
        return Answer.TIMEOUT, Reason.LISTENER_SILENT

    # --- data channels

    def use_ticket(self, ticket: bytes) -> Arrival:
        """A data channel shows its ticket. Pass what is returned to `meet`, or to `abandon`.

        Raises:
            RemoteProtocolError: see `RendezvousTable.use`.
        """
        return self.core.use_ticket(ticket, trio.current_time())

    def abandon(self, arrival: Arrival) -> None:
        """The data channel will not come to `meet`, or has been there. In the latter case nothing happens."""
        self.core.gone(arrival, trio.current_time())
        self.carry_out()

    async def meet(self, arrival: Arrival, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one data channel of a rendezvous to its end; closes `stream`, cancelled or not.

        The two channels may come in another order than that in which their tickets were used, and the rendezvous may
        have ended since then.
        """
        state = self.core.ready(arrival, trio.current_time())
        if state is State.ENDED:
            await _turn_away(stream, Reason.PEER_ABSENT)
            return
        channels = self._channels.setdefault(arrival.rendezvous_id, _Channels())
        channels.by_side[arrival.side] = stream
        if state is State.JOINED:
            channels.moving = trio.CancelScope()
            self.carry_out()
            await self._move(arrival.rendezvous_id, channels, channels.moving)
            return
        try:
            await channels.over.wait()
        except BaseException:
            # Before anything is awaited: this task may be cancelled.
            if channels.moving is None:
                self.abandon(arrival)
            else:
                channels.moving.cancel()
            await abort(stream)
            raise
        if channels.told is not Reason.NO_ERROR:
            await _turn_away(stream, channels.told)

    async def _move(self, rendezvous_id: str, channels: _Channels, moving: trio.CancelScope) -> None:
        """Tell both sides that they are joined, and move bytes between them until one of them, or both, end it."""
        listener, sender = channels.by_side[Side.LISTENER], channels.by_side[Side.SENDER]
        #: Unless something else is found out: cancelled, from outside or by `moving`.
        how = Input.CANCELLED
        pumped = False
        try:
            with moving:
                if await _tell_both(listener, sender):
                    pumped = True
                    result = await pump(listener, sender, observer=channels.count, pipes=self._pipes)
                    how = Input.FINISHES if result.outcome is PumpOutcome.FINISHED else Input.BREAKS
                else:
                    how = Input.BREAKS
        except BaseException as exc:
            if not all(isinstance(leaf, trio.Cancelled) for leaf in leaves(exc)):
                how = Input.BREAKS
            raise
        finally:
            try:
                if not pumped:
                    await abort(listener, sender)
            finally:
                self.core.moving_ended(
                    rendezvous_id,
                    how,
                    trio.current_time(),
                    bytes_to_client=channels.bytes_to_client,
                    bytes_to_connector=channels.bytes_to_connector,
                )
                self.carry_out()

    async def expire(self) -> None:
        """End rendezvous that no side has joined in time, until cancelled."""
        while True:
            deadline = self.core.next_deadline()
            if deadline is None:
                await self._deadline_changed.wait()
                self._deadline_changed = trio.Event()
            else:
                await trio.sleep_until(deadline)
            self.core.expire(trio.current_time())
            self.carry_out()

    def rendezvous(self) -> tuple[RendezvousSnapshot, ...]:
        """All rendezvous that have not ended, with the bytes so far."""
        now = trio.current_time()
        found = []
        for one in self._rendezvous.states():
            channels = self._channels.get(one.id)
            found.append(
                RendezvousSnapshot(
                    one.id,
                    one.connection,
                    one.state.value,
                    0.0 if one.joined_at is None else now - one.joined_at,
                    0 if channels is None else channels.bytes_to_client,
                    0 if channels is None else channels.bytes_to_connector,
                )
            )
        return tuple(found)

    def statistics(self) -> dict[str, int]:
        """What it holds now; the names are those in docs/operating.md."""
        return {
            "listeners": self.listeners.count(),
            "open_rendezvous": self._rendezvous.open,
            "joined_pairs": self._rendezvous.joined,
            "pipes": self._pipes.borrowed + self._pipes.idle,
        }

    def close(self) -> None:
        """The relay stops; all tasks that wait or move bytes are told."""
        self.core.shut_down(trio.current_time())
        self.carry_out()
        self._pipes.close()


async def _tell_both(listener: trio.abc.HalfCloseableStream, sender: trio.abc.HalfCloseableStream) -> bool:
    """Send the status by which the two learn that they are joined; False where one of them has left."""
    status = encode_status(Reason.NO_ERROR)
    with trio.move_on_after(STATUS_SECONDS):
        try:
            await sender.send_all(status)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # With a reset instead, the listener would look for the fault in its own route to the relay.
            await _turn_away(listener, Reason.PEER_ABSENT)
            return False
        try:
            await listener.send_all(status)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True
    return False


async def _turn_away(stream: trio.abc.HalfCloseableStream, reason: Reason) -> None:
    with trio.move_on_after(STATUS_SECONDS):
        try:
            await stream.send_all(encode_status(reason))
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it left first
    await trio.aclose_forcefully(stream)
