"""The policy of a running program: read at the start, and again whenever it changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from .._file_thread import FileThread
from .._nursery import FlatNursery
from .._value import Value
from ..errors import ConfigurationError
from ..events.base import Event
from ..events.policy import PolicyInForce
from .decision import Policy
from .deny_list import shorten
from .directory import Stamp
from .document import Restrictions
from .machine import PolicySource, policy_sources

__all__ = ["PolicyChange", "WatchedPolicy"]

#: How often to look for changes (seconds). A change is in force after at most three times this time, unless the
#: source changes again in the meantime.
POLL_SECONDS = 0.25
#: A source that changes all the time is read although it may change while it is read, after this time (seconds).
RESTLESS_SECONDS = 2.0


@attrs.frozen
class PolicyChange(Value):
    """The policy after a reading of one source (at first, of all sources), and the policy before it."""

    policy: Policy
    #: None at the first reading.
    before: Policy | None = None

    def event(self) -> Event | None:
        """Return the event about this reading; None if there was no policy, and there is none now."""
        rules, earlier = _rules(self.policy), frozenset[str]() if self.before is None else _rules(self.before)
        if not rules and not earlier:
            return None
        return PolicyInForce(
            files=len(self.policy.files),
            rules=len(rules),
            added=shorten(rules - earlier),
            removed=shorten(earlier - rules),
        )


def _rules(policy: Policy) -> frozenset[str]:
    return frozenset(f"{key} {text} ({place})" for file in policy.files for key, text, place in file.stated())


class _WatchedSource:
    """One source, and what was last read from it.

    Each source is read by itself, so that none of them keeps a change of another one from being applied: anybody may
    own a further directory, which may be invalid, change all the time, or be on a file system that does not answer.

    Raises:
        ConfigurationError: it cannot be read, or is not valid.
    """

    def __init__(self, source: PolicySource) -> None:
        self._source = source
        self._files = FileThread(source.describe())
        self._reading = trio.Lock()
        self._stamp = source.stamp()
        #: What is in force.
        self.content = source.read()
        #: Why the last attempt to read failed; None if it succeeded.
        self.error: str | None = None
        #: The stamp at the last look, and since when the stamps have been different at each look.
        self._seen = self._stamp
        self._restless_since: float | None = None
        #: When to look again, on Trio's clock.
        self._next_look = -math.inf

    def _read(self) -> tuple[Stamp, tuple[Restrictions, ...]]:
        """Read the source. The stamp is taken before, so that a change during the reading is noticed later."""
        stamp = self._source.stamp()
        if self._stamp and not stamp:
            raise ConfigurationError(
                f"{self._source.describe()} has disappeared, and what was read from it stays in force",
                remedy="to remove the policy, leave an empty directory, registry key or property list there, or "
                "restart the program",
            )
        return stamp, self._source.read()

    async def reload(self) -> None:
        """See `WatchedPolicy.reload`."""
        async with self._reading:  # without the lock, an earlier reading could replace a later one
            self._stamp, self.content = await self._files.run(self._read)
            self.error = None

    async def look(self) -> bool:
        """Read the source if it has changed and is not changing any more (see `WatchedPolicy.watch`), unless another
        task looks at it or has just done so. Returns whether it was read.

        Raises:
            ConfigurationError: it cannot be read, or is not valid, which was not reported before.
        """
        now = trio.current_time()
        if now < self._next_look:
            return False
        self._next_look = math.inf
        try:
            return await self._look(now)
        except ConfigurationError as exc:
            is_new, self.error = str(exc) != self.error, str(exc)
            if is_new:
                raise
            return False
        finally:
            self._next_look = trio.current_time() + POLL_SECONDS / 2

    async def _look(self, now: float) -> bool:
        stamp = await self._files.run(self._source.stamp)
        is_settled, self._seen = stamp == self._seen, stamp
        if is_settled:
            self._restless_since = None
        elif self._restless_since is None:
            self._restless_since = now
        is_due = is_settled or (self._restless_since is not None and now - self._restless_since >= RESTLESS_SECONDS)
        # After an error, read in any case: a file that was restored may have the same stamp.
        if not is_due or (stamp == self._stamp and self.error is None):
            return False
        await self.reload()
        return True


class WatchedPolicy:
    """The policy of this machine and of further directories: what is allowed by all that was last read from each of
    them.

    Args:
        directories: see `policy_sources`.

    Raises:
        ConfigurationError: a source cannot be read, or is not valid.
    """

    def __init__(self, directories: Sequence[Path] = ()) -> None:
        self._sources = [_WatchedSource(source) for source in policy_sources(directories)]
        #: What is in force, and what was in force before.
        self.change = PolicyChange(self._combined())
        #: The change whose event was taken last.
        self._told: PolicyChange | None = None

    @classmethod
    def shared(cls, directories: Sequence[Path] = ()) -> WatchedPolicy:
        """Return the instance for these directories. All callers in a Trio run get the same one, so that the files
        are read only once.

        Raises:
            ConfigurationError: see `WatchedPolicy`.
        """
        try:
            known = _SHARED.get()
        except LookupError:
            known = {}
            _SHARED.set(known)
        key = tuple(directories)
        if key not in known:
            known[key] = cls(directories)
        return known[key]

    def take_event(self) -> Event | None:
        """Return the event about the last reading; None if there is nothing to report, or it was already taken."""
        change, before, self._told = self.change, self._told, self.change
        return None if change is before else change.event()

    @property
    def errors(self) -> Sequence[str]:
        """Why sources could not be read at the last look. What was read from them before is in force."""
        return tuple(source.error for source in self._sources if source.error is not None)

    @property
    def policy(self) -> Policy:
        """The policy that is in force."""
        return self.change.policy

    def _combined(self) -> Policy:
        return Policy(files=tuple(file for source in self._sources for file in source.content))

    def _apply(self) -> None:
        self.change = PolicyChange(self._combined(), self.policy)

    async def reload(self) -> None:
        """Read all sources now, whether they have changed or not.

        Raises:
            ConfigurationError: a source cannot be read, or is not valid. What was last read from it stays in force;
                what was read from the others is put into force.

        If cancelled, what was read until then is in force.
        """
        errors: list[ConfigurationError] = []
        is_read = False
        try:
            for source in self._sources:
                try:
                    await source.reload()
                    is_read = True
                except ConfigurationError as exc:
                    errors.append(exc)
        finally:
            if is_read:  # once for all, so that the event has the changes of all
                self._apply()
        if errors:
            raise errors[0]

    async def watch(self, changed: Callable[[], None], failed: Callable[[ConfigurationError], None]) -> None:
        """Look for changes until cancelled. If a source cannot be read, what was last read from it stays in force.

        A change of a source is put into force when it has not changed between two looks, because an editor may first
        make a file empty and then write it; but after `RESTLESS_SECONDS` in any case. Several tasks may watch; only
        one of them looks at a source at a time.

        Args:
            changed: called when the policy was read again.
            failed: called with the error when a source cannot be read, but only once for the same error, and only in
                one of the tasks.
        """
        known = self.change

        def report() -> None:
            nonlocal known
            if known is not self.change:
                known = self.change
                changed()

        async def watch(source: _WatchedSource) -> None:
            while True:
                await trio.sleep(POLL_SECONDS)
                try:
                    if await source.look():
                        self._apply()
                except ConfigurationError as exc:
                    failed(exc)
                report()

        async with FlatNursery() as nursery:
            for source in self._sources:
                nursery.start_soon(watch, source)


#: The policies of a Trio run that several users share.
_SHARED: trio.lowlevel.RunVar[dict[tuple[Path, ...], WatchedPolicy]] = trio.lowlevel.RunVar("hybridrelay policies")
