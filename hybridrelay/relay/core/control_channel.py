"""The relay's side of one control channel: which messages are allowed, and what the channel has registered. Pure.

The shell (`service/control.py`) passes in each message and carries out what is returned. The channel proceeds through
the states in `control_channel_states.py`. `MAY_SEND` has the messages that a peer may send, by its role.
"""

# This module is long because every input of the machine is a method of one class.

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Generic, TypeAlias

import attrs

from ..._value import Value
from ...errors import AuthorizationError, RendezvousError
from ...events.base import Event
from ...events.relay import ListenerRefused, SenderRefused, SenderRevoked, TokenInvalid, TokenRefused
from ...protocol import RemoteProtocolError, control
from ...protocol.reasons import Reason
from ...security import Right
from ..limits import (
    HEALTH_REPORTS,
    HEALTH_SECONDS,
    IDLE_CLIENT_SECONDS,
    REFUSALS_BEFORE_AUTHORIZED,
    REFUSED_CHANNEL_SECONDS,
)
from ..model import KeyId
from .authorization import Grant
from .broker import Broker
from .control_channel_states import TRANSITIONS, ChannelInput, ChannelState
from .holders import Holder
from .listener import HandleT, Listener
from .places import Place

__all__ = [
    "MAX_JOINS",
    "MAX_KEYS",
    "MAX_REGISTRATIONS",
    "MAY_SEND",
    "NO_NAMES",
    "Authorize",
    "Close",
    "ControlChannelCore",
    "KeepCheckpoint",
    "KeyAnswered",
    "OfferAnswered",
    "Request",
    "SendMessage",
    "SenderProved",
    "StartJoin",
    "TakeClaim",
    "UpdateAnswered",
]

#: The maximum number of concurrent joins of one control channel. A client needs one.
MAX_JOINS = 32
#: The maximum number of hybrid connections that may be registered over one control channel.
MAX_REGISTRATIONS = 1024
#: How many keys one control channel may present: an old and a new one for each registration.
MAX_KEYS = 2 * MAX_REGISTRATIONS
#: Reasons that mean that the token is invalid. With any other reason, it is valid but does not give the right.
_INVALID = frozenset({Reason.TOKEN_MALFORMED, Reason.TOKEN_EXPIRED, Reason.WRONG_KEY, Reason.WRONG_AUDIENCE})

#: If all keys of a channel have become invalid for the same one of these reasons, the channel ends with this reason;
#: otherwise it ends with `Reason.KEY_REVOKED`.
_NAMED_AT_THE_END = frozenset({Reason.CONNECTION_DISABLED, Reason.RIGHT_MISSING})

#: Shared, because each empty set takes 216 bytes, and a channel whose peer has not authenticated has several.
NO_NAMES: Final[frozenset[str]] = frozenset()
_NO_KEYS: Final[frozenset[KeyId]] = frozenset()

Request: TypeAlias = control.Register | control.Join | control.Check


#: The messages that each role may send after its hello.
MAY_SEND: Mapping[control.PeerRole, tuple[type[control.Message], ...]] = {
    control.PeerRole.CONNECTOR: (
        control.Register,
        control.Unregister,
        control.Accept,
        control.Failed,
        control.Proved,
        control.Health,
        control.Check,
        control.KeyKept,
        control.UpdateKept,
        control.Witness,
    ),
    control.PeerRole.CLIENT: (control.Join, control.Check, control.KeyKept, control.UpdateKept, control.Witness),
    control.PeerRole.TAKER: (control.Take,),
}


# --- what the shell has to do


@attrs.frozen
class SendMessage(Value):
    """Send a message to the peer."""

    message: control.Message


@attrs.frozen
class Authorize(Value):
    """Verify the token of a request; then call `ControlChannelCore.authorize`, or `refuse`."""

    request: Request
    right: Right


@attrs.frozen
class StartJoin(Value):
    """Find a listener (`Broker.joins`), and call `ControlChannelCore.join_ended` afterwards."""

    request: control.Join
    grant: Grant


@attrs.frozen
class OfferAnswered(Value):
    """A listener has answered an offer."""

    id: int
    answer: control.Accept | control.Failed


