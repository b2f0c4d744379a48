"""A TLS stream over any other stream, with high throughput and a strict treatment of the end of data.

Theory of operation: an `ssl.SSLObject` converts bytes between two memory buffers. Calls of OpenSSL never wait; only
calls of the transport wait, so no lock is needed around OpenSSL. Rules:

1. `TLSStream.receive_some` never writes to the transport, because a reader must not wait for a peer that does not
   read. What OpenSSL produces while reading (answers to key updates, and alerts) is sent with the next send, or at
   close.
2. One wake-up decrypts everything that has arrived. `trio.SSLStream` wakes once per 16 KiB record, and was half as
   fast in measurements.
3. If the transport ends without the peer's close_notify, `trio.BrokenResourceError` is raised: something in the path
   may have cut the connection, which must never look like end of file.
4. `ssl.SSLError` leaves this module only as the `__cause__` of `TLSHandshakeError` or `trio.BrokenResourceError`.
5. A peer that has not authenticated uses few resources. A server collects the ClientHello before passing it to
   OpenSSL. Handshakes are limited in bytes, and records in length (`limit_held`). Until more than `SMALL_READ_BYTES`
   are requested at once, OpenSSL gets only complete records, because for an incomplete one it would hold a buffer of
   17 KiB.

The handshake is in `tls_handshake.py`, and records are handled in `records.py`.
"""

# This module is long because sending, receiving and closing share the state of one class.

from __future__ import annotations

import contextlib
import enum
import operator
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Literal, overload

import trio

from .conflict import ConflictDetector
from .nowait import (
    HELD_FOR_STRANGER,
    READ_BYTES,
    SMALL_READ_BYTES,
    Buffer,
    NowaitStream,
    SocketPort,
    Turn,
    UnitTooLong,
    nowait,
)
from .records import RECORD_BYTES, RecordCounter, RecordFeeder, read_record
from .tls_handshake import CLOSE_SECONDS, TOO_LONG, Handshake, describe_tls_error, linger

#: How much is encrypted per write to the transport (bytes): sixteen records. In measurements, more was not faster,
#: and less cost a third of the throughput.
_CHUNK_BYTES = 256 * 1024
#: How many bytes of answers reading may leave to be sent. Honest peers cause a few dozen bytes. Without this limit, a
#: peer that floods us with key updates and does not read could use up our memory.
_MAX_OWED_BYTES = 64 * 1024
#: The last position in the buffer at which a record can begin; see `_Scratch`.
_LAST_RECORD = READ_BYTES + RECORD_BYTES


class _State(enum.Enum):
    NEW = enum.auto()
    READY = enum.auto()
    #: The handshake failed or was cancelled.
    FAILED = enum.auto()


class _Scratch(threading.local):
    """The buffer for decrypted data. One for each thread is enough, because its content is used at once."""

    def __init__(self) -> None:
        # Room for one read of the transport, and for a record that was incomplete before.
        self.view = memoryview(bytearray(_LAST_RECORD + RECORD_BYTES))


