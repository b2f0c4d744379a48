"""How many records the peers of one hybrid connection may cause at a relay. Pure.

A peer that has a key of a hybrid connection can register and join without limit. Each registration and each join
causes records at the relay, which would fill the audit log, and make it delete older records that matter more. The
rules:

1. Only records count whose event begins with a word in `LIMITED_SUBJECTS`, except those about something that an
   administrator has done (`_is_administrators`). All others, such as those of a connector or client about streams and
   sessions, are never left out.
2. Each hybrid connection may cause `BURST` records in a burst, and `RATE` a second in the long run. Records above
   that are left out, and counted.
3. `take_left_out` returns the counts, for a record about each hybrid connection with omitted records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from ..protocol.reasons import Reason
from .record import Record

__all__ = ["BURST", "LIMITED_SUBJECTS", "RATE", "SourceLimit"]

#: The first words of the names of the events that count.
LIMITED_SUBJECTS: Final = frozenset({"listener", "rendezvous"})
#: The events that an administrator of the relay causes: a drain.
_EVENTS_OF_ADMINISTRATORS: Final = frozenset({"listener.drain-started", "listener.drain-ended"})
#: The reasons in other events that an administrator causes: a drop, a revoked key, a hybrid connection that was
#: disabled or deleted.
_REASONS_OF_ADMINISTRATORS: Final = frozenset(
    one.slug
    for one in (
        Reason.ADMINISTRATOR_DROPPED,
        Reason.KEY_REVOKED,
        Reason.CONNECTION_DISABLED,
        Reason.UNKNOWN_CONNECTION,
    )
)
#: Events that peers cause even if their reason is in `_REASONS_OF_ADMINISTRATORS`: a listener states this reason
#: itself, or asks for something that the relay refuses for this reason.
_EVENTS_OF_PEERS: Final = frozenset({"listener.refused", "listener.declined"})
#: How many records a hybrid connection may cause in a burst: when all of its connectors and clients come back.
BURST: Final = 2000
#: How many it may cause in the long run (per second). A client that reuses its session causes none.
RATE: Final = 20.0


@attrs.define
class _Source:
    #: How many records the hybrid connection was allowed to cause at the time `at` (seconds, on the clock of
    #: `admits`).
    allowed: float
    at: float
    left_out: int = 0


class SourceLimit:
    """Decides which records are left out; see the module's docstring."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}

    def admits(self, record: Record, now: float) -> bool:
        """Return whether a record is to be written.

        Args:
            record: the record.
            now: seconds, on a monotonic clock.
        """
        if record.event.partition(".")[0] not in LIMITED_SUBJECTS or _is_administrators(record):
            return True
        name = str(record.fields.get("connection", ""))
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = _Source(float(BURST), now)
        source.allowed = min(BURST, source.allowed + (now - source.at) * RATE)
        source.at = now
        if source.allowed < 1:
            source.left_out += 1
            return False
        source.allowed -= 1
        return True

    def take_left_out(self, now: float) -> Mapping[str, int]:
        """Return how many records were left out since the last call, by hybrid connection. Hybrid connections that
        have caused no records for a while are forgotten.

        Records that name no hybrid connection are counted under an empty text.
        """
        found = {name: source.left_out for name, source in self._sources.items() if source.left_out}
        for name, source in list(self._sources.items()):
            source.left_out = 0
            if source.allowed + (now - source.at) * RATE >= BURST:
                del self._sources[name]
        return found


def _is_administrators(record: Record) -> bool:
    """Return whether the record is about something that an administrator of the relay has done."""
    if record.event in _EVENTS_OF_ADMINISTRATORS:
        return True
    return record.event not in _EVENTS_OF_PEERS and record.fields.get("reason") in _REASONS_OF_ADMINISTRATORS
