"""Streams that can also be used without waiting.

A call of a trio stream passes through the scheduler at least once, even if there is nothing to wait for: for a
    message
of 64 bytes, that is most of the cost. Code that forwards bytes tries these non-blocking calls first, and awaits only
when they would block.

Rules for users of a `NowaitStream`:

1. Each direction belongs to one task at a time, and to one kind of call: after `send_nowait` has returned False, call
   `flush` before anything else is sent.
2. `send_nowait` and `receive_nowait` are not checkpoints: a loop over them has to yield regularly; see `Turn`.
3. What `receive_nowait` returns may be a view of memory that the next call of any stream in this thread overwrites.
   Use it or copy it before that.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod

import trio

__all__ = [
    "HELD_FOR_STRANGER",
    "READ_BYTES",
    "SMALL_READ_BYTES",
    "Buffer",
    "NowaitStream",
    "Turn",
    "UnitTooLong",
    "nowait",
    "read_below",
]

Buffer = bytes | bytearray | memoryview

#: How much is read from a socket at once: with all that two layers of TLS, WebSocket and a session add, a little less
#: than four of the kernel's largest segments, each of which is a little less than 64 KiB. With 256 KiB most writes
#: left a tail of a few hundred bytes, which cost a wake-up and a write of its own. Larger reads gained nothing.
READ_BYTES = 254 * 1024

#: A reader that requests at most this much at once makes every stream below it read at most this much, and so use
#: little memory (bytes). For peers that have not authenticated.
SMALL_READ_BYTES = 2 * 1024

#: What all layers of a connection together may hold of incomplete TLS records, frames and messages before its peer
#: has authenticated (bytes): one control message of the greatest length, and what frames and records add to it.
HELD_FOR_STRANGER = 8 * 1024

#: A turn is over after this much was moved (bytes), or after this time (seconds): the peer determines how much
#: processor time a byte takes, because it may put a single one into each frame.
TURN_BYTES = 1024 * 1024
TURN_SECONDS = 0.005

#: More buffers than this are joined before they are written: copying costs less than many buffers do, and the system
#: has a limit (IOV_MAX).
_MAX_BUFFERS = 64


class UnitTooLong(trio.BrokenResourceError):
    """The peer has begun a longer unit of a protocol, such as a TLS record, than `NowaitStream.limit_held` allows.

    Nothing more can be received; sending is still possible.
    """


class NowaitStream(ABC):
    """What a stream can do without waiting, and the two ways of waiting that go with it."""

    @abstractmethod
    def send_nowait(self, *buffers: Buffer) -> bool:
        """Take all of `buffers`, in order; they may be reused at once.

        Returns:
            Whether they have left. Otherwise the rest is held here, until `flush`.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as trio's `send_all`.
        """

    def limit_held(self, max_bytes: int | None) -> None:  # noqa: B027  # most streams hold nothing
        """Treat the peer as one that has not authenticated, or, with None, as one that has.

        This stream and those below then hold no more than about `max_bytes` of what is incomplete: if the peer begins
        a longer unit of a protocol, receiving raises `UnitTooLong`. Very many short units break the stream. May be
        called again with another number. By default nothing is limited.
        """

    @property
    def unsent_bytes(self) -> int:
        """What `send_nowait` has taken and the stream has not, as far as that is known."""
        return 0

    @abstractmethod
    async def flush(self) -> None:
        """Wait until what is held has left.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as trio's `send_all`.

        Cancelled, it can be called again and goes on where it was; a stream that cannot is broken for sending.
        """

    @abstractmethod
    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        """What has arrived, up to `max_bytes` (at least 1): b"" is the end of file, None is nothing yet.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as trio's `receive_some`.
        """

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` has something to say; may return early. A checkpoint always.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as trio's `receive_some`.

        Cancelled, nothing is lost.
        """


def nowait(stream: trio.abc.Stream) -> NowaitStream:
    """The stream itself if it is a `NowaitStream`, otherwise an adapter for it.

    From now on the stream's own methods for sending and receiving are not to be used.
    """
    if isinstance(stream, NowaitStream):
        return stream
    if isinstance(stream, trio.SocketStream) and sys.platform != "win32":
        return _Socket(stream)
    return _Waiting(stream)


def read_below(max_bytes: int) -> int:
    """How much a stream reads from the one below it, when it is asked for `max_bytes`."""
    return READ_BYTES if max_bytes > SMALL_READ_BYTES else SMALL_READ_BYTES


