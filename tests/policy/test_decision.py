"""What the policy decides, and which rule it names."""

from __future__ import annotations

import pytest

from hybridrelay.policy import Action, Decision, Policy, Resource
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, PeerIdentity, Role

RESOURCE = Resource("orders", HostPort("db", 5432))
SHOP = PeerIdentity("orders", Role.APPLICATION, "shop", "0a", 4e9)


@pytest.mark.parametrize("action", Action)
def test_without_rules_everything_is_allowed(action: Action) -> None:
    decision = Policy().decide(SHOP, action, RESOURCE)

    assert decision == Decision()
    assert decision.reason is None


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize(
    ("entry", "rule"), [("shop", "deny list: label shop"), ("0A", "deny list: serial 0A"), ("other", "")]
)
def test_the_deny_list_applies_to_everything_and_is_named(action: Action, entry: str, rule: str) -> None:
    decision = Policy(frozenset({entry})).decide(SHOP, action, RESOURCE)

    assert decision.reason is (Reason.IDENTITY_DENIED if rule else None)
    assert decision.rule == rule
