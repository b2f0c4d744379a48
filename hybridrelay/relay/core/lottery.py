"""Drawing by lot which of the refused applicants gets the next place, if nothing else distinguishes them. Pure.

Without a draw, the applicant that asks most often would get the place. The rules:

1. All applicants that were refused since the last draw take part, each once, no matter how often it has asked. All
   groups of applicants have the same chance.
2. A draw takes place no sooner than `delay` seconds after the first refusal, and `period` seconds after the previous
   winner took its place.
3. The right to the place is kept for the winner for `kept_seconds`, which is longer than an honest program waits
   between two attempts. After that, there is another draw.

The winner is the applicant whose group and name have the smallest hash, under a random key that is new for each draw.
So the memory needed does not depend on the number of applicants, and nobody can choose a name that wins.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

__all__ = ["KEPT_SECONDS", "ROTATION_SECONDS", "Lottery"]

#: The shortest time after which a place changes its owner by lot again (seconds). The displaced program may be an
#: honest one; its sessions continue, and it takes part in the next draws.
ROTATION_SECONDS = 10.0
#: How long a place is kept for the winner (seconds). Connectors and clients wait for at most 30 s between two
#: attempts, plus the time that an attempt takes.
KEPT_SECONDS = 45.0

_SALT_SIZE = 16


class Lottery:
    """See the module's docstring.

    Args:
        randbelow: returns a random number from 0 to one less than its argument, such as `secrets.randbelow`.
        period: see rule 2.
        delay: see rule 2. With 0, a single applicant wins at once, unless it has to wait for `period`.
        kept_seconds: see rule 3.
    """

    def __init__(
        self,
        randbelow: Callable[[int], int],
        *,
        period: float = ROTATION_SECONDS,
        delay: float = ROTATION_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self._randbelow = randbelow
        self._period = period
        self._delay = delay
        self._kept_seconds = kept_seconds
        self._salt = self._new_salt()
        #: The smallest hashes so far.
        self._smallest: tuple[bytes, bytes] | None = None
        #: The name of the applicant with these hashes, which wins the next draw unless one with smaller hashes
        #: follows.
        self._leads = ""
        #: When the next draw is due; infinite until an applicant was refused.
        self._draws_at = math.inf
        #: No draw takes place before that.
        self._rests_until = -math.inf
        self._winner: str | None = None
        self._kept_until = -math.inf

    def ask(self, group: str, name: str, now: float) -> bool:
        """Enter an applicant that would be refused. Returns True if it is the winner and has to be admitted.

        Args:
            group: the applicant's group.
            name: identifies the applicant in its group.
            now: seconds of a monotonic clock.
        """
        winner = f"{group}\n{name}"
        if self._winner is not None and now >= self._kept_until:
            self._winner = None
        if self._winner is None:
            self._enter(group, winner, now)
            if now < self._draws_at:
                return False
            self._draw(now)
        if winner != self._winner:
            self._enter(group, winner, now)
            return False
        self._winner = None
        self._rests_until = now + self._period
        self._draws_at = max(self._draws_at, self._rests_until) if self._smallest is not None else math.inf
        return True

    def _enter(self, group: str, name: str, now: float) -> None:
        if self._smallest is None:
            self._draws_at = max(now + self._delay, self._rests_until)
        hashes = self._hash(group), self._hash(name)
        if self._smallest is None or hashes < self._smallest:
            self._smallest, self._leads = hashes, name

    def _draw(self, now: float) -> None:
        self._winner, self._kept_until = self._leads, now + self._kept_seconds
        self._smallest, self._salt, self._draws_at = None, self._new_salt(), math.inf

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._salt, digest_size=16).digest()

    def _new_salt(self) -> bytes:
        return self._randbelow(1 << 8 * _SALT_SIZE).to_bytes(_SALT_SIZE, "big")
