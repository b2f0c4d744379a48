"""A session of a client: opened, resumed over other data channels, and moved to better ones.

This is the Trio shell around `lifecycle/machine.py`, which decides when to do what. The shell executes the machine's
commands, and reports their results.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NoReturn

import attrs
import trio

from .._nursery import FlatNursery
from ..connectivity.activity import session_activity_id
from ..connectivity.backoff import Backoff
from ..connectivity.data import EndToEnd
from ..errors import HybridRelayError, SessionError
from ..events.base import Event
from ..events.stream import EventStream
from ..mux import Session
from ..protocol.reasons import Category, Reason
from ..streams import TLSStream
from ..streams.sockets import close_forcefully
from .lifecycle import Machine, State, commands, inputs
from .lifecycle.inputs import MoveCause
from .relays.listeners import ListenerSearch
from .relays.relay_connection import DataChannel, Peer, RelayConnection
from .relays.relays import Relays

__all__ = ["MAX_CHANNEL_BYTES", "MAX_CHANNEL_SECONDS", "ClientSession"]

#: A relay that is about to stop waits for one second. Sessions begin to leave it at random moments within the first
#: half of that second (`_LEAVE_JITTER`, seconds). The other half remains for another attempt (after
#: `_LEAVE_AGAIN_SECONDS`), in case too many sessions moved at the same time.
_LEAVE_JITTER = 0.5
_LEAVE_AGAIN_SECONDS = 0.25

#: A data channel is replaced after this many seconds or bytes (both directions together), and the identities are
#: checked again: one day, and 128 GiB. In records of 16 KiB, this is about a third of what AES-GCM may encrypt with
#: one key (2^24.5 records; RFC 8446, section 5.5). OpenSSL does not update keys by itself.
MAX_CHANNEL_SECONDS = 24 * 3600.0
MAX_CHANNEL_BYTES = 128 << 30


@attrs.define(eq=False)
class _Move:
    """A move for which a caller waits."""

    #: The relays to try, in this order.
    relays: Sequence[RelayConnection]
    over: trio.Event = attrs.field(factory=trio.Event)
    error: HybridRelayError | None = None


class ClientSession:
    """A session with one instance of the connector, through any relay that leads there. `run` may be called once.

    Args:
        connection: the hybrid connection's name, for events.
        end_to_end: the end-to-end TLS, with the identity of this application. The session can be resumed only with
            this identity.
        relays: the client's relays.
        search: knows which connectors are avoided.
        new_session: makes a session that does not run yet.
        explain: returns the error to raise if a connector did not accept the session.
        events: the stream to which events are published.
    """

    def __init__(
        self,
        connection: str,
        end_to_end: EndToEnd,
        relays: Relays,
        search: ListenerSearch,
        *,
        new_session: Callable[[], Session],
        explain: Callable[[SessionError], HybridRelayError],
        events: EventStream,
    ) -> None:
        self._machine = Machine(connection, search, random.random)
        self._end_to_end = end_to_end
        self._relays = relays
        self._search = search
        self._new_session = new_session
        self._explain = explain
        self._events = events
        #: When `run` has begun, on Trio's clock.
        self.since = 0.0
        self._session: Session | None = None
        self._channel: DataChannel | None = None
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[int, trio.CancelScope] = {}
        #: Open data channels that the session does not use yet, by the number of the attempt.
        self._opened: dict[int, DataChannel] = {}
        #: The data channel that the session will use next, until it is delivered.
        self._undelivered: DataChannel | None = None
        #: Set, and replaced by a new event, whenever the machine has taken an input.
        self._changed = trio.Event()
        #: Set while a relay says that the connector is not there.
        self._absent = trio.Event()
        self._failure: HybridRelayError | None = None
        #: Held during a move.
        self._moving = trio.Lock()
        self._move: _Move | None = None

    @property
    def was_opened(self) -> bool:
        """Whether the connector has greeted. The session may have ended since."""
        return self._machine.was_opened

    @property
    def session(self) -> Session:
        """The session itself. Available once `run` has started."""
        assert self._session is not None
        return self._session

    @property
    def activity_id(self) -> str:
        """The session's id in events, here and at the connector. Available once `run` has started."""
        return session_activity_id(self.session.session_id, self.serial)

    @property
    def serial(self) -> str:
        """The serial of the identity with which the session was opened."""
        return self._end_to_end.serial

    @property
    def channel(self) -> DataChannel:
        """The data channel that the session was given last. Available once `run` has started."""
        assert self._channel is not None
        return self._channel

    def goes_through(self, relay: RelayConnection) -> bool:
        """Return whether the session has a data channel now, and it goes through this relay."""
        return self.session.is_attached and self.channel.relay is relay

    def needs_renewal(self) -> bool:
        """Return whether the session's data channel is so old, or has carried so much, that it has to be replaced."""
        session = self.session
        return session.channel_age > MAX_CHANNEL_SECONDS or session.channel_bytes > MAX_CHANNEL_BYTES

    async def wait_absent(self) -> None:
        """Wait until this session has lost its channel, and a relay says that its connector is not registered."""
        await self._absent.wait()

    # --- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the session, and run it until it ends. `task_status.started` is called when the connector has greeted.

        Raises:
            HybridRelayError: no connector could be found that accepts the session; see `Client.connect`.

        If cancelled, the session ends. Exactly one event says how it ended, whatever ended it.
        """
        self.since = trio.current_time()
        try:
            async with FlatNursery() as self._nursery:
                self._handle(inputs.Start())
                await self._serve(task_status)
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._handle(self._end())
            unused = (*self._opened.values(), self._undelivered)
            await close_forcefully(*(channel.stream for channel in unused if channel is not None))

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Tell the machine when its deadlines are reached, until the session has ended."""
        machine, is_started = self._machine, False
        while True:
            if machine.was_opened and not is_started:
                is_started = True
                task_status.started()
            if self._failure is not None:
                raise self._failure
            if machine.state is State.ENDED:
                return
            deadline = machine.deadline
            if deadline is not None and trio.current_time() >= deadline:
                self._handle(inputs.Due(self._relays.away_until))
                continue
            with trio.CancelScope() as scope:
                if deadline is not None:
                    scope.deadline = deadline
                await self._changed.wait()

    def _end(self) -> inputs.Input:
        outcome = None if self._session is None else self._session.outcome
        if outcome is None:
            return inputs.Cancelled()
        return inputs.SessionOver(outcome.reason, outcome.text, outcome.by_peer)

    def _handle(self, given: inputs.Input) -> None:
        """Pass an input to the machine, and execute or publish what it returns."""
        for output in self._machine.handle(given, trio.current_time()):
            if isinstance(output, Event):
                self._events.publish(output)
            else:
                self._execute(output)
        if self._machine.is_connector_absent:
            self._absent.set()
        elif self._absent.is_set():
            self._absent = trio.Event()
        self._changed.set()
        self._changed = trio.Event()

    def _execute(self, command: commands.Command) -> None:
        match command:
            case commands.Search(attempt):
                self._begin(attempt, self._search, self._relays.in_order())
            case commands.Resume(attempt, same_relay_first):
                every = self._relays.in_order(self.channel.relay if same_relay_first else None)
                here = [relay for relay in every if not relay.is_away] or every
                self._begin(
                    attempt, self.channel.peer, here, home=self.channel.relay, tries_every_relay=here == every
                )
            case commands.OpenForMove(attempt, _):
                assert self._move is not None
                self._begin(attempt, self.channel.peer, self._move.relays)
            case commands.Abandon(attempt):
                self._scopes[attempt].cancel()
            case commands.RunSession(attempt):
                self._session, self._channel = self._new_session(), self._opened.pop(attempt)
                self._start_soon(self._run_session, self._session, self._channel)
            case commands.UseChannel(attempt):
                self._channel = self._undelivered = self._opened.pop(attempt)
                self._start_soon(self._deliver)
            case commands.CloseSession(reason, text):
                self.session.close(reason, text)
            case commands.AnswerMove(error):
                if self._move is not None:
                    self._move.error = error
                    self._move.over.set()
            case commands.CheckRelay():
                self.channel.relay.data_channel_lost()
            case commands.TryRelayLater():
                self.channel.relay.failed()
            case commands.Fail(error):
                self._failure = error

    def _start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(task, *args)

    # --- data channels

    def _begin(
        self,
        attempt: int,
        to: Peer | ListenerSearch,
        relays: Sequence[RelayConnection],
        *,
        home: RelayConnection | None = None,
        tries_every_relay: bool = True,
    ) -> None:
        scope = self._scopes[attempt] = trio.CancelScope()
        opening = partial(self._relays.open_data_channel, to, relays, self._end_to_end, home=home)
        self._start_soon(partial(self._open_channel, attempt, scope, opening, tries_every_relay=tries_every_relay))

    async def _open_channel(
        self,
        attempt: int,
        scope: trio.CancelScope,
        opening: Callable[[], Awaitable[DataChannel]],
        *,
        tries_every_relay: bool,
    ) -> None:
        opened: DataChannel | None = None
        failure: HybridRelayError | None = None
        with scope:
            try:
                opened = await opening()
            except HybridRelayError as exc:
                failure = exc
        del self._scopes[attempt]
        if failure is not None:
            if not scope.cancel_called:
                self._handle(inputs.AttemptFailed(attempt, failure, tries_every_relay))
            failure = None  # it would be in a cycle with its traceback, which refers to this frame
        elif opened is not None:
            if scope.cancel_called:
                await trio.aclose_forcefully(opened.stream)
                return
            self._opened[attempt] = opened
            identity = opened.peer.identity
            channel = inputs.Channel(
                str(opened), opened.peer.instance, identity.label, identity.serial, opened.rendezvous
            )
            self._handle(inputs.ChannelOpened(attempt, channel))

    async def _deliver(self) -> None:
        """Give the session the data channel to use next, unless `_reconnect` has already done so."""
        channel, self._undelivered = self._undelivered, None
        if channel is not None:
            await self.session.replace_channel(channel.stream)

    # --- what the session reports

    async def _run_session(self, session: Session, channel: DataChannel) -> None:
        try:
            outcome = await session.run(channel.stream, reconnect=self._reconnect, on_greeting=self._greeted)
        except SessionError as exc:
            # With TLS 1.3, the client learns only after the handshake whether the connector accepts it: from an
            # alert, or from the reason in GOAWAY.
            error = self._explain(exc)
            if error is not exc:
                error.__cause__ = exc
            self._handle(inputs.Rejected(error))
        else:
            self._handle(inputs.SessionOver(outcome.reason, outcome.text, outcome.by_peer))

    def _greeted(self) -> None:
        self._handle(inputs.Greeted(self.activity_id))

    async def _reconnect(self) -> TLSStream:
        """Return the data channel that the session is to use next, if there is one. Otherwise report to the machine
        that the channel was lost, and wait to be cancelled: the next channel then comes through `replace_channel`."""
        channel, self._undelivered = self._undelivered, None
        if channel is not None:
            return channel.stream
        self._handle(inputs.ChannelLost())
        return await _never()

    # --- moves

    async def move(
        self, relays: Sequence[RelayConnection], cause: MoveCause, *, is_needed: Callable[[], bool] = lambda: True
    ) -> HybridRelayError | None:
        """Move to a new data channel through one of these relays; if that fails, keep the current one.

        Moves are made one after the other. A move is complete when the connector has greeted on the new data channel.

        Args:
            relays: the relays to try, in this order.
            cause: for events.
            is_needed: called after waiting for earlier moves, and returns whether there is still a reason to move. By
                default there is.

        Returns:
            Why the session has not moved. None if it has moved, or if no move was begun: the session has no data
            channel, `relays` is empty, or there is no longer a reason.

        If cancelled, the data channel for the move is closed, unless the session already uses it.
        """
        async with self._moving:
            if self._machine.state is not State.CONNECTED or not self.session.is_attached:
                return None
            if not relays or not is_needed():
                return None
            move = self._move = _Move(relays)
            try:
                self._handle(inputs.MoveWanted(cause))
                await move.over.wait()
            finally:
                self._move = None
                if not move.over.is_set():
                    self._handle(inputs.MoveWithdrawn())
            return move.error

    async def leave(self, relay: RelayConnection) -> None:
        """One relay is draining or about to stop: move to another relay, if one leads to the same connector."""
        await trio.sleep(_LEAVE_JITTER * random.random())  # noqa: S311 - spreads load, hides nothing
        backoff = Backoff(first_seconds=_LEAVE_AGAIN_SECONDS, max_seconds=_LEAVE_AGAIN_SECONDS)
        while self.goes_through(relay):
            others = [one for one in self._relays.in_order() if not one.is_away]
            error = await self.move(others, MoveCause.RELAY_DRAINING, is_needed=lambda: self.goes_through(relay))
            if error is None or not (error.reason is Reason.LIMIT or error.reason.category is Category.QUOTA):
                break
            await trio.sleep(backoff.next_wait())


async def _never() -> NoReturn:
    await trio.sleep_forever()
