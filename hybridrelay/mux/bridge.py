"""A bridge between one stream of a session and a TCP connection of this machine: with the application or the target.
In this package, "TCP connection" includes connections over Unix sockets, which have no reset.

A bridge has no task of its own: the reactor reads the TCP connection, as it does for all sockets. What arrives on the
stream is written to the connection by the code that has read it from the channel.

A bridge may begin before the peer has accepted the stream: the first bytes of the application follow OPEN
immediately, which saves a round trip. They are kept until the peer has answered, so that another stream can carry
them if the peer did not process this one.

`bridging.py` decides how a bridge ends, and `_directions.py` moves the bytes. `bridges.py` runs bridges: it opens
another stream if the first one was refused, closes both sides, and reports the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ..errors import StreamRefused
from ..protocol.reasons import Reason
from ..streams.nowait import NowaitSocket
from ..streams.reactor import Reactor
from ..streams.registration import Handler, Next, Registration
from ..streams.sockets import has_unread
from ._directions import Broke, IncomingDirection, OutgoingDirection, stream_broke
from .bridging import Bridged, BridgeMachine, Command, Incoming, Input
from .stream import NO_ANSWER, OPENING_SECONDS, MuxStream

__all__ = ["Bridge"]

_logger = logging.getLogger(__name__)

#: How long the last bytes of a peer that has stopped reading may take to be delivered to the TCP connection
#: (seconds).
_LAST_BYTES_SECONDS = 30.0


class Bridge(Handler):
    """A bridge over one stream.

    Args:
        stream: the stream.
        local: the TCP connection.
        early: data that was sent on an earlier, refused stream and has to be sent again.
        over: called once, when the bridge has stopped moving bytes. It may close both sides.
    """

    __slots__ = (
        "_directions",
        "_local",
        "_over",
        "_reactor",
        "_received",
        "_registration",
        "_settled_callback",
        "bug",
        "gave_up",
        "is_over",
        "machine",
        "refusal",
        "stream",
    )

    def __init__(
        self, stream: MuxStream, local: trio.SocketStream, early: list[bytes], over: Callable[[], None]
    ) -> None:
        self._local = connection = NowaitSocket(local)
        self._over = over
        self.stream = stream
        self.machine = BridgeMachine()
        #: The two directions, which move the bytes; None when both sides are closed.
        self._directions: tuple[OutgoingDirection, IncomingDirection] | None = (
            OutgoingDirection(stream, connection, early, self.report),
            IncomingDirection(stream, connection, self.report, self._flush),
        )
        #: How many bytes the TCP connection had accepted when it was closed.
        self._received = 0
        #: Why the stream was not accepted.
        self.refusal: StreamRefused | None = None
        #: Whether the peer has not answered in time. It may be accepting the stream at this very moment.
        self.gave_up = False
        #: An exception that a bug has caused.
        self.bug: Exception | None = None
        self._reactor: Reactor | None = None
        self._registration: Registration | None = None
        #: Whether the bridge has stopped moving bytes.
        self.is_over = False
        self._settled_callback: Callable[[], None] | None = None

    def start(self, reactor: Reactor) -> None:
        """Begin to move bytes in both directions. The reactor has to run until `over` is called."""
        stream = self.stream
        self._reactor = reactor
        self._registration = reactor.register(self._local, self, stream.turns)
        stream.set_watcher(self)
        self._registration.mark_readable()
        if not stream.was_accepted:
            reactor.timeouts(OPENING_SECONDS).add(self._give_up_opening)
        self.on_changed()

    def stop(self) -> None:
        """Stop moving bytes, and call `over`. Idempotent."""
        if self.is_over:
            return
        self.is_over = True
        self.stream.set_watcher(None)
        if self._registration is not None:
            self._registration.close()
        if self._reactor is not None:
            self._reactor.timeouts(OPENING_SECONDS).remove(self._give_up_opening)
            self._reactor.timeouts(_LAST_BYTES_SECONDS).remove(self.stop)
            self._reactor = None
        self._over()

    async def wait_unregistered(self) -> None:
        """Wait until the reactor no longer uses the TCP connection. For use after `over` was called."""
        if self._registration is not None:
            await self._registration.wait_closed()

    def report(self, cause: Input, reason: Reason = Reason.NO_ERROR) -> None:
        """Pass an input to the machine, and execute its command."""
        command = self.machine.apply(cause, reason)
        if command is Command.STOP:
            self.stop()
        elif command is Command.LIMIT and self._reactor is not None:
            self._reactor.timeouts(_LAST_BYTES_SECONDS).add(self.stop)
        if cause is Input.LOCAL_ENDED:
            self.stream.set_settled_callback(self._stream_settled)

    def end_program(self) -> None:
        """Note that the program at the other end of the TCP connection is about to end: what it has sent is still
        passed on, as if it had closed the connection, and nothing more is delivered to it."""
        if not self.is_over:
            self._local.end_receiving()
            if self._registration is not None:
                self._registration.mark_readable()
            self.report(Input.PROGRAM_ENDS)

    def has_unread(self) -> bool:
        """Return whether the program has sent something that was not read here yet."""
        return not self.is_over and not self._outgoing.has_ended and has_unread(self._local.fileno())

    def _flush(self) -> None:
        if self._registration is not None:
            self._registration.flush()

    # --- called by the reactor

    def on_readable(self) -> Next:
        """Move bytes from the TCP connection into the stream. See `Handler.on_readable`."""
        try:
            return self._outgoing.move()
        except Broke as exc:
            self.report(exc.cause, exc.reason)
        finally:
            self._stop_if_both_ended()
        return Next.PAUSE

    def on_flushed(self, error: BaseException | None) -> None:
        """Move more bytes from the stream into the TCP connection. See `Handler.on_flushed`."""
        self._move_incoming(lambda: self._incoming.unblock(error))

    def on_broken(self) -> None:
        """End the bridge. See `Handler.on_broken`."""
        self.report(Input.LOCAL_BROKE, Reason.TARGET_RESET)

    def on_failed(self, error: Exception) -> None:
        """See `Handler.on_failed`."""
        if self.is_over:
            # Raised by what was called at the end, so there is nobody left to whom it could be reported.
            _logger.error("a callback at the end of a bridge has failed", exc_info=error)
        else:
            self.bug = error
            self.stop()

    # --- called by the stream

    def on_data(self) -> None:
        """See `StreamWatcher.on_data`."""
        if self.machine.incoming is not Incoming.AWAITING:
            self._move_incoming(self._incoming.deliver)

    def on_room(self) -> None:
        """See `StreamWatcher.on_room`."""
        try:
            if self._outgoing.continue_with_room() and self._registration is not None:
                self._registration.resume()
        except Broke as exc:
            self.report(exc.cause, exc.reason)
        except Exception as exc:  # noqa: BLE001 - a bug, which `over` reports
            self.on_failed(exc)

    def on_changed(self) -> None:
        """See `StreamWatcher.on_changed`."""
        stream = self.stream
        if self.machine.incoming is not Incoming.AWAITING:
            if stream.was_aborted:  # at once, even if the TCP connection accepts nothing now
                broke = stream_broke(stream, stream.failure_reason)
                self.report(broke.cause, broke.reason)
        elif stream.was_accepted:
            self._outgoing.early = []
            if self._reactor is not None:
                self._reactor.timeouts(OPENING_SECONDS).remove(self._give_up_opening)
            self.report(Input.ACCEPTED)
            self.on_data()
        elif stream.was_aborted:
            self._refused(stream.refusal())

    def _give_up_opening(self) -> None:
        self.gave_up = True
        self._refused(StreamRefused(NO_ANSWER, reason=Reason.TARGET_TIMEOUT))

    def _refused(self, refusal: StreamRefused) -> None:
        self.refusal = refusal
        self.report(Input.STREAM_LOST if self.stream.was_lost else Input.REFUSED, refusal.reason)

    # --- moving

    @property
    def _outgoing(self) -> OutgoingDirection:
        assert self._directions is not None, "both sides are open"
        return self._directions[0]

    @property
    def _incoming(self) -> IncomingDirection:
        assert self._directions is not None, "both sides are open"
        return self._directions[1]

    def _move_incoming(self, move: Callable[[], None]) -> None:
        try:
            move()
        except Broke as exc:
            # The error has to end the bridge here, because a TCP connection reports an error only once: the outgoing
            # direction would read end of file next.
            self.report(exc.cause, exc.reason)
        except Exception as exc:  # noqa: BLE001 - a bug, which `over` reports
            self.on_failed(exc)
        self._stop_if_both_ended()

    def _stop_if_both_ended(self) -> None:
        if self._directions is not None and self._outgoing.has_ended and self._incoming.has_ended:
            self.stop()

    # --- the outcome

    def when_settled(self, callback: Callable[[], None]) -> None:
        """See `bridges.BridgeProgress.when_settled`."""
        if self.machine.is_settled:
            callback()
        else:
            self._settled_callback = callback
            self.stream.limit_settling()

    def _stream_settled(self) -> None:
        """Report how the outgoing direction has ended after its end of file: everything was delivered, the stream
        broke, the peer has stopped reading, or it has not acknowledged everything in time."""
        stream = self.stream
        if stream.is_delivered:
            self.report(Input.DELIVERED)
        elif not stream.was_accepted:
            pass  # `on_changed` reports the refusal
        elif stream.reset_reason is not Reason.NO_ERROR or stream.was_lost:
            self.report(stream_broke(stream, stream.failure_reason).cause, stream.failure_reason)
        elif not stream.is_settled:
            self.report(Input.UNACKNOWLEDGED)
        else:
            self.report(Input.PEER_STOPPED, stream.failure_reason)
        callback, self._settled_callback = self._settled_callback, None
        if callback is not None:
            callback()

    def outcome(self) -> Bridged:
        """Return how the bridge ended, or its progress so far."""
        refusal = None if self.refusal is None else str(self.refusal)
        received = self._received if self._directions is None else self._directions[1].received
        return self.machine.outcome(self.stream.sent_bytes, received, refusal)

    def let_go(self) -> None:
        """Drop both sides, which are closed, and keep only what the outcome needs."""
        if self._directions is not None:
            self._received, self._directions = self._directions[1].received, None
        self._registration = None

    @property
    def early(self) -> list[bytes]:
        """The data that was sent before the peer accepted the stream; b"" means the end of file."""
        return [] if self._directions is None else self._directions[0].early

    def may_be_sent_again(self) -> bool:
        """Return whether the data of a refused stream may be sent on another one.

        If so, the peer has not processed any of it, and the TCP connection has not failed.
        """
        if self.refusal is None or (self.gave_up and any(self.early)):
            return False
        if self._local.has_failed():
            self.report(Input.LOCAL_BROKE, Reason.TARGET_RESET)
        return self.machine.may_be_sent_again(self.refusal.reason, has_sent=any(self.early))

    def cut_off(self, because: Reason) -> Reason:
        """End the bridge before it has finished. Returns the reason, which is `because` if there is no other."""
        if self.machine.reason is Reason.NO_ERROR:
            reset_reason = self.stream.reset_reason  # neither direction may have noticed yet
            if reset_reason is Reason.NO_ERROR:
                self.report(Input.CANCELLED, because)
            else:
                self.report(stream_broke(self.stream, reset_reason).cause, reset_reason)
        return self.machine.reason
