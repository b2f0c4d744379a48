"""The shell of a control channel: reads its messages, and carries out what `ControlChannelCore` decides."""

# This module is long because one class executes everything that a client or connector may request.

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from functools import partial

import attrs
import trio

from ..._printable import printable
from ..._version import __version__
from ...errors import AuthorizationError, RendezvousError
from ...events.relay import ControlChannelSilent, ControlChannelUnread
from ...mux import EarlySession, MuxStream, Session
from ...protocol import control
from ...protocol.config import KIB
from ...protocol.control_codec import ControlDecoder, encode_message
from ...protocol.reasons import Reason
from ..checkpoints import Pace
from ..core.authorization import Grant
from ..core.control_channel import (
    NO_NAMES,
    Authorize,
    Close,
    ControlChannelCore,
    KeepCheckpoint,
    KeyAnswered,
    OfferAnswered,
    Output,
    Request,
    SenderProved,
    SendMessage,
    StartJoin,
    TakeClaim,
    UpdateAnswered,
)
from ..limits import REVOKED_CHANNEL_SECONDS, UNREAD_SWEEPS
from ..model import KeyId
from .broker import OFFER_SECONDS, BrokerService
from .channel_index import ChannelIndex
from .checkpoints import Checkpoints, NoCheckpoints
from .claims import Claims, NoClaims
from .listener_handle import ListenerHandle
from .offer_turns import OfferTurns
from .patience import happens

__all__ = ["CHECK_SECONDS", "ControlPeer"]

#: A listener that has not answered an offer is dropped if it sends nothing for this time (seconds).
CHECK_SECONDS = 5.0
#: How many accepted offers are remembered, because the listener may still report that it cannot open a data channel,
#: or that the sender has proved its identity.
_MAX_WATCHED = 256
#: How much is decoded before other tasks may run (bytes).
_READ_BYTES = 4 * KIB


def _ignore(address: str, instance: str, answer: control.KeyKept) -> None:
    pass


def _ignore_update(address: str, instance: str, role: control.PeerRole | None, answer: control.UpdateKept) -> None:
    pass


@attrs.frozen(eq=False)
class _Offer:
    """The callbacks for a listener's reports after it has accepted an offer; see `ListenerHandle.offer`."""

    withdraw: Callable[[], None]
    proved: Callable[[], None]


