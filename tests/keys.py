"""Keys of rules, for tests that know that a key was not revoked."""

from __future__ import annotations

from hybridrelay.security import KeySlot, Rule, Secret


def key_of(rule: Rule, slot: KeySlot = KeySlot.PRIMARY) -> Secret:
    """A key of a rule. Fails the test if the key was revoked."""
    key = rule.key(slot)
    assert key is not None, f"the {slot.value} key of the rule {rule.name} was revoked"
    return key
