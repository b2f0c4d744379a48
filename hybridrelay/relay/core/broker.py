"""The broker decides which listener a sender gets, and which two data channels belong together. Pure.

Every public method except `take`, `note` and `next_deadline` is an input. The outputs are commands and events. After
each input, the shell (`service/broker.py`) takes them with `Broker.take`. It carries out each command and publishes
each event, in the order of the outputs. Times are seconds of a monotonic clock unless a method says otherwise.

The broker combines parts that decide independently: `Authorization` (tokens and keys), `ListenerTable` (registered
listeners), `Joins` (the listener for a sender), `RendezvousTable` (tickets and data channels). The methods of
`Broker.joins` are inputs, too.
"""

# This module is long because each input, except those about joins, is a method of one class.

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Generic

from ...errors import RendezvousError
from ...events.base import Event
from ...events.relay import (
    ControlChannelDisplaced,
    ListenerDisplaced,
    ListenerDrainEnded,
    ListenerDrainStarted,
    ListenerLeft,
    ListenerRegistered,
    ListenerTargetHealthy,
    ListenerTargetUnhealthy,
    RendezvousEnded,
    RendezvousJoined,
    RendezvousKept,
    RendezvousTakenOver,
    RendezvousTimeout,
    TokenExpired,
)
from ...events.relay_changes import (
    ConnectionCreated,
    ConnectionDeleted,
    ConnectionDisabled,
    ConnectionEnabled,
    KeyChanged,
    KeyRevoked,
)
from ...protocol.control_states import TargetHealth
from ...protocol.reasons import Reason
from ...security import Right
from ..model import StoreChange
from .authorization import Authorization
from .choice import SessionCounts
from .commands import (
    Command,
    EndControlChannel,
    EndRegistration,
    RefuseDataChannel,
    StopMoving,
)
from .holders import Holder
from .join import MAX_ASKED
from .joining import Joins
from .listener import HandleT, Listener
from .listeners import ListenerTable
from .pair_note import PairNote
from .places import Place, Places
from .quotas import QuotaKind, Quotas
from .rendezvous import Arrival, Ended, RendezvousTable, Stopping
from .rendezvous_states import Input, Outcome, State

__all__ = ["Broker"]


#: Which sides did not open their data channel, by outcome.
_ABSENT = {
    Outcome.BOTH_ABSENT: ("listener", "sender"),
    Outcome.LISTENER_ABSENT: ("listener",),
    Outcome.SENDER_ABSENT: ("sender",),
}


