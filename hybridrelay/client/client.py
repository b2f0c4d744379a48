"""The client: one session per hybrid connection, opened when first needed and used for every stream."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from .._nursery import FlatNursery
from ..abc import Dial, Transport
from ..connectivity.backoff import Backoff
from ..connectivity.control import ControlChannel
from ..connectivity.data import EndToEnd, open_data_channel
from ..connectivity.discovery import AUTO, Candidate
from ..connectivity.endpoint import RelayEndpoint
from ..connectivity.link import CLIMB_FIRST_SECONDS, RelayLink, failure_error, make_connection_token, new_instance
from ..connectivity.network import watch_jumps
from ..connectivity.report import Report
from ..errors import (
    ConfigurationError,
    HybridRelayError,
    PeerIdentityError,
    RelayUnreachable,
    RendezvousError,
    SessionError,
    StreamRefused,
)
from ..mux import DATA_CONFIG, Budget, MuxStream, Role, Session
from ..protocol import control
from ..protocol.reasons import Reason
from ..security import ConnectionString, expires_soon, parse_connection_string_untrusted
from ..security import Role as IdentityRole
from ..streams import TLSStream

logger = logging.getLogger("hybridrelay.client")

#: Memory that all sessions of this process together may promise to their peers, where no other budget is given.
_PROCESS_BUDGET = Budget(1 << 30)
#: How long what is new waits for a session that is resuming, before another one is opened (seconds).
_RESUME_PATIENCE = 3.0
#: The longest wait between two tries to resume (seconds).
_RESUME_BACKOFF = 2.0
#: The first try to resume comes at a random moment within so much time (seconds).
_RESUME_JITTER = 0.25
#: How long a client waits for some listener to come (seconds): after a restart of the relay it may be the first.
_LISTENER_PATIENCE = 2.0
#: A data channel is replaced after so much time or so many bytes, and the identities are checked again: one day, and
#: 128 GiB, far below what AES-GCM may encrypt under one TLS key schedule with its automatic updates.
_MAX_CHANNEL_SECONDS = 24 * 3600.0
_MAX_CHANNEL_BYTES = 128 << 30
_RENEW_CHECK_SECONDS = 60.0
#: For closed streams to deliver their last bytes, and then to end the session in good order (seconds).
_DELIVERY_SECONDS = 10.0
_FAREWELL_SECONDS = _DELIVERY_SECONDS + 3.0
#: What a stream that could not be opened says where another session may help: the peer has not looked at it.
_TRY_ANOTHER_SESSION = frozenset({Reason.GOING_AWAY, Reason.SESSION_LOST, Reason.PEER_SILENT, Reason.SUPERSEDED})


class Client:
    """Opens streams to the target of one hybrid connection. Made by `open_client`."""

    def __init__(
        self,
        string: ConnectionString,
        nursery: trio.Nursery,
        *,
        mode: str = AUTO,
        dial: Dial | None = None,
        transports: Mapping[str, Transport] | None = None,
        budget: Budget | None = None,
        resume_deadline: float = DATA_CONFIG.resume_deadline,
        climb_seconds: float = CLIMB_FIRST_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if string.role is not IdentityRole.APPLICATION:
            raise ConfigurationError(
                "this is a connector's connection string; it can only listen",
                remedy="use the file that was written as --application-file",
            )
        identity, _ = string.require_identity()
        if expires_soon(identity, now=clock()):
            logger.warning("%s: this application's identity expires soon: issue a new one", string.entity_path)
        self._string = string
        self._end_to_end = EndToEnd.from_connection_string(string)
        self._nursery = nursery
        self._budget = _PROCESS_BUDGET if budget is None else budget
        self._config = attrs.evolve(
            DATA_CONFIG, resume_deadline=resume_deadline, max_streams=0
        )  # a connector opens no streams
        self._clock = clock
        self._link = RelayLink(
            RelayEndpoint.from_connection_string(string),
            control.Role.CLIENT,
            instance=new_instance(),
            mode=mode,
            dial=dial,
            transports=transports,
            climb_seconds=climb_seconds,
        )
        self._session: Session | None = None
        #: The route of its data channel, which need not be the one that would be chosen now.
        self._carrier: Candidate | None = None
        #: The instance of the connector that has our session.
        self._listener: str | None = None
        self._control: ControlChannel | None = None
        #: When the relay asked us to come back, on trio's clock.
        self._not_before = 0.0
        self._connecting = trio.Lock()
        self._opening_control = trio.Lock()
        #: Attempts to open a session that have ended, and how the last one failed.
        self._attempts = 0
        self._failure: HybridRelayError | None = None
        #: Sessions that have not ended: the present one, and earlier ones that finish their streams.
        self._live: set[Session] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Client {self.connection} at {self._link.endpoint.host}, {self.route or 'not connected'}>"

    @property
    def connection(self) -> str:
        """The name of the hybrid connection."""
        return self._string.entity_path

    @property
    def report(self) -> Report | None:
        """What the prober found when it last chose a route, or None before the first time."""
        return self._link.report

    @property
    def route(self) -> str | None:
        """The route in use (``tcp``, ``wss``, ``ws``), or None."""
        carrier = self._in_use()
        return None if carrier is None else carrier.route.name

    def _in_use(self) -> Candidate | None:
        return self._carrier if self._session and self._session.is_open else None

    async def connect(self) -> Session:
        """Make sure that there is a session; returns at once where there is.

        Concurrent callers share one attempt. A session that has lost its channel is given a moment to resume; after
        that another one is opened beside it, for what is new. A route that was remembered and fails is probed anew,
        once.

        Raises:
            RelayUnreachable: no route to the relay works.
            RelayIdentityError: whoever answers is not the relay.
            AuthorizationError: the relay refuses the key; `reason` says why.
            RendezvousError: no connector is listening, or it did not come.
            PeerIdentityError: client and connector do not accept each other.
            trio.ClosedResourceError: `open_client`'s block is over.
        """
        session = self._session
        if session is not None and not session.is_open and session.outcome is None:
            # Everybody waits at the same time, counted from the loss.
            with trio.move_on_after(_RESUME_PATIENCE - session.detached_seconds):
                await session.wait_open()
        attempts = self._attempts
        async with self._connecting:
            if self._closed:
                raise trio.ClosedResourceError("the client was closed")
            session = self._session
            if session is not None and session.is_open:
                return session
            if self._attempts != attempts and self._failure is not None:
                raise self._failure  # of the attempt for which we have waited here
            self._failure = None
            try:
                self._session = await self._open_session_probing()
            except HybridRelayError as exc:
                self._failure = exc
                raise
            finally:
                self._attempts += 1
            if session is not None and session.outcome is None:
                self._nursery.start_soon(self._let_go, session)
            return self._session

    async def _open_session_probing(self) -> Session:
        remembered = self._link.remembers
        try:
            return await self._open_session()
        except RelayUnreachable:
            if not remembered:
                raise
            return await self._open_session()

    # --- what keeps a session on the best path, in the background

    async def watch(self) -> None:
        """Climb to better routes, notice sleep and changes of network, renew old data channels; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.climb, self._in_use, self._climbed)
            nursery.start_soon(watch_jumps, self._jumped)
            nursery.start_soon(self._renew)

    async def _climbed(self, better: Candidate) -> None:
        logger.info("%s: %s works now, moving up", self.connection, better.route.name)
        if self._control is not None:
            self._control.close()
            self._control = None
        await self._move()

    def _jumped(self, what: str) -> None:
        logger.info("%s: %s: asking the other side whether it is there", self.connection, what)
        self._link.forget(network_changed=True)
        if self._control is not None:
            self._control.doubt()
        if self._session is not None:
            self._session.doubt_channel()

    async def _renew(self) -> None:
        while True:
            await trio.sleep(_RENEW_CHECK_SECONDS)
            session = self._session
            if session is not None and (
                session.channel_age > _MAX_CHANNEL_SECONDS or session.channel_bytes > _MAX_CHANNEL_BYTES
            ):
                logger.info("%s: renewing the data channel", self.connection)
                await self._move()

    async def _move(self) -> None:
        """Take the session to a fresh data channel while the present one lives; where that fails, it stays."""
        session = self._session
        if session is None or not session.is_open or self._listener is None:
            return
        try:
            tls, _ = await self._open_data_channel(self._listener)
        except HybridRelayError as exc:
            logger.warning("%s: the session stays where it is: %s", self.connection, exc)
        else:
            await session.replace_channel(tls)

    @staticmethod
    async def _let_go(session: Session) -> None:
        """A session that has been replaced ends with its last stream."""
        await session.aclose(grace=math.inf)

    async def open_stream(self, *, wait_opened: bool = True) -> MuxStream:
        """Open a stream to the target: returns when the connector has connected.

        Cancelled, the connector gives up too.

        Args:
            wait_opened: False returns as soon as the connector has been asked. What is sent then, up to 16 KiB,
                saves a round trip; where the connector or the target refuses, the stream breaks
                (`MuxStream.wait_opened` tells).

        Raises:
            StreamRefused: the target or the connector's policy said no; `reason` says which.
            HybridRelayError: no session; see `connect`.
        """
        session = await self.connect()
        try:
            return await _open_stream(session, wait_opened)
        except StreamRefused as exc:
            if not self.may_try_again(exc):
                raise
        # The session ended under our hands: nothing was sent on the stream, so another session may open it.
        return await _open_stream(await self.connect(), wait_opened)

    @staticmethod
    def may_try_again(refusal: StreamRefused) -> bool:
        """Whether the stream may be accepted by another session: nobody has said no to it."""
        return refusal.reason in _TRY_ANOTHER_SESSION

    async def _control_channel(self) -> ControlChannel:
        async with self._opening_control:
            if self._control is None:
                self._control = await self._link.start_control(self._nursery)
                self._nursery.start_soon(self._watch_control, self._control)
            return self._control

    async def _watch_control(self, channel: ControlChannel) -> None:
        async for message in channel.messages:
            if isinstance(message, control.Ended):
                logger.warning("%s: the relay ended our right to join: %s", self.connection, message.reason.describe)
            elif isinstance(message, control.Draining):
                logger.info("%s: the relay is about to restart", self.connection)
                self._not_before = trio.current_time() + message.retry_after_seconds
        if self._control is channel:
            self._control = None

    async def _open_data_channel(self, listener: str | None) -> tuple[TLSStream, str]:
        """Join, and go to the rendezvous; gives the channel and the instance of the listener.

        A route that fails is forgotten.
        """
        channel = await self._control_channel()
        try:
            token = make_connection_token(self._string, self._clock())
            answer = await channel.request(control.Join(channel.next_id(), self.connection, token, listener))
            if isinstance(answer, control.Failed):
                raise failure_error(self.connection, answer)
            if not isinstance(answer, control.Joined):
                raise RelayUnreachable("the relay gave a wrong answer", reason=Reason.PROTOCOL_ERROR)
            candidate = await self._link.choose()
            tls, _ = await open_data_channel(
                self._link.endpoint, candidate, answer.ticket, self._end_to_end, dial=self._link.dial
            )
        except RelayUnreachable:
            if self._control is channel:
                self._control = None
            self._link.forget()
            raise
        self._carrier = candidate
        logger.info("%s: connected over %s", self.connection, candidate.route.name)
        return tls, answer.listener

    async def _open_any_data_channel(self) -> tuple[TLSStream, str]:
        """A data channel to any listener. Where there is none, waits a moment: it may be about to come back too."""
        with trio.move_on_after(_LISTENER_PATIENCE):
            backoff = Backoff(first_seconds=0.5, max_seconds=0.5, min_seconds=0.1)
            while True:
                try:
                    return await self._open_data_channel(None)
                except RendezvousError as exc:
                    if exc.reason is not Reason.NO_LISTENER:
                        raise
                await trio.sleep(backoff.next_wait())
        return await self._open_data_channel(None)

    async def _open_session(self) -> Session:
        tls, self._listener = await self._open_any_data_channel()
        session = Session(Role.INITIATOR, config=self._config, budget=self._budget)
        try:
            await self._nursery.start(self._run_session, session, tls, self._listener)
        except SessionError as exc:
            # The connector's verdict on us arrives only now: as an alert, or as the reason of its GOAWAY.
            if exc.reason in _IDENTITY:
                raise PeerIdentityError(
                    f"this application's identity is not acceptable to the connector: {exc.reason.describe}",
                    reason=exc.reason,
                ) from exc
            raise self._end_to_end.explain(exc) from exc
        return session

    async def _run_session(
        self, session: Session, channel: TLSStream, listener: str, *, task_status: trio.TaskStatus[None]
    ) -> None:
        self._live.add(session)
        try:
            await session.run(channel, reconnect=partial(self._reconnect, listener), task_status=task_status)
        finally:
            self._live.discard(session)

    async def _reconnect(self, listener: str) -> TLSStream:
        """Another channel for a session that lost its own, to the same instance of the connector. Tries for ever.

        Raises:
            HybridRelayError: there is no use in trying: the connector is gone, or the relay refuses us for good.
        """
        logger.warning("%s: the data channel was lost, resuming", self.connection)
        # What was good may be what broke: a probe is cheap, and a dial into a black hole is not.
        self._link.forget()
        # All sessions of a relay lose it at the same moment; they must not come back at the same moment.
        jitter = _RESUME_JITTER * random.random()  # noqa: S311 - spreads load, hides nothing
        await trio.sleep_until(max(trio.current_time(), self._not_before) + jitter)
        backoff = Backoff(first_seconds=0.5, max_seconds=_RESUME_BACKOFF)
        while True:
            try:
                tls, _ = await self._open_data_channel(listener)
                return tls
            except HybridRelayError as exc:
                if exc.reason.is_permanent or exc.reason is Reason.LISTENER_GONE:
                    raise
                logger.info("%s: not yet: %s", self.connection, exc)
            await trio.sleep(backoff.next_wait())

    async def _aclose(self) -> None:
        self._closed = True
        async with trio.open_nursery() as nursery:
            for session in self._live:
                # Streams that were closed still deliver what they were given; those that were not are cut off.
                session.reset_open_streams(Reason.CANCELLED)
                nursery.start_soon(partial(session.aclose, grace=_DELIVERY_SECONDS))


