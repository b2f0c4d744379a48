"""Rate limits: a token bucket for each key. Pure: the time is an argument.

A bucket holds up to `burst` permits, and gets `rate` of them per second. Times are seconds of any clock that does not
run backwards.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs

__all__ = ["Buckets"]


@attrs.define
class _Bucket:
    permits: float
    updated_at: float


class Buckets:
    """Permits for each key.

    Args:
        rate: permits per second.
        burst: the maximum number of permits in a bucket.
        max_keys: how many keys have a bucket of their own. All others share one, so that the memory is bounded.
    """

    def __init__(self, *, rate: float, burst: int, max_keys: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: dict[Hashable, _Bucket] = {}
        #: When full buckets were last removed.
        self._swept_at = -float("inf")

    def __len__(self) -> int:
        """Return the number of buckets."""
        return len(self._buckets)

    def wait(self, key: Hashable, now: float) -> float:
        """Return how long it takes until there is a permit (seconds); 0 if there is one now. Takes none."""
        bucket = self._buckets.get(key)
        if bucket is None and len(self._buckets) >= self._max_keys:
            bucket = self._buckets.get(None)
        if bucket is None:
            return 0.0
        self._refill(bucket, now)
        return max(0.0, 1 - bucket.permits) / self._rate

    def take(self, key: Hashable, now: float) -> float:
        """Take a permit if there is one.

        Returns:
            0 if there was a permit; otherwise, how long it takes until there is one (seconds).
        """
        bucket = self._bucket(key, now)
        if bucket.permits >= 1:
            bucket.permits -= 1
            return 0.0
        return (1 - bucket.permits) / self._rate

    def charge(self, key: Hashable, now: float) -> None:
        """Take a permit for something that has already happened, even if there is none; at most `burst` are owed."""
        bucket = self._bucket(key, now)
        bucket.permits = max(bucket.permits - 1, -self._burst)

    def _bucket(self, key: Hashable, now: float) -> _Bucket:
        if key not in self._buckets and len(self._buckets) >= self._max_keys:
            self._sweep(now)
            if len(self._buckets) >= self._max_keys:
                key = None
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        self._refill(bucket, now)
        return bucket

    def _refill(self, bucket: _Bucket, now: float) -> None:
        bucket.permits = min(self._burst, bucket.permits + (now - bucket.updated_at) * self._rate)
        bucket.updated_at = now

    def _sweep(self, now: float) -> None:
        """Remove full buckets, because a new bucket is full, too. At most once a second, because this examines them
        all."""
        if now - self._swept_at < 1:
            return
        self._swept_at = now
        for key, bucket in list(self._buckets.items()):
            self._refill(bucket, now)
            if bucket.permits >= self._burst:
                del self._buckets[key]
