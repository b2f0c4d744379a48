"""Which relays keep the checkpoints of this program's audit log as witnesses, according to their answers. Pure.

The rules:

1. Each relay is sent the latest checkpoint that it has not confirmed. Earlier ones are left out, because a checkpoint
   covers everything before it.
2. A relay is overdue when it has confirmed nothing for `CONFIRM_SECONDS` although there was something to confirm.
3. The files of the policy may name relays that have to be witnesses (``AuditWitness``). Those of them that the
   program uses must not be overdue, and the program has to use at least one of the relays that each file names.
   Otherwise it opens no streams.
4. A confirmation counts only for the checkpoint that was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import attrs

from .chain import Checkpoint
from .record import SinkProblem

__all__ = ["CONFIRM_SECONDS", "Witnesses", "no_audit_directory"]

#: How long a relay may take to confirm a checkpoint (seconds).
CONFIRM_SECONDS: Final = 300.0

_NO_FILES = "the policy (AuditWitness) requires relays as witnesses, but this program writes no audit directory"
_NO_RELAY = "the policy (AuditWitness) requires relays as witnesses, but this program uses none of them"


@attrs.define
class _Relay:
    #: Since when there is something to confirm (seconds); None if the relay has confirmed everything.
    pending_since: float | None
    #: The checkpoint that it has confirmed last.
    confirmed: Checkpoint | None = None
    #: Why it has not confirmed the latest one, as far as known.
    why: str = ""


@attrs.define
class Witnesses:
    """The relays of a program, by their host names. Times are in seconds, on a monotonic clock."""

    #: The latest checkpoint of the audit log; None if there is none yet.
    latest: Checkpoint | None = attrs.field(default=None, init=False)
    _relays: dict[str, _Relay] = attrs.field(factory=dict, init=False)

    def signed(self, checkpoint: Checkpoint, now: float) -> None:
        """Note that a checkpoint was written."""
        self.latest = checkpoint
        for relay in self._relays.values():
            if relay.pending_since is None:
                relay.pending_since = now

    def wanted(self, host: str, now: float) -> Checkpoint | None:
        """Return the checkpoint that a relay is to be sent next; None if it has confirmed the latest one."""
        relay = self._of(host, now)
        return None if relay.confirmed == self.latest else self.latest

    def confirmed(self, host: str, checkpoint: Checkpoint, now: float) -> None:
        """Note that a relay has confirmed a checkpoint that it was sent."""
        relay = self._of(host, now)
        relay.confirmed, relay.why = checkpoint, ""
        # If another one was signed in the meantime, the relay has as much time for it as for any other.
        relay.pending_since = None if checkpoint == self.latest else now

    def failed(self, host: str, why: str, now: float) -> None:
        """Note why a relay has not confirmed a checkpoint that it was sent."""
        self._of(host, now).why = why

    def problems(
        self, required: Collection[Callable[[str], bool]], used: Collection[str], now: float
    ) -> tuple[SinkProblem, ...]:
        """Return why no streams may be opened; nothing if they may.

        Args:
            required: for each file of the policy that names witnesses, a function that returns whether the file names
                the relay with a given host.
            used: the hosts of the program's relays.
            now: the time.
        """
        if not required:
            return ()
        if self.latest is None:
            return (no_audit_directory(),)
        if not all(any(names(host) for host in used) for names in required):
            return (SinkProblem.not_confirmed("witness", _NO_RELAY),)
        needed = sorted({host for host in used if any(names(host) for names in required)})
        return tuple(
            SinkProblem.not_confirmed(f"witness {host}", self._of(host, now).why or _not_confirmed())
            for host in needed
            if self._is_overdue(host, now)
        )

    def _is_overdue(self, host: str, now: float) -> bool:
        since = self._of(host, now).pending_since
        return since is not None and now - since > CONFIRM_SECONDS

    def _of(self, host: str, now: float) -> _Relay:
        relay = self._relays.get(host)
        if relay is None:
            relay = self._relays[host] = _Relay(None if self.latest is None else now)
        return relay


def no_audit_directory() -> SinkProblem:
    """Return the problem that there are no checkpoints that the required witnesses could keep."""
    return SinkProblem.not_confirmed("witness", _NO_FILES)


def _not_confirmed() -> str:
    return f"it has not confirmed a checkpoint for {CONFIRM_SECONDS / 60:g} minutes"