_IDENTITY = frozenset(range(Reason.IDENTITY_SHUT_OUT, Reason.TLS_FAILED + 1))


async def _open_stream(session: Session, wait_opened: bool) -> MuxStream:
    return await session.open_stream() if wait_opened else session.open_stream_nowait()


@asynccontextmanager
async def open_client(
    connection_string: str | ConnectionString,
    *,
    mode: str = AUTO,
    dial: Dial | None = None,
    transports: Mapping[str, Transport] | None = None,
    budget: Budget | None = None,
    resume_deadline: float = DATA_CONFIG.resume_deadline,
    climb_seconds: float = CLIMB_FIRST_SECONDS,
) -> AsyncIterator[Client]:
    """``async with open_client(text) as client``: streams to the target of a hybrid connection.

    Nothing is connected before the first `Client.open_stream` or `Client.connect`. At the end of the block, streams
    that were closed have up to ten seconds to deliver their last bytes, and those still open are reset. What the
    block raises, and our own errors, leave as themselves, never in a group.

    Args:
        connection_string: an application's, as text or parsed.
        mode: ``auto``, or the name of the only transport allowed (``tcp``, ``websocket``).
        dial: opens TCP connections to the relay; None means through the proxy that the environment names
            (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), if any.
        transports: by name; None means those that are installed.
        budget: memory shared with other sessions; None means one of a GiB for the whole process.
        resume_deadline: how long a session that lost its channel may take to resume before its streams are reset, in
            seconds. The connector has one of its own; the shorter counts.
        climb_seconds: while a fallback is in use, how soon a better route is looked for; later looks grow rarer.

    Raises:
        ConnectionStringError: the text is malformed; `part` names the field.
        ConfigurationError: it is a connector's string, its identity is damaged, the mode is unknown, or the
            environment names an impossible proxy.
    """
    string = (
        parse_connection_string_untrusted(connection_string)
        if isinstance(connection_string, str)
        else connection_string
    )
    async with FlatNursery() as nursery:
        client = Client(
            string,
            nursery,
            mode=mode,
            dial=dial,
            transports=transports,
            budget=budget,
            resume_deadline=resume_deadline,
            climb_seconds=climb_seconds,
        )
        try:
            nursery.start_soon(client.watch)
            yield client
        finally:
            # Also when the block was cancelled: the farewell has a deadline of its own.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _FAREWELL_SECONDS):
                await client._aclose()
            nursery.cancel_scope.cancel()
