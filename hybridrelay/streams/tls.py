"""A TLS stream over any other stream, with high throughput and a strict treatment of the end of data.

Theory of operation: an `ssl.SSLObject` converts bytes between two memory buffers. Calls of OpenSSL never wait; only
calls of the stream below wait, so no lock is needed around OpenSSL. Rules:

1. `TLSStream.receive_some` never writes to the stream below, because a reader must not wait for a peer that does not
   read. What OpenSSL produces while reading (answers to key updates, and alerts) is sent with the next send, or at
   close.
2. One wake-up decrypts everything that has arrived. `trio.SSLStream` wakes once per 16 KiB record, and was half as
   fast in measurements.
3. If the stream below ends without the peer's close_notify, `trio.BrokenResourceError` is raised: something in the
   path may have cut the connection, which must never look like end of file.
4. `ssl.SSLError` leaves this module only as the `__cause__` of `TLSHandshakeError` or `trio.BrokenResourceError`.
5. A peer that has not authenticated uses few resources. A server collects the ClientHello before passing it to
   OpenSSL. Handshakes are limited in bytes, and records in length (`limit_held`). Until more than `SMALL_READ_BYTES`
   are requested in one call, OpenSSL gets only complete records, because for an incomplete one it would hold a buffer
   of 17 KiB.
6. A closed stream keeps no memory of OpenSSL (about 100 KB), however long something refers to the stream, such as the
   traceback of an exception.

The handshake is in `tls_handshake.py`, decrypting in `tls_receiving.py`, and records are handled in `records.py`.
"""

# This module is long because a third of it is the documentation of `TLSStream`, which other packages call.

from __future__ import annotations

import contextlib
import enum
import operator
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Literal, overload

import trio

from .conflict import ConflictDetector
from .nowait import HELD_FOR_STRANGER, READ_BYTES, Buffer, NowaitSocket, NowaitStream, nowait
from .tls_handshake import CLOSE_SECONDS, Handshake, describe_tls_error, linger
from .tls_receiving import Receiver

#: How much is encrypted per write to the stream below (bytes): sixteen records. In measurements, more was not faster,
#: and less cost a third of the throughput.
_CHUNK_BYTES = 256 * 1024


class _State(enum.Enum):
    NEW = enum.auto()
    READY = enum.auto()
    #: The handshake failed or was cancelled.
    FAILED = enum.auto()


def _certificate_name(hostname: str | None) -> str | None:
    return None if hostname is None else hostname.partition("%")[0].removesuffix(".")


