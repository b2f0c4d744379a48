"""What every store does: these tests hold for each implementation of `Store`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridrelay.errors import ConfigurationError, StateError
from hybridrelay.relay.model import RelayRecord, diff
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.store.store import Store
from hybridrelay.security import KeySlot, Right, Rule, generate_key

PRIMARY, SECONDARY = KeySlot.PRIMARY, KeySlot.SECONDARY
Rules = tuple[Rule, ...]


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = (
        MemoryStore(lambda: 1234.5)
        if request.param == "memory"
        else SQLiteStore.open(tmp_path / "state", clock=lambda: 1234.5)
    )
    yield made
    made.close()


def test_what_was_created_is_there(store: Store, rules: Rules) -> None:
    created = store.create("site/sql", ["b.example.com", "2001:db8::1"], rules)

    assert store.get("site/sql") == created
    assert store.list() == (created,)
    assert store.snapshot() == {"site/sql": created}
    assert (created.name, created.created_at) == ("site/sql", 1234.5)
    assert created.hosts == ("b.example.com", "2001:db8::1")
    assert created.rules == rules
    assert store.rule("site/sql", rules[0].name) == rules[0]
    assert set(created.generations) == {(rule.name, slot) for rule in rules for slot in KeySlot}
    assert len(set(created.generations.values())) == 4


def test_a_record_is_imported_once(store: Store, rules: Rules) -> None:
    record = RelayRecord("sql", ["relay.example.com"], rules)
    imported = store.import_(record)
    assert (imported.name, imported.hosts, imported.rules) == ("sql", record.hosts, record.rules)
    with pytest.raises(ConfigurationError, match="already"):
        store.import_(record)


def test_a_snapshot_does_not_change(store: Store, rules: Rules) -> None:
    created = store.create("sql", ["relay.example.com"], rules)
    before = store.snapshot()
    store.delete("sql")

    assert before == {"sql": created}
    assert store.snapshot() == {}
    with pytest.raises(TypeError):
        before["other"] = created  # type: ignore[index]


def test_the_version_is_different_after_every_change_and_only_then(store: Store, rules: Rules) -> None:
    versions = [store.data_version()]

    def changed() -> None:
        versions.append(store.data_version())
        store.snapshot()
        store.list()
        assert store.data_version() == versions[-1]

    changes: list[Callable[[], object]] = [
        lambda: store.create("sql", ["relay.example.com"], rules),
        lambda: store.change_hosts("sql", ["a"]),
        lambda: store.regenerate_key("sql", "sender", PRIMARY),
        lambda: store.revoke_key("sql", "sender", PRIMARY),
        lambda: store.delete("sql"),
    ]
    for change in changes:
        change()
        changed()
    assert len(set(versions)) == len(changes) + 1


def test_a_key_is_put_in_once_and_only_into_the_rule_that_the_caller_knows(store: Store, rules: Rules) -> None:
    before = store.create("sql", ["relay.example.com"], rules)
    sender = store.rule("sql", "sender")
    for slot in KeySlot:
        with pytest.raises(ConfigurationError, match="already; nothing was changed"):
            store.regenerate_key("sql", "sender", slot, sender.primary)
    with pytest.raises(ConfigurationError, match="another command has changed the keys"):
        store.regenerate_key("sql", "sender", PRIMARY, known=sender.with_key(SECONDARY, None))
    assert store.list() == (before,)

    key = generate_key()
    assert store.regenerate_key("sql", "sender", PRIMARY, key, known=sender) == key


def test_used_after_closing(store: Store) -> None:
    store.close()
    store.close()
    for read in (store.data_version, store.snapshot, store.list):
        with pytest.raises(StateError):
            read()


def test_connections_come_in_order_of_name_with_or_without_rules_and_keys(store: Store) -> None:
    manage = Rule("all", [Right.MANAGE, Right.SEND], secondary=generate_key())
    for name, rules in (("b", [manage]), ("a", []), ("c", [Rule("none", [Right.SEND])])):
        store.create(name, ["192.0.2.1"], rules)
    listed = store.list()
    assert [one.name for one in listed] == ["a", "b", "c"]
    assert [one.rules for one in listed] == [(), (manage,), (Rule("none", [Right.SEND]),)]
    assert listed[1].key_id("all", PRIMARY) is None
    assert listed[1].key_id("all", SECONDARY) is not None
    assert listed[1].rule("other") is None


def test_a_name_is_taken_once(store: Store, rules: Rules) -> None:
    first = store.create("sql", ["relay.example.com"], rules)
    with pytest.raises(ConfigurationError, match="already") as caught:
        store.create("sql", ["other.example.com"], [])
    assert caught.value.remedy
    assert store.list() == (first,)


@pytest.mark.parametrize(
    ("name", "host", "names"),
    [("", "relay.example.com", "ab"), ("a//b", "h", "ab"), ("sql", "not a host", "ab"), ("sql", "h", "aa")],
)
def test_the_impossible_is_refused(store: Store, name: str, host: str, names: str) -> None:
    with pytest.raises(ConfigurationError):
        store.create(name, [host], [Rule(rule, [Right.SEND]) for rule in names])
    assert store.list() == ()


def test_an_unknown_name_is_answered_with_the_known_ones(store: Store, rules: Rules) -> None:
    for operate in (store.get, store.delete, lambda name: store.revoke_key(name, "sender", PRIMARY)):
        with pytest.raises(ConfigurationError, match="no hybrid connection 'nowhere'") as caught:
            operate("nowhere")
        assert caught.value.remedy == "this relay has none yet"
    store.create("web", ["relay.example.com"], rules)
    store.create("sql", ["relay.example.com"], rules)
    with pytest.raises(ConfigurationError) as caught:
        store.delete("nowhere")
    assert str(caught.value.remedy).endswith("sql, web")


def test_an_unknown_rule_is_answered_with_the_known_ones(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    store.create("bare", ["relay.example.com"], [])
    for name, known in (("sql", "listener, sender"), ("bare", "none")):
        with pytest.raises(ConfigurationError, match="no rule 'admin'") as caught:
            store.regenerate_key(name, "admin", PRIMARY)
        assert str(caught.value.remedy).endswith(known)


def test_keys_are_regenerated_and_revoked_one_by_one(store: Store, rules: Rules) -> None:
    before = store.create("sql", ["relay.example.com"], rules)

    key = store.regenerate_key("sql", "sender", PRIMARY)
    store.revoke_key("sql", "listener", SECONDARY)
    store.revoke_key("sql", "listener", SECONDARY)

    after = store.get("sql")
    assert after.rule("sender") == rules[1].with_key(PRIMARY, key)
    assert after.rule("listener") == rules[0].with_key(SECONDARY, None)
    assert after.generations["sender", PRIMARY] > max(before.generations.values())
    assert diff({"sql": before}, {"sql": after}) == {
        before.key_id("sender", PRIMARY),
        before.key_id("listener", SECONDARY),
    }
    revived = store.regenerate_key("sql", "listener", SECONDARY)
    assert store.get("sql").rule("listener") == rules[0].with_key(SECONDARY, revived)


def test_deleted_and_created_again_with_the_same_keys_are_other_keys(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    before = store.snapshot()
    store.delete("sql")
    store.create("sql", ["relay.example.com"], rules)
    assert len(diff(before, store.snapshot())) == 4


def test_keys_do_not_print(store: Store, rules: Rules) -> None:
    shown = repr(store) + repr(store.create("sql", ["relay.example.com"], rules)) + repr(store.snapshot())
    with pytest.raises(ConfigurationError) as caught:
        store.create("sql", ["relay.example.com"], rules)
    shown += repr(caught.value) + str(caught.value)
    for rule in rules:
        for key in (rule.primary, rule.secondary):
            assert key is not None
            assert key.reveal() not in shown


def test_other_hosts_end_no_key(store: Store, rules: Rules) -> None:
    before = store.create("sql", ["a.example.com"], rules)
    other = store.create("other", ["a.example.com"], [])
    after = store.change_hosts("sql", ["a.example.com", "b.example.com"])

    assert after.hosts == ("a.example.com", "b.example.com")
    assert (after.rules, after.generations, after.created_at) == (before.rules, before.generations, before.created_at)
    assert store.get("other") == other
    assert not diff({"sql": before}, {"sql": after})


@pytest.mark.parametrize(("name", "hosts"), [("missing", ["a"]), ("sql", []), ("sql", ["a", "A."]), ("sql", ["a b"])])
def test_hosts_that_cannot_be(store: Store, rules: Rules, name: str, hosts: list[str]) -> None:
    before = store.create("sql", ["a.example.com"], rules)
    with pytest.raises(ConfigurationError):
        store.change_hosts(name, hosts)
    assert store.list() == (before,)
