"""Quotas: the limits that an administrator sets for hybrid connections and for the relay, as values. Pure.

An edition is a named set of limits. The relay may use an edition, which limits how many hybrid connections it has and
how many bytes it moves for all of them together. A hybrid connection may also name an edition. A limit that is set
for the hybrid connection itself replaces that of its edition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from .._value import Value
from .limits import LISTENERS_PER_CONNECTION

__all__ = [
    "MAX_BYTES",
    "MAX_COUNT",
    "MAX_LISTENERS",
    "MIN_BYTES_PER_SECOND",
    "NO_EDITIONS",
    "NO_LIMITS",
    "NO_QUOTA",
    "PRESETS",
    "Edition",
    "Editions",
    "Limits",
    "Quota",
]

#: The highest limits that can be set. That of listeners is low, because every join looks at all of them.
MAX_LISTENERS: Final = 1000
MAX_COUNT: Final = 1_000_000
MAX_BYTES: Final = 2**53 - 1
#: The lowest rate that can be set. At a lower rate, data could delay the pings of a session until the session
#: counts as dead.
MIN_BYTES_PER_SECOND: Final = 64 * 1024


def _optional(lowest: int, highest: int) -> int | None:
    between = attrs.validators.and_(attrs.validators.ge(lowest), attrs.validators.le(highest))
    value: int | None = attrs.field(default=None, validator=attrs.validators.optional(between))
    return value


@attrs.frozen(kw_only=True)
class Limits(Value):
    """The limits of one hybrid connection at one relay. None means that a limit is not set.

    Raises:
        ValueError: a limit is too low or too high.
    """

    #: Connectors that are registered.
    listeners: int | None = _optional(1, MAX_LISTENERS)
    #: Control channels of clients.
    senders: int | None = _optional(1, MAX_COUNT)
    #: Pairs of data channels that are joined, or about to be.
    sessions: int | None = _optional(1, MAX_COUNT)
    #: Bytes in both directions together, in a calendar month (UTC).
    bytes_per_month: int | None = _optional(1, MAX_BYTES)
    #: Bytes per second in both directions together. Sessions are slowed down, and never refused or ended.
    bytes_per_second: int | None = _optional(MIN_BYTES_PER_SECOND, MAX_BYTES)
    #: Whether the sessions end when `bytes_per_month` is reached. Otherwise only new ones are refused.
    end_at_limit: bool | None = None

    def or_else(self, others: Limits) -> Limits:
        """Return these limits, with those of `others` where a limit is not set."""
        own = attrs.asdict(self)
        return Limits(
            **{name: value if own[name] is None else own[name] for name, value in attrs.asdict(others).items()}
        )


NO_LIMITS: Final = Limits()
_DEFAULTS: Final = Limits(listeners=LISTENERS_PER_CONNECTION, end_at_limit=False)


@attrs.frozen
class Quota(Value):
    """The edition and the limits that an administrator has set for one hybrid connection."""

    #: The name of an edition; empty: none.
    edition: str = ""
    limits: Limits = NO_LIMITS


NO_QUOTA: Final = Quota()


@attrs.frozen(kw_only=True)
class Edition(Value):
    """A named set of limits.

    Raises:
        ValueError: `connections` is negative, or greater than `MAX_COUNT`.
    """

    name: str
    #: How many hybrid connections a relay of this edition may have; None: not limited.
    connections: int | None = _optional(0, MAX_COUNT)
    #: The limits of a hybrid connection that names the edition. If the relay uses the edition, `bytes_per_month` and
    #: `end_at_limit` also apply to all hybrid connections together.
    limits: Limits = NO_LIMITS
    #: Increases with every change.
    version: int = 0


_GB: Final = 10**9
#: The editions of a new registry. Their limits can be changed.
PRESETS: Final = tuple(
    Edition(name=name, connections=connections, limits=Limits(bytes_per_month=gigabytes * _GB))
    for name, connections, gigabytes in (
        ("free", 5, 5),
        ("developer", 5, 5),
        ("basic", 10, 50),
        ("standard", 50, 250),
        ("premium", 100, 500),
    )
)


def _by_name(editions: Iterable[Edition] | Mapping[str, Edition]) -> Mapping[str, Edition]:
    found = editions.values() if isinstance(editions, Mapping) else editions
    in_order = sorted(
        found, key=lambda one: (MAX_COUNT + 1 if one.connections is None else one.connections, one.name)
    )
    return MappingProxyType({one.name: one for one in in_order})


@attrs.frozen
class Editions(Value):
    """All editions, and the one that the relay uses."""

    #: Sorted by the number of hybrid connections that they allow.
    by_name: Mapping[str, Edition] = attrs.field(default=(), converter=_by_name)
    #: The name of the edition that the relay uses; empty: none, and nothing is limited for the relay as a whole.
    in_use: str = ""

    @property
    def of_relay(self) -> Edition | None:
        """The edition that the relay uses; None if there is none."""
        return self.by_name.get(self.in_use)

    def set_limits(self, quota: Quota) -> Limits:
        """Return the limits that are set for a hybrid connection, by itself or by its edition."""
        edition = self.by_name.get(quota.edition)
        return quota.limits if edition is None else quota.limits.or_else(edition.limits)

    def limits(self, quota: Quota) -> Limits:
        """Return the limits that are in force for a hybrid connection, including defaults."""
        return self.set_limits(quota).or_else(_DEFAULTS)


NO_EDITIONS: Final = Editions()