class TLSStream(trio.abc.Stream, NowaitStream):
    """TLS over `transport_stream`, which belongs to this stream from now on, and is closed with it.

    Call `do_handshake` first. One task may send while another one receives. A second task in the same direction gets
    `trio.BusyResourceError`.

    Args:
        transport_stream: carries the records; it is not trusted.
        ssl_context: decides everything about certificates.
        server_side: whether this is the server's side of the handshake.
        server_hostname: sent as SNI, and checked if ``ssl_context.check_hostname`` is set; in both cases without the
            final dot of an absolute name and the zone of an IPv6 address, which certificates do not contain.
        before_answer: for servers: awaited after the whole ClientHello has arrived and before OpenSSL gets it. If it
            is given, the peer is treated as a stranger, which may not send long records until `limit_held` allows it,
            or until more than `SMALL_READ_BYTES` are requested in one call.

    Raises:
        ValueError: `server_hostname` is not a host name.
    """

    # Slots, because a peer has up to two before it has authenticated, and should cost little memory.
    __slots__ = (
        "_before_answer", "_below", "_closed", "_context", "_incoming", "_made", "_outgoing", "_receiver",
        "_receiving", "_record_torn", "_send_broken", "_sending", "_server_side", "_state", "_transport_stream",
    )  # fmt: skip

    def __init__(
        self,
        transport_stream: trio.abc.Stream,
        ssl_context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        before_answer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._transport_stream = transport_stream
        self._below = nowait(transport_stream)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._context = ssl_context
        self._server_side = server_side
        self._before_answer = before_answer
        #: None on a server whose ClientHello is not complete yet.
        self._made: ssl.SSLObject | None = None
        if not server_side:
            name = _certificate_name(server_hostname)
            self._made = ssl_context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        #: Decrypts what arrives. From a stranger, only records that are not too long.
        self._receiver = Receiver(
            self._below, self._incoming, self._outgoing, None if before_answer is None else HELD_FOR_STRANGER
        )
        self._state = _State.NEW
        self._closed = False
        self._sending = ConflictDetector("another task is sending on this TLS stream")
        self._receiving = ConflictDetector("another task is receiving on this TLS stream")
        #: Whether a send failed or was cancelled, so that bytes would be missing before anything that is sent later.
        self._send_broken = False
        #: Whether a record may have been sent in part, so that nothing at all can be sent after it.
        self._record_torn = False

    @property
    def _ssl(self) -> ssl.SSLObject:
        if self._made is None:
            self._check_open()
            self._made = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        return self._made

    @property
    def transport_stream(self) -> trio.abc.Stream:
        """The stream that carries the records. It may be inspected, but must not be read or written."""
        return self._transport_stream

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The `ssl.SSLObject`, for its read-only methods.

        Raises:
            trio.ClosedResourceError: this stream was closed. So do the methods below.
        """
        return self._ssl

    @overload
    def getpeercert(self, binary_form: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def getpeercert(self, binary_form: Literal[True]) -> bytes | None: ...
    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """Return the peer's certificate, like `ssl.SSLSocket.getpeercert`. The dict is empty unless it was verified.

        Raises:
            ValueError: the handshake has not been done.
        """
        if binary_form:
            return self._ssl.getpeercert(binary_form=True)
        return self._ssl.getpeercert(binary_form=False)

    def version(self) -> str | None:
        """Return the protocol version (``"TLSv1.3"``), or None before the handshake."""
        return self._ssl.version()

    def cipher(self) -> tuple[str, str, int] | None:
        """Name, protocol version and secret bits of the cipher, or None before the handshake."""
        return self._ssl.cipher()

    async def do_handshake(self) -> None:
        """Do the handshake. Does nothing if it is already complete.

        With TLS 1.3, a client returns from this before the server has verified the client's certificate. If the
        server refuses it, the first `receive_some` raises.

        Raises:
            TLSHandshakeError: the handshake failed, and an alert was sent if that was possible. `__cause__` is the
                exception of OpenSSL, of the stream below or of the `ClientHelloReader`; None if the peer ended the
                connection or sent too much.
            trio.BrokenResourceError: an earlier handshake failed or was cancelled.
            trio.ClosedResourceError: this stream was closed.
            Exception: what `before_answer` raised.

        The caller sets the deadline. After cancellation or an error, the stream can only be closed.
        """
        with self._sending, self._receiving:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self._state is _State.READY:
                return
            if self._state is _State.FAILED:
                raise trio.BrokenResourceError("the TLS handshake failed")
            self._state = _State.FAILED  # stays so unless the handshake completes, since it cannot be continued
            feeder = self._receiver.feeder
            assert feeder is not None, "nothing has been received yet"
            handshake = Handshake(
                transport_stream=self._transport_stream,
                context=self._context,
                server_side=self._server_side,
                tls=lambda: self._ssl,
                feeder=feeder,
                outgoing=self._outgoing,
                before_answer=self._before_answer,
            )
            await handshake.run()
            self._check_open()
            self._state = _State.READY
            self._before_answer = None  # it may hold much that is no longer needed
            self._receiver.start(self._ssl)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send `data`, together with any answers that reading has left to be sent.

        Raises:
            trio.BrokenResourceError: the stream below is broken, or an earlier send failed or was cancelled.
            trio.ClosedResourceError: this stream was closed, before the call or during it.
            RuntimeError: the handshake has not been done.

        If cancelled while it waits, any part of `data` may have been sent, and nothing more can be sent. Receiving is
        still possible.
        """
        with self._sending:
            await self._check_sendable_at_checkpoint()
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            with memoryview(data).cast("B") as view:
                for start in range(0, len(view), _CHUNK_BYTES):
                    if not self._transmit(self._encrypt(view[start : start + _CHUNK_BYTES])):
                        try:
                            await self._flush()
                        except trio.Cancelled:
                            self._send_broken = self._record_torn = True
                            raise
                        waited = True
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()

    def send_nowait(self, *buffers: Buffer) -> bool:
        """Encrypt `buffers`, and send what the stream below accepts without waiting. See `NowaitStream.send_nowait`.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, RuntimeError: as for `send_all`.
        """
        if self._sending.held:
            raise trio.BusyResourceError("another task is sending on this TLS stream")
        self._check_sendable()
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        with memoryview(data) as view:
            return self._transmit(self._encrypt(view))

    def limit_held(self, max_bytes: int | None) -> None:
        """Limit the length of records until more than `SMALL_READ_BYTES` are requested in one call. See
        `NowaitStream.limit_held`."""
        self._receiver.limit_held(max_bytes)

    @property
    def socket_below(self) -> NowaitSocket | None:
        """The socket below; see `NowaitStream.socket_below`."""
        return self._below.socket_below

    @property
    def has_more(self) -> bool:
        """Whether `receive_nowait` may have a result now; see `NowaitStream.has_more`."""
        return self._receiver.has_more

    def flush_nowait(self) -> bool:
        """Send as much as possible of what `send_nowait` has buffered. See `NowaitStream.flush_nowait`."""
        if self._sending.held:
            raise trio.BusyResourceError("another task is sending on this TLS stream")
        self._check_sendable()
        try:
            return self._below.flush_nowait()
        except BaseException:
            self._send_broken = self._record_torn = True
            raise

    async def flush(self) -> None:
        """Wait until everything that `send_nowait` has buffered is sent. See `NowaitStream.flush`."""
        with self._sending:
            self._check_sendable()
            await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream below might accept more.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, RuntimeError: as for `send_all`.
        """
        with self._sending:
            await self._check_sendable_at_checkpoint()
            await self._transport_stream.wait_send_all_might_not_block()
            self._check_open()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived, up to `max_bytes` (by default, `READ_BYTES`); with at most `SMALL_READ_BYTES`, it
        may be one record only. Waits if nothing has arrived.

        Returns:
            At least one byte; or ``b""``, on this call and all later ones, when the peer has sent close_notify.

        Raises:
            trio.BrokenResourceError: the connection was cut off without close_notify; data was altered in transit or
                the peer sent an alert (`__cause__` is the `ssl.SSLError`); the peer exceeded a limit; or the
                handshake failed. Data that arrived intact before that is returned first.
            trio.ClosedResourceError: this stream was closed, before the call or during it.
            RuntimeError: the handshake has not been done.

        If cancelled, no data is lost.
        """
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            try:
                while (data := self._receive(max_bytes or READ_BYTES)) is None:
                    await self._below.wait_readable()
                    waited = True
                return bytes(data)
            finally:
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        """Return what has arrived, up to `max_bytes`. See `NowaitStream.receive_nowait`.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, RuntimeError: as for `receive_some`.
        """
        if self._receiving.held:
            raise trio.BusyResourceError("another task is receiving on this TLS stream")
        return self._receive(max_bytes)

    async def wait_readable(self) -> None:
        """Wait until something arrives, possibly less than a record."""
        with self._receiving:
            if self._receiver.has_held:
                await trio.lowlevel.checkpoint()
            else:
                await self._below.wait_readable()
            self._check_open()

    async def aclose(self) -> None:
        """Send close_notify, wait until the peer ends its direction of the stream below if its close_notify has not
        arrived, and close the stream below. Does not wait if another task is receiving.

        This takes at most one second, and in addition the time in which the stream below closes. The side that closes
        first waits, because a closed socket would answer the other side's close_notify with a reset.

        Tasks that are blocked in this stream get `trio.ClosedResourceError`. If cancelled, the stream is closed, too.
        """
        if self._closed:
            await self._transport_stream.aclose()
            return
        self._closed = True
        try:
            # If a send is in progress, close_notify cannot be sent, because a part of a record may have been sent.
            if self._state is _State.READY:
                in_good_order = False
                if not self._sending.held and not self._record_torn:
                    with trio.move_on_after(CLOSE_SECONDS):
                        await self._say_goodbye()
                        in_good_order = True
                if not in_good_order:
                    # Forcefully, because a graceful close of the stream below would also wait for a peer that does
                    # not read.
                    await trio.aclose_forcefully(self._transport_stream)
        finally:
            try:
                await self._transport_stream.aclose()
            finally:
                self._release()

    def _release(self) -> None:
        """Free what OpenSSL has allocated, even if something refers to this stream for longer. Tasks that are blocked
        in this stream use none of it any more: they find that the stream is closed."""
        self._made = None
        self._incoming = self._outgoing = ssl.MemoryBIO()
        self._receiver = Receiver(self._below, self._incoming, self._outgoing, None)

    async def _say_goodbye(self) -> None:
        # OpenSSL raises SSLError (an OSError) to say that it wants the peer's answer, for which this does not wait.
        with contextlib.suppress(OSError):
            self._ssl.unwrap()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._below.flush()
            if not self._below.send_nowait(self._outgoing.read()):
                await self._below.flush()
            if self._receiver.may_get_more and not self._receiving.held:
                await linger(self._transport_stream)

    def _encrypt(self, view: memoryview) -> bytes:
        tls = self._made
        assert tls is not None, "the handshake is complete"
        try:
            while view:
                view = view[tls.write(view) :]
        except ssl.SSLError as exc:
            self._send_broken = True
            raise trio.BrokenResourceError(f"TLS failed: {describe_tls_error(exc)}") from exc
        return self._outgoing.read()

    def _transmit(self, ciphertext: bytes) -> bool:
        """Send what the stream below accepts. Returns False if a part is left for `_flush`."""
        try:
            return self._below.send_nowait(ciphertext)
        except BaseException:
            self._send_broken = self._record_torn = True
            raise

    async def _flush(self) -> None:
        try:
            await self._below.flush()
        except trio.Cancelled:
            raise  # if the stream below cannot continue after a cancellation, its next call raises
        except BaseException:
            self._send_broken = self._record_torn = True
            raise
        self._check_open()

    def _receive(self, max_bytes: int) -> Buffer | None:
        if self._closed or self._state is not _State.READY:
            self._check_open()
            self._check_ready()
        return self._receiver.receive(max_bytes)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this TLS stream was closed")

    def _check_ready(self) -> None:
        if self._state is _State.NEW:
            raise RuntimeError("call do_handshake() first")
        if self._state is _State.FAILED:
            raise trio.BrokenResourceError("the TLS handshake failed")

    def _check_sendable(self) -> None:
        if self._closed or self._state is not _State.READY or self._send_broken:
            self._check_open()
            self._check_ready()
            raise trio.BrokenResourceError("an earlier send failed or was cancelled")

    async def _check_sendable_at_checkpoint(self) -> None:
        """Like `_check_sendable`, but raise at a checkpoint only."""
        try:
            self._check_sendable()
        except BaseException:
            await trio.lowlevel.checkpoint()
            raise
