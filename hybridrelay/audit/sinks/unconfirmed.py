"""What was sent to a syslog server that may not have read it, and when such a server counts as failed. Pure.

syslog has no acknowledgements. A server that accepts connections and closes them without reading, such as a load
balancer in front of servers that do not run, can be recognized only by the end of the connection. The rules:

1. What was sent is kept until the connection is found alive `CONFIRMED_SECONDS` later. If the connection ends before
   that, it is sent again on the next connection. So records arrive at least once, instead of at most once.
2. If two connections in a row end with something unconfirmed, and neither of them was alive for `CONFIRMED_SECONDS`
   after its first data, the server counts as failed, until a connection remains alive for the time of rule 3.
3. After the first data on a connection, its end is awaited for a moment, before the data counts as written. This
   takes longer if earlier connections have ended.
4. At most `MAX_KEPT` bytes are kept, and always what was sent last.
5. If the last connection has ended with something unconfirmed, keepalive messages are sent on the next one while it
   is idle, until everything is confirmed. Otherwise, a server that reads everything, and closes each connection that
   is idle for less than `CONFIRMED_SECONDS`, would get the same data without end, and count as failed. A server that
   does not read closes connections all the same.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["CONFIRMED_SECONDS", "MAX_ENDS", "MAX_KEPT", "WATCH_SECONDS", "Unconfirmed"]

#: How long after it was sent something counts as read if the connection is alive (seconds). Some load balancers close
#: a connection only when they have tried for a while to connect to a server.
CONFIRMED_SECONDS: Final = 30.0
#: The server counts as failed once this many connections in a row have ended with something unconfirmed.
MAX_ENDS: Final = 2
#: How long the end of a connection is awaited after the first data (seconds), by the number of connections in a row
#: that have ended; for more of them, the last value.
WATCH_SECONDS: Final = (0.1, 1.0, 3.0)
#: How much is kept (bytes).
MAX_KEPT: Final = 1024 * 1024


class Unconfirmed:
    """The data that was sent to one server and may not have been read. Times are seconds on any one clock."""

    def __init__(self) -> None:
        #: When each part was sent, and the part.
        self._parts: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        #: When the first data was sent on the last connection.
        self._since = 0.0
        #: How many connections in a row have ended with something unconfirmed.
        self._ends = 0

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._parts)

    @property
    def data(self) -> bytes:
        """All of it, in order: what to send first on a new connection."""
        return b"".join(part for _, part in self._parts)

    @property
    def needs_keepalive(self) -> bool:
        """Whether to send keepalive messages on the connection while nothing else is sent."""
        return bool(self._parts) and self._ends > 0

    @property
    def watch_seconds(self) -> float:
        """How long to wait for the end of a connection after the first data was sent on it."""
        return WATCH_SECONDS[min(self._ends, len(WATCH_SECONDS) - 1)]

    def sent(self, data: bytes, now: float, *, is_first: bool) -> None:
        """Note that data was sent. `is_first`: on a new connection, on which `data` was sent again before it, too."""
        if is_first:
            self._since = now
            self._parts = deque((now, part) for _, part in self._parts)
        if data:
            self._parts.append((now, data))
            self._bytes += len(data)
        while self._bytes > MAX_KEPT and len(self._parts) > 1:
            self._drop()

    def alive(self, now: float) -> None:
        """Note that the connection is alive."""
        while self._parts and now - self._parts[0][0] >= CONFIRMED_SECONDS:
            self._drop()
        if now - self._since >= CONFIRMED_SECONDS:
            self._ends = 0

    def ended(self, *, during: bool = False) -> bool:
        """Note that the connection has ended. Returns whether the server counts as failed.

        Args:
            during: whether it has ended while something was being sent that is not noted yet.
        """
        if not self._parts and not during:
            return False
        self._ends += 1
        return self._ends >= MAX_ENDS

    def _drop(self) -> None:
        self._bytes -= len(self._parts.popleft()[1])