class Turn:
    """How long a task has gone on without letting others run.

    ::

        turn = Turn()
        while data := ...:
            if turn.is_over(len(data)):
                await trio.lowlevel.checkpoint()
                turn = Turn()
    """

    __slots__ = ("_bytes", "_until")

    def __init__(self) -> None:
        self._bytes = TURN_BYTES
        # Not trio's clock, which a test may have stopped.
        self._until = time.perf_counter() + TURN_SECONDS

    def is_over(self, moved: int) -> bool:
        """Count `moved` more bytes, and return whether other tasks should run now."""
        self._bytes -= moved
        return self._bytes <= 0 or time.perf_counter() > self._until


class _Scratch(threading.local):
    """What sockets are read into: one buffer for each thread, because its content is used at once."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


_scratch = _Scratch()


class _Socket(NowaitStream):
    """A socket, by its descriptor."""

    __slots__ = ("_drained", "_held", "_since_wait", "_socket")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._held = memoryview(b"")
        #: The last read did not fill its buffer, so the next one would find nothing.
        self._drained = False
        #: Bytes that were received since the last wait. A socket that always has more reports now and then that it
        #: has nothing, so that other tasks run. The reader cannot detect this itself if thousands of frames carry
        #: nothing.
        self._since_wait = 0

    def send_nowait(self, *buffers: Buffer) -> bool:
        if self._held:
            raise trio.BusyResourceError("flush() comes first")
        if len(buffers) > _MAX_BUFFERS:
            buffers = (b"".join(buffers),)
        sent = self._write(*buffers)
        for index, buffer in enumerate(buffers):
            if sent < len(buffer):
                rest = b"".join([memoryview(buffer)[sent:], *buffers[index + 1 :]])
                self._held = memoryview(rest)
                return False
            sent -= len(buffer)
        return True

    @property
    def unsent_bytes(self) -> int:
        return len(self._held)

    async def flush(self) -> None:
        while self._held:
            self._check_open()
            try:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as exc:
                raise trio.BrokenResourceError("the connection broke") from exc
            self._held = self._held[self._write(self._held) :]
        self._held = memoryview(b"")  # the slice would keep all of the buffer

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        if self._drained or self._since_wait >= TURN_BYTES:
            self._drained = False
            self._since_wait = 0
            return None
        view = _scratch.view
        if max_bytes < READ_BYTES:
            view = view[:max_bytes]
        try:
            count = os.readv(self._socket.fileno(), (view,))
        except BlockingIOError:
            return None
        except OSError as exc:
            raise self._failure() from exc
        self._drained = 0 < count < len(view)
        self._since_wait += count
        return view[:count]

    async def wait_readable(self) -> None:
        self._drained = False
        self._since_wait = 0
        self._check_open()
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except OSError as exc:
            raise trio.BrokenResourceError("the connection broke") from exc

    def _write(self, *buffers: Buffer) -> int:
        try:
            return os.writev(self._socket.fileno(), buffers)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise self._failure() from exc

    def _check_open(self) -> None:
        if self._socket.fileno() == -1:
            raise trio.ClosedResourceError("this stream was closed")

    def _failure(self) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._socket.fileno() == -1:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError("the connection broke")


class _Waiting(NowaitStream):
    """Any other stream: what has to be done is recorded, and done by the task that waits."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._held = b""
        self._torn = False
        #: What was received before it was asked for, or b"" at the end.
        self._ahead: Buffer | None = None

    def send_nowait(self, *buffers: Buffer) -> bool:
        if self._torn:
            raise trio.BrokenResourceError("an earlier send failed or was cancelled")
        if self._held:
            raise trio.BusyResourceError("flush() comes first")
        self._held = b"".join(buffers)
        return not self._held

    async def flush(self) -> None:
        if self._torn:
            raise trio.BrokenResourceError("an earlier send failed or was cancelled")
        if self._held:
            self._torn = True
            await self._stream.send_all(self._held)
            self._torn = False
            self._held = b""

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        data = self._ahead
        if data:
            self._ahead = data[max_bytes:] or None
            data = data[:max_bytes]
        return data

    async def wait_readable(self) -> None:
        if self._ahead is None:
            self._ahead = await self._stream.receive_some(READ_BYTES)
        else:
            await trio.lowlevel.checkpoint()
