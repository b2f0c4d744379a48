"""The shell of the broker: carries out what `core.Broker` decides, with streams, listeners and a clock.

Only `authorize`, `join`, `serve_channel` and `expire` wait. Call `carry_out` after each input that is given to `core`
directly.
"""

# This module is long because every input of the machine has its method here.

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial

import attrs
import trio

from ..._defaults import RESUME_DEADLINE
from ..._histogram import Histogram
from ...errors import AuthorizationError
from ...events.base import Event
from ...events.log import logged_events
from ...events.relay import (
    ListenerLeft,
    ListenerRegistered,
    RendezvousEnded,
    RendezvousJoined,
    RendezvousKept,
    SenderDropped,
)
from ...events.relay_changes import ConnectionDeleted, DrainEnded, DrainStarted
from ...events.stream import EventStream
from ...protocol import control
from ...protocol.reasons import Reason
from ...security import Right
from ..core.authorization import Authorization, Grant, may_have_changed
from ..core.broker import Broker
from ..core.commands import (
    AskListener,
    CheckListener,
    EndControlChannel,
    EndRegistration,
    JoinMade,
    RefuseDataChannel,
    StopMoving,
)
from ..core.holders import Holder
from ..core.join import Answer
from ..core.listeners import ListenerTable
from ..core.pair_note import PairNote
from ..core.pairs import Pair, PairEnd, PairTable, Traffic
from ..core.places import Places
from ..core.quotas import Quotas
from ..core.rendezvous import Arrival, RendezvousTable
from ..core.rendezvous_states import Side
from ..core.sorted_index import SortedIndex
from ..core.usage import UsageMachine
from ..limits import BORROWED_PIPES, ESTABLISHED_AFTER_SECONDS, TICKET_LIFETIME_SECONDS, Shares
from ..model import HybridConnection, StoreChange
from ..quotas import NO_EDITIONS, Editions
from ..store.relay_id import new_relay_id
from .data_channels import Channels, DataChannels
from .handover import PairHandover
from .listener_handle import ListenerHandle, SenderHandle
from .offer_turns import WAIT_SECONDS
from .pace import Paces, PairPace
from .patience import in_time
from .places import places_for_control_channels, places_for_open_rendezvous, places_for_pairs
from .pump import Moved
from .splice import PipePool
from .worker_process import WorkerProcess
from .workers import Workers

__all__ = ["OFFER_SECONDS", "BrokerService"]

#: Upper bounds of the histogram of rendezvous (seconds). The last one is the lifetime of a ticket.
RENDEZVOUS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: How long after its start (seconds) a relay may not know all sessions, and is lenient with quotas.
LENIENT_SECONDS = 2 * RESUME_DEADLINE
#: How long a listener may take to answer an offer before another one is asked (seconds).
OFFER_SECONDS = 1.0


