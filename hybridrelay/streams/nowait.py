"""Streams with non-blocking calls.

A call to a Trio stream passes through the scheduler at least once, even if there is nothing to wait for: for a
message of 64 bytes, this is most of the cost. Code that forwards bytes tries these non-blocking calls first, and
awaits only when they would block.

Rules for users of a `NowaitStream`:

1. Each direction is used by only one task or handler at a time. After `send_nowait` has returned False, nothing else
   may be sent until `flush` has returned, or `flush_nowait` has returned True.
2. `send_nowait` and `receive_nowait` are not checkpoints, so a loop over them has to yield regularly; see `Turn`.
3. The result of `receive_nowait` may be a view of memory that the next call of any stream in this thread overwrites.
   Use it or copy it before that.
"""

# This module is long because the interface and its two implementations have to agree in every detail.

from __future__ import annotations

import contextlib
import os
import socket
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
    "NowaitSocket",
    "NowaitStream",
    "Turn",
    "UnitTooLong",
    "nowait",
    "read_below",
]

Buffer = bytes | bytearray | memoryview

#: How much is read from a socket in one call (bytes). Together with the overhead of two layers of TLS, WebSocket and
#: a session, this is a little less than four of the kernel's largest segments (almost 64 KiB each). With 256 KiB,
#: most writes left a remainder of a few hundred bytes, which cost another wake-up and write. Larger reads were not
#: faster.
READ_BYTES = 254 * 1024

#: If a reader requests at most this much in one call (bytes), all streams below it also read at most this much, and
#: use little memory. For peers that have not authenticated.
SMALL_READ_BYTES = 2 * 1024

#: How many bytes of incomplete TLS records, frames and messages all layers of a connection together may hold before
#: the peer has authenticated: one control message of the greatest length, with the overhead of frames and records.
HELD_FOR_STRANGER = 8 * 1024

#: A turn (see `Turn`) is over after this many bytes, or after this time (seconds). The limit of time is needed
#: because a peer can make each byte expensive, by sending frames of a single byte.
TURN_BYTES = 1024 * 1024
TURN_SECONDS = 0.005

#: If there are more buffers than this, they are joined before they are written, because copying is cheaper, and
#: because the system has a limit (IOV_MAX).
_MAX_BUFFERS = 64


class UnitTooLong(trio.BrokenResourceError):
    """The peer has begun a unit of a protocol, such as a TLS record, that is longer than `NowaitStream.limit_held`
    allows.

    Nothing more can be received; sending is still possible.
    """