class ControlPeer:
    """A connector, client or taker on its control channel. Implements `ListenerHandle`.

    Until the peer has authenticated, this runs in a single task and uses little memory. Once `authorized` is true,
    `attach` provides a session with its own tasks. The request with the valid token is granted only then.

    Args:
        broker: the relay's broker.
        early: the session before `attach`; None if `attach` follows at once.
        relay_instance: identifies this run of the relay: 32 hexadecimal digits.
        outer_pins: see `control.Welcome`.
        address: the peer's address group (`address_group`), by which connectors distinguish holders.
        client_address: what connectors are told about the peer's address (`ClientAddresses.stated`).
        transport: the name of the transport.
        claims: answers takers; None means that there are no claims.
        checkpoints: keeps checkpoints of the peer's audit log; None means that the relay keeps none.
        key_answered: called with address, instance and message when the peer has answered `control.Key`.
        update_answered: called with address, instance, role and message when it has answered `control.Update`.
        index: the index in which this is entered under the hybrid connections that concern it; None means none.
    """

    # Without slots, each peer would take 1.3 KiB more, also before it has authenticated.
    __slots__ = (
        "_accepted", "_answers", "_arrived", "_broker", "_channel", "_checking", "_checkpoint_pace", "_checkpoints",
        "_claims", "_client_address", "_concerns", "_decoder", "_early", "_granted", "_heard", "_id", "_ids",
        "_index", "_is_keeping", "_is_silent", "_key_answered", "_must_end", "_nursery", "_offer_turns", "_sending",
        "_session", "_stream", "_sweeps", "_unread_sweeps", "_unsent", "_update_answered", "_written", "since",
    )  # fmt: skip

    def __init__(
        self,
        broker: BrokerService,
        early: EarlySession | None = None,
        *,
        claims: Claims | None = None,
        checkpoints: Checkpoints | None = None,
        key_answered: Callable[[str, str, control.KeyKept], None] = _ignore,
        update_answered: Callable[[str, str, control.PeerRole | None, control.UpdateKept], None] = _ignore_update,
        index: ChannelIndex[ControlPeer] | None = None,
        relay_instance: str = "0" * 32,
        outer_pins: tuple[str, ...] = (),
        address: str = "",
        client_address: str = "",
        transport: str = "",
    ) -> None:
        self._broker = broker
        self._client_address = client_address
        self._claims = NoClaims() if claims is None else claims
        self._checkpoints = NoCheckpoints() if checkpoints is None else checkpoints
        #: Limits the checkpoints, of which one is stored at a time.
        self._checkpoint_pace = Pace()
        self._is_keeping = False
        self._key_answered = key_answered
        self._update_answered = update_answered
        self._early = early
        welcome = control.Welcome(relay_instance, f"hybridrelay/{__version__}", outer_pins)
        self._channel: ControlChannelCore[ListenerHandle] = ControlChannelCore(
            broker.core, self, welcome, address, transport
        )
        #: When the peer connected, on Trio's clock.
        self.since = trio.current_time()
        #: The id in `BrokerService.senders`. Unlike the instance, the peer cannot choose it.
        self._id = secrets.token_hex(8)
        #: The hybrid connections for which this is in `_index`, and if it is a client, in `BrokerService.senders`.
        self._concerns: frozenset[str] = NO_NAMES
        self._index = ChannelIndex[ControlPeer]() if index is None else index
        #: Set by `attach`, like the next two attributes.
        self._session: Session
        self._stream: MuxStream
        self._nursery: trio.Nursery
        #: Messages that have arrived and have not been handled.
        self._arrived: list[control.Message | control.Unknown] = []
        #: The first request with a valid token, until it is granted.
        self._granted: tuple[Request, Grant] | None = None
        self._decoder = ControlDecoder()
        self._sending = trio.Lock()
        #: The messages that wait until the queue of the channel has room, the oldest first, and for each of them, in
        #: which sweep it began to wait.
        self._unsent: dict[object, int] = {}
        self._sweeps = 0
        #: The stream's `written_bytes` at the last sweep (call of `check_reading`); and how many sweeps in a row have
        #: found no byte written, although some were queued.
        self._written = self._unread_sweeps = 0
        self._ids = itertools.count(1)
        #: Offers without an answer, by id: the channel for the answer, and the callbacks.
        self._answers: dict[int, tuple[trio.MemorySendChannel[control.Accept | control.Failed], _Offer]] = {}
        self._accepted: dict[int, _Offer] = {}
        #: The turns of offers; None until there is one.
        self._offer_turns: OfferTurns | None = None
        #: The reason, if the relay ends the channel: at once, or as soon as it is attached; otherwise None.
        self._must_end: Reason | None = None
        #: Set when something arrives; None while nobody waits for that.
        self._heard: trio.Event | None = None
        #: Whether nothing was received from the peer since the last offer.
        self._is_silent = False
        self._checking = False

    @property
    def authorized(self) -> bool:
        """Whether the peer has presented a valid token."""
        return self._channel.authorized

    @property
    def hello(self) -> control.Hello | None:
        """The peer's hello, without its secret; None before it was received."""
        return self._channel.hello

    @property
    def role(self) -> control.PeerRole | None:
        """Connector, client or taker; None before its hello was received."""
        return None if self.hello is None else self.hello.role

    @property
    def instance(self) -> str:
        """The peer's instance; empty before its hello was received."""
        return "" if self.hello is None else self.hello.instance

    @property
    def address(self) -> str:
        """The peer's address group."""
        return self._channel.address

    @property
    def connections(self) -> tuple[str, ...]:
        """The hybrid connections for which it has presented valid tokens, sorted."""
        return self._channel.connections

    @property
    def transport(self) -> str:
        """The name of the transport."""
        return self._channel.transport

    @property
    def software(self) -> str:
        """The peer's name and version, as it has reported them; empty before its hello was received."""
        return "" if self.hello is None else self.hello.software

    @property
    def key(self) -> KeyId | None:
        """See `ControlChannelCore.key`."""
        return self._channel.key

    @property
    def keys(self) -> frozenset[KeyId]:
        """See `ControlChannelCore.keys`."""
        return self._channel.keys

    def key_for(self, connection: str) -> KeyId | None:
        """See `ControlChannelCore.key_for`."""
        return self._channel.key_for(connection)

    def _update_connections(self) -> None:
        """Update the indices of channels. Call this after everything that may change `connections`."""
        before, now = self._concerns, frozenset(self.connections)
        self._concerns = now
        self._index.update(self, before, now)
        if self.role is not control.PeerRole.CLIENT:
            return
        for name in before - now:
            self._broker.senders.discard(name, self._id)
            self._broker.pairs.leaves(name, self.instance)
        for name in now - before:
            self._broker.senders.set(name, self._id, self)
            self._broker.pairs.appears(name, self.instance)

    # --- messages from the peer

    async def serve_some(self) -> bool:
        """Receive some bytes and handle the messages in them. Returns False at the end of the peer's stream.

        Returns as soon as the peer is authorized. The caller must then call `attach`. Until then, the request waits,
        with everything that has arrived after it.

        Raises:
            RemoteProtocolError: the peer has violated the protocol.
            trio.BrokenResourceError: the channel was lost.
        """
        if self._granted is not None:
            granted, self._granted = self._granted, None
            await self._grant(*granted)
        if not self._arrived:
            if self._early is None:
                data = await self._stream.receive_some(_READ_BYTES)
            else:
                data = await self._early.receive_some(held=self._decoder.held_bytes)
            if not data:
                self._decoder.receive_eof_untrusted()
                return False
            self._is_silent = False
            if self._heard is not None:
                self._heard.set()
            if self._early is None and self._session.turns.begin():
                await self._session.turns.next()
            self._arrived.extend(self._decoder.receive_data_untrusted(data))
        while self._arrived and self._granted is None:
            message = self._arrived.pop(0)
            if not isinstance(message, control.Unknown):
                output = self._channel.receive(message, trio.current_time())
                self._broker.carry_out()
                if output is not None:
                    await self._perform(output)
            # A message costs about as much as a frame, and many fit into one. If an answer had to wait until the
            # peer read, this time is counted, too: it uses up the turn of the peer and of its groups, but no more.
            if self._early is None and self._session.turns.use(1, 0):
                await self._session.turns.next()
        return True

    def attach(self, session: Session, stream: MuxStream, nursery: trio.Nursery) -> None:
        """Continue with a session that has its own tasks.

        Args:
            session: the session, which runs in `nursery` or is about to.
            stream: its only stream.
            nursery: for the tasks of this control channel.
        """
        self._early = None
        self._session, self._stream, self._nursery = session, stream, nursery
        if self._must_end is not None:
            session.close(self._must_end)

    async def _perform(self, output: Output) -> None:
        match output:
            case SendMessage(message):
                await self.send(message)
            case Authorize(request):
                await self._authorize(output)
            case StartJoin(request, grant):
                self._nursery.start_soon(self._join, request, grant)
            case KeyAnswered(answer):
                self._key_answered(self.address, self.instance, answer)
            case UpdateAnswered(answer):
                self._update_answered(self.address, self.instance, self.role, answer)
            case TakeClaim(request):
                for message in await self._claims.take(request, self.address):
                    await self.send(message)
            case KeepCheckpoint(request):
                if self._is_keeping or not self._checkpoint_pace.admits(trio.current_time()):
                    detail = "too many checkpoints of audit logs over this control channel"
                    await self.send(control.Failed(request.id, Reason.BUSY, detail))
                else:
                    self._is_keeping = True
                    self._nursery.start_soon(self._keep_checkpoint, request)
            case OfferAnswered(id_, answer):
                self._answered(id_, answer)
            case SenderProved(id_):
                if offer := self._accepted.pop(id_, None):
                    offer.proved()
            case Close():
                self._close(output)

    async def _keep_checkpoint(self, request: control.Witness) -> None:
        try:
            answer = await self._checkpoints.keep(
                request, self.instance, self.address, for_client=not self._channel.is_own_connector
            )
            await self.send(answer)
        finally:
            self._is_keeping = False

    async def _authorize(self, wanted: Authorize) -> None:
        """Grant or refuse a request."""
        request = wanted.request
        try:
            grant = await self._broker.authorize(request.connection, request.token, wanted.right)
            if self._channel.authorize(request, grant, trio.current_time()):
                self._update_connections()
        except (AuthorizationError, RendezvousError) as exc:
            refusal = self._channel.refuse(request, exc)
            self._broker.carry_out()
            await self._perform(refusal)
            return
        if self._early is None:
            await self._grant(request, grant)
        else:
            self._granted = request, grant

    async def _grant(self, request: Request, grant: Grant) -> None:
        output = self._channel.grant(request, grant, trio.current_time())
        self._broker.carry_out()
        await self._perform(output)

    async def _join(self, request: control.Join, grant: Grant) -> None:
        joined = False
        try:
            answer = await self._broker.join(
                grant,
                request.listener,
                self.address,
                avoid=request.avoid,
                instance=self.instance,
                client_address=self._client_address,
            )
            joined = isinstance(answer, control.Joined)
            await self.send(attrs.evolve(answer, id=request.id))
        finally:
            # A join counts until its answer was sent. Otherwise a peer that reads nothing could have any number.
            self._channel.join_ended(joined=joined)

    # --- messages to the peer

    async def send(self, message: control.Message) -> None:
        """Send a message. A lost channel is not an error here, because the task that reads it notices.

        Waits while the peer reads nothing and the queue of the channel is full; see `check_reading`.
        """
        waiting = object()
        self._unsent[waiting] = self._sweeps
        try:
            async with self._sending:
                await (self._early or self._stream).send_whole(encode_message(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            del self._unsent[waiting]

    def give(self, message: control.Key | control.Update) -> None:
        """Give the peer the new key of a rule or an update, without waiting until the message was sent."""
        self._perform_soon(SendMessage(message))

    def announce_draining(self, retry_after: float) -> None:
        """Ask the peer to prefer other relays, without waiting until the message was sent."""
        self._perform_soon(SendMessage(control.Draining(retry_after)))

    # --- ListenerHandle

    async def take_turn(self, connection: str, holder: str, until: float) -> int | None:
        """Wait until an offer may be sent; see `ListenerHandle`."""
        if self._offer_turns is None:
            self._offer_turns = OfferTurns()
        number = next(self._ids)
        may_send = await self._offer_turns.take(number, connection, holder, silent_seconds=OFFER_SECONDS, until=until)
        return number if may_send else None

    async def offer(
        self,
        number: int,
        connection: str,
        ticket: bytes,
        lifetime_seconds: float,
        *,
        withdraw: Callable[[], None],
        proved: Callable[[], None],
        holder: str = "",
        rendezvous: str = "",
        client_address: str = "",
    ) -> control.Accept | control.Failed:
        """Offer a rendezvous to the listener; see `ListenerHandle`."""
        answer_in, answer_out = trio.open_memory_channel[control.Accept | control.Failed](1)
        self._answers[number] = answer_in, _Offer(withdraw, proved)
        self._is_silent = True
        is_sent = False
        try:
            await self.send(
                control.Offer(
                    number,
                    connection,
                    ticket,
                    lifetime_seconds,
                    holder,
                    rendezvous,
                    printable(client_address)[: control.MAX_CLIENT_ADDRESS],
                )
            )
            is_sent = True
            try:
                return await answer_out.receive()
            except trio.EndOfChannel:
                raise trio.BrokenResourceError("the listener's control channel is gone") from None
        finally:
            self._answers.pop(number, None)
            if not is_sent and self._offer_turns is not None:
                self._offer_turns.drop(number)
            answer_in.close()
            answer_out.close()

    def _answered(self, id_: int, answer: control.Accept | control.Failed) -> None:
        if self._offer_turns is not None:
            self._offer_turns.answered(id_)
        waiting = self._answers.pop(id_, None)
        if waiting is not None:
            answer_in, offer = waiting
            if isinstance(answer, control.Accept):
                # Done here, and not in the task that waits for the answer, because a refusal may follow in the same
                # bytes.
                self._accepted[id_] = offer
                while len(self._accepted) > _MAX_WATCHED:
                    del self._accepted[next(iter(self._accepted))]
            answer_in.send_nowait(answer)
        elif isinstance(answer, control.Failed) and id_ in self._accepted:
            self._accepted.pop(id_).withdraw()

    def check_alive(self) -> None:
        """End the channel unless the peer has sent something since the last offer, or does so within
        `CHECK_SECONDS`."""
        if self._checking or not self._is_silent or self._session.outcome is not None:
            return
        self._checking = True
        heard = self._heard = trio.Event()

        async def watch() -> None:
            if await happens(heard, CHECK_SECONDS):
                self._checking = False
                return
            self._broker.events.publish(ControlChannelSilent(peer=self.address, instance=self.instance))
            self.end(Reason.PEER_SILENT)

        self._nursery.start_soon(watch)

    def ended(self, connection: str, reason: Reason) -> None:
        """Notify the peer that its registration of `connection` has ended; see `ControlChannelCore.ended`."""
        self._perform_soon(self._channel.ended(connection, reason))

    def end(self, reason: Reason) -> None:
        """End the channel, for example because it was displaced."""
        self._must_end = reason
        if self._early is None:
            self._session.close(reason)

    def _perform_soon(self, output: SendMessage | Close) -> None:
        if self._session.outcome is not None:
            return  # the peer has gone, and the nursery may be closed
        if isinstance(output, Close):
            self._close(output)
        else:
            self._nursery.start_soon(self.send, output.message)

    def _close(self, output: Close) -> None:
        if output.gracefully:
            leave = partial(self._session.aclose, grace=REVOKED_CHANNEL_SECONDS, reason=output.reason)
            self._nursery.start_soon(leave)
        else:
            self._session.close(output.reason)

    # --- called by the relay

    def expire(self, now: float) -> None:
        """See `ControlChannelCore.expire`; `now` in seconds since 1970."""
        if (close := self._channel.expire(now)) is not None:
            self._perform_soon(close)
        self._broker.carry_out()

    def check_reading(self) -> None:
        """End the channel if a message to the peer has waited for `UNREAD_SWEEPS` calls of this method, or if the
        peer has read nothing for as long although something is queued.

        Calls are counted, and not seconds, so that the peer is not blamed if this process was suspended.
        """
        self._sweeps += 1
        oldest = next(iter(self._unsent.values()), self._sweeps)
        written, before = self._stream.written_bytes, self._written
        self._written = written
        self._unread_sweeps = self._unread_sweeps + 1 if self._stream.queued_bytes and written == before else 0
        is_unread = self._sweeps - oldest > UNREAD_SWEEPS or self._unread_sweeps >= UNREAD_SWEEPS
        if is_unread and self._session.outcome is None:
            unsent = len(self._unsent)
            self._broker.events.publish(
                ControlChannelUnread(peer=self.address, instance=self.instance, messages=unsent)
            )
            self.end(Reason.PEER_SILENT)

    def check_keys(self) -> None:
        """See `ControlChannelCore.check_keys`."""
        for output in self._channel.check_keys():
            self._perform_soon(output)
        self._broker.carry_out()
        self._update_connections()

    def lost(self) -> None:
        """End everything that was registered over the channel, which has ended."""
        # This object is in a reference cycle with `_channel`. The memory of a stranger's channel must be released
        # without the garbage collector, which does not know how much OpenSSL has allocated for it.
        self._early = None
        self._channel.lost(self._must_end or Reason.NO_ERROR)
        self._update_connections()
        self._broker.carry_out()
        for answer, _ in self._answers.values():
            answer.close()
        if self._offer_turns is not None:
            self._offer_turns.lost()
