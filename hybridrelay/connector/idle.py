"""How long a flow of datagrams may be idle before it ends. Pure."""

from __future__ import annotations

__all__ = ["ANSWERED_PORTS", "ANSWERED_SECONDS", "IDLE_SECONDS", "IdleRule"]

#: How long a flow may be idle (seconds). Longer than the intervals at which programs repeat requests, and long enough
#: for most protocols that keep a flow open.
IDLE_SECONDS = 60.0
#: The same after one request and one answer, if the target has one of `ANSWERED_PORTS` (seconds). Such a flow is
#: usually over, because its program uses another port for the next request.
ANSWERED_SECONDS = 10.0
#: DNS, LDAP (as CLDAP), and the browser service of SQL Server.
ANSWERED_PORTS = frozenset({53, 389, 1434})


class IdleRule:
    """Computes when a flow ends if nothing more happens.

    Args:
        port: the target's.
        now: when the flow began; like all times, on any monotonic clock (seconds).
    """

    __slots__ = ("_has_one_answer", "_last", "_received", "_sent")

    def __init__(self, port: int, now: float) -> None:
        self._has_one_answer = port in ANSWERED_PORTS
        self._sent = self._received = 0
        self._last = now

    @property
    def deadline(self) -> float:
        """When the flow ends."""
        is_answered = self._has_one_answer and self._sent == self._received == 1
        return self._last + (ANSWERED_SECONDS if is_answered else IDLE_SECONDS)

    def sent(self, now: float) -> None:
        """Note that a datagram was sent to the target."""
        self._sent += 1
        self._last = now

    def received(self, now: float) -> None:
        """Note that the target has sent a datagram."""
        self._received += 1
        self._last = now
