"""Events of the relay about quotas that are used up, or nearly used up."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = ["QuotaNear", "QuotaReached", "RelayQuotaNear", "RelayQuotaReached", "UsageClockBehind"]


@attrs.frozen(kw_only=True)
class _Quota(Event):
    #: ``listeners``, ``senders``, ``sessions`` or ``bytes``; if it is a quota of the relay's edition, ``bytes`` or
    #: ``hybrid connections``.
    quota: str
    used: int
    limit: int


@attrs.frozen(kw_only=True)
class QuotaNear(_Quota):
    """Four fifths of a quota of a hybrid connection are used."""

    name: ClassVar = "quota.near"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Four fifths of a quota of a hybrid connection are used"

    connection: str


@attrs.frozen(kw_only=True)
class QuotaReached(_Quota):
    """A quota of a hybrid connection is used up. Further requests that would exceed it are refused."""

    name: ClassVar = "quota.reached"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A quota of a hybrid connection is used up"

    connection: str


@attrs.frozen(kw_only=True)
class RelayQuotaNear(_Quota):
    """Four fifths of a quota of the relay's edition are used."""

    name: ClassVar = "relay-quota.near"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Four fifths of a quota of the relay's edition are used"


@attrs.frozen(kw_only=True)
class RelayQuotaReached(_Quota):
    """A quota of the relay's edition is used up. Further requests that would exceed it are refused."""

    name: ClassVar = "relay-quota.reached"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A quota of the relay's edition is used up"


@attrs.frozen(kw_only=True)
class UsageClockBehind(Event):
    """The clock shows a time before the month for which usage is counted. Usage counts for that month until it is
    over.

    If the clock is right, it was wrong before: stop the relay, delete ``usage.db`` in its state directory, and start
    it again.
    """

    name: ClassVar = "usage.clock-behind"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The clock shows a time before the month for which usage is counted"

    #: ``2026-11``.
    period: str
