"""Moving bytes between two sockets inside the kernel, by `os.splice` through borrowed pipes. Linux only.

The kernel moves bytes between a socket and a pipe, but not between two sockets, so every move takes two steps. Rules:

1. A direction borrows a pipe when its source has become readable, and returns it, empty, when the source seems to
   have no more bytes. A direction that waits for its source has no pipe.
2. Only empty pipes are returned to the pool. A pipe with bytes in it, after an error or a cancellation, is closed.
3. If no pipe is available, or splicing fails for a reason other than an error of a socket, nothing is lost: bytes
   that are in the pipe are read from it, and the caller copies through a buffer. Two sockets between which the kernel
   cannot splice (EINVAL) are not tried again. Any other such failure comes from the system (a system call filter, an
   emulated kernel, a shortage of memory), and suspends all splicing for `SPLICE_RETRY_SECONDS`.
4. An error of a socket breaks its stream. It has to be handled here, because the kernel reports an error only once,
   and the next call would return an end of file.
"""

from __future__ import annotations

import enum
import errno
import math
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio

from ...events.log import logged_events
from ...events.relay_resources import SpliceUnavailable
from ...events.stream import EventStream
from ...streams.nowait import Turn
from ..limits import BORROWED_PIPES, IDLE_PIPES, SMALL_BURST_BYTES
from ..worker.splicing import HAS_SPLICE, SPLICE_FLAGS, SPLICE_RETRY_SECONDS, is_of_socket, open_pipe
from .pace import PairPace

__all__ = ["PipePool", "SinkBroke", "SourceBroke", "Spliced", "StreamBroke", "can_splice", "splice"]

#: More than any pipe holds, so that the pipe's capacity is the only limit.
_AS_MUCH_AS_FITS = 1 << 30


class StreamBroke(Exception):
    """One of the two streams is broken; `__cause__` says how."""


class SourceBroke(StreamBroke):
    """The stream that is read from is broken."""


class SinkBroke(StreamBroke):
    """The stream that is written to is broken. Bytes that were already read for it are lost."""


class Spliced(enum.Enum):
    """Why `splice` returned. Everything that was read from the source has been written to the sink."""

    #: The source has reached its end of file.
    END = "end"
    #: The source may have bytes, but no pipe is available at the moment, splicing is suspended, or the pair has a
    #: rate limit.
    NO_PIPE = "no pipe"
    #: The kernel cannot splice between these two sockets.
    UNSUPPORTED = "unsupported"


class Pipe:
    """One kernel pipe, and how many bytes are in it."""

    def __init__(self) -> None:
        """Open a pipe. Raises OSError if the process or the system has no descriptors left."""
        self._read_end, self._write_end = open_pipe()
        self.held = 0

    def fill(self, source_fd: int) -> int:
        """Read as much as fits from a socket. Returns 0 at its end. Raises OSError; BlockingIOError if it has no
        data."""
        assert sys.platform == "linux"
        taken = os.splice(source_fd, self._write_end, _AS_MUCH_AS_FITS, flags=SPLICE_FLAGS)
        self.held += taken
        return taken

    def drain(self, sink_fd: int) -> None:
        """Write as much as fits to a socket. Raises OSError; BlockingIOError if nothing fits."""
        assert sys.platform == "linux"
        self.held -= os.splice(self._read_end, sink_fd, self.held, flags=SPLICE_FLAGS)

    def read(self) -> bytes:
        """Read everything, because it cannot be spliced to the sink."""
        data = b""
        while self.held:
            block = os.read(self._read_end, self.held)
            self.held -= len(block)
            data += block
        return data

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)


