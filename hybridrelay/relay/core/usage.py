"""Counting the usage of hybrid connections in each period, and noting when keys were last used. Pure.

The rules:

1. The caller passes in the total that the pairs of a hybrid connection have moved. The difference from the previous
   total counts for the current period. A total that is lower than the previous one has begun again at zero.
2. Periods never go back: if the clock is set back to an earlier one, usage continues to count for the later one.
3. To save usage, the caller takes a batch of the differences since the last one, and puts it back if saving fails. So
   a relay that is killed loses only what it has counted since it last saved, and nothing counts twice.

Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..model import KeyId
from ..usage import TOTAL, Batch, Period, Usage

__all__ = ["UsageMachine"]

_NOTHING = Usage()


class UsageMachine:
    """The usage of all hybrid connections; see the module's docstring. `now` is the time at which counting begins."""

    def __init__(self, now: float) -> None:
        self.period = Period.at(now)
        #: The usage of the current period, by hybrid connection.
        self._usage: dict[str, Usage] = {}
        #: Its bytes in both directions together.
        self._bytes: dict[str, int] = {}
        #: The total of each hybrid connection when it was last observed.
        self._seen: dict[str, tuple[int, int]] = {}
        self._unsaved: dict[tuple[Period, str], Usage] = {}
        self._keys: dict[KeyId, float] = {}
        self._unsaved_keys: dict[KeyId, float] = {}

    # --- reading

    def of(self, connection: str) -> Usage:
        """Return the usage of a hybrid connection, or `TOTAL`, in the current period."""
        return self._usage.get(connection, _NOTHING)

    def bytes_by_connection(self) -> dict[str, int]:
        """Return the bytes of the current period in both directions together."""
        return dict(self._bytes)

    def last_use(self, key: KeyId) -> float | None:
        """Return when a key was last used; None if it never was."""
        return self._keys.get(key)

    def key_uses(self) -> dict[KeyId, float]:
        """Return when keys were last used."""
        return dict(self._keys)

    # --- inputs

    def advance(self, now: float) -> bool:
        """Begin the next period if it is time. Returns whether the clock is before the current period, because it was
        set back."""
        period = Period.at(now)
        if period > self.period:
            self.period = period
            self._usage, self._bytes = {}, {}
        return period < self.period

    def observe(self, connection: str, to_client: int, to_connector: int) -> None:
        """Note how much was moved for a hybrid connection in total."""
        last = self._seen.get(connection, (0, 0))
        if to_client < last[0] or to_connector < last[1]:
            last = 0, 0
        self._seen[connection] = to_client, to_connector
        self._add(connection, Usage(to_client - last[0], to_connector - last[1]))

    def joined(self, connection: str) -> None:
        """Count a pair of data channels that was joined."""
        self._add(connection, Usage(joins=1))

    def forget(self, connection: str) -> None:
        """Note that a hybrid connection was deleted, so that its total begins again. If it is created again, its
        usage continues."""
        self._seen.pop(connection, None)

    def used(self, key: KeyId, now: float) -> None:
        """Note that a token made with this key was accepted."""
        self._keys[key] = self._unsaved_keys[key] = now

    def forget_keys(self, ended: Iterable[KeyId]) -> None:
        """Forget keys that no longer exist."""
        for key in ended:
            self._keys.pop(key, None)
            self._unsaved_keys.pop(key, None)

    def keep_keys(self, connections: Mapping[str, object]) -> None:
        """Forget the keys of hybrid connections that do not exist. Takes time in proportion to all keys."""
        self.forget_keys([key for key in self._keys if key.connection not in connections])

    # --- saving

    def take(self) -> Batch:
        """Return what has not been saved yet. From then on, it counts as saved."""
        batch = Batch(self._unsaved, self._unsaved_keys)
        self._unsaved, self._unsaved_keys = {}, {}
        return batch

    def put_back(self, batch: Batch) -> None:
        """Take back a batch that could not be saved."""
        for place, usage in batch.usage.items():
            self._unsaved[place] = self._unsaved.get(place, _NOTHING) + usage
        self._unsaved_keys = {**batch.keys, **self._unsaved_keys}

    def restore(self, period: Period | None, usage: Mapping[str, Usage], keys: Mapping[KeyId, float]) -> None:
        """Continue from what an earlier run has saved: its last period, the usage in it, and the last uses of keys.
        Call this once."""
        if period is not None and period > self.period:
            # The clock was set back while the relay was stopped. Usage since the start counts for the saved, later
            # period.
            moved: dict[tuple[Period, str], Usage] = {}
            for (_, name), one in self._unsaved.items():
                moved[period, name] = moved.get((period, name), _NOTHING) + one
            self._unsaved = moved
            self.period = period
        if period == self.period:
            for name, one in usage.items():
                self._enter(name, self.of(name) + one)
        self._keys = {**keys, **self._keys}

    def _add(self, connection: str, usage: Usage) -> None:
        if usage == _NOTHING:
            return
        for name in (connection, TOTAL):
            self._enter(name, self.of(name) + usage)
            place = self.period, name
            self._unsaved[place] = self._unsaved.get(place, _NOTHING) + usage

    def _enter(self, name: str, usage: Usage) -> None:
        self._usage[name] = usage
        if name != TOTAL:
            self._bytes[name] = usage.bytes
