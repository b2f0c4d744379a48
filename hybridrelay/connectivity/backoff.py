"""Computing how long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

#: The longest wait after attempts that took a long time (seconds); see `Backoff.next_wait`.
LONGEST_SECONDS = 30.0


@attrs.define
class Backoff:
    """Exponential back-off with full jitter. Pure: it computes how long to wait, and does not wait itself.

    With full jitter, connectors that all failed at the same moment (because a relay restarted) do not all return at
    the same moment. The waits are random rather than long, so that a relay is in use again within seconds even after
    an hour of downtime. A connection that ends immediately counts as a failure: only one that lasted for
    `held_seconds` resets the back-off. Otherwise, if a relay accepted connections and dropped them immediately,
    connectors would reconnect as fast as the network allows.
    """

    #: Upper bound of the first wait (seconds).
    first_seconds: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))
    #: Upper bound of every wait after an attempt that failed quickly (seconds).
    max_seconds: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    #: No wait is shorter than this (seconds): with full jitter alone, several waits in a row may be almost zero.
    min_seconds: float = attrs.field(default=0.05, validator=attrs.validators.ge(0))
    #: A connection that lasted at least this long (seconds) resets the back-off.
    held_seconds: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    #: Returns a number in [0, 1).
    random: Callable[[], float] = attrs.field(default=random.random, repr=False)
    #: Failures since the last reset.
    failures: int = attrs.field(default=0, init=False)

    def next_wait(self, *, at_most: float | None = None, at_least: float = 0.0, took_seconds: float = 0.0) -> float:
        """Count a failure, and return how long to wait before the next attempt (seconds).

        Args:
            at_most: an upper bound for this wait only, for callers with a deadline. It limits `at_least` to half of
                this, so that room for jitter remains.
            at_least: a minimum, for instance the wait that a relay asked for (`Draining`). The jitter is added to it.
            took_seconds: how long the failed attempt took. A slow attempt may mean that the relay is busy, so twice
                this time, up to `LONGEST_SECONDS`, replaces `max_seconds` if it is longer.
        """
        longest = max(self.max_seconds, min(2 * took_seconds, LONGEST_SECONDS))
        # The exponent is bounded, because 2.0**1024 would overflow after a weekend without a relay.
        ceiling = min(longest, self.first_seconds * 2.0 ** min(self.failures, 64))
        self.failures += 1
        if at_most is not None:
            at_least = min(at_least, at_most / 2)
            ceiling = min(ceiling, at_most - at_least)
        return at_least + max(self.min_seconds, ceiling * self.random())

    def succeeded(self, *, held_seconds: float) -> None:
        """Note that a connection that lasted `held_seconds` has ended."""
        if held_seconds >= self.held_seconds:
            self.failures = 0

    def reset(self) -> None:
        """Forget earlier failures, after a change (network, configuration) that makes them irrelevant."""
        self.failures = 0