class NowaitStream(ABC):
    """A stream that can send and receive without waiting, with two methods to wait until that is possible again."""

    __slots__ = ()

    @abstractmethod
    def send_nowait(self, *buffers: Buffer) -> bool:
        """Take all of `buffers`, in order. The caller may reuse them immediately.

        Returns:
            True if everything was passed on. Otherwise the rest is buffered here until `flush`.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as for Trio's `send_all`.
        """

    def limit_held(self, max_bytes: int | None) -> None:  # noqa: B027  # most streams hold nothing
        """Limit the memory for a peer that has not authenticated; None removes the limit.

        This stream and those below it then hold at most about `max_bytes` of incomplete units, such as TLS records.
        If the peer begins a longer unit, receiving raises `UnitTooLong`; if it sends very many short units, the
        stream breaks. May be called again with another number. By default, there is no limit.
        """

    @property
    def unsent_bytes(self) -> int:
        """How many bytes `send_nowait` has accepted but not passed on, as far as this is known."""
        return 0

    @abstractmethod
    async def flush(self) -> None:
        """Wait until everything that is buffered has been passed on.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as for Trio's `send_all`.

        If cancelled, another call continues where this one stopped. If a stream cannot continue, it is broken for
        sending.
        """

    def flush_nowait(self) -> bool:
        """Pass on as much of what is buffered as is possible without waiting. Only for streams with a `socket_below`.

        Returns:
            Whether nothing is buffered any more.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as for Trio's `send_all`.
        """
        raise NotImplementedError

    @property
    def socket_below(self) -> NowaitSocket | None:
        """The socket below, if this stream can send and receive whenever that socket can; None otherwise."""
        return None

    @property
    def has_more(self) -> bool:
        """Whether `receive_nowait` may have a result now. If False, a stream that has a `socket_below` has nothing
        until its socket becomes readable again; for other streams, False only means that this is not known."""
        return False

    @abstractmethod
    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        """Return what has arrived, up to `max_bytes` (at least 1). b"" means end of file, None that nothing has
        arrived.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as for Trio's `receive_some`.
        """

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` has a result or raises. May return early. Always a checkpoint.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as for Trio's `receive_some`.

        If cancelled, nothing is lost.
        """


def nowait(stream: trio.abc.Stream) -> NowaitStream:
    """Return the stream itself if it is a `NowaitStream`, otherwise an adapter for it.

    The stream's own methods for sending and receiving must not be used after that.
    """
    if isinstance(stream, NowaitStream):
        return stream
    if isinstance(stream, trio.SocketStream) and sys.platform != "win32":
        return NowaitSocket(stream)
    return _Waiting(stream)


def read_below(max_bytes: int) -> int:
    """Return how much a stream should read from the stream below it if its user requests `max_bytes`."""
    return READ_BYTES if max_bytes > SMALL_READ_BYTES else SMALL_READ_BYTES


class Turn:
    """Measures how long a task has run without a checkpoint.

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
        # Not Trio's clock, which stands still in some tests.
        self._until = time.perf_counter() + TURN_SECONDS

    def is_over(self, moved: int) -> bool:
        """Count `moved` more bytes, and return whether other tasks should run now."""
        self._bytes -= moved
        return self._bytes <= 0 or time.perf_counter() > self._until


class _Scratch(threading.local):
    """The buffer into which sockets are read. One for each thread is enough: its content is used immediately."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


_scratch = _Scratch()
_NOTHING = memoryview(b"")


class NowaitSocket(NowaitStream):
    """A socket, used through its descriptor.

    Args:
        stream: the socket, as a Trio stream.
    """

    __slots__ = ("_drained", "_has_more", "_held", "_hung_up", "_since_wait", "_socket")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._held = _NOTHING
        #: Whether the last read did not fill its buffer, so the next one would find nothing.
        self._drained = False
        #: See `has_more`.
        self._has_more = True
        #: Whether the peer has ended its direction or sent urgent data, or the connection has failed. The end, or the
        #: bytes after the urgent data, may then be all that is left, so a read that does not fill its buffer has to
        #: be followed by another one.
        self._hung_up = False
        #: Bytes that were received since the last wait. If a socket always has more data, this stream sometimes
        #: reports that it has none, so that other tasks run. The layers above could not ensure this: they read again
        #: until they have something to return, and thousands of empty frames give them nothing.
        self._since_wait = 0

    @property
    def socket_below(self) -> NowaitSocket:
        """The socket whose readiness is awaited."""
        return self

    @property
    def has_more(self) -> bool:
        """See `NowaitStream.has_more`."""
        return self._has_more

    def fileno(self) -> int:
        """Return the descriptor; -1 if the socket was closed."""
        return self._socket.fileno()

    def on_readable(self, *, hung_up: bool) -> None:
        """Note that the socket has become readable, as `wait_readable` does.

        Args:
            hung_up: whether the peer has ended its direction or sent urgent data, or the connection has failed.
        """
        self._hung_up = self._hung_up or hung_up
        self._drained = False
        self._has_more = True
        self._since_wait = 0

    def send_nowait(self, *buffers: Buffer) -> bool:
        if self._held:
            raise trio.BusyResourceError("call flush() first")
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

    def flush_nowait(self) -> bool:
        if self._held:
            self._held = self._held[self._write(self._held) :] or _NOTHING
            # An empty slice of the view would keep the whole buffer in memory.
        return not self._held

    async def flush(self) -> None:
        while self._held:
            self._check_open()
            try:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as exc:
                raise trio.BrokenResourceError("the connection broke") from exc
            self.flush_nowait()

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        if self._drained or self._since_wait >= TURN_BYTES:
            self._has_more = not self._drained
            self._drained = False
            self._since_wait = 0
            return None
        view = _scratch.view
        if max_bytes < READ_BYTES:
            view = view[:max_bytes]
        try:
            count = os.readv(self._socket.fileno(), (view,))
        except BlockingIOError:
            self._has_more = False
            return None
        except OSError as exc:
            raise self._failure() from exc
        self._drained = 0 < count < len(view) and not self._hung_up
        self._has_more = not self._drained
        self._since_wait += count
        return view[:count]

    def has_failed(self) -> bool:
        """Return whether the connection has failed, for instance because the peer has reset it. The system reports
        this once, here or when something is sent or received."""
        try:
            return bool(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        except OSError:
            return True

    def end_receiving(self) -> None:
        """Let the receiving direction end after what has arrived, whatever the peer does. Some systems discard what
        was not received yet; see `sockets.has_unread`."""
        with contextlib.suppress(OSError):  # the connection has failed, which the next read reports
            self._socket.shutdown(socket.SHUT_RD)
        self.on_readable(hung_up=True)

    def send_eof_nowait(self) -> None:
        """End the sending direction. Everything must have been passed on (`flush_nowait`).

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as for Trio's `send_eof`.
        """
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise self._failure() from exc

    async def wait_readable(self) -> None:
        self.on_readable(hung_up=False)
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
    """An adapter for any other stream: `flush` does all the sending, and `wait_readable` all the receiving."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._held = b""
        #: Whether a send has begun and has not finished. It is unknown how much was sent, so nothing more can be.
        self._torn = False
        #: What `wait_readable` has received for `receive_nowait`, b"" at the end of file; None if there is nothing.
        self._ahead: Buffer | None = None
        #: Why nothing more can be received; None as long as receiving is possible.
        self._failure: trio.BrokenResourceError | trio.ClosedResourceError | None = None

    def send_nowait(self, *buffers: Buffer) -> bool:
        if self._torn:
            raise trio.BrokenResourceError("an earlier send failed or was cancelled")
        if self._held:
            raise trio.BusyResourceError("call flush() first")
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

    @property
    def has_more(self) -> bool:
        return bool(self._ahead)

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        data = self._ahead
        if data:
            self._ahead = data[max_bytes:] or None
            data = data[:max_bytes]
        if data is None and self._failure is not None:
            raise type(self._failure)(*self._failure.args) from self._failure.__cause__
        return data

    async def wait_readable(self) -> None:
        if self._ahead is not None:
            await trio.lowlevel.checkpoint()
            return
        try:
            self._ahead = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            # A copy, because the traceback of the exception refers to this object.
            self._failure = type(exc)(*exc.args)
            self._failure.__cause__ = exc.__cause__
            raise