class BrokerService:
    """The shell of the broker; see the module's docstring.

    Args:
        connections: the content of the store.
        editions: the editions, and which one the relay uses.
        refresh: checks whether the store has changed; does not raise.
        clock: returns seconds since 1970.
        pairs: places for pairs of data channels; None means the maximum number.
        control_channels: places for control channels that a key has authorized; None means the maximum number.
        max_pipes: see `PipePool`.
        workers: worker processes that move bytes; None means that this process moves all of them.
        relay_id: the relay's id; None makes a new one.
        events: the stream to which events are published; None means the log.
        holder_secret: 32 random bytes, from which `control.Offer.holder` is computed; None generates them.
    """

    def __init__(
        self,
        connections: Mapping[str, HybridConnection],
        *,
        editions: Editions = NO_EDITIONS,
        refresh: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
        pairs: Places[str] | None = None,
        control_channels: Places[ListenerHandle] | None = None,
        max_pipes: int = BORROWED_PIPES,
        workers: Workers | None = None,
        relay_id: bytes | None = None,
        events: EventStream | None = None,
        holder_secret: bytes | None = None,
    ) -> None:
        self.events = logged_events() if events is None else events
        self._refresh = refresh
        self._clock = clock
        shares = Shares.of(None)
        self.authorization = Authorization(connections)
        self.listeners: ListenerTable[ListenerHandle] = ListenerTable(
            randbelow=secrets.randbelow, clock=trio.current_time
        )
        self._rendezvous = RendezvousTable(
            new_relay_id() if relay_id is None else relay_id,
            token_bytes=secrets.token_bytes,
            places=places_for_pairs(shares.pairs) if pairs is None else pairs,
            open_places=places_for_open_rendezvous(),
            bytes_from_sender=self._bytes_from_sender,
        )
        #: The machine that decides. Call `carry_out` after each call of a method that changes it.
        self.core: Broker[ListenerHandle] = Broker(
            self.authorization,
            places_for_control_channels(shares.control_channels) if control_channels is None else control_channels,
            self.listeners,
            self._rendezvous,
            quotas=Quotas(self.authorization.connections, editions),
            holder_secret=secrets.token_bytes(32) if holder_secret is None else holder_secret,
        )
        self._pipes = PipePool(max_borrowed=max_pipes, events=self.events)
        self._paces = Paces(lambda name: self.core.quotas.limits(name).bytes_per_second)
        self._workers = Workers(self.events) if workers is None else workers
        self._channels = DataChannels(self.core, self.carry_out, self._pipes, self._workers, self._joined)
        #: What hybrid connections use, and when keys were last used.
        self.usage = UsageMachine(clock())
        #: The joined pairs.
        self.pairs = PairTable()
        #: The control channels of clients that may join, by hybrid connection and an id.
        self.senders: SortedIndex[SenderHandle] = SortedIndex()
        #: Since when the relay is draining (seconds since 1970); None if it is not.
        self.draining_since: float | None = None
        #: Set when the next drain starts, and then replaced by a new event.
        self.next_drain = trio.Event()
        #: The times from an offer to a listener until both data channels were ready.
        self.rendezvous_times = Histogram(RENDEZVOUS_BUCKETS)
        #: The two ends of each rendezvous that is not joined yet, and when it was created.
        self._ends: dict[str, tuple[PairEnd, PairEnd, float]] = {}
        self._deadline_changed = trio.Event()

    def _bytes_from_sender(self, rendezvous_id: str) -> int:
        return self._channels.bytes_from_sender(rendezvous_id)

    def carry_out(self) -> None:
        """Carry out the broker's commands, and publish its events. Call this after each input. Never waits."""
        for output in self.core.take():
            match output:
                case CheckListener(listener):
                    listener.handle.check_alive()
                case EndRegistration(listener, reason):
                    listener.handle.ended(listener.connection, reason)
                case EndControlChannel(handle, reason):
                    handle.end(reason)
                case RefuseDataChannel(rendezvous_id, reason):
                    self._channels.refuse(rendezvous_id, reason)
                case StopMoving(rendezvous_id):
                    self._channels.stop_moving(rendezvous_id)
                case event:
                    self._note(event)
                    self.events.publish(event)

    def _note(self, event: Event) -> None:
        match event:
            case RendezvousEnded(activity_id=ended) | RendezvousKept(activity_id=ended):
                self._ends.pop(ended, None)
                self.pairs.ended(ended)
            case RendezvousJoined(connection=name):
                self.usage.joined(name)
            case ListenerRegistered(connection=name, instance=instance):
                self.pairs.appears(name, instance)
            case ListenerLeft(connection=name, instance=instance):
                self.pairs.leaves(name, instance)
            case ConnectionDeleted(connection=name):
                traffic = self.pairs.of_connection(name)
                self.usage.observe(name, traffic.to_client, traffic.to_connector)
                self.usage.forget(name)
                self.pairs.forget(name)
                self._paces.forget(name)

    # --- keys and listeners

    async def authorize(self, connection: str, token: str, right: Right) -> Grant:
        """Verify a token.

        Raises:
            AuthorizationError: the token does not give the right; `reason` says why.
        """
        try:
            return self._verify(connection, token, right)
        except AuthorizationError as exc:
            if not may_have_changed(exc):
                raise
        # The hybrid connection or the key may have been created since the last check of the store.
        await self._refresh()
        return self._verify(connection, token, right)

    def _verify(self, connection: str, token: str, right: Right) -> Grant:
        now = self._clock()
        grant = self.authorization.verify(connection, token, right, now)
        self.usage.used(grant.key, now)
        return grant

    def update(self, change: StoreChange) -> None:
        """See `Broker.update`."""
        self.core.update(change, trio.current_time())
        self.usage.forget_keys(change.ended)
        self.carry_out()
        if self._paces.update(change.changed if change.editions is None else None):
            self._workers.take_back()

    # --- joins

    async def join(
        self,
        grant: Grant,
        wanted: str | None,
        address: str = "",
        *,
        avoid: Collection[str] = (),
        instance: str = "",
        client_address: str = "",
    ) -> control.Joined | control.Failed:
        """Find a listener that accepts, for an authorized sender. The id of the answer is 0.

        If cancelled, an offer that has not been answered is withdrawn.

        Args:
            grant: the sender's authorization.
            wanted: the only instance that is acceptable, or None for any.
            address, instance: the sender's address group (`address_group`) and instance.
            avoid: instances that are not asked if any instance is acceptable.
            client_address: what the listener is told about the sender's address.
        """
        began = trio.current_time()
        step = self.core.joins.begin(grant, wanted, address, avoid=avoid, instance=instance, now=began)
        while isinstance(step, AskListener):
            asked = step.listener
            self._ends[step.rendezvous_id] = (
                PairEnd(asked.instance, asked.address, asked.key),
                PairEnd(instance, address, grant.key),
                trio.current_time(),
            )
            self.carry_out()
            self._deadline_changed.set()
            ask = step
            try:
                answer, reason = await self._ask(ask, client_address, began + WAIT_SECONDS)
            except BaseException:
                self.core.joins.cancel(ask, trio.current_time())
                self.carry_out()
                raise
            step = self.core.joins.answered(ask, answer, trio.current_time(), reason=reason)
        self.carry_out()
        if isinstance(step, JoinMade):
            return control.Joined(0, step.ticket, step.instance, TICKET_LIFETIME_SECONDS, step.rendezvous_id)
        return control.Failed(0, step.reason, step.detail)

    async def _ask(
        self, ask: AskListener[ListenerHandle], client_address: str, wait_until: float
    ) -> tuple[Answer, Reason]:
        def withdraw() -> None:
            self.core.withdraw(ask.rendezvous_id, trio.current_time())
            self.carry_out()

        def proved() -> None:
            self.core.establish(ask.rendezvous_id)
            self._channels.establish(ask.rendezvous_id)

        listener = ask.listener
        offer = partial(
            listener.handle.offer,
            connection=listener.connection,
            ticket=ask.ticket,
            lifetime_seconds=TICKET_LIFETIME_SECONDS,
            withdraw=withdraw,
            proved=proved,
            holder=ask.holder,
            rendezvous=ask.rendezvous_id,
            client_address=client_address,
        )
        try:
            number = await listener.handle.take_turn(listener.connection, ask.holder, wait_until)
            answer = None if number is None else await in_time(partial(offer, number), OFFER_SECONDS)
        except trio.TooSlowError:
            return Answer.DECLINED, Reason.LIMIT
        except trio.BrokenResourceError:
            return Answer.LOST, Reason.LISTENER_SILENT
        if answer is None:
            return Answer.TIMEOUT, Reason.LISTENER_SILENT
        if isinstance(answer, control.Accept):
            return Answer.ACCEPTED, Reason.NO_ERROR
        return Answer.DECLINED, answer.reason

    def _joined(self, rendezvous_id: str, channels: Channels) -> PairPace:
        """Note that the data channels of a rendezvous are joined. Returns the rate limit for them."""
        listener, sender, made_at = self._ends.pop(rendezvous_id)
        self.rendezvous_times.observe(trio.current_time() - made_at)
        listener = attrs.evolve(listener, transport=channels.transports[Side.LISTENER])
        sender = attrs.evolve(sender, transport=channels.transports[Side.SENDER])
        channels.handover = PairHandover(PairNote(rendezvous_id, listener, sender, time.monotonic()))
        name = listener.key.connection
        self.pairs.joined(Pair(rendezvous_id, name, listener, sender, trio.current_time(), channels))
        return self._paces.of(name, Holder(sender.key, sender.address))

    # --- pairs of the previous main process

    def knows(self, rendezvous_id: str) -> bool:
        """Return whether there is a rendezvous with this id that has not ended."""
        return self._rendezvous.knows(rendezvous_id)

    def take_over(
        self, worker: WorkerProcess, slot: int, note: PairNote, settled: Traffic, *, is_established: bool
    ) -> Callable[[], Awaitable[None]]:
        """Take over a pair that a worker has kept for this main process.

        Args:
            worker: the worker.
            slot: the slot of the pair.
            note: what the previous main process has noted about it. Its id must not be known (`knows`).
            settled: how many of the bytes that the worker has moved the previous main process has counted.
            is_established: whether its place is established.

        Returns:
            The task that has to be started. It runs until the end of the pair, which ends at once if it would not be
            allowed now.
        """
        age = max(0.0, time.monotonic() - note.joined_at)
        is_established = is_established or age >= ESTABLISHED_AFTER_SECONDS
        handover = PairHandover(note, is_established)
        pace = self._paces.of(note.connection, Holder(note.sender.key, note.sender.address))
        pair = worker.add_existing(slot, pace, handover)
        # The connector's channel is the first one, so the first number is that of the bytes to the client.
        channels = Channels(moved=Moved(note.to_client, note.to_connector, pair.counts))
        self._channels.take_over(channels, handover)
        since = trio.current_time() - age
        before = Traffic(note.to_client, note.to_connector)
        self.pairs.taken_over(
            Pair(note.id, note.connection, note.listener, note.sender, since, channels), before + settled
        )
        if note.connection not in self.authorization.connections:
            # The hybrid connection was deleted while no main process was running, so there was no event for this.
            self.pairs.forget(note.connection)
            self._paces.forget(note.connection)
        self.core.take_over(note, since, trio.current_time(), is_established=is_established)
        self.carry_out()
        return partial(self._channels.go_on, channels, worker, pair)

    # --- requests of administrators

    def set_draining(self, *, on: bool) -> bool:
        """Stop accepting registrations and joins, or accept them again. Returns whether this changes anything."""
        if on is self.core.is_draining:
            return False
        self.core.is_draining = on
        self.draining_since = self._clock() if on else None
        if on:
            self.next_drain.set()
            self.next_drain = trio.Event()
        self.events.publish(DrainStarted() if on else DrainEnded())
        return True

    def drop_listener(self, connection: str, instance: str) -> bool:
        """End a registration. Returns False if there is none. See `ListenerTable.drop`."""
        is_dropped = self.core.drop_listener(connection, instance)
        self.carry_out()
        return is_dropped

    def drain_listener(self, connection: str, instance: str, *, on: bool) -> bool:
        """Offer no new sessions to a listener, or offer them again. See `ListenerTable.set_draining`."""
        has_changed = self.core.drain_listener(connection, instance, on=on)
        self.carry_out()
        return has_changed

    def drop_sender(self, connection: str, sender_id: str) -> bool:
        """End the control channel of a client. Returns False if there is none."""
        sender = self.senders.get(connection, sender_id)
        if sender is None:
            return False
        self.senders.discard(connection, sender_id)
        reason = Reason.ADMINISTRATOR_DROPPED
        event = SenderDropped(connection=connection, peer=sender.address, instance=sender.instance, reason=reason)
        self.events.publish(event)
        sender.end(reason)
        return True

    def drop_pair(self, connection: str, pair_id: str) -> bool:
        """End a pair of data channels. Returns False if there is none."""
        if self.pairs.index.get(connection, pair_id) is None:
            return False
        self.core.drop_pair(pair_id, trio.current_time())
        self.carry_out()
        return True

    # --- data channels

    def use_ticket(self, ticket: bytes) -> Arrival:
        """Use the ticket of a data channel. Pass the result to `serve_channel` or `abandon`.

        Raises:
            RemoteProtocolError: see `RendezvousTable.use`.
        """
        return self.core.use_ticket(ticket, trio.current_time())

    def abandon(self, arrival: Arrival) -> None:
        """See `DataChannels.abandon`."""
        self._channels.abandon(arrival)

    async def serve_channel(
        self, arrival: Arrival, stream: trio.abc.HalfCloseableStream, transport: str = ""
    ) -> None:
        """See `DataChannels.serve`."""
        await self._channels.serve(arrival, stream, transport)

    async def expire(self) -> None:
        """End rendezvous that were not joined in time, until cancelled."""
        self.core.quotas.lenient_until = trio.current_time() + LENIENT_SECONDS
        while True:
            deadline = self.core.next_deadline()
            if deadline is None:
                await self._deadline_changed.wait()
                self._deadline_changed = trio.Event()
            else:
                await trio.sleep_until(deadline)
            self.core.expire(trio.current_time())
            self.carry_out()

    @property
    def open_rendezvous(self) -> int:
        """How many rendezvous have a ticket that was not used."""
        return self._rendezvous.open

    @property
    def connection_names(self) -> list[str]:
        """All hybrid connections that are known now."""
        return list(self.authorization.connections)

    def statistics(self) -> dict[str, int]:
        """Return the current numbers, by the names in docs/operating.md."""
        return {
            "listeners": self.listeners.count(),
            "open_rendezvous": self._rendezvous.open,
            "joined_pairs": self._rendezvous.joined,
            "pipes": self._pipes.borrowed + self._pipes.idle,
            "workers": self._workers.running,
            "pairs_of_workers": self._workers.pairs,
        }

    def close(self) -> None:
        """End all rendezvous, and with them the tasks that wait or move bytes, because the relay stops."""
        self.core.shut_down(trio.current_time())
        self.carry_out()
        self._pipes.close()
