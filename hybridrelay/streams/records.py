"""Passing TLS records to OpenSSL: only complete ones, none too long, and only a few without data. Pure.

For an incomplete record, OpenSSL allocates a buffer of 17 KiB, which it keeps as long as the connection exists. Until
a connection is used for more than small messages, incomplete records are therefore buffered here, where they take
only their own size.

After the handshake, a peer needs records without application data only for a few session tickets and, once in many
millions of records, for a key update (RFC 8446, section 5.5). Each takes OpenSSL eight microseconds, and OpenSSL
processes everything that it was given before it returns. Therefore such records are counted, and records are passed
on in small portions.
"""

from __future__ import annotations

import ssl

__all__ = ["RECORD_BYTES", "RecordCounter", "RecordFeeder", "read_record"]

#: The largest plaintext of one record (RFC 8446, 5.1): a read of this size empties a record.
RECORD_BYTES = 16 * 1024
_RECORD_HEADER = 5
#: RFC 8446, 5.1: change cipher spec, alert, handshake, application data.
_RECORD_TYPES = range(20, 24)
#: The largest record of TLS 1.2 (RFC 5246, 6.2.3); those of TLS 1.3 are smaller.
_MAX_RECORD_BYTES = 16 * 1024 + 2048
#: The greatest overhead of a record (bytes), in TLS 1.2 with the oldest cipher.
_RECORD_OVERHEAD = 256
#: The lowest limit for records (bytes). Records up to this length are never refused, whatever else is held.
_MIN_RECORD_LIMIT = 1024
#: How many records a peer may send while there is a limit: a handshake and a few messages take a dozen.
MAX_RECORDS_OF_STRANGER = 512
#: How many records without application data a peer may send after the handshake. It may send one more for every
#: `_DATA_PER_EMPTY` records with application data.
_MAX_EMPTY, _DATA_PER_EMPTY = 64, 64
#: How many records are passed to OpenSSL in one go. It may turn out that none of them carries application data.
RECORDS_AT_ONCE = 64
#: A record is passed to OpenSSL in pieces of this size (bytes), because OpenSSL's input buffer never shrinks.
_SLICE_BYTES = 512


class RecordCounter:
    """Counts the records that are passed to OpenSSL after the handshake, and how many of these carry data."""

    __slots__ = ("_header", "_left", "passed", "with_data")

    def __init__(self) -> None:
        #: The beginning of a record's header whose rest has not arrived yet.
        self._header = b""
        #: How many bytes of the current record have not arrived yet.
        self._left = 0
        #: How many whole records were passed to OpenSSL.
        self.passed = 0
        #: How many records with application data OpenSSL has returned.
        self.with_data = 0

    @property
    def is_exceeded(self) -> bool:
        """Whether too many records carried no data. Valid only after OpenSSL has processed everything that it was
        given."""
        empty = self.passed - self.with_data
        return empty > _MAX_EMPTY and empty > _MAX_EMPTY + self.with_data // _DATA_PER_EMPTY

    def begin(self, data: bytes | bytearray, left: int) -> None:
        """Continue where a `RecordFeeder` has stopped.

        Args:
            data: the bytes that the feeder held.
            left: how many of them, at the beginning, belong to a record that the feeder has already counted.
        """
        self.passed -= left > 0
        self._left = left
        while data:
            data = data[self.count_untrusted(data) :]

    def count_untrusted(self, data: bytes | bytearray | memoryview) -> int:
        """Count the records in `data`, which continues the data that was counted before.

        Returns:
            How many bytes of `data` may be passed to OpenSSL in one go: all of it, or the first `RECORDS_AT_ONCE`
            records. The rest is not counted yet.
        """
        size, position, count = len(data), self._left, 0
        if self._header:
            position = _RECORD_HEADER - len(self._header)
            self._header += bytes(data[:position])
            if len(self._header) < _RECORD_HEADER:
                return size
            position += self._header[3] << 8 | self._header[4]
            self._header = b""
            count = 1
        elif position:
            count = 1
        if position > size:
            self._left = position - size
            return size
        self._left = 0
        # This runs for each record of 16 KiB of a bulk transfer, so it is as short as possible.
        while position + _RECORD_HEADER <= size:
            if count == RECORDS_AT_ONCE:
                self.passed += count
                return position
            end = position + _RECORD_HEADER + (data[position + 3] << 8 | data[position + 4])
            if end > size:
                self._left = end - size
                break
            position = end
            count += 1
        else:
            self._header = bytes(data[position:])
        self.passed += count
        return size