@attrs.frozen
class SenderProved(Value):
    """A listener has reported that the sender of an offer that it had accepted has proved its identity."""

    id: int


@attrs.frozen
class TakeClaim(Value):
    """Answer a request for the content of a claim, which needs no token."""

    request: control.Take


@attrs.frozen
class KeyAnswered(Value):
    """The peer has said what it has done with a new key."""

    answer: control.KeyKept


@attrs.frozen
class UpdateAnswered(Value):
    """The peer has said what it has done with an update."""

    answer: control.UpdateKept


@attrs.frozen
class KeepCheckpoint(Value):
    """Store a checkpoint of the peer's audit log, and answer."""

    request: control.Witness


@attrs.frozen
class Close(Value):
    """Close the control channel: at once, or gracefully, so that the peer receives the reason."""

    reason: Reason
    gracefully: bool


Output: TypeAlias = (
    SendMessage
    | Authorize
    | StartJoin
    | OfferAnswered
    | SenderProved
    | TakeClaim
    | KeyAnswered
    | UpdateAnswered
    | KeepCheckpoint
    | Close
)


@attrs.frozen
class _Registration(Generic[HandleT]):
    listener: Listener[HandleT]
    #: Seconds since 1970.
    expires_at: float


@attrs.define
class _HealthLimit:
    """Limits how often a connector reports the health of targets; see `HEALTH_REPORTS`."""

    _count: int = 0
    _since: float = -math.inf

    def admits(self, now: float, registrations: int) -> bool:
        """Count a report. Returns False if there were too many."""
        if now - self._since >= HEALTH_SECONDS:
            self._count, self._since = 0, now
        self._count += 1
        return self._count <= HEALTH_REPORTS * (1 + registrations)


