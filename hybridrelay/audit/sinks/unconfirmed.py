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
5. What was sent on `MAX_SENDINGS` connections, each of which was found alive `READ_SECONDS` later, counts as read:
   the server probably closes every idle connection soon, and would otherwise get the same records without end. From
   then on, the end of a connection that was found alive `READ_SECONDS` after its first data does not count in rule 2,
   until a connection remains alive for `CONFIRMED_SECONDS`.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import Final

import attrs

__all__ = [
    "CONFIRMED_SECONDS",
    "MAX_ENDS",
    "MAX_KEPT",
    "MAX_SENDINGS",
    "READ_SECONDS",
    "WATCH_SECONDS",
    "Unconfirmed",
]

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
#: On how many connections the same data is sent at most, if each of them was found alive for a while.
MAX_SENDINGS: Final = 5
#: A connection counts for `MAX_SENDINGS` if it is found alive this long after the data was sent (seconds). A server
#: that reads nothing often closes connections at once.
READ_SECONDS: Final = 5.0


@attrs.define
class _Part:
    data: bytes
    #: When it was sent on the last connection.
    at: float
    #: On how many connections it was sent and found alive `READ_SECONDS` later.
    sendings: int = 0


class Unconfirmed:
    """The data that was sent to one server and may not have been read. Times are seconds on any one clock."""

    def __init__(self) -> None:
        #: In the order in which they were sent; all of `_counted` before all of `_parts`. The former were sent on the
        #: last connection at least `READ_SECONDS` before it was found alive.
        self._counted: deque[_Part] = deque()
        self._parts: deque[_Part] = deque()
        self._bytes = 0
        #: When the first data was sent on the last connection, and when that was last found alive.
        self._since = self._alive_at = 0.0
        #: Whether the server probably closes idle connections soon (rule 5).
        self._closes_idle = False
        #: How many connections in a row have ended with something unconfirmed.
        self._ends = 0

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._counted or self._parts)

    @property
    def data(self) -> bytes:
        """All of it, in order: what to send first on a new connection."""
        return b"".join(part.data for part in chain(self._counted, self._parts))

    @property
    def watch_seconds(self) -> float:
        """How long to wait for the end of a connection after the first data was sent on it."""
        return WATCH_SECONDS[min(self._ends, len(WATCH_SECONDS) - 1)]

    def sent(self, data: bytes, now: float, *, is_first: bool) -> None:
        """Note that data was sent. `is_first`: on a new connection, on which `data` was sent again before it, too."""
        if is_first:
            self._since = self._alive_at = now
            self._parts.extendleft(reversed(self._counted))
            self._counted.clear()
            for part in self._parts:
                part.at = now
        if data:
            self._parts.append(_Part(data, now))
            self._bytes += len(data)
        while self._bytes > MAX_KEPT and len(self._counted) + len(self._parts) > 1:
            self._drop()

    def alive(self, now: float) -> None:
        """Note that the connection is alive."""
        self._alive_at = now
        while self._parts and now - self._parts[0].at >= READ_SECONDS:
            part = self._parts.popleft()
            part.sendings += 1
            self._counted.append(part)
        while self._counted:
            oldest = self._counted[0]
            if now - oldest.at < CONFIRMED_SECONDS:
                if oldest.sendings < MAX_SENDINGS:
                    break
                self._closes_idle, self._ends = True, 0
            self._drop()
        if now - self._since >= CONFIRMED_SECONDS:
            self._closes_idle, self._ends = False, 0

    def ended(self, *, during: bool = False) -> bool:
        """Note that the connection has ended. Returns whether the server counts as failed.

        Args:
            during: whether it has ended while something was being sent that is not noted yet.
        """
        if not self and not during:
            return False
        if self._closes_idle and not during and self._alive_at - self._since >= READ_SECONDS:
            return False
        self._ends += 1
        return self._ends >= MAX_ENDS

    def _drop(self) -> None:
        self._bytes -= len((self._counted or self._parts).popleft().data)
