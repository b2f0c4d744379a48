"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

#: The longest wait after attempts that took long (seconds); see `Backoff.next_wait`.
LONGEST_SECONDS = 30.0


@attrs.define
class Backoff:
    """Exponential back-off with full jitter. Pure: it computes how long to wait, and does not wait itself.

    The jitter is full because many connectors that failed at the same moment (when a relay restarted) must not return
    at the same moment. Randomness spreads their attempts, not long waits, so that a relay is in use again within
    seconds even after an hour of downtime. A connection that ends immediately counts as a failure: only one that
    lasted for `held_seconds` resets the back-off. Otherwise, if a relay accepted connections and dropped them at
    once, connectors would connect to it as fast as the network allows.
    """

    #: Upper bound of the first wait (seconds).
    first_seconds: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))
    #: Upper bound of every wait after an attempt that failed quickly (seconds).
    max_seconds: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    #: No wait is shorter than this (seconds): with full jitter alone, several waits in a row may be almost zero.
    min_seconds: float = attrs.field(default=0.05, validator=attrs.validators.ge(0))
    #: A success that lasted at least this long (seconds) resets the series.
    held_seconds: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    #: Returns a number in [0, 1).
    random: Callable[[], float] = attrs.field(default=random.random, repr=False)
    #: Failures since the last reset.
    failures: int = attrs.field(default=0, init=False)

    def next_wait(self, *, at_most: float | None = None, at_least: float = 0.0, took_seconds: float = 0.0) -> float:
        """Count a failure, and return how long to wait before the next attempt (seconds).

        Args:
            at_most: a bound for this wait only, for callers with a deadline. At least half of it is jitter, so that
                peers which have failed often do not all return at the same moment.
            at_least: the wait that a peer asked for (`Draining`), to which the jitter is added.
            took_seconds: how long the failed attempt took. A slow attempt may be a load on a busy relay, so the bound
                grows to twice this time, up to `LONGEST_SECONDS`.
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
        """A connection that lasted `held_seconds` has ended."""
        if held_seconds >= self.held_seconds:
            self.failures = 0

    def reset(self) -> None:
        """Forget earlier failures, after a change (network, configuration) that makes them irrelevant."""
        self.failures = 0