_scratch = _Scratch()


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
            or until more than `SMALL_READ_BYTES` are requested at once.

    Raises:
        ValueError: `server_hostname` is not a host name.
    """

    def __init__(
        self,
        transport_stream: trio.abc.Stream,
        ssl_context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        before_answer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._transport = transport_stream
        self._port = nowait(transport_stream)
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
        #: Counts the records since the handshake.
        self._records = RecordCounter()
        #: Passes only complete records to OpenSSL. None once more than `SMALL_READ_BYTES` were requested at once.
        self._feeder: RecordFeeder | None = RecordFeeder(
            self._incoming, HELD_FOR_STRANGER if before_answer is not None else None, self._records
        )
        #: Received data beyond the number of records that OpenSSL gets at once.
        self._later = b""
        self._state = _State.NEW
        self._closed = False
        self._sending = ConflictDetector("another task is sending on this TLS stream")
        self._receiving = ConflictDetector("another task is receiving on this TLS stream")
        #: Whether a send failed or was cancelled, so that bytes would be missing before anything that is sent later.
        self._send_broken = False
        #: Whether a record may have been sent in part, so that nothing at all can be sent after it.
        self._record_torn = False
        #: Why nothing more can be received: the message, and the cause, if any. None if more can be received.
        self._receive_error: tuple[str, ssl.SSLError | None] | None = None
        self._receive_ended = False
        #: Decrypted data that exceeded the `max_bytes` of an earlier call.
        self._decrypted = bytearray()
        #: Whether more records have arrived than could be decrypted at once.
        self._undecrypted = False

    @property
    def _ssl(self) -> ssl.SSLObject:
        if self._made is None:
            self._made = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        return self._made

    @property
    def transport_stream(self) -> trio.abc.Stream:
        """The stream that carries the records. It may be inspected, but must not be read or written."""
        return self._transport

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The `ssl.SSLObject`, for its read-only methods."""
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
            return self._ssl.getpeercert(True)
        return self._ssl.getpeercert(False)

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
                exception of OpenSSL, of the transport or of the `ClientHelloReader`; None if the peer ended the
                connection or sent too much.
            trio.BrokenResourceError: an earlier handshake failed or was cancelled.
            trio.ClosedResourceError: this stream was closed.

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
            feeder = self._feeder
            assert feeder is not None, "nothing has been received yet"
            handshake = Handshake(
                transport=self._transport,
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
            self._records.passed = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send `data`, together with any answers that reading has left to be sent.

        Raises:
            trio.BrokenResourceError: the transport is broken, or an earlier send failed or was cancelled.
            trio.ClosedResourceError: this stream was closed, before the call or during it.
            RuntimeError: the handshake has not been done.

        If cancelled while it waits, any part of `data` may have been sent, and nothing more can be sent. Receiving is
        still possible.
        """
        with self._sending:
            try:
                self._check_sendable()
            except BaseException:
                await trio.lowlevel.checkpoint()
                raise
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
        """Encrypt `buffers`, and send what the transport accepts at once. See `NowaitStream.send_nowait`.

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
        """Limit the length of records until more than `SMALL_READ_BYTES` are requested at once. See
        `NowaitStream.limit_held`."""
        if self._feeder is not None:
            self._feeder.limit = max_bytes
        if max_bytes is None:
            self._port.limit_held(None)

    @property
    def port(self) -> SocketPort | None:
        """The socket below; see `NowaitStream.port`."""
        return self._port.port

    @property
    def has_more(self) -> bool:
        """Whether `receive_nowait` may have a result now; see `NowaitStream.has_more`."""
        return bool(
            self._undecrypted
            or self._decrypted
            or self._later
            or self._receive_ended
            or self._receive_error is not None
            or self._port.has_more
        )

    def flush_nowait(self) -> bool:
        """Send as much as possible of what `send_nowait` has buffered. See `NowaitStream.flush_nowait`."""
        if self._sending.held:
            raise trio.BusyResourceError("another task is sending on this TLS stream")
        self._check_sendable()
        try:
            return self._port.flush_nowait()
        except BaseException:
            self._send_broken = self._record_torn = True
            raise

    async def flush(self) -> None:
        """Wait until everything that `send_nowait` has buffered is sent. See `NowaitStream.flush`."""
        with self._sending:
            self._check_sendable()
            await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport might accept more.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, RuntimeError: as for `send_all`.
        """
        with self._sending:
            try:
                self._check_sendable()
            except BaseException:
                await trio.lowlevel.checkpoint()
                raise
            await self._transport.wait_send_all_might_not_block()
            self._check_open()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return everything that has arrived, or up to `max_bytes` of it. Waits if nothing has arrived.

        Returns:
            At least one byte; or ``b""``, on this call and all later ones, when the peer has sent close_notify.

        Raises:
            trio.BrokenResourceError: the connection was cut off without close_notify, data was altered in transit, or
                the peer sent an alert (`__cause__` is the `ssl.SSLError`). Data that arrived intact before that is
                returned first.
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
                    await self._port.wait_readable()
                    waited = True
                return bytes(data)
            finally:
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        """Return everything that has arrived, up to `max_bytes`. See `NowaitStream.receive_nowait`.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, RuntimeError: as for `receive_some`.
        """
        if self._receiving.held:
            raise trio.BusyResourceError("another task is receiving on this TLS stream")
        return self._receive(max_bytes)

    async def wait_readable(self) -> None:
        """Wait until something arrives, possibly less than a record."""
        with self._receiving:
            if self._decrypted or self._undecrypted:
                await trio.lowlevel.checkpoint()
            else:
                await self._port.wait_readable()
            self._check_open()

    async def aclose(self) -> None:
        """Send close_notify, wait for the peer's close_notify if it has not arrived, and close the transport.

        This takes at most one second, and in addition the time in which the transport closes. The side that closes
        first waits, because a closed socket would answer the other side's close_notify with a reset.

        Tasks that are blocked in this stream get `trio.ClosedResourceError`. If cancelled, the stream is closed, too.
        """
        if self._closed:
            await self._transport.aclose()
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
                    await trio.aclose_forcefully(self._transport)
        finally:
            await self._transport.aclose()

    async def _say_goodbye(self) -> None:
        # OpenSSL raises SSLError (an OSError) to say that it wants the peer's answer, for which this does not wait.
        with contextlib.suppress(OSError):
            self._ssl.unwrap()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._port.flush()
            if not self._port.send_nowait(self._outgoing.read()):
                await self._port.flush()
            more_may_come = self._receive_error is None or self._receive_error[0] is TOO_LONG
            if more_may_come and not self._receive_ended and not self._receiving.held:
                await linger(self._transport)

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
        """Send what the transport accepts. Returns False if a part is left for `_flush`."""
        try:
            return self._port.send_nowait(ciphertext)
        except BaseException:
            self._send_broken = self._record_torn = True
            raise

    async def _flush(self) -> None:
        try:
            await self._port.flush()
        except trio.Cancelled:
            raise  # if the transport cannot continue after a cancellation, its next call raises
        except BaseException:
            self._send_broken = self._record_torn = True
            raise
        self._check_open()

    def _receive(self, max_bytes: int) -> Buffer | None:
        """Return what has arrived, b"" at the end, or None. The result may be a view of the scratch buffer."""
        data = self._receive_all(max_bytes)
        if data is not None and len(data) > max_bytes:
            self._decrypted += data[max_bytes:]
            data = data[:max_bytes]
        return data

    def _receive_all(self, max_bytes: int) -> Buffer | None:
        """Like `_receive`, but may return more than `max_bytes`, because records are decrypted as a whole."""
        if self._closed or self._state is not _State.READY:
            self._check_open()
            self._check_ready()
        feeder = self._feeder
        if feeder is not None and max_bytes > SMALL_READ_BYTES:
            feeder.feed_all()
            feeder = self._feeder = None  # from now on, everything is passed to OpenSSL as it arrives
        if self._decrypted:
            kept, self._decrypted = self._decrypted, bytearray()
            return kept
        turn: Turn | None = None
        while True:
            if self._incoming.pending or (feeder is not None and feeder.held_bytes):
                data = self._decrypt()
                if data:
                    return data
                # A record is incomplete. Its rest may arrive in thousands of pieces, so yield from time to time.
                turn = turn or Turn()
                if turn.is_over(0):
                    return None
            if self._receive_error is not None:
                message, cause = self._receive_error
                raise (UnitTooLong if message is TOO_LONG else trio.BrokenResourceError)(message) from cause
            if self._receive_ended:
                return b""
            if feeder is None:
                ciphertext = self._later or self._port.receive_nowait()
            else:
                if feeder.limit is not None:
                    self._port.limit_held(feeder.limit - feeder.held_bytes)
                ciphertext = self._port.receive_nowait(SMALL_READ_BYTES)
            if ciphertext is None:
                return None
            if not ciphertext:
                self._receive_error = ("the connection was cut off", None)
            elif feeder is None:
                self._take_in(ciphertext)
            elif not feeder.add_untrusted(ciphertext):
                self._receive_error = (TOO_LONG, None)

    def _take_in(self, ciphertext: Buffer) -> None:
        """Pass what arrived to OpenSSL: all of it, unless it contains very many records."""
        end = self._records.count_untrusted(ciphertext)
        if end == len(ciphertext):
            self._later = b""
            self._incoming.write(ciphertext)
        else:
            # Copied, because the received data is a view that other streams overwrite.
            self._later = bytes(ciphertext[end:])
            self._incoming.write(ciphertext[:end])

    def _decrypt(self) -> memoryview:
        """Decrypt what has arrived. Errors and the end are recorded, and reported after the decrypted data."""
        view = _scratch.view
        count = reads = 0
        if self._receive_ended or self._receive_error is not None:
            return view[:0]
        feeder, incoming, tls = self._feeder, self._incoming, self._made
        assert tls is not None, "the handshake is complete"
        try:
            if feeder is not None:
                count = read_record(tls, incoming, feeder, view)
                self._receive_ended = count == 0
                reads = 1
            else:
                # OpenSSL reads records from the buffer one by one, so an empty buffer means that nothing is left.
                while incoming.pending and count <= _LAST_RECORD:
                    size = tls.read(RECORD_BYTES, view[count : count + RECORD_BYTES])
                    if not size:
                        self._receive_ended = True
                        break
                    count += size  # type: ignore[operator]
                    reads += 1
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._receive_ended = True
        except ssl.SSLError as exc:
            self._receive_error = (f"TLS failed: {describe_tls_error(exc)}", exc)
        self._records.with_data += reads
        if feeder is None:
            self._undecrypted = bool(self._later) or (count > _LAST_RECORD and incoming.pending > 0)
        else:
            self._undecrypted = feeder.has_record
        if self._records.is_exceeded and not incoming.pending and self._receive_error is None:
            self._receive_error = ("the peer sent too many TLS records without data", None)
        if self._outgoing.pending > _MAX_OWED_BYTES:
            self._receive_error = ("the peer requires answers, but does not read them", None)
        return view[:count]

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
