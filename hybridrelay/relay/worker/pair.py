"""Moving the bytes of one pair of sockets, without waiting.

The rules are those of `relay.service.pump`: an end of file is passed on after the last byte, and the other direction
continues; an error resets both connections, so that neither peer can mistake it for an end of file; nothing is read
before everything that was read earlier has been passed on.

Small messages are received and sent through a buffer. After a read that has filled the buffer, bytes go through a
pipe and stay in the kernel (`os.splice`), until a step moves less than the size of the buffer.

A third of the processor time that bulk data takes here is Python's: at each wake-up, the processor's caches no longer
have this code and its data. So what runs at each of them is written with few calls, and without exceptions.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Callable

from .messages import Counts, Ended
from .splicing import HAS_SPLICE, PIPE_BYTES, SPLICE_FLAGS, SPLICE_RETRY_SECONDS, has_unread, is_of_socket, open_pipe

__all__ = ["BUFFER_BYTES", "Broken", "Channel", "Direction", "Pair", "Pipes"]

#: The size of the buffer for small messages. What fits is cheaper to copy than to splice.
BUFFER_BYTES = 16 * 1024
#: How many empty pipes are kept.
_IDLE_PIPES = 32


class Broken(Exception):
    """A channel has failed. `end` says which."""

    def __init__(self, end: Ended) -> None:
        self.end = end
        super().__init__(end.name)


class Pipes:
    """Lends empty pipes.

    Args:
        most: how many may be lent at a time.
        clock: returns seconds.
    """

    def __init__(self, most: int = 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._idle: list[tuple[int, int]] = []
        #: How many are lent.
        self.borrowed = 0
        #: Until when everything is copied, because the system does not splice.
        self._suspended_until = -math.inf if HAS_SPLICE else math.inf
        #: The last error that has suspended splicing; None if there was none since the last one was reported.
        self.error: int | None = None

    def suspend(self, error: int) -> None:
        """Copy everything for a while, because the system has refused to splice with this error number."""
        if self._clock() >= self._suspended_until:
            self._suspended_until = self._clock() + SPLICE_RETRY_SECONDS
            self.error = error

    def borrow(self) -> tuple[int, int] | None:
        """Return the two ends of an empty pipe, or None if bytes have to be copied at present."""
        if self.borrowed >= self._most or self._clock() < self._suspended_until:
            return None
        try:
            ends = self._idle.pop() if self._idle else open_pipe()
        except OSError:
            return None
        self.borrowed += 1
        return ends

    def give_back(self, ends: tuple[int, int], *, is_empty: bool) -> None:
        """Return a pipe. One that is not empty is closed, so that its bytes never reach another pair."""
        self.borrowed -= 1
        if is_empty and len(self._idle) < _IDLE_PIPES:
            self._idle.append(ends)
        else:
            os.close(ends[0])
            os.close(ends[1])

    def close(self) -> None:
        """Close the pipes that are not lent."""
        for ends in self._idle:
            os.close(ends[0])
            os.close(ends[1])
        self._idle.clear()


class Channel:
    """One of the two sockets of a pair, and what the kernel last said about it (edge-triggered)."""

    __slots__ = ("descriptor", "incoming", "is_readable", "is_writable", "outgoing", "reads_may_be_short", "sock")

    #: The direction that reads from this channel, and the one that writes to it.
    incoming: Direction
    outgoing: Direction

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.descriptor = sock.fileno()
        self.is_readable = self.is_writable = False
        #: Whether there may be more to read after a read that has not filled the buffer: the end of file, an error or
        #: urgent data has arrived, and a read stops there.
        self.reads_may_be_short = False


class Direction:
    """One direction of a pair."""

    __slots__ = (
        "_breaks_at_sink",
        "_breaks_at_source",
        "_counts",
        "_held",
        "_index",
        "_is_bulk",
        "_left",
        "_never_splices",
        "_pipe",
        "_pipes",
        "has_ended",
        "has_something_left",
        "is_queued",
        "pair",
        "sink",
        "source",
    )

    def __init__(
        self,
        pair: Pair,
        source: Channel,
        sink: Channel,
        breaks: tuple[Ended, Ended],
        counts: Counts,
        index: int,
        pipes: Pipes,
    ) -> None:
        """See `Pair`. `breaks`: how the pair ends if the source fails, and if the sink fails."""
        self.pair = pair
        self.source = source
        self.sink = sink
        source.incoming = sink.outgoing = self
        #: Whether the end of file was passed on.
        self.has_ended = False
        #: Whether something was read that has not been passed on.
        self.has_something_left = False
        #: For the event loop: whether this direction waits to be served.
        self.is_queued = False
        self._breaks_at_source, self._breaks_at_sink = breaks
        self._counts = counts
        self._index = index
        self._pipes = pipes
        #: Whether bulk data flows: the last step found at least as many bytes as the buffer holds.
        self._is_bulk = False
        #: Whether the kernel cannot splice between these two sockets.
        self._never_splices = False
        #: What was read into the buffer and does not fit into the sink yet.
        self._left = b""
        self._pipe: tuple[int, int] | None = None
        #: How many bytes are in the pipe.
        self._held = 0

    def can_move(self) -> bool:
        """Return whether there probably is something to do."""
        return self.sink.is_writable and (self.source.is_readable or self.has_something_left) and not self.has_ended

    def move(self, buffer: memoryview) -> int:
        """Do one step: pass on what is left, or read and pass that on. Bulk data is read until nothing is left, or as
        much as a pipe holds has been passed on. Returns the number of bytes that were passed on.

        Args:
            buffer: for what is read; overwritten by the next call.

        Raises:
            Broken: a channel has failed.
        """
        if self.has_something_left:
            sent = self._pass_on()
            if self._pipe is not None and not self._held:
                self.close()
            return sent
        if self._is_bulk and not self._never_splices:
            moved = self._splice()
            if moved is not None:
                return moved
        return self._copy(buffer)

    def close(self) -> None:
        """Close the pipe, if one is borrowed."""
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, is_empty=not self._held)
            self._pipe = None

    def _copy(self, buffer: memoryview) -> int:
        source = self.source
        try:
            size = source.sock.recv_into(buffer)
        except BlockingIOError:
            source.is_readable = False
            return 0
        except OSError as exc:
            raise Broken(self._breaks_at_source) from exc
        if not size:
            self._end()
            return 0
        self._is_bulk = size == len(buffer)
        # Nothing is left to read, unless something has arrived since: the kernel then reports it. But it reports an
        # end or urgent data only once.
        if not self._is_bulk and not source.reads_may_be_short:
            source.is_readable = False
        try:
            sent = self.sink.sock.send(buffer[:size])
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise Broken(self._breaks_at_sink) from exc
        if sent < size:
            self.sink.is_writable = False
            self._left = bytes(buffer[sent:size])
            self.has_something_left = True
        self._counts[self._index] += sent
        return sent

    def _splice(self) -> int | None:
        """Move bytes through a pipe. Returns None if that is not possible."""
        assert sys.platform == "linux"
        pipe = self._pipe = self._pipes.borrow()
        if pipe is None:
            return None
        source = self.source
        found = moved = 0
        while True:
            try:
                taken = os.splice(source.descriptor, pipe[1], PIPE_BYTES, None, None, SPLICE_FLAGS)
            except BlockingIOError:
                source.is_readable = False
                break
            except OSError as exc:
                self.close()
                if is_of_socket(exc, source.sock):
                    raise Broken(self._breaks_at_source) from exc
                self._cannot_splice(exc)
                return moved or None
            if not taken:
                self.close()
                self._end()
                return moved
            self._held = taken
            self.has_something_left = True
            found += taken
            moved += self._pass_on()
            if self.has_something_left or moved >= PIPE_BYTES:
                break
            # A splice ends not only if nothing is left, but also if all buffers of the pipe are in use.
            if not self._has_unread():
                source.is_readable = source.reads_may_be_short
                break
        if found:
            self._is_bulk = found >= BUFFER_BYTES
        if not self.has_something_left:
            self.close()
        return moved

    def _has_unread(self) -> bool:
        try:
            return has_unread(self.source.descriptor)
        except OSError as exc:
            raise Broken(self._breaks_at_source) from exc

    def _pass_on(self) -> int:
        try:
            if self._left:
                sent = self.sink.sock.send(self._left)
                self._left = self._left[sent:]
            else:
                sent = self._pass_on_from_pipe()
        except BlockingIOError:
            self.sink.is_writable = False
            return 0
        except OSError as exc:
            raise Broken(self._breaks_at_sink) from exc
        self.has_something_left = bool(self._left or self._held)
        self._counts[self._index] += sent
        return sent

    def _pass_on_from_pipe(self) -> int:
        assert sys.platform == "linux"
        assert self._pipe is not None
        try:
            sent = os.splice(self._pipe[0], self.sink.descriptor, self._held, None, None, SPLICE_FLAGS)
        except OSError as exc:
            if exc.errno == errno.EAGAIN or is_of_socket(exc, self.sink.sock):
                raise
            self._cannot_splice(exc)
            self._left = os.read(self._pipe[0], self._held)
            self._held -= len(self._left)
            return 0
        self._held -= sent
        return sent

    def _cannot_splice(self, error: OSError) -> None:
        if error.errno == errno.EINVAL:  # the kernel cannot splice between these two sockets
            self._never_splices = True
        else:
            self._pipes.suspend(error.errno or 0)

    def _end(self) -> None:
        try:
            self.sink.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise Broken(self._breaks_at_sink) from exc
        self.has_ended = True


class Pair:
    """Two joined sockets.

    Args:
        slot: see `messages`.
        a, b: the sockets, which belong to the pair from now on. Closing them resets their connections (SO_LINGER), so
            that the kernel does this if the process is killed.
        counts: the bytes that were passed to `b` are counted at ``2 * slot``, those to `a` at the next index.
        pipes: lends pipes.
    """

    def __init__(self, slot: int, a: socket.socket, b: socket.socket, counts: Counts, pipes: Pipes) -> None:
        self.slot = slot
        #: Whether the sockets are to be returned to the main process.
        self.is_returning = False
        #: For the event loop: whether the pair has ended or was returned.
        self.is_over = False
        for sock in (a, b):
            sock.setblocking(False)
        self.a, self.b = Channel(a), Channel(b)
        self.a_to_b = Direction(self, self.a, self.b, (Ended.A_BROKE, Ended.B_BROKE), counts, 2 * slot, pipes)
        self.b_to_a = Direction(self, self.b, self.a, (Ended.B_BROKE, Ended.A_BROKE), counts, 2 * slot + 1, pipes)

    @property
    def directions(self) -> tuple[Direction, Direction]:
        """Both directions."""
        return self.a_to_b, self.b_to_a

    @property
    def is_finished(self) -> bool:
        """Whether both ends of file were passed on."""
        return self.a_to_b.has_ended and self.b_to_a.has_ended

    @property
    def can_return(self) -> bool:
        """Whether nothing is left that was read and not passed on."""
        return not self.a_to_b.has_something_left and not self.b_to_a.has_something_left

    def broken(self) -> Ended | None:
        """Return how the pair has ended if one of the sockets has an error, even if it is not read at present."""
        for channel, end in ((self.a, Ended.A_BROKE), (self.b, Ended.B_BROKE)):
            if channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return end
        return None

    def close(self, *, gracefully: bool) -> None:
        """Close both sockets; if not `gracefully`, by a reset."""
        for direction in self.directions:
            direction.close()
        for channel in (self.a, self.b):
            channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", not gracefully, 0))
            channel.sock.close()
