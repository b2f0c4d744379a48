"""When a flow of datagrams ends, because nothing is sent any more, or only by the target. Pure.

A program that is gone does not say so, and its target may go on sending. So only the program can keep a flow for
longer than `SILENT_SECONDS`. Address translators do the same with UDP, for the same reason (RFC 4787, REQ-5 and
REQ-6).
"""

from __future__ import annotations

__all__ = ["ANSWERED_PORTS", "ANSWERED_SECONDS", "IDLE_SECONDS", "SILENT_SECONDS", "IdleRule"]

#: How long a flow may be idle (seconds). Longer than the intervals at which programs repeat requests, and long enough
#: for most protocols that keep a flow open.
IDLE_SECONDS = 60.0
#: The same after one request and one answer, if the target has one of `ANSWERED_PORTS` (seconds). Such a flow is
#: usually over, because its program uses another port for the next request.
ANSWERED_SECONDS = 10.0
#: DNS, LDAP (as CLDAP), and the browser service of SQL Server.
ANSWERED_PORTS = frozenset({53, 389, 1434})
#: How long a flow continues after its program has last sent something, even if the target goes on sending (seconds).
SILENT_SECONDS = 300.0


class IdleRule:
    """Computes when a flow ends if nothing more happens.

    Args:
        port: the target's.
        now: when the flow began; like all times, on any monotonic clock (seconds).
    """

    __slots__ = ("_has_one_answer", "_last", "_received", "_sent", "_sent_at")

    def __init__(self, port: int, now: float) -> None:
        self._has_one_answer = port in ANSWERED_PORTS
        self._sent = self._received = 0
        self._last = self._sent_at = now

    @property
    def deadline(self) -> float:
        """When the flow ends."""
        is_answered = self._has_one_answer and self._sent == self._received == 1
        idle = self._last + (ANSWERED_SECONDS if is_answered else IDLE_SECONDS)
        return min(idle, self._sent_at + SILENT_SECONDS)

    def sent(self, now: float) -> None:
        """Note that a datagram was sent to the target."""
        self._sent += 1
        self._last = self._sent_at = now

    def received(self, now: float) -> None:
        """Note that the target has sent a datagram."""
        self._received += 1
        self._last = now