class PipePool:
    """Lends pipes to directions that have bytes to move.

    Only one thread may use it. Close it, or use it in a `with` statement.

    Args:
        max_idle: how many empty pipes are kept for reuse.
        max_borrowed: how many pipes may be lent at a time.
        events: the stream to which events are published; None means one that writes them to the log.
    """

    def __init__(
        self,
        *,
        max_idle: int = IDLE_PIPES,
        max_borrowed: int = BORROWED_PIPES,
        events: EventStream | None = None,
    ) -> None:
        self._events = logged_events() if events is None else events
        self._idle: list[Pipe] = []
        self._max_idle = max_idle
        self._max_borrowed = max_borrowed
        self._closed = False
        #: Until when splicing is suspended, on Trio's clock.
        self._suspended_until = -math.inf
        #: The number of pipes that are currently lent.
        self.borrowed = 0

    @property
    def idle(self) -> int:
        """The number of empty pipes that are kept for reuse."""
        return len(self._idle)

    def maybe_borrow(self) -> Pipe | None:
        """Return an empty pipe, or None if too many are lent, splicing is suspended, or no descriptor is free."""
        if self.borrowed >= self._max_borrowed or trio.current_time() < self._suspended_until:
            return None
        try:
            pipe = self._idle.pop() if self._idle else Pipe()
        except OSError:
            return None
        self.borrowed += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Return a borrowed pipe. If it is not empty, it is closed, so that its bytes never reach another pair."""
        self.borrowed -= 1
        if pipe.held or self._closed or len(self._idle) >= self._max_idle:
            pipe.close()
        else:
            self._idle.append(pipe)

    def refused(self, error: OSError) -> Spliced:
        """Handle an error of `os.splice` that a socket has not caused. Returns the value that `splice` has to
        return."""
        if error.errno == errno.EINVAL:
            return Spliced.UNSUPPORTED
        if trio.current_time() >= self._suspended_until:
            self._suspended_until = trio.current_time() + SPLICE_RETRY_SECONDS
            self._events.publish(
                SpliceUnavailable(detail=error.strerror or str(error), retry_seconds=SPLICE_RETRY_SECONDS)
            )
        return Spliced.NO_PIPE

    def close(self) -> None:
        """Close the idle pipes now, and the borrowed ones when they are returned. Idempotent."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def can_splice(source: object, sink: object) -> bool:
    """Return whether it makes sense to try to move bytes from `source` to `sink` in the kernel."""
    return HAS_SPLICE and isinstance(source, trio.SocketStream) and isinstance(sink, trio.SocketStream)


async def splice(
    source: trio.SocketStream, sink: trio.SocketStream, pipes: PipePool, pace: PairPace, count: Callable[[int], None]
) -> Spliced:
    """Move bytes from `source` to `sink` until there is a reason to stop.

    Args:
        source: the socket to read from.
        sink: the socket to write to.
        pipes: lends a pipe.
        pace: if it has a rate, nothing is spliced.
        count: called with the number of bytes that have reached the sink's socket, each time that the pipe was
            emptied.

    Returns:
        Why it stopped. Nothing is lost, and an end of file was not passed on.

    Raises:
        SourceBroke: reading failed.
        SinkBroke: writing failed.

    If cancelled, an unknown number of bytes has been lost: neither stream can be used further.
    """
    while True:
        try:
            await trio.lowlevel.wait_readable(source.socket)
        except (OSError, trio.ClosedResourceError) as exc:
            raise SourceBroke from exc
        pipe = pipes.maybe_borrow() if pace.rate is None else None
        if pipe is None:
            return Spliced.NO_PIPE
        try:
            stopped = await _burst(source, sink, pipe, pipes, pace, count)
        finally:
            pipes.give_back(pipe)
        if stopped is not None:
            return stopped


async def _burst(
    source: trio.SocketStream,
    sink: trio.SocketStream,
    pipe: Pipe,
    pipes: PipePool,
    pace: PairPace,
    count: Callable[[int], None],
) -> Spliced | None:
    """Move the bytes that the source has at this moment. Returns None when it has no more for now, or when the
    pair gets a rate limit."""
    # Each burst has a turn of its own. If the pairs of a holder shared a turn here, as they do in `pump`, a small
    # message would have to wait until every other pair of its holder has moved a burst. Workers share their time
    # among holders without this effect (`relay.worker.loop`).
    turn: Turn | None = None
    while True:
        try:
            taken = pipe.fill(source.socket.fileno())
        except BlockingIOError:
            return None
        except OSError as exc:
            if is_of_socket(exc, source.socket):
                raise SourceBroke from exc
            return pipes.refused(exc)
        if taken == 0:
            return Spliced.END
        refused = await _empty(pipe, pipes, sink)
        count(taken)
        if refused is not None:
            return refused
        if taken < SMALL_BURST_BYTES:
            return None
        turn = turn or Turn()
        if turn.is_over(taken):
            await trio.lowlevel.checkpoint()
            turn = None
            if pace.rate is not None:
                return None


async def _empty(pipe: Pipe, pipes: PipePool, sink: trio.SocketStream) -> Spliced | None:
    """Move everything in the pipe to the sink. This is a checkpoint only if it has to wait.

    Returns:
        None if all bytes were spliced. Otherwise splicing does not work, and they were sent through a buffer: the
        value is then what `splice` returns.

    Raises:
        SinkBroke: writing failed.
    """
    try:
        while pipe.held:
            try:
                pipe.drain(sink.socket.fileno())
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sink.socket)
            except OSError as exc:
                if is_of_socket(exc, sink.socket):
                    raise
                await sink.send_all(pipe.read())
                return pipes.refused(exc)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise SinkBroke from exc
    return None
