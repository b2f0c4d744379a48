"""Changes the limits of hybrid connections and of editions, and chooses the edition of a relay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import attrs

from .._value import Value
from ..errors import ConfigurationError
from ..relay.quotas import NO_LIMITS, Edition, Editions, Limits, Quota
from ..relay.store.checks import check_edition
from .changes import attempted, nothing
from .registry import ConnectionInfo, Registry

__all__ = ["AppliedLimits", "EditionInUse", "LimitChanges", "change_edition", "change_limits", "use_edition"]

#: New values by the names of `Limits`. None removes a limit; limits that are absent stay as they are.
LimitChanges = Mapping[str, int | bool | None]


@attrs.frozen
class AppliedLimits(Value):
    """The limits of a hybrid connection."""

    #: The edition that is set for the hybrid connection, and the limits that are set for it directly.
    quota: Quota
    #: The limits in force. A limit that is not set directly is that of the edition, or else the default.
    in_force: Limits


def change_limits(
    registry: Registry,
    name: str,
    changes: LimitChanges,
    *,
    edition: str | None = None,
    before_change: Callable[[], None] = nothing,
) -> AppliedLimits:
    """Change limits of a hybrid connection. If everything stays the same, no change is requested.

    Args:
        registry: the relay's registry.
        name: the hybrid connection.
        changes: the new limits.
        edition: the name of the new edition; empty for none. None keeps the edition.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such hybrid connection or edition, or a limit is out of range. Nothing was
            changed.
    """
    asked = Quota(edition or "", _changed(NO_LIMITS, changes))
    is_change = bool(changes) or edition is not None
    with (
        attempted(lambda: registry.change(ConnectionInfo.missing(name), quota=asked)) if is_change else nullcontext()
    ):
        known = registry.connection(name)
    quota = Quota(known.quota.edition if edition is None else edition, _changed(known.quota.limits, changes))
    if quota != known.quota:
        before_change()
        registry.change(known, quota=quota)
    return AppliedLimits(quota, registry.limits_in_force(name))


@attrs.frozen
class EditionInUse(Value):
    """The edition of a relay, after `use_edition`."""

    #: The edition; None if the relay uses none.
    edition: Edition | None
    #: The number of the relay's hybrid connections.
    connections: int


def use_edition(registry: Registry, name: str, *, before_change: Callable[[], None] = nothing) -> EditionInUse:
    """Choose the edition of a relay.

    Args:
        registry: the relay's registry.
        name: the name of the edition; empty for none.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such edition. Nothing was changed.
    """
    before_change()
    registry.use_edition(name)
    return EditionInUse(registry.editions().of_relay, len(registry.connections()))


def change_edition(
    registry: Registry,
    name: str,
    changes: LimitChanges,
    *,
    connections: Callable[[int | None], int | None] = lambda before: before,
    before_change: Callable[[], None] = nothing,
) -> tuple[Edition, Editions]:
    """Change an edition.

    Args:
        registry: the relay's registry.
        name: the name of the edition.
        changes: the new limits for each hybrid connection.
        connections: called with the number of hybrid connections that the edition allows; returns the new number.
            None means any number.
        before_change: see `change_with_files`.

    Returns:
        The edition as it is now, and all editions as they were before.

    Raises:
        ConfigurationError: there is no such edition, or a limit is out of range. Nothing was changed.
    """
    editions = registry.editions()
    with attempted(lambda: registry.change_edition(Edition(name=name), connections=None, limits=NO_LIMITS)):
        check_edition(editions, name)
    known = editions.by_name[name]
    limits = _changed(known.limits, changes)
    before_change()
    return registry.change_edition(known, connections=connections(known.connections), limits=limits), editions


def _changed(limits: Limits, changes: LimitChanges) -> Limits:
    try:
        return Limits(**{**attrs.asdict(limits), **changes})
    except ValueError as exc:
        raise ConfigurationError(f"a limit is too low or too high: {exc.args[0]}") from None
