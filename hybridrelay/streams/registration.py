"""A stream that the reactor serves: its handler, and when the handler is called.

`epoll_set.py` and `watching.py` are the two ways to wait for a stream. `reactor.py` has the rules that both fulfil.
"""

from __future__ import annotations

import enum
import logging
from abc import ABC, abstractmethod
from typing import Protocol

import trio

from .nowait import NowaitStream
from .turns import SharedTurns

__all__ = ["Handler", "Next", "Registration", "Rounds"]

_logger = logging.getLogger(__name__)


class Next(enum.Enum):
    """When to call a handler's `on_readable` again. Each call returns this."""

    #: It has nothing to read. Call it when its stream becomes readable.
    WAIT = enum.auto()
    #: There may be more to read. Call it again after the other handlers.
    AGAIN = enum.auto()
    #: Call it when it calls `Registration.resume`, and not before.
    PAUSE = enum.auto()


class Handler(ABC):
    """Reads from one stream, and writes to it."""

    __slots__ = ()

    @abstractmethod
    def on_readable(self) -> Next:
        """Read something from the stream, pass it on, and count it with `SharedTurns.count`. Returns when to call
        this again."""

    @abstractmethod
    def on_flushed(self, error: BaseException | None) -> None:
        """Note that everything that the stream had buffered was passed on, or that this failed; see
        `Registration.flush`."""

    @abstractmethod
    def on_broken(self) -> None:
        """Note that the connection has failed while the handler pauses, and so does not find this out by reading.

        Only the epoll set reports this."""

    @abstractmethod
    def on_failed(self, error: Exception) -> None:
        """Note that one of the methods above has raised an exception, or that the stream has raised one that
        `NowaitStream` does not document. The handler is not called again. Must not raise."""


class Rounds(Protocol):
    """What calls the handlers that are due: the reactor."""

    def queue(self, registration: Registration) -> None:
        """Call the handler of a registration soon."""

    def run_handlers(self) -> None:
        """Call the handlers that are due, as long as the turns of their peers allow it, for about `TURN_SECONDS` in
        total. For use by tasks that have waited for a stream."""


class Registration:
    """A stream that the reactor serves."""

    __slots__ = (
        "_can_flush",
        "_has_failed",
        "_is_broken",
        "_is_closed",
        "_is_flushing",
        "_is_paused",
        "_is_queued",
        "_is_readable",
        "_rounds",
        "handler",
        "stream",
        "turns",
    )

    def __init__(self, rounds: Rounds, stream: NowaitStream, handler: Handler, turns: SharedTurns) -> None:
        self._rounds = rounds
        self.stream = stream
        self.handler = handler
        #: The turns of the peer for which the handler works.
        self.turns = turns
        #: Whether the stream may have something to read.
        self._is_readable = False
        self._is_paused = False
        #: Whether the handler waits for `on_flushed`, and whether the socket has become writable since the last
        #: attempt to write what is buffered.
        self._is_flushing = self._can_flush = False
        #: Whether the connection has failed.
        self._is_broken = False
        #: Whether it waits to be called.
        self._is_queued = False
        self._is_closed = False
        #: Whether `on_failed` was called.
        self._has_failed = False

    def resume(self) -> None:
        """Call the handler again after it has paused. Has no effect if it is not paused."""
        if self._is_paused:
            self._is_paused = False
            self._queue_if_ready()

    def flush(self) -> None:
        """Call the handler's `on_flushed` when the stream has passed on what it has buffered. For use after
        `send_nowait` has returned False. Nothing else may be sent until `on_flushed` is called."""
        self._is_flushing = True

    def close(self) -> None:
        """Do not call the handler any more. Idempotent.

        Call this before the stream is closed, because nothing tells the reactor that a socket was closed. A Trio
        socket may be closed at once after this. Any other stream may be closed only when `wait_closed` has returned.
        Until then, the stream may not be used in any other way, even if it is a socket.
        """
        self._is_closed = True

    async def wait_closed(self) -> None:
        """Wait until nothing uses the stream any more. For use after `close`; shielded from cancellation."""

    def mark_readable(self) -> None:
        """Note that there may be something to read, and call the handler soon."""
        self._is_readable = True
        self._queue_if_ready()

    def on_event(self, *, readable: bool, hung_up: bool, writable: bool, broken: bool) -> None:
        """Note what the epoll set has reported."""
        self._is_broken = self._is_broken or broken
        if readable or hung_up:
            sock = self.stream.socket_below
            assert sock is not None
            sock.on_readable(hung_up=hung_up)
            self._is_readable = True
        if writable or hung_up:
            self._can_flush = True
        self._queue_if_ready()

    def _queue_if_ready(self) -> None:
        if self._is_queued or self._is_closed:
            return
        if self._is_broken or (self._is_readable and not self._is_paused) or (self._is_flushing and self._can_flush):
            self._is_queued = True
            self._rounds.queue(self)

    def run(self) -> None:
        """Call the handler, which is due."""
        self._is_queued = False
        if self._is_closed:
            return
        try:
            if self._is_flushing and self._can_flush:
                self._can_flush = False
                self._flush_now()
            if self._is_readable and not self._is_paused and not self._is_closed:
                following = self.handler.on_readable()
                if following is Next.AGAIN:
                    self._queue_if_ready()
                elif following is Next.PAUSE:
                    self._is_paused = True
                else:
                    self._is_readable = False
                    self._wait_readable()
            if self._is_broken and self._is_paused and not self._is_closed:
                self._is_broken = False
                self.handler.on_broken()
        except Exception as exc:  # noqa: BLE001 - a bug, which the owner of the handler reports
            self.fail(exc)

    def _flush_now(self) -> None:
        try:
            if not self.stream.flush_nowait():
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            # Passed on here, because an exception in another variable would be in a cycle with its traceback.
            self._is_flushing = False
            self.handler.on_flushed(exc)
        else:
            self._is_flushing = False
            self.handler.on_flushed(None)

    def fail(self, error: Exception) -> None:
        """Report an exception that only a bug can cause, and stop calling the handler."""
        self.close()
        if not self._has_failed:
            self._has_failed = True
            try:
                self.handler.on_failed(error)
            except Exception:  # above all, if memory has run out; the other handlers have to be called
                _logger.exception("a handler that has failed could not be ended")

    def _wait_readable(self) -> None:
        """Begin to wait for the stream to become readable, without blocking. There is nothing to do for a socket in
        the epoll set, which reports this by itself."""
