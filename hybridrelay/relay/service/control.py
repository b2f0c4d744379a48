"""The relay's end of one control channel."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import attrs
import trio

from ..._version import __version__
from ...errors import AuthorizationError, RendezvousError
from ...events import ListenerDropped, ListenerRefused, SenderRefused, TokenInvalid, TokenRefused
from ...mux import EarlySession, MuxStream, Session
from ...protocol import RemoteProtocolError, control
from ...protocol.reasons import Reason
from ...security import Right
from ..core.authorization import Grant
from ..core.listeners import Listener
from ..limits import REFUSALS_BEFORE_AUTHORIZED, REVOKED_CHANNEL_SECONDS
from ..model import KeyId
from .broker import BrokerService, ListenerHandle

#: The token itself is wrong; for any other reason it is valid, and gives no right to what was asked for.
_INVALID = frozenset({Reason.TOKEN_MALFORMED, Reason.TOKEN_EXPIRED, Reason.WRONG_KEY, Reason.WRONG_AUDIENCE})
#: A listener that did not answer an offer, and sends nothing at all for this time, is dropped (seconds).
SUSPICION_SECONDS = 5.0
#: Joins that one control channel may have under way. Each waits for a listener's answer; a client needs one.
MAX_JOINS = 32
#: Hybrid connections that one connector may register.
MAX_REGISTRATIONS = 1024
#: Accepted offers whose listener may still say that it cannot come.
_MAX_WATCHED = 256


@attrs.frozen
class _Registration:
    listener: Listener[ListenerHandle]
    #: Seconds since 1970.
    expires_at: float


class ControlPeer:
    """A connector or client on its control channel. Implements `broker.ListenerHandle`.

    Until its peer has authenticated, it is driven by one task and holds little. As soon as `authorized` is true,
    `attach` gives it a session with tasks of its own; only then is the request granted that had a valid token.

    Args:
        early: a session that has not been taken over; None where `attach` follows at once.
        relay_instance: which run of the relay this is: 32 hexadecimal digits.
        outer_pins: see `control.Welcome`.
        address: of the peer, as far as it counts as one (`slots.address_group`); connectors tell senders apart by it.
    """

    def __init__(
        self,
        broker: BrokerService,
        early: EarlySession | None = None,
        *,
        relay_instance: str = "0" * 32,
        outer_pins: tuple[str, ...] = (),
        address: str = "",
    ) -> None:
        self._broker = broker
        self._early = early
        #: These three from `attach` on.
        self._session: Session
        self._stream: MuxStream
        self._nursery: trio.Nursery
        #: Messages that have arrived and have not been acted on.
        self._arrived: list[control.Message | control.Unknown] = []
        #: The first request with a valid token, until it is granted.
        self._granted: tuple[control.Register | control.Join, Grant] | None = None
        self._relay_instance = relay_instance
        self._outer_pins = outer_pins
        self.address = address
        self._decoder = control.ControlDecoder()
        self._sending = trio.Lock()
        self._ids = itertools.count(1)
        #: Offers that wait for their answer: where it goes, and what a refusal behind an acceptance calls.
        self._answers: dict[
            int, tuple[trio.MemorySendChannel[control.Accept | control.Failed], Callable[[], None]]
        ] = {}
        self._accepted: OrderedDict[int, Callable[[], None]] = OrderedDict()
        self._registrations: dict[str, _Registration] = {}
        #: The keys that have authorized something here.
        self._keys: set[KeyId] = set()
        #: The one that counts for this control channel; None before it is authorized, and when it is over.
        self._first_key: KeyId | None = None
        self._refusals = 0
        self._joins = 0
        self._heard = trio.Event()
        self._suspected = False
        #: The peer has shown a valid token.
        self.authorized = False
        self.hello: control.Hello | None = None
        #: The peer has shown the secret of its instance.
        self._owns_instance = False

    @property
    def role(self) -> control.Role | None:
        """Connector or client; None before it has said so."""
        return None if self.hello is None else self.hello.role

    @property
    def instance(self) -> str:
        """The peer's instance; empty before it has said so."""
        return "" if self.hello is None else self.hello.instance

    @property
    def connections(self) -> tuple[str, ...]:
        """The hybrid connections for which it has shown valid tokens, in order."""
        return tuple(sorted({key.connection for key in self._keys}))

    # --- what the peer says

    async def serve_some(self) -> bool:
        """Receive something and act on it; False at the end of the peer's stream.

        It returns as soon as the peer is authorized. `attach` comes next; the request, and what has arrived behind
        it, wait until then.

        Raises:
            RemoteProtocolError: it broke the rules.
            trio.BrokenResourceError: the channel is lost.
        """
        if self._granted is not None:
            granted, self._granted = self._granted, None
            await self._grant(*granted)
        if not self._arrived:
            if self._early is None:
                data = await self._stream.receive_some()
            else:
                data = await self._early.receive_some(held=self._decoder.held_bytes)
            if not data:
                self._decoder.receive_eof_untrusted()
                return False
            self._heard.set()
            self._arrived.extend(self._decoder.receive_data_untrusted(data))
        while self._arrived and self._granted is None:
            message = self._arrived.pop(0)
            if not isinstance(message, control.Unknown):
                await self._handle(message)
        return True

    def attach(self, session: Session, stream: MuxStream, nursery: trio.Nursery) -> None:
        """Go on with a session that has tasks of its own.

        Args:
            session: runs in `nursery`, or is about to.
            stream: the one stream of it.
            nursery: for tasks of this control channel.
        """
        self._early = None
        self._session, self._stream, self._nursery = session, stream, nursery

    async def _handle(self, message: control.Message) -> None:
        """Act on one message. Before `Hello` nothing else is heard.

        Raises:
            RemoteProtocolError: not a message that a dialing side may send now.
        """
        if self.hello is None:
            if not isinstance(message, control.Hello):
                raise RemoteProtocolError("the first control message is not hello")
            if message.secret is not None and control.instance_of(message.secret) != message.instance:
                raise RemoteProtocolError("the instance does not belong to its secret")
            self._owns_instance = message.secret is not None
            self.hello = attrs.evolve(message, secret=None)
            await self.send(control.Welcome(self._relay_instance, f"hybridrelay/{__version__}", self._outer_pins))
            return
        role = self.hello.role
        match message:
            case control.Register() if role is control.Role.CONNECTOR:
                await self._request(message, Right.LISTEN)
            case control.Unregister(connection=name) if role is control.Role.CONNECTOR:
                if registration := self._registrations.pop(name, None):
                    self._broker.unregister(registration.listener)
            case control.Join() if role is control.Role.CLIENT:
                await self._request(message, Right.SEND)
            case control.Accept(id=id_) | control.Failed(id=id_) if role is control.Role.CONNECTOR:
                self._answered(id_, message)
            case _:
                raise RemoteProtocolError(f"a {role} may not send {type(message).__name__}")

    async def _request(self, message: control.Register | control.Join, right: Right) -> None:
        """Grant or refuse what the peer asks for."""
        try:
            grant = await self._broker.authorize(message.connection, message.token, right)
            if isinstance(message, control.Register):
                self._check_registration(message)
            self._authorized_by(grant.key)
        except (AuthorizationError, RendezvousError) as exc:
            await self.send(self._refused(message, exc))
            return
        if self._early is None:
            await self._grant(message, grant)
        else:
            self._granted = message, grant

    async def _grant(self, message: control.Register | control.Join, grant: Grant) -> None:
        if isinstance(message, control.Register):
            await self.send(self._register(message, grant))
        else:
            await self._begin_join(message, grant)

    def _check_registration(self, message: control.Register) -> None:
        """Raises RendezvousError where the peer may not register, whatever its token says."""
        if not self._owns_instance:
            raise RendezvousError("this relay needs a newer connector", reason=Reason.VERSION_MISMATCH)
        if message.connection not in self._registrations and len(self._registrations) >= MAX_REGISTRATIONS:
            raise RendezvousError("too many registrations on one control channel", reason=Reason.LIMIT)

    def _register(self, message: control.Register, grant: Grant) -> control.Message:
        hello = self.hello
        assert hello is not None
        name = message.connection
        listener: Listener[ListenerHandle] = Listener(
            name, hello.instance, hello.generation, grant.key, self, self.address
        )
        try:
            self._broker.register(listener, replaces=tuple(map(control.instance_of, message.replaces)))
        except RendezvousError as exc:
            return self._refused(message, exc)
        self._registrations[name] = _Registration(listener, grant.expires_at)
        return control.Registered(message.id, grant.expires_at)

    def _authorized_by(self, key: KeyId) -> None:
        """Raises RendezvousError where there are too many control channels."""
        if key not in self._keys:
            self._broker.authorization.hold(key, first=self._first_key is None)
            self._first_key = self._first_key or key
            self._keys.add(key)
        self.authorized = True

    def _refused(
        self, message: control.Register | control.Join, error: AuthorizationError | RendezvousError
    ) -> control.Failed:
        self._refusals += 1
        if not self.authorized and self._refusals > REFUSALS_BEFORE_AUTHORIZED:
            raise RemoteProtocolError("too many requests without a right", reason=error.reason)
        self._broker.events.publish(self._refusal(message, error))
        return control.Failed(message.id, error.reason, str(error))

    def _refusal(
        self, message: control.Register | control.Join, error: AuthorizationError | RendezvousError
    ) -> TokenInvalid | TokenRefused | ListenerRefused | SenderRefused:
        name, reason, detail = message.connection, error.reason, str(error)
        listens = isinstance(message, control.Register)
        if isinstance(error, AuthorizationError):
            event = TokenInvalid if reason in _INVALID else TokenRefused
            right = "listen" if listens else "send"
            return event(connection=name, peer=self.address, right=right, reason=reason, detail=detail)
        refused = ListenerRefused if listens else SenderRefused
        return refused(connection=name, peer=self.address, reason=reason, detail=detail)

    async def _begin_join(self, message: control.Join, grant: Grant) -> None:
        if self._joins >= MAX_JOINS:
            self._broker.events.publish(
                SenderRefused(connection=message.connection, peer=self.address, reason=Reason.LIMIT)
            )
            await self.send(control.Failed(message.id, Reason.LIMIT))
            return
        self._joins += 1

        async def join() -> None:
            try:
                answer = await self._broker.join(grant, message.listener, self.address, avoid=message.avoid)
            finally:
                self._joins -= 1
            await self.send(attrs.evolve(answer, id=message.id))

        self._nursery.start_soon(join)

    # --- what we say

    async def send(self, message: control.Message) -> None:
        """Send; the reader of the channel detects its loss, not this method."""
        try:
            async with self._sending:
                await (self._early or self._stream).send_whole(control.encode_message(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    # --- ListenerHandle

    async def offer(
        self,
        connection: str,
        ticket: bytes,
        lifetime_seconds: float,
        withdraw: Callable[[], None],
        sender: str = "",
    ) -> control.Accept | control.Failed:
        """Ask the listener to come to a rendezvous; see `broker.ListenerHandle`."""
        id_ = next(self._ids)
        answer_in, answer_out = trio.open_memory_channel[control.Accept | control.Failed](1)
        self._answers[id_] = answer_in, withdraw
        try:
            await self.send(control.Offer(id_, connection, ticket, lifetime_seconds, sender))
            try:
                return await answer_out.receive()
            except trio.EndOfChannel:
                raise trio.BrokenResourceError("the listener's control channel is gone") from None
        finally:
            self._answers.pop(id_, None)
            answer_in.close()
            answer_out.close()

    def _answered(self, id_: int, answer: control.Accept | control.Failed) -> None:
        waiting = self._answers.pop(id_, None)
        if waiting is not None:
            answer_in, withdraw = waiting
            if isinstance(answer, control.Accept):
                # Here and not where the answer is awaited: a refusal may be right behind it, in the same bytes.
                self._accepted[id_] = withdraw
                while len(self._accepted) > _MAX_WATCHED:
                    self._accepted.popitem(last=False)
            answer_in.send_nowait(answer)
        elif isinstance(answer, control.Failed) and id_ in self._accepted:
            self._accepted.pop(id_)()

    def suspect(self) -> None:
        """Drop the peer unless it says something soon."""
        if self._suspected or self._session.outcome is not None:
            return
        self._suspected = True
        self._heard = trio.Event()

        async def watch() -> None:
            with trio.move_on_after(SUSPICION_SECONDS):
                await self._heard.wait()
                self._suspected = False
                return
            self._broker.events.publish(ListenerDropped(peer=self.address, instance=self.instance))
            self._session.close(Reason.PEER_SILENT)

        self._nursery.start_soon(watch)

    def ended(self, connection: str, reason: Reason) -> None:
        """Our registration of `connection` is over; with the last one, a superseded channel ends."""
        self._registrations.pop(connection, None)
        if self._session.outcome is not None:
            return  # nobody is there to be told, and the nursery may be closed
        if reason is Reason.SUPERSEDED and not self._registrations:
            self._session.close(reason)
        else:
            self._nursery.start_soon(self.send, control.Ended(connection, reason))

    # --- the relay's housekeeping

    def expire(self, now: float) -> None:
        """End registrations whose token has expired (`now` in seconds since 1970) and was not renewed."""
        for registration in list(self._registrations.values()):
            if now > registration.expires_at:
                self._broker.token_expired(registration.listener)

    def check_keys(self) -> None:
        """The registry may have changed: end what keys that are gone had authorized, the channel with the last."""
        gone = {key: reason for key in self._keys if (reason := self._broker.why_revoked(key))}
        self._broker.authorization.let_go(gone.keys())
        self._keys -= gone.keys()
        if self.hello is not None and self.hello.role is control.Role.CLIENT:  # the broker tells listeners
            still = {key.connection for key in self._keys}
            for name, reason in {key.connection: reason for key, reason in gone.items()}.items():
                if name not in still:
                    self.ended(name, reason)
        if gone and not self._keys:
            leave = partial(self._session.aclose, grace=REVOKED_CHANNEL_SECONDS, reason=Reason.KEY_REVOKED)
            self._nursery.start_soon(leave)

    def lost(self) -> None:
        """The channel is gone, and with it what it had registered."""
        registrations, self._registrations = self._registrations, {}
        for registration in registrations.values():
            self._broker.unregister(registration.listener)
        self._broker.authorization.let_go(self._keys)
        self._keys.clear()
        if self._first_key is not None:
            self._broker.authorization.leave(self._first_key)
            self._first_key = None
        for answer, _ in self._answers.values():
            answer.close()
