"""The target: a process that serves at the far end in place of a database. ``wire.py`` describes its protocol.

It is a single loop over epoll, without tasks and threads, because it must never be the bottleneck.
"""

from __future__ import annotations

import contextlib
import selectors
import socket

from . import wire
from .limits import raise_descriptor_limit
from .ports import HOST

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_ZEROS = memoryview(bytes(wire.BLOCK_BYTES))


class Target:
    """All connections, and the state that they share."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._buffer = memoryview(bytearray(wire.BLOCK_BYTES))
        #: How many bytes all sinks have read.
        self.sunk = 0
        self._selector.register(listener, _READ, self)

    def run(self) -> None:
        """Serve until the process is ended."""
        while True:
            for key, events in self._selector.select():
                key.data.handle(events)

    def handle(self, _events: int) -> None:
        """Accept a connection that has arrived."""
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(sock, _READ, Connection(self, sock))

    def receive(self, sock: socket.socket) -> int:
        """Read once into the shared buffer. Return the number of bytes; 0 at the end of file."""
        return sock.recv_into(self._buffer)

    def received(self, size: int) -> bytes:
        """Return what the last call of `receive` has read."""
        return bytes(self._buffer[:size])

    def watch(self, sock: socket.socket, events: int, connection: Connection) -> None:
        """Change the events to wait for."""
        self._selector.modify(sock, events, connection)

    def forget(self, sock: socket.socket) -> None:
        """Close a connection."""
        self._selector.unregister(sock)
        sock.close()


class Connection:
    """One connection."""

    __slots__ = ("_clogged", "_header", "_mode", "_owed", "_received", "_size", "_sock", "_target", "_unsent")

    def __init__(self, target: Target, sock: socket.socket) -> None:
        self._target = target
        self._sock = sock
        self._header = b""
        self._mode: int | None = None
        self._size = 0
        #: In mode ANSWER, the bytes of an incomplete request, and the bytes of answers that have not been sent yet.
        self._received = 0
        self._owed = 0
        #: In mode ECHO, what has not been sent back yet.
        self._unsent = b""
        self._clogged = False

    def handle(self, events: int) -> None:
        """Read and write as much as possible without blocking."""
        try:
            if events & _READ:
                self._read()
            elif events & _WRITE:
                self._write()
        except BlockingIOError:
            pass
        except OSError:
            self._target.forget(self._sock)

    def _read(self) -> None:
        if self._mode is None:
            self._read_header()
            return
        size = self._target.receive(self._sock)
        if not size:
            raise ConnectionError("end of file")
        if self._mode == wire.Mode.ANSWER:
            self._received += size
            count, self._received = divmod(self._received, self._size)
            if count:
                self._owed += count * self._size
                self._answer()
        elif self._mode == wire.Mode.ECHO:
            self._echo(self._target.received(size))
        elif self._mode == wire.Mode.COUNT:
            self._sock.send(wire.COUNT.pack(self._target.sunk) * size)
        else:
            self._target.sunk += size
            if self._mode == wire.Mode.BOTH:
                self._write()

    def _read_header(self) -> None:
        block = self._sock.recv(wire.HEADER.size - len(self._header))
        if not block:
            raise ConnectionError("end of file")
        self._header += block
        if len(self._header) == wire.HEADER.size:
            self._mode, self._size = wire.HEADER.unpack(self._header)
            if self._mode in {wire.Mode.SOURCE, wire.Mode.BOTH}:
                self._target.watch(self._sock, _READ | _WRITE, self)

    def _write(self) -> None:
        if self._mode == wire.Mode.ANSWER:
            self._answer()
        elif self._mode == wire.Mode.ECHO:
            self._echo(b"")
        else:
            self._sock.send(_ZEROS)

    def _echo(self, data: bytes) -> None:
        self._unsent += data
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        self._note_clogged(bool(self._unsent))

    def _answer(self) -> None:
        try:
            while self._owed:
                self._owed -= self._sock.send(_ZEROS[: self._owed])
        except BlockingIOError:
            pass
        self._note_clogged(bool(self._owed))

    def _note_clogged(self, is_clogged: bool) -> None:
        if is_clogged != self._clogged:
            self._clogged = is_clogged
            self._target.watch(self._sock, _READ | _WRITE if self._clogged else _READ, self)


def main() -> None:
    """Listen on any free port, print its number, and serve."""
    raise_descriptor_limit()
    listener = socket.create_server((HOST, 0), backlog=4096)
    listener.setblocking(False)
    print(f"ready {listener.getsockname()[1]}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        Target(listener).run()


if __name__ == "__main__":
    main()
