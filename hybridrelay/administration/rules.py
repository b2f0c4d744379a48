"""Adds, changes and deletes authorization rules of a hybrid connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from ..relay.model import HybridConnection
from ..relay.store.store import Store, no_rule
from ..security import Right, Rule
from .changes import nothing

__all__ = ["ChangedRule", "delete_rule", "set_rule"]


@attrs.frozen
class ChangedRule:
    """What `set_rule` or `delete_rule` did."""

    #: The rule as it was; None if it is new.
    before: Rule | None
    #: The rule as it is now; None if it was deleted.
    after: Rule | None
    #: The hosts of all relays of the hybrid connection. The rule was changed at only one of them.
    hosts: tuple[str, ...]

    @property
    def ends_access(self) -> bool:
        """Whether the rule has lost a right, which ends what its keys had authorized."""
        return self.before is not None and (self.after is None or not self.before.rights <= self.after.rights)


def set_rule(
    store: Store, name: str, rule: str, rights: Iterable[Right], *, before_change: Callable[[], None] = nothing
) -> ChangedRule:
    """Add a rule with two new keys, or change the rights of a rule. Its keys stay the same.

    Args:
        store: the relay's store.
        name: the hybrid connection.
        rule: the name of the rule.
        rights: what its keys allow from now on.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such hybrid connection; the rule's name or its rights are not valid; or the
            hybrid connection has 12 rules already. Nothing was changed.
    """
    known = store.get(name)
    before_change()
    return _change(known, store.put_rule(name, rule, rights, version=known.version), rule)


def delete_rule(store: Store, name: str, rule: str, *, before_change: Callable[[], None] = nothing) -> ChangedRule:
    """Delete a rule and its keys. Everything that the keys had authorized ends.

    Args:
        store, name, rule, before_change: as for `set_rule`.

    Raises:
        ConfigurationError: there is no such hybrid connection or rule; the message lists those that exist.
    """
    known = store.get(name)
    if known.rule(rule) is None:
        raise no_rule(known, rule)
    before_change()
    return _change(known, store.delete_rule(name, rule, version=known.version), rule)


def _change(before: HybridConnection, after: HybridConnection, rule: str) -> ChangedRule:
    return ChangedRule(before.rule(rule), after.rule(rule), after.hosts)
