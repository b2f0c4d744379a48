"""A client's connection to one relay: its control channel, and the data channels that it opens through the relay."""

# This module is long because everything that uses the control channel, and decides when it is replaced, is one class.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import attrs
import trio

from ..._value import Value
from ...abc import Purpose
from ...audit.witnessing import Witnessing
from ...connectivity.control import ControlChannel
from ...connectivity.data import CHANNEL_FAILED, EndToEnd, open_data_channel
from ...connectivity.discovery import Candidate
from ...connectivity.link import RelayLink, make_connection_token
from ...connectivity.new_keys import check_token
from ...connectivity.refusals import failure_error
from ...connectivity.snapshot import FailureSnapshot, RelaySnapshot, RelayState
from ...connectivity.witnessing import send_checkpoints
from ...errors import AuthorizationError, HybridRelayError, RelayUnreachable, RendezvousError
from ...events.client import ConnectorPassedOver, JoinRightEnded
from ...events.endpoint import EarlierKeyUsed, RelayDraining
from ...events.stream import EventStream
from ...protocol import control
from ...protocol.reasons import Reason
from ...security import ConnectionString, PeerIdentity, Secret
from ...streams import TLSStream
from .listeners import ListenerSearch
from .searching import Search


@attrs.frozen
class Peer(Value):
    """The other end of a session, to which every later data channel of the session has to lead."""

    #: The instance of the connector.
    instance: str
    #: The identity that the connector proved in the end-to-end handshake.
    identity: PeerIdentity


@attrs.frozen(eq=False)
class DataChannel:
    """A new data channel on which nothing has been sent yet, with its relay, route and peer."""

    stream: TLSStream = attrs.field(repr=False)
    peer: Peer
    relay: RelayConnection
    #: The channel's route, which need not be the one that would be chosen now.
    candidate: Candidate
    #: The key that authorized the channel. If it is revoked, the relay closes the channel.
    key: Secret | None = None
    #: The id of the channel's rendezvous, as stated by the relay.
    rendezvous: str = ""

    def __str__(self) -> str:
        return f"{self.candidate.route.name} at {self.relay.link.host}"


@attrs.frozen
class _Joined(Value):
    """A relay's answer to a join, the control channel over which it came, and the key of the join."""

    channel: ControlChannel
    answer: control.Joined
    key: Secret

    @property
    def listener(self) -> str:
        return self.answer.listener


async def _discard(channel: DataChannel) -> None:
    await trio.aclose_forcefully(channel.stream)


