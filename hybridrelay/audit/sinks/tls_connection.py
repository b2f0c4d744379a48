"""A TLS client connection that reads a limited amount in each call.

`ssl.SSLSocket` processes session tickets and key updates inside a read, and returns only when no more of them arrive.
A server that sends these without end would keep a thread in one call. So the bytes from the socket are passed to
OpenSSL here, and counted.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import time
from typing import Final

__all__ = ["TLSConnection"]

_BLOCK: Final = 16 * 1024
#: How much a server may send until the end of the handshake (bytes): far more than a chain of certificates.
_MAX_HANDSHAKE: Final = 256 * 1024


class TLSConnection:
    """A TLS connection of a client, for a thread. If the handshake fails, the socket is closed. If a method raises,
    call `close`.

    Args:
        sock: a connected socket.
        context: verifies the server.
        host: the server's name or address.
        seconds: how long the handshake may take, and later each call of `sendall`.

    Raises:
        ssl.SSLCertVerificationError: the server's certificate is not valid, or not for `host`.
        OSError: the handshake failed, or took too long. The socket is closed.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str, seconds: float) -> None:
        self._sock = sock
        self._seconds = seconds
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
            self._shake_hands(time.monotonic() + seconds)
        except BaseException:
            sock.close()
            raise

    def _shake_hands(self, deadline: float) -> None:
        received = 0
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(deadline)
            except OSError:
                with contextlib.suppress(OSError):
                    self._flush(deadline)  # the alert, which tells the server why the handshake has failed
                raise
            else:
                self._flush(deadline)
                return
            if received > _MAX_HANDSHAKE:
                raise OSError(errno.EPROTO, "the server sends too much in the TLS handshake")
            self._sock.settimeout(_left(deadline))
            data = self._sock.recv(_BLOCK)
            if not data:
                raise ConnectionResetError(
                    errno.ECONNRESET, "the server has closed the connection in the TLS handshake"
                )
            received += len(data)
            self._incoming.write(data)

    def _flush(self, deadline: float) -> None:
        if self._outgoing.pending:
            self._sock.settimeout(_left(deadline))
            self._sock.sendall(self._outgoing.read())

    def sendall(self, data: bytes) -> None:
        """Send data. Raises OSError if that fails, or takes too long."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._flush(time.monotonic() + self._seconds)

    def receive(self) -> int | None:
        """Read some of what has arrived, if there is any, and drop it. Never waits.

        Returns:
            How many bytes were read from the socket, which may be only for TLS; 0 if the server has ended the
            connection; None if nothing has arrived.

        Raises:
            OSError: the connection is broken.
        """
        self._sock.setblocking(False)
        try:
            data = self._sock.recv(_BLOCK)
        except BlockingIOError:
            return None
        if not data:
            return 0
        self._incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            while self._tls.read(_BLOCK):
                pass
            return 0
        return len(data)

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._sock.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "the server did not answer in time")
    return left
