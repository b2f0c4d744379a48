"""The policy of a running program: read at the start, and again whenever it changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from .._file_thread import FileThread
from ..errors import ConfigurationError
from ..events.base import Event
from ..events.policy import PolicyInForce
from .decision import Policy
from .deny_list import shorten
from .directory import Stamp
from .machine import policy_sources, read_policy

__all__ = ["PolicyChange", "WatchedPolicy"]

#: How often to look for changes (seconds). A change is in force after at most three times this time.
POLL_SECONDS = 0.25


@attrs.frozen
class PolicyChange:
    """A reading of all sources, and the policy before it."""

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


class WatchedPolicy:
    """The policy of this machine and of further directories.

    Args:
        directories: see `policy_sources`.

    Raises:
        ConfigurationError: a source cannot be read, or is not valid.
    """

    def __init__(self, directories: Sequence[Path] = ()) -> None:
        self._sources = policy_sources(directories)
        self._files = FileThread("the policy")
        self._reading = trio.Lock()
        self._stamps: tuple[Stamp, ...] = self._stamps_now()
        #: What is in force, and what was in force before.
        self.change = PolicyChange(read_policy(self._sources))
        #: Why the last attempt to read failed; None if it succeeded.
        self._error: str | None = None
        #: The change whose event was taken last.
        self._told: PolicyChange | None = None
        #: The stamps at the last look, and when to look again, on Trio's clock.
        self._seen = self._stamps
        self._next_look = -math.inf

    @classmethod
    def shared(cls, directories: Sequence[Path] = ()) -> WatchedPolicy:
        """Return the one for these directories that all callers in this Trio run share, so that the files are read
        only once.

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
        """Return the event about the last reading; None if there is nothing to report, or it was taken already."""
        change, before, self._told = self.change, self._told, self.change
        return None if change is before else change.event()

    @property
    def policy(self) -> Policy:
        """The policy that is in force."""
        return self.change.policy

    def _stamps_now(self) -> tuple[Stamp, ...]:
        return tuple(source.stamp() for source in self._sources)

    def _read(self) -> tuple[tuple[Stamp, ...], Policy]:
        """Read all sources. The stamps are taken before, so that a change during the reading is noticed later."""
        stamps = self._stamps_now()
        for source, before, now in zip(self._sources, self._stamps, stamps, strict=True):
            if before and not now:
                raise ConfigurationError(
                    f"{source.describe()} has disappeared, and what was read from it stays in force",
                    remedy="to remove the policy, leave the directory empty, or restart the program",
                )
        return stamps, read_policy(self._sources)

    async def reload(self) -> None:
        """Read all sources now, whether they have changed or not.

        Raises:
            ConfigurationError: a source cannot be read, or is not valid; `policy` stays as it is.
        """
        async with self._reading:  # without the lock, an earlier reading could replace a later one
            self._stamps, policy = await self._files.run(self._read)
            self.change = PolicyChange(policy, self.policy)
            self._error = None

    async def watch(self, changed: Callable[[], None], failed: Callable[[ConfigurationError], None]) -> None:
        """Look for changes until cancelled. If a source cannot be read, the last policy stays in force.

        A change is put into force when nothing has changed between two looks, because an editor may first make a
        file empty and then write it. Several tasks may watch; only one of them looks at a time.

        Args:
            changed: called when the policy was read again.
            failed: called with the error when it cannot be read, but only once for the same error, and only in one of
                the tasks.
        """
        known = self.change
        while True:
            await trio.sleep(POLL_SECONDS)
            if trio.current_time() >= self._next_look:
                self._next_look = trio.current_time() + POLL_SECONDS / 2
                try:
                    await self._look()
                except ConfigurationError as exc:
                    if str(exc) != self._error:
                        failed(exc)
                    self._error = str(exc)
            if known is not self.change:
                known = self.change
                changed()

    async def _look(self) -> None:
        stamps = await self._files.run(self._stamps_now)
        is_settled, self._seen = stamps == self._seen, stamps
        # After an error, read in any case: a file that was restored may have the same stamp.
        if is_settled and (stamps != self._stamps or self._error is not None):
            await self.reload()


#: The policies of a Trio run that several users share.
_SHARED: trio.lowlevel.RunVar[dict[tuple[Path, ...], WatchedPolicy]] = trio.lowlevel.RunVar("hybridrelay policies")