class Broker(Generic[HandleT]):
    """The broker of a relay; see the module's docstring.

    Args:
        authorization: the hybrid connections and keys that are known now.
        control_channels: places for control channels that a key has authorized.
        listeners: the registered listeners.
        rendezvous: the rendezvous, with their tickets and data channels.
        holder_secret: 32 random bytes, from which the names of holders are computed.
        max_asked: how many listeners are asked for one join at most.
        quotas: the limits that administrators have set. None means those of the hybrid connections in
            `authorization`, without editions.
    """

    def __init__(
        self,
        authorization: Authorization,
        control_channels: Places[HandleT],
        listeners: ListenerTable[HandleT],
        rendezvous: RendezvousTable,
        *,
        holder_secret: bytes,
        max_asked: int = MAX_ASKED,
        quotas: Quotas | None = None,
    ) -> None:
        self.authorization = authorization
        self.control_channels = control_channels
        self.listeners = listeners
        self.rendezvous = rendezvous
        #: Whether the relay is draining.
        self.is_draining = False
        #: The limits that administrators have set.
        self.quotas = Quotas(authorization.connections) if quotas is None else quotas
        #: The numbers of control channels of clients, by hybrid connection.
        self.senders: Counter[str] = Counter()
        #: How many sessions each listener has at this relay.
        self._session_counts = SessionCounts()
        self._outputs: list[Command[HandleT] | Event] = []
        #: Finds listeners for senders.
        self.joins: Joins[HandleT] = Joins(
            authorization,
            listeners,
            rendezvous,
            self.quotas,
            self._session_counts,
            holder_secret=holder_secret,
            max_asked=max_asked,
            output=self._output,
            ended=self._ended,
            withdraw=self.withdraw,
        )

    def take(self) -> list[Command[HandleT] | Event]:
        """Return the outputs of the inputs since the last call, in order."""
        taken, self._outputs = self._outputs, []
        return taken

    def _output(self, output: Command[HandleT] | Event) -> None:
        self._outputs.append(output)

    def note(self, event: Event) -> None:
        """Publish an event for a part of the core that has no outputs of its own."""
        self._outputs.append(event)

    # --- keys and hybrid connections

    def update(self, change: StoreChange, now: float) -> None:
        """Apply a change of the store. Everything that removed keys had authorized ends, and so does everything that
        belongs to a hybrid connection that was disabled."""
        self.authorization.connections.apply(change)
        self.quotas.update((*change.changed, *change.deleted), change.editions, now)
        self._outputs += [ConnectionCreated(connection=name) for name in sorted(change.created)]
        self._outputs += [ConnectionDeleted(connection=name) for name in sorted(change.deleted)]
        self._outputs += [ConnectionDisabled(connection=name) for name in sorted(change.disabled)]
        self._outputs += [ConnectionEnabled(connection=name) for name in sorted(change.enabled)]
        for key in sorted(change.ended, key=lambda one: (one.connection, one.rule, one.slot)):
            if key.connection not in change.deleted:
                known = change.changed[key.connection].key_id(key.rule, key.slot)
                event = KeyRevoked if known is None else KeyChanged
                self._outputs.append(event(connection=key.connection, rule=key.rule, slot=key.slot.value))
        for listener in self.listeners.revoke(change.ended):
            deleted = listener.connection in change.deleted
            why_not = Reason.UNKNOWN_CONNECTION if deleted else self.authorization.why_not(listener.key, Right.LISTEN)
            # If the rule has lost another right, the listener may register again.
            self._end_registration(listener, why_not or Reason.KEY_REVOKED)
        for name in change.deleted:
            self.listeners.forget(name)
        for ended in self.rendezvous.revoke(change.ended, now):
            self._ended(ended)
        if change.disabled:
            self._disable(change, now)

    def _disable(self, change: StoreChange, now: float) -> None:
        """End the registrations and rendezvous of hybrid connections that were disabled."""
        for name in sorted(change.disabled):
            for listener in self.listeners.of(name):
                self.listeners.remove(listener)
                self._end_registration(listener, Reason.CONNECTION_DISABLED)
        self._end_rendezvous(change.disabled, Input.DISABLED, now)

    def _end_rendezvous(self, connections: Collection[str], happened: Input, now: float) -> None:
        known = self.authorization.connections
        present = [known[name] for name in connections if name in known]  # one that was deleted has no keys
        keys = [key for one in present for rule, slot in one.generations if (key := one.key_id(rule, slot))]
        for ended in self.rendezvous.end_connections(connections, happened, keys, now):
            self._ended(ended)

    # --- quotas

    def check_quotas(self, by_connection: Mapping[str, int], total: int, now: float) -> Iterator[None]:
        """Compare the quotas with what is in use, and end sessions if a limit says so.

        Call it every few seconds, and iterate over the result to its end. There may be thousands of quotas, so it
        yields after those of each hybrid connection, and anything else may happen in between.

        Args:
            by_connection: the bytes that were moved in this calendar month, in both directions, by hybrid connection.
            total: the same for all hybrid connections, including those that were deleted.
            now: the time.
        """
        quotas = self.quotas
        quotas.count_bytes(by_connection, total, now)
        for name in quotas.limited:
            quotas.note_bytes(name, now)
            quotas.note(name, QuotaKind.LISTENERS, len(self.listeners.of(name)), now)
            quotas.note(name, QuotaKind.SENDERS, self.senders[name], now)
            quotas.note(name, QuotaKind.SESSIONS, self.rendezvous.count(name), now)
            self._outputs += quotas.take()
            yield
        self._outputs += quotas.take()
        for name in tuple(self.rendezvous.connections):
            if quotas.is_overdrawn(name):
                self._end_rendezvous([name], Input.OVERDRAWN, now)
            yield

    def check_sender_quota(self, connection: str, instance: str, wanted: str | None, now: float) -> None:
        """Check whether a client's control channel may join a hybrid connection for the first time. The caller counts
        it in `senders`.

        Args:
            connection: the hybrid connection.
            instance: the client's instance.
            wanted: the listener that it asks for, if any.
            now: the time.

        Raises:
            RendezvousError: a quota is used up.
        """
        for_session = self.joins.may_be_for_session(connection, instance, wanted, now)
        self.quotas.check_sender(connection, self.senders[connection], now, for_session=for_session)

    # --- listeners

    def register(self, listener: Listener[HandleT], now: float, *, replaces: Collection[str] = ()) -> None:
        """Register an authorized listener, or renew its registration.

        Args:
            listener: the listener, which has proved that it has the secret of its instance.
            now: the time.
            replaces: instances that are known to be dead, because the listener has presented their secrets.

        Raises:
            RendezvousError: see `ListenerTable.register`.
        """
        limit = self.quotas.limits(listener.connection).listeners
        try:
            replaced = self.listeners.register(listener, limit)
        except RendezvousError as exc:
            if exc.reason is Reason.LISTENER_QUOTA:
                used = len(self.listeners.of(listener.connection))
                self.quotas.note(listener.connection, QuotaKind.LISTENERS, used, now)
            raise
        is_new = replaced is None or replaced.instance != listener.instance
        if replaced is not None and is_new:
            self._outputs.append(
                ListenerDisplaced(
                    connection=listener.connection, instance=replaced.instance, successor=listener.instance
                )
            )
            self._end_registration(replaced, Reason.LISTENER_QUOTA)
        elif replaced is not None and replaced.handle is not listener.handle:
            self._outputs.append(EndRegistration(replaced, Reason.SUPERSEDED))
        for dead in replaces:
            if dead != listener.instance:
                ended = self.listeners.declare_gone(listener.connection, dead)
                if ended is not None:
                    self._end_registration(ended, Reason.SUPERSEDED)
        if is_new:
            self._outputs.append(
                ListenerRegistered(connection=listener.connection, peer=listener.address, instance=listener.instance)
            )

    def unregister(self, listener: Listener[HandleT], reason: Reason = Reason.NO_ERROR) -> None:
        """End a registration that was withdrawn, or whose control channel has ended.

        Args:
            listener: the registration.
            reason: why the relay has ended the control channel; `Reason.NO_ERROR` if the relay has not.
        """
        if self.listeners.remove(listener):
            self._left(listener, reason)

    def drop_listener(self, connection: str, instance: str) -> bool:
        """End a registration for an administrator. Returns False if there is none."""
        listener = self.listeners.drop(connection, instance)
        if listener is not None:
            self._end_registration(listener, Reason.ADMINISTRATOR_DROPPED)
        return listener is not None

    def drain_listener(self, connection: str, instance: str, *, on: bool) -> bool:
        """Offer no new sessions to a listener, or offer them again, for an administrator. Returns whether this has
        changed anything."""
        has_changed = self.listeners.set_draining(connection, instance, on=on)
        if has_changed:
            event = ListenerDrainStarted if on else ListenerDrainEnded
            self._outputs.append(event(connection=connection, instance=instance))
        return has_changed

    def report_target(self, listener: Listener[HandleT], health: TargetHealth) -> None:
        """Note what a listener reports about its target. Does nothing if it is no longer registered."""
        before = self.listeners.report_target(listener, health)
        was_unhealthy, is_unhealthy = (one is TargetHealth.UNHEALTHY for one in (before, health))
        if before is not None and was_unhealthy is not is_unhealthy:
            event = ListenerTargetUnhealthy if is_unhealthy else ListenerTargetHealthy
            self._outputs.append(
                event(connection=listener.connection, peer=listener.address, instance=listener.instance)
            )

    def token_expired(self, listener: Listener[HandleT]) -> None:
        """End a registration whose token has expired and was not renewed."""
        if self.listeners.remove(listener):
            self._outputs.append(
                TokenExpired(connection=listener.connection, peer=listener.address, instance=listener.instance)
            )
            self._end_registration(listener, Reason.TOKEN_EXPIRED)

    def _end_registration(self, listener: Listener[HandleT], reason: Reason) -> None:
        self._left(listener, reason)
        self._outputs.append(EndRegistration(listener, reason))

    def _left(self, listener: Listener[HandleT], reason: Reason) -> None:
        self._outputs.append(
            ListenerLeft(
                connection=listener.connection, peer=listener.address, instance=listener.instance, reason=reason
            )
        )

    # --- control channels

    def admit_control_channel(self, holder: Holder, handle: HandleT, instance: str) -> Place[HandleT]:
        """Give a place to a control channel whose peer has presented its first valid token.

        The channel keeps the place until `Places.leave` is called for it.

        Args:
            holder: the key of the token, and the address of the peer.
            handle: the handle of the channel.
            instance: the instance of the peer.

        Raises:
            RendezvousError: with `Reason.LIMIT`: there is no place for it. Nothing has changed.
        """
        if (displaced := self.control_channels.choose_displaced(holder, instance)) is not None:
            self.control_channels.leave(displaced)
            key = displaced.holder.key
            by_other = key.connection != holder.key.connection
            self._outputs += [
                EndControlChannel(displaced.owner, Reason.LIMIT),
                ControlChannelDisplaced(
                    connection=key.connection,
                    rule=key.rule,
                    peer=displaced.holder.address,
                    successor="" if by_other else holder.address,
                    by_other=by_other,
                ),
            ]
        return self.control_channels.take(holder, handle)

    # --- data channels

    def establish(self, rendezvous_id: str) -> None:
        """Establish the place of a pair: the listener has reported that the sender has proved its identity."""
        self.rendezvous.establish(rendezvous_id)

    def withdraw(self, rendezvous_id: str, now: float) -> None:
        """End a rendezvous that is no longer needed: the listener does not open its data channel, or the sender no
        longer waits."""
        self._end(rendezvous_id, Input.WITHDRAWN, now)

    def drop_pair(self, rendezvous_id: str, now: float) -> None:
        """End a pair of data channels for an administrator. Does nothing if it has already ended."""
        self._end(rendezvous_id, Input.DROPPED, now)

    def use_ticket(self, ticket: bytes, now: float) -> Arrival:
        """Use the ticket that a data channel has presented. Pass the returned value to `ready` or `gone`.

        Raises:
            RemoteProtocolError: see `RendezvousTable.use`.
        """
        return self.rendezvous.use(ticket, now)

    def ready(self, arrival: Arrival, now: float) -> State:
        """Note that a data channel is ready to be joined with the other one; see `RendezvousTable.ready`.

        After `State.JOINED`, the shell moves bytes, and calls `moving_ended` when it stops, for whatever reason.
        """
        state = self.rendezvous.ready(arrival, now)
        if state is State.JOINED:
            self._outputs.append(RendezvousJoined(connection=arrival.connection, activity_id=arrival.rendezvous_id))
        return state

    def gone(self, arrival: Arrival, now: float) -> None:
        """Note that a data channel has ended before it was joined. Does nothing if the rendezvous was joined or has
        ended."""
        self._end(arrival.rendezvous_id, Input.LEAVES, now)

    def moving_ended(
        self, rendezvous_id: str, how: Input, now: float, *, bytes_to_client: int, bytes_to_connector: int
    ) -> None:
        """Note that the shell has stopped moving the bytes of a rendezvous.

        Args:
            rendezvous_id: the rendezvous, which was joined.
            how: `Input.FINISHES`, `BREAKS`, `CANCELLED` or `KEPT`.
            now: the time.
            bytes_to_client: how many bytes were written to the client's channel.
            bytes_to_connector: how many bytes were written to the connector's channel.
        """
        ended = self.rendezvous.end(rendezvous_id, how, now)
        assert ended is not None, "a joined rendezvous ends when its bytes are no longer moved"
        self._ended(ended, bytes_to_client, bytes_to_connector)

    def take_over(self, note: PairNote, joined_at: float, now: float, *, is_established: bool) -> None:
        """Take over a pair of the previous main process. The shell has to be ready to stop the pair, because the pair
        ends at once if it is no longer allowed.

        Args:
            note: what the previous main process has noted about it. Its id must not be known
                (`RendezvousTable.knows`).
            joined_at: when it was joined.
            now: the time.
            is_established: whether its place is established.
        """
        has_room = self.rendezvous.take_over(note, joined_at, is_established=is_established)
        self._session_counts.began(note.id, note.connection, note.listener.instance)
        self._outputs.append(RendezvousTakenOver(connection=note.connection, activity_id=note.id))
        why_not = self._why_not(note) or (None if has_room else Input.DISPLACED)
        if why_not is not None:
            self._end(note.id, why_not, now)

    def _why_not(self, note: PairNote) -> Input | None:
        """Return why the keys of a pair, or a quota, do not allow it any more; None if they do."""
        for key, right in ((note.listener.key, Right.LISTEN), (note.sender.key, Right.SEND)):
            reason = self.authorization.why_not(key, right)
            if reason is not None:
                return Input.DISABLED if reason is Reason.CONNECTION_DISABLED else Input.REVOKED
        return Input.OVERDRAWN if self.quotas.is_overdrawn(note.connection) else None

    def next_deadline(self) -> float | None:
        """Return when `expire` has to be called next; None if there is nothing to wait for."""
        return self.rendezvous.next_deadline()

    def expire(self, now: float) -> None:
        """End rendezvous that did not get both of their data channels in time, as many as `RendezvousTable.expire`
        ends. If there are more, `next_deadline` is not after `now`."""
        for ended in self.rendezvous.expire(now):
            self._outputs.append(
                RendezvousTimeout(
                    connection=ended.connection,
                    activity_id=ended.rendezvous_id,
                    absent=_ABSENT[ended.outcome],
                )
            )
            self._ended(ended)

    def shut_down(self, now: float) -> None:
        """End all rendezvous, because the relay stops."""
        for ended in self.rendezvous.end_all(now):
            self._ended(ended)

    def _end(self, rendezvous_id: str, happened: Input, now: float) -> None:
        ended = self.rendezvous.end(rendezvous_id, happened, now)
        if ended is not None:
            self._ended(ended)

    def _ended(self, ended: Ended | Stopping, bytes_to_client: int = 0, bytes_to_connector: int = 0) -> None:
        if isinstance(ended, Stopping):
            self._outputs.append(StopMoving(ended.rendezvous_id))
            return
        self._session_counts.ended(ended.rendezvous_id)
        self._outputs.append(RefuseDataChannel(ended.rendezvous_id, ended.status))
        if ended.outcome is Outcome.KEPT:
            self._outputs.append(RendezvousKept(connection=ended.connection, activity_id=ended.rendezvous_id))
            return
        self._outputs.append(
            RendezvousEnded(
                connection=ended.connection,
                activity_id=ended.rendezvous_id,
                outcome=ended.outcome.value,
                reason=ended.reason,
                bytes_to_client=bytes_to_client,
                bytes_to_connector=bytes_to_connector,
                seconds=ended.seconds,
            )
        )