class ControlChannelCore(Generic[HandleT]):
    """The machine of one control channel; see the module's docstring.

    Args:
        broker: the relay's broker. After each call of a method of this class, the caller carries out the broker's
            outputs.
        handle: identifies the channel; see `Listener.handle`.
        welcome: the relay's answer to hello.
        address: the peer's address group (`address_group`).
        transport: the name of the transport.
    """

    def __init__(
        self, broker: Broker[HandleT], handle: HandleT, welcome: control.Welcome, address: str, transport: str = ""
    ) -> None:
        self._broker = broker
        self._handle = handle
        self._welcome = welcome
        self.address = address
        self.transport = transport
        self.state = ChannelState.NEW
        #: The peer's hello, without its secret.
        self.hello: control.Hello | None = None
        #: Whether the peer has ever presented a valid token.
        self.authorized = False
        #: Whether the peer has proved that it has the secret of its instance.
        self._owns_instance = False
        self._registrations: dict[str, _Registration[HandleT]] = {}
        #: The keys that have authorized something over this channel.
        self._keys: frozenset[KeyId] = _NO_KEYS
        #: The hybrid connections for which the channel counts as a sender's.
        self._sends_for: frozenset[str] = NO_NAMES
        #: The channel's place, from the first grant until the channel is lost.
        self._place: Place[HandleT] | None = None
        self._health_limit = _HealthLimit()
        self._refusals = 0
        self._has_asked_for_claim = False
        #: Whether a registration was refused.
        self._was_refused = False
        self._joins = 0

    @property
    def connections(self) -> tuple[str, ...]:
        """The hybrid connections for which the peer has presented valid tokens, sorted."""
        return tuple(sorted({key.connection for key in self._keys}))

    @property
    def key(self) -> KeyId | None:
        """The key for which the channel counts, at first that of the first valid token; None before that."""
        return None if self._place is None else self._place.holder.key

    def _belongs_to(self, connection: str) -> bool:
        """Return whether the peer has a key of a hybrid connection. Others cannot answer for its programs."""
        return any(key.connection == connection for key in self._keys)

    def key_for(self, connection: str) -> KeyId | None:
        """Return the key of the peer's latest valid token for a hybrid connection, or None."""
        keys = [key for key in self._keys if key.connection == connection]
        return max(keys, key=lambda key: key.generation, default=None)

    # --- messages

    def receive(self, message: control.Message, now: float) -> Output | None:
        """Handle a message from the peer. `now` is a time on the broker's clock.

        Raises:
            RemoteProtocolError: the peer may not send this message now.
        """
        if self.hello is None:
            return self._greet(message)
        role = self.hello.role
        if not isinstance(message, MAY_SEND[role]):
            raise RemoteProtocolError(f"a {role} may not send {type(message).__name__}")
        match message:
            case control.Register():
                return Authorize(message, Right.LISTEN)
            case control.Join():
                return Authorize(message, Right.SEND)
            case control.Unregister(connection=name):
                if registration := self._registrations.pop(name, None):
                    self._broker.unregister(registration.listener)
                    self._note_use()
            case control.Accept(id=id_) | control.Failed(id=id_):
                return OfferAnswered(id_, message)
            case control.Proved(id=id_):
                return SenderProved(id_)
            case control.Health():
                self._health_reported(message, now)
            case control.Check():
                return Authorize(message, Right.LISTEN if role is control.PeerRole.CONNECTOR else Right.SEND)
            case control.KeyKept():
                return KeyAnswered(message) if self._belongs_to(message.connection) else None
            case control.UpdateKept():
                return UpdateAnswered(message) if self._belongs_to(message.connection) else None
            case control.Witness():
                return self._keep_checkpoint(message)
            case control.Take():
                if self._has_asked_for_claim:  # so that each guess costs a TLS handshake, whose rate is limited
                    raise RemoteProtocolError("only one claim can be taken on a control channel")
                self._has_asked_for_claim = True
                return TakeClaim(message)
        return None

    def _health_reported(self, message: control.Health, now: float) -> None:
        if not self.authorized:
            raise RemoteProtocolError("the health of a target was reported before a valid token")
        if not self._health_limit.admits(now, len(self._registrations)):
            raise RemoteProtocolError("the health of targets is reported too often", reason=Reason.LIMIT)
        # If the registration has just ended, the peer does not know that yet.
        if registration := self._registrations.get(message.connection):
            self._broker.report_target(registration.listener, message.target)

    def _keep_checkpoint(self, message: control.Witness) -> SendMessage | KeepCheckpoint:
        if not self.authorized:
            raise RemoteProtocolError("a checkpoint of an audit log was sent before a valid token")
        if message.connection not in self.connections:
            reason = Reason.RIGHT_MISSING
            return SendMessage(
                control.Failed(message.id, reason, "no valid token of this hybrid connection was presented")
            )
        return KeepCheckpoint(message)

    def _greet(self, message: control.Message) -> SendMessage:
        if not isinstance(message, control.Hello):
            raise RemoteProtocolError("the first control message is not hello")
        if message.secret is not None and control.instance_of(message.secret) != message.instance:
            raise RemoteProtocolError("the instance does not belong to its secret")
        self._apply(ChannelInput.HELLO)
        self._owns_instance = message.secret is not None
        self.hello = attrs.evolve(message, secret=None)
        return SendMessage(self._welcome)

    def authorize(self, request: Request, grant: Grant, now: float) -> bool:
        """Authorize a request whose token is valid. Call `grant` next. `now` is a time on the broker's clock.

        Returns:
            Whether this is the first token of this key on the channel. If it is not, `keys` and `connections` stay
            the same.

        Raises:
            RendezvousError: a limit is reached, or the request is not allowed: call `refuse`. Nothing has changed.
        """
        is_new = grant.key not in self._keys
        if is_new and len(self._keys) >= MAX_KEYS:
            raise RendezvousError("too many keys on one control channel", reason=Reason.LIMIT)
        if self._broker.is_draining and not self._may_be_for_session(request):
            raise RendezvousError(Reason.RELAY_DRAINING.describe, reason=Reason.RELAY_DRAINING)
        if isinstance(request, control.Register):
            if not self._owns_instance:
                raise RendezvousError("this relay needs a newer connector", reason=Reason.VERSION_MISMATCH)
            if request.connection not in self._registrations and len(self._registrations) >= MAX_REGISTRATIONS:
                raise RendezvousError("too many registrations on one control channel", reason=Reason.LIMIT)
        elif request.connection not in self._sends_for and self._is_client:
            assert self.hello is not None
            listener = request.listener if isinstance(request, control.Join) else None
            self._broker.check_sender_quota(request.connection, self.hello.instance, listener, now)
        if self._place is None:
            assert self.hello is not None
            self._place = self._broker.admit_control_channel(
                Holder(grant.key, self.address), self._handle, self.hello.instance
            )
        if is_new:
            self._keys |= {grant.key}
            self._count_sender()
        self._apply(ChannelInput.GRANT)
        self.authorized = True
        return is_new

    @property
    def _is_client(self) -> bool:
        return self.hello is not None and self.hello.role is control.PeerRole.CLIENT

    @property
    def keys(self) -> frozenset[KeyId]:
        """The keys of the peer's valid tokens, as far as they are still valid."""
        return self._keys

    def _count_sender(self) -> None:
        """Tell the broker for which hybrid connections this channel counts as a sender's."""
        now = frozenset(key.connection for key in self._keys) if self._is_client else NO_NAMES
        senders = self._broker.senders
        senders.update(now - self._sends_for)
        for name in self._sends_for - now:
            senders[name] -= 1
            if not senders[name]:
                del senders[name]
        self._sends_for = now

    @property
    def is_own_connector(self) -> bool:
        """Whether the peer is a connector that has proved that the instance is its own."""
        return self._owns_instance and not self._is_client

    def _may_be_for_session(self, request: Request) -> bool:
        """Return whether the request may be for an existing session."""
        if isinstance(request, control.Join):
            return request.listener is not None
        if isinstance(request, control.Check):
            return True  # nothing begins with it
        assert self.hello is not None
        return self._broker.listeners.is_remembered(request.connection, self.hello.instance)

    def refuse(self, request: Request, error: AuthorizationError | RendezvousError) -> SendMessage:
        """Refuse a request.

        Raises:
            RemoteProtocolError: the peer has presented no valid token, and was refused too often.
        """
        self._refusals += 1
        self._was_refused = self._was_refused or isinstance(request, control.Register)
        if not self.authorized and self._refusals > REFUSALS_BEFORE_AUTHORIZED:
            raise RemoteProtocolError("too many requests were refused before a valid token", reason=error.reason)
        if not (isinstance(request, control.Check) and request.connection in self.connections):
            # A peer that has a valid key of a hybrid connection asks whether its next key is already valid, which is
            # not an attempt to guess.
            self._broker.note(self._refusal(request, error))
        return SendMessage(control.Failed(request.id, error.reason, str(error)))

    def _refusal(self, request: Request, error: AuthorizationError | RendezvousError) -> Event:
        name, reason, detail = request.connection, error.reason, str(error)
        listens = not self._is_client
        if isinstance(error, AuthorizationError):
            event = TokenInvalid if reason in _INVALID else TokenRefused
            right = "listen" if listens else "send"
            return event(connection=name, peer=self.address, right=right, reason=reason, detail=detail)
        refused = ListenerRefused if listens else SenderRefused
        return refused(connection=name, peer=self.address, reason=reason, detail=detail)

    def grant(self, request: Request, grant: Grant, now: float) -> SendMessage | StartJoin:
        """Carry out an authorized request. `now` is a time on the broker's clock."""
        if isinstance(request, control.Join):
            if self._joins >= MAX_JOINS:
                limit = Reason.LIMIT
                self._broker.note(SenderRefused(connection=request.connection, peer=self.address, reason=limit))
                return SendMessage(control.Failed(request.id, limit))
            self._joins += 1
            return StartJoin(request, grant)
        if isinstance(request, control.Check):
            return SendMessage(control.Checked(request.id))
        assert self.hello is not None
        name, instance = request.connection, self.hello.instance
        listener = Listener(
            name,
            instance,
            self.hello.generation,
            grant.key,
            self._handle,
            self.address,
            self.transport,
            self.hello.software,
        )
        try:
            self._broker.register(listener, now, replaces=tuple(map(control.instance_of, request.replaces)))
        except RendezvousError as exc:
            return self.refuse(request, exc)
        self._registrations[name] = _Registration(listener, grant.expires_at)
        self._note_use()
        return SendMessage(control.Registered(request.id, grant.expires_at))

    def join_ended(self, *, joined: bool = False) -> None:
        """Note that a join that `StartJoin` began has ended or was cancelled. `joined`: whether a listener has
        accepted."""
        self._joins -= 1
        if joined and self._place is not None:
            self._broker.control_channels.establish(self._place, IDLE_CLIENT_SECONDS)

    def _note_use(self) -> None:
        """Establish the place of a connector's channel while something is registered over it."""
        if self._place is None:
            return
        if self._registrations:
            self._broker.control_channels.establish(self._place)
        else:
            self._broker.control_channels.make_provisional(self._place)

    # --- what else happens

    def ended(self, connection: str, reason: Reason) -> SendMessage | Close:
        """Notify the peer that a registration or right has ended. When the last registration of a channel was
        superseded, the channel ends."""
        self._registrations.pop(connection, None)
        self._note_use()
        if reason is Reason.SUPERSEDED and not self._registrations:
            return Close(reason, gracefully=False)
        return SendMessage(control.Ended(connection, reason))

    def expire(self, now: float) -> Close | None:
        """End registrations whose token has expired (`now` in seconds since 1970) and was not renewed.

        If registrations were refused, and nothing has been registered for `REFUSED_CHANNEL_SECONDS`, the channel
        ends.
        """
        for registration in list(self._registrations.values()):
            if now > registration.expires_at:
                self._broker.token_expired(registration.listener)
        if self._registrations or not self._was_refused or self._place is None:
            return None
        if not self._broker.control_channels.is_provisional(self._place, REFUSED_CHANNEL_SECONDS):
            return None
        self._was_refused = False  # so that it ends only once
        return Close(Reason.LIMIT, gracefully=True)

    def check_keys(self) -> list[SendMessage | Close]:
        """End everything that was authorized by keys that are no longer valid, or no longer give the right that the
        peer needs. If none is left, end the channel. Call this when the store has changed."""
        right = Right.SEND if self._is_client else Right.LISTEN
        why_not = self._broker.authorization.why_not
        gone = {key: reason for key in self._keys if (reason := why_not(key, right))}
        self._keys = self._keys.difference(gone)
        self._count_sender()
        if self._place is not None and self._place.holder.key in gone and self._keys:
            key = min(self._keys, key=lambda one: one.generation)
            self._broker.control_channels.pass_on(self._place, Holder(key, self.address))
        outputs: list[SendMessage | Close] = []
        if self._is_client:  # the broker tells listeners
            still = {key.connection for key in self._keys}
            reasons = {key.connection: reason for key, reason in gone.items()}
            for name, reason in reasons.items():
                if name not in still:
                    outputs.append(self.ended(name, reason))
                    self._note_sender_ended(name, reason)
        if gone and not self._keys:
            self._apply(ChannelInput.KEYS_GONE)
            reason, *others = set(gone.values())
            is_named = not others and reason in _NAMED_AT_THE_END
            outputs.append(Close(reason if is_named else Reason.KEY_REVOKED, gracefully=True))
        return outputs

    def _note_sender_ended(self, connection: str, reason: Reason) -> None:
        assert self.hello is not None
        self._broker.note(
            SenderRevoked(connection=connection, peer=self.address, instance=self.hello.instance, reason=reason)
        )

    def lost(self, reason: Reason = Reason.NO_ERROR) -> None:
        """End all registrations of a channel that has ended. It may be called more than once.

        Args:
            reason: why the relay has ended the channel; `Reason.NO_ERROR` if it has not.
        """
        self._apply(ChannelInput.LOST)
        registrations, self._registrations = self._registrations, {}
        for registration in registrations.values():
            self._broker.unregister(registration.listener, reason)
        self._keys = _NO_KEYS
        self._count_sender()
        if self._place is not None:
            self._broker.control_channels.leave(self._place)

    def _apply(self, happened: ChannelInput) -> None:
        self.state = TRANSITIONS[self.state, happened]
