"""Places of which there is a limited number, and how many of them one key and one hybrid connection may hold. Pure.

The rules:

1. A key holds at most as many places as are free, and a hybrid connection at most twice as many as are free. So a
   key alone gets half of them and a hybrid connection two thirds, the next one two thirds of the rest, and there are
   always some left for later requests. While most places are free, this is no limit.
2. An operator may set lower limits for each key and each hybrid connection.
3. A place that was taken is never taken away in favour of another holder.
"""

from __future__ import annotations

from collections import Counter

from ...errors import RendezvousError
from ...protocol.reasons import Reason
from ..model import KeyId

__all__ = ["Places"]


class Places:
    """How many places each key and each hybrid connection holds.

    Args:
        what: the name of what has a place, in the plural, for people.
        total: how many places there are, at least 1.
        per_connection: the most that one hybrid connection may hold; None: only rule 1 counts.
        per_key: the most that one key may hold; None: only rule 1 counts.

    Raises:
        ValueError: a limit below 1.
    """

    def __init__(
        self, what: str, total: int, *, per_connection: int | None = None, per_key: int | None = None
    ) -> None:
        if min(total, per_connection or total, per_key or total) < 1 or 0 in (per_connection, per_key):
            raise ValueError("a limit is at least 1")
        self.total = total
        self._what = what
        self._per_connection = total if per_connection is None else per_connection
        self._per_key = total if per_key is None else per_key
        self._by_key: Counter[KeyId] = Counter()
        self._by_connection: Counter[str] = Counter()
        self._taken = 0

    def __len__(self) -> int:
        """Places taken."""
        return self._taken

    def take(self, key: KeyId) -> None:
        """Take a place, until `give_back`.

        Raises:
            RendezvousError: with `Reason.LIMIT`; nothing has changed.
        """
        free = self.total - self._taken
        if self._by_key[key] >= min(free, self._per_key):
            raise self._refusal(f"the key {key.rule!r}")
        if self._by_connection[key.connection] >= min(2 * free, self._per_connection):
            raise self._refusal("this hybrid connection")
        self._by_key[key] += 1
        self._by_connection[key.connection] += 1
        self._taken += 1

    def give_back(self, key: KeyId) -> None:
        """The opposite of `take`, once for each."""
        self._by_key[key] -= 1
        self._by_connection[key.connection] -= 1
        self._taken -= 1
        assert self._by_key[key] >= 0, "given back more often than taken"
        if not self._by_key[key]:
            del self._by_key[key]
        if not self._by_connection[key.connection]:
            del self._by_connection[key.connection]

    def _refusal(self, whose: str) -> RendezvousError:
        return RendezvousError(f"{whose} has as many {self._what} as the relay has room for", reason=Reason.LIMIT)
