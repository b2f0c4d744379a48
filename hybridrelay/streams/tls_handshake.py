"""The handshake of a TLS stream, with limits for what a peer may send before it has authenticated."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import attrs
import trio

from ..errors import TLSHandshakeError
from .client_hello import ClientHelloReader
from .nowait import READ_BYTES, SMALL_READ_BYTES
from .records import RecordFeeder

__all__ = ["CLOSE_SECONDS", "TOO_LONG", "Handshake", "describe_tls_error", "linger"]

#: How much a client may send between its ClientHello and the end of the handshake (bytes), if the server requests a
#: certificate. Those of our clients have 700 bytes.
_MAX_CLIENT_FLIGHT = 16 * 1024
#: The same if the server requests no certificate. Clients send two records of less than 100 bytes.
_MAX_SHORT_FLIGHT = 1024
#: How much a server may send until the handshake is complete (bytes). OpenSSL accepts certificate chains of 100 KiB.
_MAX_SERVER_FLIGHT = 128 * 1024
#: How long closing waits for the stream below to accept the last record, and for the peer's close_notify (seconds).
#: Enough for any path that works.
CLOSE_SECONDS = 1.0
#: How much is read and dropped after our last record was sent (bytes). Closing with unread data would reset the
#: connection, and that record could be lost.
_LINGER_BYTES = 256 * 1024

TOO_LONG = "the peer sent a longer TLS record, or more records, than it may before it has authenticated"


@attrs.frozen(eq=False, kw_only=True)
class Handshake:
    """One handshake."""

    transport_stream: trio.abc.Stream
    context: ssl.SSLContext
    server_side: bool
    #: Returns the object of OpenSSL. A server calls it only once it has the whole ClientHello, because the object
    #: needs much more memory than the ClientHello.
    tls: Callable[[], ssl.SSLObject]
    #: Gets what the peer sends.
    feeder: RecordFeeder
    #: What OpenSSL wants to be sent.
    outgoing: ssl.MemoryBIO
    #: See `TLSStream`.
    before_answer: Callable[[], Awaitable[None]] | None

    async def run(self) -> None:
        """Do the handshake.

        Raises:
            TLSHandshakeError: see `TLSStream.do_handshake`.
            trio.ClosedResourceError: the stream below was closed.

        The caller sets the deadline. It cannot be continued after a cancellation or an error.
        """
        try:
            await self._exchange()
        except ssl.SSLError as exc:
            await self._send_alert(exc)
            untrusted = str(exc.verify_message) if isinstance(exc, ssl.SSLCertVerificationError) else None
            raise TLSHandshakeError(
                f"the TLS handshake failed: {describe_tls_error(exc)}", untrusted=untrusted
            ) from exc
        except trio.BrokenResourceError as exc:
            raise TLSHandshakeError.lost("the connection broke during the TLS handshake", exc) from exc

    async def _exchange(self) -> None:
        left = _MAX_SERVER_FLIGHT
        if self.server_side:
            self.feeder.add_untrusted(await self._read_client_hello())
            asks = self.context.verify_mode is not ssl.CERT_NONE
            left = _MAX_CLIENT_FLIGHT if asks else _MAX_SHORT_FLIGHT
        while True:
            done = self._step()
            if self.outgoing.pending:
                await self.transport_stream.send_all(self.outgoing.read())
            if done:
                return
            if left <= 0:
                raise TLSHandshakeError("the peer sent too much before the end of the TLS handshake")
            data = await self._receive()
            left -= len(data)
            if not self.feeder.add_untrusted(data):
                raise TLSHandshakeError(TOO_LONG)

    def _step(self) -> bool:
        """Pass all complete records to OpenSSL. Returns whether the handshake is complete."""
        while True:
            try:
                self.tls().do_handshake()
            except ssl.SSLWantReadError:
                if not self.feeder.feed():
                    return False
            else:
                return True

    async def _read_client_hello(self) -> bytes:
        """Collect the ClientHello, and then wait for `before_answer`."""
        reader = ClientHelloReader()
        try:
            while not reader.receive_untrusted(await self._receive()):
                pass
        except ValueError as exc:
            raise TLSHandshakeError(str(exc)) from exc
        if self.before_answer is not None:
            await self.before_answer()
        return reader.take()

    async def _receive(self) -> bytes:
        data = await self.transport_stream.receive_some(SMALL_READ_BYTES)
        if not data:
            raise TLSHandshakeError.lost("the connection ended during the TLS handshake")
        return bytes(data)

    async def _send_alert(self, error: ssl.SSLError) -> None:
        """Tell the peer why its handshake failed, if that is possible within `CLOSE_SECONDS`."""
        with trio.move_on_after(CLOSE_SECONDS):
            try:
                if self.outgoing.pending:
                    await self.transport_stream.send_all(self.outgoing.read())
                if self.server_side and isinstance(error, ssl.SSLCertVerificationError):
                    # The client may consider the handshake complete and have sent data. Closing a TCP connection with
                    # unread data resets it, and then the client's system discards the unread alert.
                    await linger(self.transport_stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass


async def linger(stream: trio.abc.Stream) -> None:
    """Send end of file, if the stream can, and drop what the peer still sends, so that it can read what was sent
    before. Returns when the peer ends its direction. The caller sets the deadline."""
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    dropped = 0
    while dropped < _LINGER_BYTES and (data := await stream.receive_some(READ_BYTES)):
        dropped += len(data)


def describe_tls_error(exc: ssl.SSLError) -> str:
    """Return OpenSSL's error as one line, without the name of its source file."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return str(exc.verify_message)
    reason: str | None = getattr(exc, "reason", None)  # missing if Python itself raised the exception
    return reason.lower().replace("_", " ") if reason else "unspecified error"
