"""Rules cannot be constructed with wrong values."""

from __future__ import annotations

import pytest

from hybridrelay.errors import ConfigurationError
from hybridrelay.security import KeySlot, Right, Rule, Secret, check_rules, generate_key


@pytest.mark.parametrize("name", ["", "a b", "a;b", "x" * 257, "ü"])
def test_an_impossible_name_of_a_rule_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Rule(name, [Right.SEND])


@pytest.mark.parametrize("key", ["", "x" * 257, "a;b", "a b", "a\n", "é"])
def test_an_impossible_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        Rule("r", [Right.SEND], Secret(key))


def test_some_right_is_needed() -> None:
    with pytest.raises(ValueError, match="right"):
        Rule("r", [])


def test_keys_are_exchanged_one_by_one() -> None:
    rule = Rule.generate("r", [Right.LISTEN])
    key = generate_key()
    assert rule.with_key(KeySlot.PRIMARY, key) == Rule("r", [Right.LISTEN], key, rule.secondary)
    assert rule.with_key(KeySlot.SECONDARY, None).key(KeySlot.SECONDARY) is None


def test_a_level_holds_twelve_of_different_names() -> None:
    rules = [Rule(f"r{number}", [Right.SEND]) for number in range(12)]
    assert check_rules(rules) == tuple(rules)
    with pytest.raises(ConfigurationError, match="13 rules"):
        check_rules([*rules, Rule("r12", [Right.SEND])])
    with pytest.raises(ConfigurationError, match="same name"):
        check_rules([rules[0], rules[0]])
