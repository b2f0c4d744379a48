"""Limits how many bytes of datagrams are in flight to the peer. SPEC.md, section 6.

What was written to the channel arrives, however late: the buffers of the sockets between both sides drop nothing
because of its age, and what streams write later waits behind it. Datagrams have no windows that limit this. So after
some bytes of datagrams, a PING is written. Its PONG shows that the peer has processed the datagrams before it. While
too much is in flight, datagrams stay in the queues of their flows (`datagrams.py`), which drop those that have waited
too long.
"""

from __future__ import annotations

import struct

from .config import KIB

__all__ = ["MAX_IN_FLIGHT", "OVERHEAD", "PROBE_AFTER", "DatagramPace"]

#: How much may be in flight (bytes): 680 datagrams of 64 bytes, or two of the longest. At a round-trip time of
#: 60 ms, this is 2 MB/s.
MAX_IN_FLIGHT = 128 * KIB
#: After this much, a PING is written (bytes). Flows with few datagrams thus cause none.
PROBE_AFTER = 16 * KIB
#: What a datagram costs in addition to its bytes, because processing it takes time, too (bytes).
OVERHEAD = 128
#: Tokens count from here, so that they differ from those of `Liveness`.
_FIRST_TOKEN = 1 << 63


class DatagramPace:
    """The datagrams of one session that are in flight on the current channel."""

    __slots__ = ("_before", "_since", "_token", "is_due", "is_full")

    def __init__(self) -> None:
        #: The bytes that were written before the PING whose PONG is awaited; 0 if none is.
        self._before = 0
        #: The bytes that were written after it.
        self._since = 0
        #: The token of that PING, or of the last one.
        self._token = _FIRST_TOKEN
        #: Whether a PING has to be written.
        self.is_due = False
        #: Whether no datagram may be written.
        self.is_full = False

    def restart(self) -> None:
        """Begin again: there is another channel, or none. What was in flight is lost, and so are the answers."""
        self._before = self._since = 0
        self._update()

    def written(self, size: int) -> None:
        """Note that a datagram of `size` bytes was written."""
        self._since += size + OVERHEAD
        self._update()

    def probe(self) -> bytes:
        """Return the token of a PING that is written now, because `is_due`."""
        self._before, self._since = self._since, 0
        self._token += 1
        self._update()
        return struct.pack(">Q", self._token)

    def answered(self, token: bytes) -> None:
        """Handle a PONG. It is ignored unless it is the one that is awaited."""
        if self._before and token == struct.pack(">Q", self._token):
            self._before = 0
            self._update()

    def _update(self) -> None:
        self.is_due = not self._before and self._since >= PROBE_AFTER
        self.is_full = self._before + self._since >= MAX_IN_FLIGHT