class RecordFeeder:
    """Collects what arrives, and passes it to OpenSSL record by record.

    Args:
        incoming: the buffer from which OpenSSL reads.
        limit: how many bytes a record may carry, or None for no limit. May be changed at any time.
        counter: counts the records that are passed on.
    """

    __slots__ = ("_counter", "_feeding", "_incoming", "_partial", "_records", "limit")

    def __init__(self, incoming: ssl.MemoryBIO, limit: int | None, counter: RecordCounter) -> None:
        self.limit = limit
        self._counter = counter
        self._incoming = incoming
        self._partial = bytearray()
        #: How many bytes at the beginning of `_partial` are the rest of a complete record.
        self._feeding = 0
        #: How many records were passed on while there was a limit.
        self._records = 0

    @property
    def held_bytes(self) -> int:
        """How many bytes have arrived but have not been passed to OpenSSL yet."""
        return len(self._partial)

    @property
    def has_record(self) -> bool:
        """Whether a complete record, or the rest of one, can be passed to OpenSSL."""
        return bool(self._feeding or _whole_record(self._partial))

    def add_untrusted(self, data: bytes | bytearray | memoryview) -> bool:
        """Take what has arrived. Returns False if the peer has exceeded its limits: a record longer than `limit`, or
        too many records."""
        self._partial += data
        if self.limit is None:
            return True
        if self._records > MAX_RECORDS_OF_STRANGER:
            return False
        if self._feeding or len(self._partial) < _RECORD_HEADER:
            return True
        length = self._partial[3] << 8 | self._partial[4]
        return length <= max(self.limit, _MIN_RECORD_LIMIT) + _RECORD_OVERHEAD

    def feed(self) -> bool:
        """Pass the next piece of a complete record to OpenSSL. Returns False if there is none."""
        if not self._feeding:
            self._feeding = _whole_record(self._partial)
            if not self._feeding:
                return False
            self._counter.passed += 1
            self._records += self.limit is not None
        size = min(self._feeding, _SLICE_BYTES)
        self._incoming.write(self._partial[:size])
        del self._partial[:size]
        self._feeding -= size
        return True

    def feed_all(self) -> None:
        """Pass everything to OpenSSL, complete or not. After this, the caller passes data to OpenSSL itself, and has
        it counted by `RecordCounter.count_untrusted`."""
        self._counter.begin(self._partial, self._feeding)
        self._incoming.write(self._partial)
        self._partial = bytearray()
        self._feeding = 0


def _whole_record(data: bytearray) -> int:
    """Return the length of the record at the beginning of `data`; 0 if it is incomplete. Data that is not a record is
    treated as one, so that OpenSSL answers with the right alert."""
    if not data:
        return 0
    if data[0] not in _RECORD_TYPES or (len(data) > 1 and data[1] != 3):
        return len(data)
    if len(data) < _RECORD_HEADER:
        return 0
    length = data[3] << 8 | data[4]
    if length > _MAX_RECORD_BYTES:
        return len(data)
    end = _RECORD_HEADER + length
    return end if len(data) >= end else 0


def read_record(tls: ssl.SSLObject, incoming: ssl.MemoryBIO, feeder: RecordFeeder, view: memoryview) -> int:
    """Decrypt one record with application data. Only one, because the caller would have to keep what it did not
    request.

    Returns its length, or 0 at the peer's close_notify. Raises SSLWantReadError if there is no such record yet.
    """
    while incoming.pending or feeder.feed():
        try:
            return tls.read(RECORD_BYTES, view[:RECORD_BYTES])  # type: ignore[return-value]
        except ssl.SSLWantReadError:
            continue  # OpenSSL has read everything, and needs the next piece
    raise ssl.SSLWantReadError
