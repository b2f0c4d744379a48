"""The attempts to open a control channel to one relay: when the next one begins, and how failures are published."""

from __future__ import annotations

from ...connectivity.backoff import Backoff
from ...connectivity.refusals import is_hopeless
from ...connectivity.repeated_failure import RepeatedFailure
from ...errors import HybridRelayError, RelayUnreachable
from ...events.base import Level
from ...events.connector import (
    ControlChannelLost,
    NothingRegistered,
    RelayRejected,
    RelayStillUnavailable,
    RelayUnavailable,
)
from . import commands
from .commands import Output
from .inputs import SessionHealth
from .registrations import Registrations

__all__ = ["Attempts"]

#: The longest wait between two attempts while there are sessions that may be waiting for the relay (seconds).
RESUME_BACKOFF = 2.0


class Attempts:
    """The successive attempts at one relay, and the waits between them.

    Args:
        host: the relay, for events.
        registrations: the hybrid connections to be registered there.
        backoff: computes the waits.
        out: the list to which commands and events are appended.
    """

    def __init__(self, host: str, registrations: Registrations, backoff: Backoff, out: list[Output]) -> None:
        self._host = host
        self._registrations = registrations
        self._backoff = backoff
        self._out = out
        self._repeated = RepeatedFailure()
        #: When the next attempt begins; None if none is scheduled.
        self.due: float | None = None
        self.sessions = SessionHealth.NONE
        #: See `inputs.ReplacementExpected`.
        self.expects_replacement = False
        #: Whether anything was ever registered at this relay.
        self._has_worked = False
        #: Whether the last attempt reached the relay, although nothing was registered.
        self._has_answered = False
        #: When the last attempt began, and when its control channel became the current one.
        self._began = 0.0
        self._usable_since: float | None = None

    def begin(self, now: float) -> None:
        """Note that an attempt begins."""
        self._began, self._usable_since, self.due = now, None, None
        self._has_answered = False

    def succeeded(self, now: float, *, has_registered: bool) -> None:
        """Note that a control channel has become the current one. `has_registered`: whether anything is registered
        over it."""
        if self._usable_since is None:
            self._usable_since = now
        self._repeated.succeeded()
        self._has_worked = self._has_worked or has_registered

    def stop(self) -> None:
        """Make no other attempt."""
        self.due = None

    def failed(self, error: HybridRelayError, retry_after: float, now: float) -> None:
        """Schedule the next attempt, because no control channel could be opened, or nothing could be registered over
        the only one.

        Args:
            error: the reason.
            retry_after: the shortest wait, which the relay has asked for before its restart (seconds), or 0.
            now: seconds, on a monotonic clock.
        """
        # Only if nothing was ever registered is this certainly the administrator's mistake. Later, something in the
        # path may impersonate the relay for a while.
        permanent = not self._has_worked and is_hopeless(error)
        self._registrations.all_failed(error, now, permanent=permanent)
        self._has_answered = not isinstance(error, RelayUnreachable)
        text, is_news = self._repeated.describe(error), self._repeated.level(now) >= Level.WARNING
        self._out.append(commands.ForgetRoute())
        wait = self._wait(retry_after, now)
        kind: type[RelayUnavailable | RelayStillUnavailable | RelayRejected]
        kind = RelayUnavailable if is_news else RelayStillUnavailable
        if permanent:
            kind = RelayRejected
        self._out.append(kind(host=self._host, reason=error.reason, detail=text, retry_seconds=wait))

    def lost(self, retry_after: float, now: float) -> None:
        """Schedule the next attempt: the last open control channel has ended. For `retry_after` see `failed`."""
        # The route itself may have failed. Probing costs little, whereas a connection attempt without an answer takes
        # long. A relay that has announced its restart will be reachable over the same route again.
        if not self._registrations.are_refused and not retry_after:
            self._out.append(commands.ForgetRoute())
        wait = self._wait(retry_after, now)
        if not self._registrations.are_refused and not self.expects_replacement:
            self._out.append(ControlChannelLost(host=self._host, retry_seconds=wait))

    def _wait(self, retry_after: float, now: float) -> float:
        """Schedule the next attempt. Returns the wait (seconds)."""
        took = 0.0
        if self._usable_since is None:
            took = now - self._began
        else:
            self._backoff.succeeded(held_seconds=now - self._usable_since)
        if self._registrations.are_hopeless(now):
            # The back-off applies as well, because the relay may have been unreachable when it was to be asked again.
            wait = self._backoff.next_wait(at_least=self._registrations.asks_again_in(now))
            self._out.append(NothingRegistered(host=self._host, retry_seconds=wait))
        else:
            # If the relay cannot be reached, this is urgent even while all sessions look healthy: the loss of a data
            # channel may be detected later than that of the control channel.
            interrupted = self.sessions is SessionHealth.INTERRUPTED
            urgent = interrupted or (self.sessions is SessionHealth.CONNECTED and not self._has_answered)
            wait = self._backoff.next_wait(
                at_least=retry_after, at_most=RESUME_BACKOFF if urgent else None, took_seconds=took
            )
        self.due = now + wait
        return wait
