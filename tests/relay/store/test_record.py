"""The relay record: what is written can be read; anything else is refused, and the error does not quote it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ConfigurationError
from hybridrelay.relay.limits import RELAY_RECORD_BYTES
from hybridrelay.relay.model import RelayRecord
from hybridrelay.relay.store.record import dump_relay_record, parse_relay_record_untrusted
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import Right, Rule, Secret

KEYS = ["primary-of-one", "secondary-of-one", "primary-of-two"]
RECORD = RelayRecord(
    "site/sql",
    ["relay.example.com"],
    [
        Rule("one", [Right.LISTEN], Secret(KEYS[0]), Secret(KEYS[1])),
        Rule("two", [Right.SEND, Right.MANAGE], Secret(KEYS[2])),
    ],
)


def test_what_is_written_is_read_back() -> None:
    text = dump_relay_record(RECORD)
    assert parse_relay_record_untrusted(text) == RECORD
    assert parse_relay_record_untrusted(text.encode()) == RECORD
    assert set(json.loads(text)) == {"format", "version", "name", "endpoint", "rules"}


def test_it_can_be_imported_once(registry: SQLiteStore) -> None:
    imported = registry.import_(parse_relay_record_untrusted(dump_relay_record(RECORD)))
    assert (imported.name, imported.hosts, imported.rules) == ("site/sql", ("relay.example.com",), RECORD.rules)
    with pytest.raises(ConfigurationError, match="already"):
        registry.import_(RECORD)


def test_several_hosts_are_a_list_and_one_is_a_string() -> None:
    several = attrs.evolve(RECORD, hosts=["a.example.com", "2001:db8::1"])
    text = dump_relay_record(several)
    assert json.loads(text)["endpoint"] == ["a.example.com", "2001:db8::1"]
    assert parse_relay_record_untrusted(text) == several
    assert json.loads(dump_relay_record(RECORD))["endpoint"] == "relay.example.com"


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(dump_relay_record(RECORD)), **fields})


def with_rule(**fields: Any) -> str:
    content = json.loads(dump_relay_record(RECORD))
    content["rules"][0].update(fields)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe\xff", "line 1 is not text"),
        ("[" * 5000, "not JSON"),
        ('{"format": 1, "format": 2}', "not JSON"),
        ("[]", "not a relay file"),
        ("{}", "not a relay file"),
        (changed(format="another"), "not a relay file"),
        (changed(format="hybridrelay-authority"), "never be on a relay"),
        (" " * (RELAY_RECORD_BYTES + 1), "too long"),
        (changed(version=2), "unknown format version"),
        (changed(version=None), "unknown format version"),
        (changed(private_key="x"), "has unknown fields"),
        (changed(name=None), "damaged: name"),
        (changed(name="a//b"), "damaged: the name"),
        (changed(endpoint=7), "damaged: endpoint"),
        (changed(endpoint="-"), "damaged: not a valid host"),
        (changed(endpoint=["a", 7]), "damaged: endpoint"),
        (changed(endpoint=[]), "damaged: expected 1 to 8 relays"),
        (
            changed(endpoint=["a", "A"]),
            "damaged: a relay appears twice: each relay must have a different host name or address",
        ),
        (changed(endpoint=[f"h{number}" for number in range(9)]), "damaged: expected 1 to 8 relays"),
        (changed(rules={}), "damaged: rules"),
        (changed(rules=[1]), r"damaged: rules\[0\]"),
        (with_rule(authority="x"), r"has unknown fields \(rules\[0\]\)"),
        (with_rule(name=None), r"damaged: rules\[0\].name"),
        (with_rule(name="a b"), r"damaged: rules\[0\]: a rule's name"),
        (with_rule(rights=None), r"damaged: rules\[0\].rights"),
        (with_rule(rights=["Fly"]), "unknown right"),
        (with_rule(rights=[["Send"]]), "unknown right"),
        (with_rule(rights=[]), "at least one right"),
        (with_rule(primary=1), r"damaged: rules\[0\].primary"),
        (with_rule(primary="two words"), r"damaged: rules\[0\]: a key"),
        (with_rule(name="two"), "same name"),
    ],
)
def test_the_error_names_the_field_and_never_quotes_it(text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_relay_record_untrusted(text)
    shown = f"{caught.value!r} {caught.value} {caught.value.remedy} {caught.value.__cause__}"
    assert not any(key in shown for key in [*KEYS, "two words", "Fly"])
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.data())
def test_damage_raises_only_a_configuration_error(data: st.DataObject) -> None:
    text = dump_relay_record(RECORD)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    damaged = text[:start] + data.draw(st.text(max_size=5)) + text[end:]
    with contextlib.suppress(ConfigurationError):
        parse_relay_record_untrusted(damaged)


def test_it_does_not_print_its_keys() -> None:
    assert not any(key in repr(RECORD) for key in KEYS)
