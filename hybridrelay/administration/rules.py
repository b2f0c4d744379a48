"""Adding, changing and deleting authorization rules of a hybrid connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from ..security import Right
from .changes import attempted, nothing
from .registry import ConnectionInfo, Registry, RuleInfo

__all__ = ["ChangedRule", "delete_rule", "set_rule"]


@attrs.frozen
class ChangedRule:
    """What `set_rule` or `delete_rule` did."""

    #: The rule as it was; None if it is new.
    before: RuleInfo | None
    #: The rule as it is now; None if it was deleted.
    after: RuleInfo | None
    #: The hosts of all relays of the hybrid connection. The rule was changed at only one of them.
    hosts: tuple[str, ...]

    @property
    def ends_access(self) -> bool:
        """Whether the rule has lost a right, which ends what its keys had authorized."""
        return self.before is not None and (self.after is None or not self.before.rights <= self.after.rights)


def set_rule(
    registry: Registry, name: str, rule: str, rights: Iterable[Right], *, before_change: Callable[[], None] = nothing
) -> ChangedRule:
    """Add a rule with two new keys, or change the rights of a rule that exists; then its keys stay the same.

    Args:
        registry: the relay's registry.
        name: the hybrid connection.
        rule: the name of the rule.
        rights: what its keys allow from now on.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such hybrid connection; the rule's name or its rights are not valid; or the
            hybrid connection already has 12 rules. Nothing was changed.
    """
    with attempted(lambda: registry.put_rule(ConnectionInfo.missing(name), rule, rights)):
        known = registry.connection(name)
    before_change()
    after = registry.put_rule(known, rule, rights)
    return ChangedRule(known.find_rule(rule), after, known.hosts)


def delete_rule(
    registry: Registry, name: str, rule: str, *, before_change: Callable[[], None] = nothing
) -> ChangedRule:
    """Delete a rule and its keys. Everything that the keys had authorized ends.

    Args:
        registry, name, rule, before_change: as for `set_rule`.

    Raises:
        ConfigurationError: there is no such hybrid connection or rule; the message lists those that exist.
    """
    known = ConnectionInfo.missing(name)
    with attempted(lambda: registry.delete_rule(known, rule)):
        known = registry.connection(name)
        before = known.rule(rule)
    before_change()
    registry.delete_rule(known, rule)
    return ChangedRule(before, None, known.hosts)
