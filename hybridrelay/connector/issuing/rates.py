"""How often programs may request identities. Pure.

Only requests that were admitted count: a program that asks too often gets as many answers as one that waits.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable

import attrs

__all__ = ["MAX_REQUESTS", "REQUESTS_SECONDS", "RequestRates"]

#: How many requests one program with an identity may make within `REQUESTS_SECONDS`; further ones are refused. A
#: program makes one, and repeats it after some seconds if it fails.
MAX_REQUESTS = 30
REQUESTS_SECONDS = 60.0
#: How many programs are remembered. Beyond that, the one whose last request is the oldest is forgotten.
MAX_REMEMBERED = 4096


@attrs.define
class _Requests:
    """The requests of one program."""

    #: When those were made that were admitted. The oldest is first.
    admitted: deque[float] = attrs.field(factory=deque)
    #: When a refusal was last reported.
    reported: float = -math.inf


class RequestRates:
    """Counts the requests of programs. Times are seconds on a monotonic clock."""

    def __init__(self) -> None:
        self._by_program: OrderedDict[Hashable, _Requests] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_program)

    def admit(self, program: Hashable, now: float) -> bool:
        """Return whether a program may make a request now, and count the request if so."""
        found = self._by_program.setdefault(program, _Requests())
        self._by_program.move_to_end(program)
        if len(self._by_program) > MAX_REMEMBERED:
            self._by_program.popitem(last=False)
        while found.admitted and now - found.admitted[0] >= REQUESTS_SECONDS:
            found.admitted.popleft()
        if len(found.admitted) >= MAX_REQUESTS:
            return False
        found.admitted.append(now)
        return True

    def reports(self, program: Hashable, now: float) -> bool:
        """Return whether a refusal by `admit` is to be reported: only the first one in `REQUESTS_SECONDS` is. Call it
        once for each refusal."""
        found = self._by_program.setdefault(program, _Requests())
        if now - found.reported < REQUESTS_SECONDS:
            return False
        found.reported = now
        return True
