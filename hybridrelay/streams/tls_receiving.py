"""Decrypting what a TLS stream receives. `tls.py` has the rules."""

from __future__ import annotations

import ssl
import threading

import trio

from .nowait import READ_BYTES, SMALL_READ_BYTES, Buffer, NowaitStream, Turn, UnitTooLong
from .records import RECORD_BYTES, RecordCounter, RecordFeeder, read_record
from .tls_handshake import TOO_LONG, describe_tls_error

__all__ = ["Receiver"]

#: How many bytes of answers that TLS requires may wait to be sent. Honest peers cause a few dozen bytes. Without this
#: limit, a peer that floods us with key updates and does not read could use up our memory.
_MAX_OWED_BYTES = 64 * 1024
#: The last position in the buffer at which a record can begin; see `_Scratch`.
_LAST_RECORD = READ_BYTES + RECORD_BYTES


class _Scratch(threading.local):
    """The buffer for decrypted data. One for each thread is enough, because its content is used immediately."""

    def __init__(self) -> None:
        # Room for one read of the stream below, and for a record that was incomplete before.
        self.view = memoryview(bytearray(_LAST_RECORD + RECORD_BYTES))


_scratch = _Scratch()


class Receiver:
    """Decrypts the records that arrive over a stream, once the handshake is complete.

    Args:
        below: the stream over which they arrive.
        incoming: what OpenSSL is given to decrypt.
        outgoing: what OpenSSL has produced, and was not sent yet.
        max_held: see `NowaitStream.limit_held`.
    """

    # Every connection has two of these before it has authenticated.
    __slots__ = (
        "_below", "_decrypted", "_incoming", "_later", "_outgoing", "_tls", "_undecrypted", "error", "feeder",
        "has_ended", "records",
    )  # fmt: skip

    def __init__(
        self, below: NowaitStream, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, max_held: int | None
    ) -> None:
        self._below = below
        self._incoming = incoming
        self._outgoing = outgoing
        #: None until the handshake is complete.
        self._tls: ssl.SSLObject | None = None
        #: Counts the records since the handshake.
        self.records = RecordCounter()
        #: Passes only complete records to OpenSSL. None once more than `SMALL_READ_BYTES` were requested in one call.
        self.feeder: RecordFeeder | None = RecordFeeder(incoming, max_held, self.records)
        #: Received data beyond the number of records that OpenSSL gets in one go.
        self._later = b""
        #: Why nothing more can be received: the message, and the cause, if any. None if more can be received.
        self.error: tuple[str, ssl.SSLError | None] | None = None
        #: Whether the peer has sent close_notify.
        self.has_ended = False
        #: Decrypted data that exceeded the `max_bytes` of an earlier call.
        self._decrypted = bytearray()
        #: Whether more records have arrived than could be decrypted in one go.
        self._undecrypted = False

    def start(self, tls: ssl.SSLObject) -> None:
        """Begin to decrypt, because the handshake is complete."""
        self._tls = tls
        self.records.passed = 0

    def limit_held(self, max_bytes: int | None) -> None:
        """See `NowaitStream.limit_held`."""
        if self.feeder is not None:
            self.feeder.limit = max_bytes
        if max_bytes is None:
            self._below.limit_held(None)

    @property
    def has_more(self) -> bool:
        """Whether `receive` may have a result now; see `NowaitStream.has_more`."""
        return bool(
            self._undecrypted
            or self._decrypted
            or self._later
            or self.has_ended
            or self.error is not None
            or self._below.has_more
        )

    @property
    def has_held(self) -> bool:
        """Whether something has arrived that was not returned yet."""
        return bool(self._decrypted or self._undecrypted)

    @property
    def may_get_more(self) -> bool:
        """Whether the peer may still send something, such as its close_notify."""
        return (self.error is None or self.error[0] is TOO_LONG) and not self.has_ended

    def receive(self, max_bytes: int) -> Buffer | None:
        """Return what has arrived, b"" at the end, or None. The result may be a view of the scratch buffer."""
        data = self._receive_all(max_bytes)
        if data is not None and len(data) > max_bytes:
            self._decrypted += data[max_bytes:]
            data = data[:max_bytes]
        return data

    def _receive_all(self, max_bytes: int) -> Buffer | None:
        """Like `receive`, but may return more than `max_bytes`, because records are decrypted as a whole."""
        feeder = self.feeder
        if feeder is not None and max_bytes > SMALL_READ_BYTES:
            feeder.feed_all()
            feeder = self.feeder = None  # from now on, everything is passed to OpenSSL as it arrives
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
            if self.error is not None:
                message, cause = self.error
                raise (UnitTooLong if message is TOO_LONG else trio.BrokenResourceError)(message) from cause
            if self.has_ended:
                return b""
            if feeder is None:
                ciphertext = self._later or self._below.receive_nowait()
            else:
                if feeder.limit is not None:
                    self._below.limit_held(feeder.limit - feeder.held_bytes)
                ciphertext = self._below.receive_nowait(SMALL_READ_BYTES)
            if ciphertext is None:
                return None
            if not ciphertext:
                self.error = ("the connection was cut off", None)
            elif feeder is None:
                self._take_in(ciphertext)
            elif not feeder.add_untrusted(ciphertext):
                self.error = (TOO_LONG, None)

    def _take_in(self, ciphertext: Buffer) -> None:
        """Pass what arrived to OpenSSL: all of it, unless it contains very many records."""
        end = self.records.count_untrusted(ciphertext)
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
        if self.has_ended or self.error is not None:
            return view[:0]
        feeder, incoming, tls = self.feeder, self._incoming, self._tls
        assert tls is not None, "the handshake is complete"
        try:
            if feeder is not None:
                count = read_record(tls, incoming, feeder, view)
                self.has_ended = count == 0
                reads = 1
            else:
                # OpenSSL reads records from the buffer one by one, so an empty buffer means that nothing is left.
                while incoming.pending and count <= _LAST_RECORD:
                    size = tls.read(RECORD_BYTES, view[count : count + RECORD_BYTES])
                    if not size:
                        self.has_ended = True
                        break
                    count += size  # type: ignore[operator]
                    reads += 1
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_ended = True
        except ssl.SSLError as exc:
            # Its traceback refers to this object, which would then be in a cycle.
            self.error = (f"TLS failed: {describe_tls_error(exc)}", exc.with_traceback(None))
        self.records.with_data += reads
        if feeder is None:
            self._undecrypted = bool(self._later) or (count > _LAST_RECORD and incoming.pending > 0)
        else:
            self._undecrypted = feeder.has_record
        if self.records.is_exceeded and not incoming.pending and self.error is None:
            self.error = ("the peer sent too many TLS records without data", None)
        if self._outgoing.pending > _MAX_OWED_BYTES:
            self.error = ("the peer requires answers, but does not read them", None)
        return view[:count]
