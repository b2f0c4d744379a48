"""Inspects the first bytes of a TLS client before anything is allocated for them. Pure.

OpenSSL allocates about 45 KiB for a handshake as soon as it sees the first byte, and uses a third of a millisecond of
processor time when the ClientHello is complete. A server that collects the ClientHello itself spends neither on peers
that do not send a whole one, and can let the others wait for their turn.
"""

from __future__ import annotations

__all__ = ["MAX_CLIENT_HELLO", "ClientHelloReader"]

#: The most bytes of the records that carry the ClientHello, headers included. Ordinary ones have 300 to 2,000 bytes,
#: including a post-quantum key share; OpenSSL itself would accept 131,396.
MAX_CLIENT_HELLO = 8 * 1024

#: Records that it may come in. Ordinary clients send one, those that hide it from middleboxes a few; each costs us a
#: look whenever more arrives.
MAX_RECORDS = 16

_RECORD_HEADER = 5
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_MAX_RECORD = 16 * 1024


class ClientHelloReader:
    """Finds out when a ClientHello is complete, in records of any size and pieces of any size."""

    __slots__ = ("_data", "_next_record", "_payload", "_records", "_size")

    def __init__(self) -> None:
        self._data = bytearray()
        #: Where the next record begins; those before it have been looked at.
        self._next_record = 0
        #: Handshake bytes in the records until there.
        self._payload = 0
        self._records = 0
        #: Of the whole ClientHello with its own header of four bytes, once that is known.
        self._size: int | None = None

    def __len__(self) -> int:
        """Bytes received."""
        return len(self._data)

    def take(self) -> bytes:
        """All that was received; the reader forgets it."""
        data = bytes(self._data)
        self._data = bytearray()
        return data

    def receive_untrusted(self, data: bytes) -> bool:
        """Take what the peer sent.

        Returns:
            True when OpenSSL should see it: the ClientHello is complete, or it is none, which OpenSSL refuses at
            little cost and with the right alert. False while more is needed.

        Raises:
            ValueError: it is larger than `MAX_CLIENT_HELLO`, or cut into more than `MAX_RECORDS`.
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
        """Where the record at the current position ends; None while it is incomplete, -1 if it cannot be one."""
        at, data = self._next_record, self._data
        if len(data) > at and data[at] != _HANDSHAKE:
            return -1
        if len(data) > at + 1 and data[at + 1] != 3:
            return -1
        if len(data) < at + _RECORD_HEADER:
            return None
        length = data[at + 3] << 8 | data[at + 4]
        if not 0 < length <= _MAX_RECORD:
            return -1
        end = at + _RECORD_HEADER + length
        return end if len(data) >= end else None

    def _look(self, end: int) -> bool:
        """Count a complete record; False if what it carries is no ClientHello."""
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
        """The 24 bits behind the type, which may be spread over several records."""
        head = bytearray()
        at = 0
        while len(head) < 4:
            length = self._data[at + 3] << 8 | self._data[at + 4]
            head += self._data[at + _RECORD_HEADER : at + _RECORD_HEADER + length]
            at += _RECORD_HEADER + length
        return int.from_bytes(head[1:4])
