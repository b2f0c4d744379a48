"""The relay's end of one control channel."""

from __future__ import annotations

import itertools
import secrets
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import attrs
import trio

from .._log_limit import LimitedLogger
from .._version import __version__
from ..errors import AuthorizationError, RendezvousError
from ..mux import MuxStream, Session
from ..protocol import RemoteProtocolError, control
from ..protocol.reasons import Reason
from ..security import Right
from .broker import Broker, ListenerHandle
from .limits import REFUSALS_BEFORE_AUTHORIZED, REVOKED_CHANNEL_SECONDS
from .listeners import Listener
from .model import KeyId

logger = LimitedLogger("hybridrelay.relay")

#: Which run of the relay this is.
RELAY_INSTANCE = secrets.token_hex(16)
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

    Args:
        session: accepted, running in `nursery`.
        stream: the one stream of it.
        outer_pins: see `control.Welcome`.
        address: of the peer, as far as it counts as one (`slots.address_group`); connectors tell senders apart by it.
    """

    def __init__(
        self,
        broker: Broker,
        session: Session,
        stream: MuxStream,
        nursery: trio.Nursery,
        *,
        outer_pins: tuple[str, ...] = (),
        address: str = "",
    ) -> None:
        self._broker = broker
        self._session = session
        self._stream = stream
        self._nursery = nursery
        self._outer_pins = outer_pins
        self._address = address
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
    def _from(self) -> str:
        """Where the peer is, for the log. Behind a reverse proxy this is the proxy's address."""
        return f" from {self._address}" if self._address else ""

    # --- what the peer says

    async def serve_some(self) -> bool:
        """Receive something and act on it; False at the end of the peer's stream.

        Raises:
            RemoteProtocolError: it broke the rules.
            trio.BrokenResourceError: the channel is lost.
        """
        data = await self._stream.receive_some()
        if not data:
            self._decoder.receive_eof_untrusted()
            return False
        self._heard.set()
        for message in self._decoder.receive_data_untrusted(data):
            if not isinstance(message, control.Unknown):
                await self._handle(message)
        return True

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
            await self.send(control.Welcome(RELAY_INSTANCE, f"hybridrelay/{__version__}", self._outer_pins))
            return
        role = self.hello.role
        match message:
            case control.Register() if role is control.Role.CONNECTOR:
                await self.send(await self._register(message, self.hello))
            case control.Unregister(connection=name) if role is control.Role.CONNECTOR:
                if registration := self._registrations.pop(name, None):
                    self._broker.listeners.remove(registration.listener)
            case control.Join() if role is control.Role.CLIENT:
                await self._begin_join(message)
            case control.Accept(id=id_) | control.Failed(id=id_) if role is control.Role.CONNECTOR:
                self._answered(id_, message)
            case _:
                raise RemoteProtocolError(f"a {role} may not send {type(message).__name__}")

    async def _register(self, message: control.Register, hello: control.Hello) -> control.Message:
        name = message.connection
        try:
            grant = await self._broker.authorize(name, message.token, Right.LISTEN)
            if not self._owns_instance:
                raise RendezvousError("this relay needs a newer connector", reason=Reason.VERSION_MISMATCH)
            if name not in self._registrations and len(self._registrations) >= MAX_REGISTRATIONS:
                raise RendezvousError("too many registrations on one control channel", reason=Reason.LIMIT)
            self._authorized_by(grant.key)
            listener: Listener[ListenerHandle] = Listener(
                name, hello.instance, hello.generation, grant.key, self, self._address
            )
            displaced = self._broker.listeners.register(listener)
        except (AuthorizationError, RendezvousError) as exc:
            return self._refused(message, "registration", exc)
        self._registrations[name] = _Registration(listener, grant.expires_at)
        if displaced is not None and displaced.instance != hello.instance:
            logger.warning("%s: listener %s was replaced by %s", name, displaced.instance, hello.instance)
            displaced.handle.ended(name, Reason.LIMIT)
            displaced = None
        elif displaced is not None and displaced.handle is not self:
            displaced.handle.ended(name, Reason.SUPERSEDED)
        for dead in map(control.instance_of, message.replaces):
            if dead != hello.instance and (ghost := self._broker.listeners.declare_gone(name, dead)) is not None:
                ghost.handle.ended(name, Reason.SUPERSEDED)
        if displaced is None:
            logger.info("%s: listener %s registered%s", name, hello.instance, self._from)
        return control.Registered(message.id, grant.expires_at)

    def _authorized_by(self, key: KeyId) -> None:
        """Raises RendezvousError where there are too many control channels."""
        if key not in self._keys:
            self._broker.hold(key, first=self._first_key is None)
            self._first_key = self._first_key or key
            self._keys.add(key)
        self.authorized = True

    def _refused(
        self, message: control.Register | control.Join, what: str, error: AuthorizationError | RendezvousError
    ) -> control.Failed:
        self._refusals += 1
        if not self.authorized and self._refusals > REFUSALS_BEFORE_AUTHORIZED:
            raise RemoteProtocolError("too many requests without a right", reason=error.reason)
        logger.warning("%s: %s%s refused: %s", message.connection, what, self._from, error)
        return control.Failed(message.id, error.reason, str(error))

    async def _begin_join(self, message: control.Join) -> None:
        try:
            grant = await self._broker.authorize(message.connection, message.token, Right.SEND)
            self._authorized_by(grant.key)
        except (AuthorizationError, RendezvousError) as exc:
            await self.send(self._refused(message, "join", exc))
            return
        if self._joins >= MAX_JOINS:
            await self.send(control.Failed(message.id, Reason.LIMIT))
            return
        self._joins += 1

        async def join() -> None:
            try:
                answer = await self._broker.join(grant, message.listener, self._address, avoid=message.avoid)
            finally:
                self._joins -= 1
            if isinstance(answer, control.Failed):
                logger.info("%s: no rendezvous: %s", message.connection, answer.reason.slug)
            await self.send(attrs.evolve(answer, id=message.id))

        self._nursery.start_soon(join)

    # --- what we say

    async def send(self, message: control.Message) -> None:
        """Send; the reader of the channel detects its loss, not this method."""
        try:
            async with self._sending:
                await self._stream.send_whole(control.encode_message(message))
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
            logger.warning("dropping listener %s%s: silent", self.hello.instance if self.hello else "?", self._from)
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
        for name, registration in list(self._registrations.items()):
            if now > registration.expires_at:
                self._broker.listeners.remove(registration.listener)
                self.ended(name, Reason.TOKEN_EXPIRED)

    def check_keys(self) -> None:
        """The registry may have changed: end what keys that are gone had authorized, the channel with the last."""
        gone = {key: reason for key in self._keys if (reason := self._broker.why_revoked(key))}
        self._broker.let_go(gone.keys())
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
        for name, registration in self._registrations.items():
            if self._broker.listeners.remove(registration.listener):
                logger.info("%s: listener %s%s has left", name, registration.listener.instance, self._from)
        self._registrations.clear()
        self._broker.let_go(self._keys)
        self._keys.clear()
        if self._first_key is not None:
            self._broker.leave(self._first_key)
            self._first_key = None
        for answer, _ in self._answers.values():
            answer.close()