class RelayConnection:
    """The client's connection to one of its relays.

    Args:
        link: the relay.
        string: names the hybrid connection and has the key.
        earlier: the previous connection string, if it was changed while the client runs. It is used if the relay
            refuses the key of `string`.
        nursery: runs the control channel.
        clock: returns seconds since 1970.
        on_draining: called when the relay has announced that it is draining, or about to stop.
        witnessing: the checkpoints of the audit log, which the relay is asked to keep; None: there are none.
        on_key_or_update: called when a new key or an update has arrived, with the control channel and the message.
        events: the stream to which events are published.
    """

    def __init__(
        self,
        link: RelayLink,
        string: ConnectionString,
        nursery: trio.Nursery,
        *,
        earlier: ConnectionString | None = None,
        witnessing: Witnessing | None = None,
        clock: Callable[[], float],
        on_draining: Callable[[RelayConnection], None],
        on_key_or_update: Callable[[RelayConnection, ControlChannel, control.Key | control.Update], None],
        events: EventStream,
    ) -> None:
        self.link = link
        #: The relay has asked not to be contacted before this time, on Trio's clock.
        self.away_until = -math.inf
        #: When the relay failed last, on Trio's clock.
        self.failed_at = -math.inf
        self._connection = string.entity_path
        self._string = string
        self._nursery = nursery
        self._clock = clock
        self._on_draining = on_draining
        self._on_key_or_update = on_key_or_update
        self._witnessing = witnessing
        #: The task that sends checkpoints over each control channel.
        self._sending: dict[ControlChannel, trio.CancelScope] = {}
        self._events = events
        self._control: ControlChannel | None = None
        #: When the control channel was opened, on Trio's clock.
        self._control_since = 0.0
        #: The last failure, and when (on Trio's clock).
        self._failure: tuple[HybridRelayError, float] | None = None
        self._opening = trio.Lock()
        #: The connection string that the relay accepted last; None before the first time.
        self._accepted: ConnectionString | None = None
        #: The previous connection string, which is used if the relay refuses the current one and has not accepted any
        #: yet.
        self._earlier = earlier
        #: A connection string that the relay has refused, so that an earlier one is in use. An event about it was
        #: published.
        self._refused: ConnectionString | None = None
        #: How many requests wait for their answer, by control channel.
        self._requests: Counter[ControlChannel] = Counter()
        #: Control channels that are closed when their last request is answered.
        self._retired: set[ControlChannel] = set()

    def __repr__(self) -> str:
        return f"<RelayConnection for {self._connection} at {self.link.host}>"

    @property
    def is_away(self) -> bool:
        """Whether the relay has announced that it is draining or about to stop, and may not be contacted yet."""
        return trio.current_time() < self.away_until

    @property
    def has_control(self) -> bool:
        """Whether there is a control channel, over which the relay can reach the client."""
        return self._control is not None

    def record_failure(self, failure: HybridRelayError) -> None:
        """Record a failure, for `snapshot`."""
        self._failure = failure, trio.current_time()

    def snapshot(self) -> RelaySnapshot:
        """Return the relay as this client sees it."""
        channel, failure, now = self._control, None, trio.current_time()
        if self._failure is not None:
            error, at = self._failure
            failure = FailureSnapshot.of(error, self._clock() - (now - at))
        state = RelayState.WAITING if failure is None else RelayState.FAILED
        if channel is not None:
            state = RelayState.REGISTERED
        return RelaySnapshot(
            host=self.link.host,
            state=state,
            instance=self.link.instance,
            since=None if channel is None else self._clock() - (now - self._control_since),
            route=None if channel is None else self.link.describe(channel.candidate, Purpose.CONTROL),
            failure=failure,
        )

    def failed(self) -> None:
        """Note that the relay has just failed, so that `Relays` tries it after the others for a while."""
        self.failed_at = trio.current_time()

    def close_control(self) -> None:
        """Close the control channel; the next use opens another, over the route that is chosen then."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def retire_control(self) -> None:
        """Use another control channel from now on; the current one is closed once its requests are answered."""
        channel, self._control = self._control, None
        if channel is not None:
            if self._requests[channel]:
                self._retired.add(channel)
            else:
                channel.close()

    def use(self, string: ConnectionString) -> None:
        """Use another connection string from now on. If the relay refuses its key, the earlier one stays in use."""
        if not _same_key(string, self._string):
            self.retire_control()  # so that no control channel depends on the earlier key
            if self._earlier is None:
                self._earlier = self._string
        self._string = string
        self.link.use_key(string.key)

    @property
    def falls_back(self) -> bool:
        """Whether the relay has refused the current connection string, so that an earlier one is in use."""
        return self._refused is self._string

    @property
    def has_accepted_key(self) -> bool:
        """Whether the last successful join was with the current connection string's key."""
        return self._accepted is not None and _same_key(self._accepted, self._string)

    def data_channel_lost(self) -> None:
        """Forget the route and check the control channel, because a data channel through this relay was lost."""
        # The next use probes, which costs little. Dialing an address at which packets are silently dropped takes
        # long.
        self.link.forget()
        if self._control is not None:
            self._control.check_alive()

    def network_changed(self) -> None:
        """Check everything, because the machine was suspended or has changed networks, and what worked before may not
        work any more."""
        self.link.forget(network_changed=True)
        if self._control is not None:
            self._control.check_alive()

    @property
    def host(self) -> str:
        """The relay's host name."""
        return self.link.host

    async def answer(self, channel: ControlChannel, handle: Callable[[], Awaitable[None]]) -> None:
        """Call `handle`, which answers a new key or an update. Until then, the control channel stays open."""
        with self._requesting(channel):
            await handle()

    async def check_accepted(self, string: ConnectionString) -> None:
        """Check whether the relay accepts the key of a connection string.

        Raises:
            HybridRelayError: it does not, it accepts neither the current key nor an earlier one, or it cannot be
                reached.
        """
        channel = await self._control_channel()
        earlier = self._accepted or self._earlier
        with self._forgetting_the_route(channel), self._requesting(channel):
            # First a key that it knows, so that a key that it does not know yet does not count as a wrong guess.
            if self.falls_back and earlier is not None:
                await self._show_key(channel, earlier, self._string)
            else:
                await self._show_key(channel, self._string, earlier)
            await check_token(channel, string, self.link.host, self._clock())

    async def ensure_control_channel(self) -> None:
        """Open a control channel if there is none, and show the relay over it that this client has a key.

        Raises:
            HybridRelayError: the relay cannot be reached, or does not accept the key.
        """
        string = self._accepted or self._earlier or self._string
        channel = await self._control_channel()
        with self._forgetting_the_route(channel), self._requesting(channel):
            await self._show_key(channel, string, self._string)

    async def _show_key(
        self, channel: ControlChannel, first: ConnectionString, then: ConnectionString | None
    ) -> None:
        """Show the relay that this client has a key: that of `first`, or if the relay refuses it, that of `then`."""
        try:
            await check_token(channel, first, self.link.host, self._clock())
        except AuthorizationError:
            if then is None or _same_key(first, then):
                raise
            await check_token(channel, then, self.link.host, self._clock())

    async def open_data_channel(self, to: Peer | ListenerSearch, end_to_end: EndToEnd) -> DataChannel:
        """Join, and open the data channel with the ticket. A route that fails is forgotten.

        Args:
            to: the only acceptable peer; or a search that accepts any listener. If one is silent, the search tries
                others in parallel; if one fails, the search tries another in its place.
            end_to_end: the end-to-end TLS, with the identity of this application.

        Raises:
            HybridRelayError: see `Client.connect`.
            PeerIdentityError: with `Reason.IDENTITY_CHANGED`, a connector with another identity answered instead of
                `to`.

        Every step has a deadline. If cancelled, no data channel stays open.
        """
        if isinstance(to, Peer):
            channel = await self._control_channel()
            return await self._open(channel, *await self._join(channel, to.instance), end_to_end, to.identity)
        open_to_any = partial(self._open_to_any, end_to_end)
        return await Search(to, self._ask_for_any, open_to_any, _discard, self._listener_failed).run()

    async def _ask_for_any(self, avoid: tuple[str, ...]) -> _Joined:
        channel = await self._control_channel()
        return _Joined(channel, *await self._join(channel, None, avoid))

    async def _open_to_any(self, end_to_end: EndToEnd, joined: _Joined) -> DataChannel:
        return await self._open(joined.channel, joined.answer, joined.key, end_to_end, None)

    def _listener_failed(self, instance: str, error: HybridRelayError) -> None:
        self._events.publish(
            ConnectorPassedOver(
                connection=self._connection, instance=instance, reason=error.reason, detail=str(error)
            )
        )

    async def open_data_channel_probing(self, to: Peer | ListenerSearch, end_to_end: EndToEnd) -> DataChannel:
        """Like `open_data_channel`, but if a remembered route fails, probe the routes and try again."""
        remembered = self.link.remembers
        try:
            return await self.open_data_channel(to, end_to_end)
        except RelayUnreachable:
            if not remembered:
                raise
        return await self.open_data_channel(to, end_to_end)

    async def _join(
        self, channel: ControlChannel, listener: str | None, avoid: tuple[str, ...] = ()
    ) -> tuple[control.Joined, Secret]:
        """Send a join, and return the relay's answer and the key that was used."""
        string, earlier = self._string, self._accepted or self._earlier
        try:
            joined = await self._ask(channel, string, listener, avoid)
        except AuthorizationError as exc:
            if earlier is None or _same_key(earlier, string):
                raise
            # The key was changed while the client runs. The previous key may still be valid at this relay.
            try:
                joined = await self._ask(channel, earlier, listener, avoid)
            except AuthorizationError:
                raise exc from None
            self._accepted = earlier
            if self._refused is not string:  # every join tries the new key again, but the event is published once
                self._refused = string
                self._events.publish(
                    EarlierKeyUsed(
                        connection=self._connection,
                        host=self.link.host,
                        reason=exc.reason,
                        detail=str(exc),
                        remedy=exc.remedy or "",
                    )
                )
            self.link.use_key(earlier.key)
            return joined, earlier.key
        self._accepted, self._refused, self._earlier = string, None, None
        self.link.use_key(string.key)
        return joined, string.key

    async def _ask(
        self, channel: ControlChannel, string: ConnectionString, listener: str | None, avoid: tuple[str, ...]
    ) -> control.Joined:
        token = make_connection_token(string, self.link.host, self._clock())
        with self._forgetting_the_route(channel), self._requesting(channel):
            answer = await channel.join(control.Join(channel.next_id(), self._connection, token, listener, avoid))
            if isinstance(answer, control.Failed):
                raise failure_error(self._connection, answer)
            if listener not in (None, answer.listener):
                raise RelayUnreachable("the relay sent an unexpected answer", reason=Reason.PROTOCOL_ERROR)
            if self._witnessing is not None and channel not in self._sending and not channel.has_ended:
                self._sending[channel] = scope = trio.CancelScope()
                self._nursery.start_soon(self._send_checkpoints, channel, scope, self._witnessing)
            return answer

    async def _send_checkpoints(
        self, channel: ControlChannel, scope: trio.CancelScope, witnessing: Witnessing
    ) -> None:
        """Ask the relay to keep the checkpoints of the audit log, until the control channel ends."""
        with scope:
            await send_checkpoints(channel, self.link.host, lambda: (self._connection,), witnessing)

    async def _open(
        self,
        channel: ControlChannel,
        joined: control.Joined,
        key: Secret,
        end_to_end: EndToEnd,
        pinned: PeerIdentity | None,
    ) -> DataChannel:
        with self._forgetting_the_route(channel):
            candidate = await self.link.choose()
            try:
                stream, identity = await open_data_channel(
                    self.link.endpoint, candidate, joined.ticket, end_to_end, pinned=pinned, dialer=self.link.dialer
                )
            except RendezvousError as exc:
                if exc.reason in CHANNEL_FAILED:
                    self.link.doubt(candidate)
                raise
        return DataChannel(stream, Peer(joined.listener, identity), self, candidate, key, joined.rendezvous)

    @contextmanager
    def _requesting(self, channel: ControlChannel) -> Iterator[None]:
        """Count a request, so that the control channel stays open until the end of the block."""
        self._requests[channel] += 1
        try:
            yield
        finally:
            self._requests[channel] -= 1
            if not self._requests[channel]:
                del self._requests[channel]
                if channel in self._retired:
                    self._retired.discard(channel)
                    channel.close()

    @contextmanager
    def _forgetting_the_route(self, channel: ControlChannel) -> Iterator[None]:
        """Stop using the route and the control channel if the block raises because the relay cannot be reached."""
        try:
            yield
        except RelayUnreachable:
            if self._control is channel:
                self.close_control()
            self.link.forget()
            raise

    async def _control_channel(self) -> ControlChannel:
        async with self._opening:
            if self._control is None:
                self._control = await self.link.start_control(self._nursery)
                self._control_since = trio.current_time()
                self._nursery.start_soon(self._watch_control, self._control)
            return self._control

    async def _watch_control(self, channel: ControlChannel) -> None:
        drained = False
        async for message in channel.messages:
            if isinstance(message, control.Ended):
                self._events.publish(
                    JoinRightEnded(connection=self._connection, host=self.link.host, reason=message.reason)
                )
            elif isinstance(message, control.Draining) and not drained:
                drained = True  # a relay cannot keep clients away by repeating it
                self._events.publish(RelayDraining(host=self.link.host, retry_seconds=message.retry_after_seconds))
                self.away_until = trio.current_time() + message.retry_after_seconds
                self._on_draining(self)
            elif isinstance(message, control.Key | control.Update):
                self._on_key_or_update(self, channel, message)
        if self._control is channel:
            self._control = None
        if channel in self._sending:
            self._sending.pop(channel).cancel()


def _same_key(one: ConnectionString, other: ConnectionString) -> bool:
    return (one.key_name, one.key) == (other.key_name, other.key)
