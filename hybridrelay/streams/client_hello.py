"""Collecting a TLS client's ClientHello before OpenSSL allocates memory for the connection. Pure.

When OpenSSL gets the first byte of a handshake, it allocates about 45 KiB, and when the ClientHello is complete, it
uses a third of a millisecond of processor time. A server that collects the ClientHello itself spends neither on peers
that never complete it, and can schedule the handshakes of the others.
"""

from __future__ import annotations

__all__ = ["MAX_CLIENT_HELLO", "ClientHelloReader"]

#: The greatest total size of the records that carry the ClientHello, including headers (bytes). Usual ones have 300
#: to 2,000 bytes, including a post-quantum key share; OpenSSL itself would accept 131,396.
MAX_CLIENT_HELLO = 8 * 1024

#: How many records the ClientHello may be split into. Usual clients send one record, and clients that hide it from
#: middleboxes send a few. Each record takes processor time.
MAX_RECORDS = 16

_RECORD_HEADER = 5
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_MAX_RECORD_BYTES = 16 * 1024


class ClientHelloReader:
    """Determines when a ClientHello is complete; it may arrive in records and pieces of any size."""

    __slots__ = ("_data", "_next_record", "_payload", "_records", "_size")

    def __init__(self) -> None:
        self._data = bytearray()
        #: Where the next record begins. The records before it have been counted.
        self._next_record = 0
        #: The number of handshake bytes in the counted records.
        self._payload = 0
        self._records = 0
        #: The size of the ClientHello, including its own header of four bytes; None until it is known.
        self._size: int | None = None

    def __len__(self) -> int:
        """Return the number of bytes received."""
        return len(self._data)

    def take(self) -> bytes:
        """Return everything that was received, and release the memory."""
        data = bytes(self._data)
        self._data = bytearray()
        return data

    def receive_untrusted(self, data: bytes) -> bool:
        """Take what the peer sent.

        Returns:
            True when it should be passed to OpenSSL: the ClientHello is complete, or it is not a ClientHello, which
            OpenSSL refuses at little cost and with the right alert. False while more is needed.

        Raises:
            ValueError: it is larger than `MAX_CLIENT_HELLO`, or split into more than `MAX_RECORDS`.
        """
        self._data += data
        while (record := self._record_end()) is not None:
            if record < 0 or not self._look(record):
                return True
            if self._size is not None and self._payload >= self._size:
                return True
            if self._records > MAX_RECORDS:
                raise ValueError(f"the ClientHello comes in more than {MAX_RECORDS} records")
        if len(self._data) >= MAX_CLIENT_HELLO:
            raise ValueError(f"the ClientHello is longer than {MAX_CLIENT_HELLO} bytes")
        return False

    def _record_end(self) -> int | None:
        """Return where the record at the current position ends; None while it is incomplete, -1 if it is not a
        record."""
        at, data = self._next_record, self._data
        if len(data) > at and data[at] != _HANDSHAKE:
            return -1
        if len(data) > at + 1 and data[at + 1] != 3:
            return -1
        if len(data) < at + _RECORD_HEADER:
            return None
        length = data[at + 3] << 8 | data[at + 4]
        if not 0 < length <= _MAX_RECORD_BYTES:
            return -1
        end = at + _RECORD_HEADER + length
        return end if len(data) >= end else None

    def _look(self, end: int) -> bool:
        """Count a complete record. Returns False if it does not contain a ClientHello."""
        begin = self._next_record + _RECORD_HEADER
        self._next_record = end
        self._records += 1
        before, self._payload = self._payload, self._payload + end - begin
        if before == 0 and self._data[begin] != _CLIENT_HELLO:
            return False
        if self._size is None and self._payload >= 4:
            self._size = 4 + self._length_untrusted()
        return True

    def _length_untrusted(self) -> int:
        """Return the 24-bit length after the type. It may be split across several records."""
        head = bytearray()
        at = 0
        while len(head) < 4:
            length = self._data[at + 3] << 8 | self._data[at + 4]
            head += self._data[at + _RECORD_HEADER : at + _RECORD_HEADER + length]
            at += _RECORD_HEADER + length
        return int.from_bytes(head[1:4])
