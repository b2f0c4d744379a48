"""Checkpoints of the audit logs of connectors and clients, which a relay keeps as evidence: values and limits. Pure.

The rules:

1. Every peer with a valid key of a hybrid connection may have checkpoints kept under its name. When its room is used
   up, further checkpoints are refused, and the checkpoints of other logs are not affected. So somebody who floods the
   relay can keep others with a key of the same hybrid connection from storing more, which they notice, but cannot
   remove their evidence. A quarter of the room is reserved for connectors, so that clients cannot stop a connector
   whose policy requires a witness.
2. A checkpoint has to be signed with the key that it names. The relay does not know whose key this is.
3. Checkpoints are kept for `KEPT_SECONDS`. After a day, only the first and the last one of each hour, log and key are
   left, and after 30 days, those of each day. Each signature covers everything before it, so those in between
   prove little more. Only somebody who has the key of a log can add to what is compared here, so nobody else can have
   its checkpoints deleted.
4. When the room for a hybrid connection is almost used up, each of its logs to which one is added makes room itself:
   the checkpoints of this log and instance are thinned early, but not those of the last hour (`PRESSED`). So a few
   programs that are busy all the time do not use up the room.
5. No hybrid connection may have more than a part of what is still free in the first half of the file (`FREE_PART`).
   About 50 hybrid connections together can use up that half.
6. The second half is for hybrid connections that have few checkpoints: each may have `FEW_ROWS`, but not more than a
   small part of what is still free in the whole file (`FEW_PART`). So there is room for `FEW_ROWS` of another one
   even if 100 hybrid connections take all they can (with the longest names; 400 with short ones), and then for fewer.
7. Whatever others have used up, a hybrid connection may have `LEAST_ROWS`; and a log that has no room for another
   checkpoint goes on: a later one takes the place of one of its own (`least_needed`). It has to be signed with the
   same key. While others have left no room for `FEW_ROWS`, a later checkpoint of a connector may also replace one
   that is signed with an earlier key, if that came from the same instance: the keys of a log change every day. For
   this, the file may become larger by `REPLACING_PART`; only about 9,000 hybrid connections together use that up.
   Nobody's evidence is deleted to make room for others.
8. Clients may use three quarters of each of these parts (`CLIENT_PART`), as of all other limits.
9. A control channel may send `PACE_BURST` checkpoints in a burst, and then one every `PACE_SECONDS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import attrs

from .._value import Value
from ..protocol.control import Witness

__all__ = [
    "CLIENT_LOGS",
    "CLIENT_PART",
    "CLIENT_ROWS",
    "FEW_PART",
    "FEW_ROWS",
    "FREE_PART",
    "KEPT_SECONDS",
    "LEAST_ROWS",
    "MAX_BYTES",
    "MAX_LOGS",
    "MAX_ROWS",
    "PACE_BURST",
    "PACE_SECONDS",
    "PRESSED",
    "PRESS_ROWS",
    "PRESS_SECONDS",
    "REPLACING_PART",
    "RESERVED_PART",
    "THINNED",
    "CheckpointQuery",
    "CheckpointsFull",
    "KeptCheckpoint",
    "Pace",
    "least_needed",
    "row_bytes",
]

#: How long checkpoints are kept (seconds).
KEPT_SECONDS: Final = 400 * 86_400.0
#: From which age on, only the first and the last checkpoint of each interval are kept (both in seconds).
THINNED: Final = ((86_400.0, 3600), (30 * 86_400.0, 86_400))
#: For one hybrid connection: of how many audit logs checkpoints are kept, and how many checkpoints in all. A log that
#: is busy all the time has about 6,000.
MAX_LOGS: Final = 64
MAX_ROWS: Final = 20_000
#: How many of them there may be for clients to add one; connectors may use the rest, too.
CLIENT_PART: Final = 0.75
CLIENT_LOGS: Final = 48
CLIENT_ROWS: Final = 15_000
#: As `THINNED`, for one log, when its hybrid connection has room for fewer than `PRESS_ROWS` more checkpoints, or for
#: fewer than a quarter of what it may have, whichever is less. One after the other is applied, until there is as
#: much. A log that has always had a checkpoint every minute has about 350 after all of them; with one every 20
#: seconds, 490.
PRESSED: Final = ((3600.0, 600), (86_400.0, 21_600), (3600.0, 3600), (86_400.0, 86_400), (30 * 86_400.0, 864_000))
PRESS_ROWS: Final = 250
#: How often one log may make room for itself (seconds). Each time takes some milliseconds.
PRESS_SECONDS: Final = 30.0
#: The maximum size of all checkpoints (bytes). There is room for 160,000 to 400,000 of them, depending on the length
#: of names.
MAX_BYTES: Final = 256 << 20
#: By how much of it the file may become larger while logs replace their own checkpoints, and hybrid connections have
#: no more than `LEAST_ROWS`. What is replaced leaves gaps: at worst two thirds of a page of SQLite, in simulated
#: attacks a third of the file.
REPLACING_PART: Final = 1.0
#: How many checkpoints of a hybrid connection are kept whatever others have used up.
LEAST_ROWS: Final = 16
#: The part of the file that is reserved for hybrid connections with few checkpoints; see rule 6.
RESERVED_PART: Final = 0.5
#: How much of the rest, as far as it is free, one hybrid connection may use.
FREE_PART: Final = 0.25
#: How many checkpoints are few, and how much of the room that is free in the whole file they may use.
FEW_ROWS: Final = 400
FEW_PART: Final = 1 / 128
#: Checkpoints that are newer than this (seconds) are equally new for `least_needed`.
_NEW_SECONDS: Final = 60.0
PACE_SECONDS: Final = 10.0
PACE_BURST: Final = 5


def row_bytes(connection: str) -> int:
    """Return an upper bound of the size of one checkpoint of a hybrid connection, with its indices (bytes).

    The name is in the table and in two indices; the other fields have about the same size in all checkpoints. Tests
    compare this with files.
    """
    return 700 + 4 * len(connection.encode())


def least_needed(received: Sequence[float], now: float) -> int | None:
    """Return which checkpoint of a log can best be replaced by a later one.

    It is the one that would leave the smallest gap in proportion to its age, and never the first one. So the gaps
    between those that are left grow with their age: what is hidden in a gap is a fraction of the time that has passed
    since then, and the more checkpoints are left, the smaller this fraction is.

    Args:
        received: when the log's checkpoints were received (seconds since 1970), in the order in which they were.
        now: when the one was received that is to replace one of them.

    Returns:
        Its index; None if there are fewer than two.
    """
    # A time after that of a later one was read from a clock that was wrong.
    times = [*itertools.accumulate(reversed((*received, now)), min)][::-1]

    def gap(index: int) -> float:
        return (times[index + 1] - times[index - 1]) / max(now - times[index], _NEW_SECONDS)

    return min(range(1, len(received)), key=gap, default=None)


@attrs.frozen
class KeptCheckpoint(Value):
    """A checkpoint that the relay keeps."""

    #: What the peer has sent.
    connection: str
    log_id: str
    seq: int
    head: str
    at: str
    key: str
    signature: str
    #: The instance and the address group of the peer.
    instance: str
    address: str
    #: When the relay stored it (seconds since 1970).
    received_at: float
    #: Its number in the store; 0 before it is stored.
    id: int = 0

    @classmethod
    def of(cls, request: Witness, instance: str, address: str, now: float) -> KeptCheckpoint:
        """Return the checkpoint that a peer has sent."""
        return cls(
            request.connection,
            request.log,
            request.seq,
            request.head,
            request.at,
            request.key,
            request.signature,
            instance,
            address,
            now,
        )

    def is_signed(self) -> bool:
        """Return whether it is signed with the key that it names."""
        from ..audit.chain import Checkpoint  # imported here, because it is slow to import
        from ..audit.keys import VerifyingKey

        try:
            key = VerifyingKey.parse(self.key)
        except ValueError:
            return False
        return Checkpoint(self.log_id, self.seq, self.head, self.at, self.key, self.signature).is_signed_with(key)


@attrs.frozen
class CheckpointQuery(Value):
    """Which checkpoints to read, in the order in which they were stored."""

    limit: int
    #: Only those with a higher number.
    after: int = 0
    #: Only this log, and only this hybrid connection; empty: all.
    log_id: str = ""
    connection: str = ""
    #: Only hybrid connections whose names begin with this.
    prefix: str = ""


class CheckpointsFull(Exception):
    """A limit for checkpoints is reached. The text says which."""


@attrs.define
class Pace:
    """How many checkpoints one control channel may send now."""

    _allowed: float = float(PACE_BURST)
    _at: float = 0.0

    def admits(self, now: float) -> bool:
        """Return whether another one may be sent.

        Args:
            now: seconds, on a monotonic clock.
        """
        self._allowed = min(PACE_BURST, self._allowed + max(0.0, now - self._at) / PACE_SECONDS)
        self._at = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True
