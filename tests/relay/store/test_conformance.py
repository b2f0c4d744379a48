"""What every store does: these tests hold for each implementation of `Store`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest

from hybridrelay.errors import ConfigurationError, StateError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.claims import Claim, OpenClaim
from hybridrelay.relay.model import Description, RelayRecord, diff
from hybridrelay.relay.quotas import NO_QUOTA, Edition, Limits, Quota
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.store.store import ChangedMeanwhile, NameTaken, NotFound, QuotaReached, Store
from hybridrelay.relay.updates import MAX_UPDATES_PER_CONNECTION, StoredUpdate
from hybridrelay.security import (
    MAX_UPDATE,
    KeySlot,
    ManagementRole,
    Right,
    Role,
    Rule,
    generate_key,
    generate_management_token,
)

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


def test_a_part_of_the_list(store: Store, rules: Rules) -> None:
    names = ["B", "a", "a-b", "a.b", "a/b", "a/c", "a/c/d", "aa", "b", "b/a"]
    for name in reversed(names):
        store.create(name, ["relay.example.com"], rules)
    store.change("a/c", disabled=True)
    assert store.disabled_by_name() == {name: name == "a/c" for name in names}
    assert list(store.disabled_by_name()) == names
    for after in ("", "A", "a", "a/", "a/c", "zz", "\x80"):
        for prefix in ("", "a", "a/", "a/c", "a/c/d/", "B", "x", "\x7f"):
            expected = [name for name in names if name > after and name.startswith(prefix)]
            assert [one.name for one in store.list(after=after, prefix=prefix)] == expected
            for limit in (0, 1, 3):
                found = [one.name for one in store.list(after=after, prefix=prefix, limit=limit)]
                assert found == expected[:limit]
                assert list(store.disabled_by_name(after=after, prefix=prefix, limit=limit)) == found
    assert store.list(prefix="a/c", limit=1) == (store.get("a/c"),)


def test_the_version_is_different_after_every_change_and_only_then(store: Store, rules: Rules) -> None:
    versions = [store.data_version()]

    def changed() -> None:
        versions.append(store.data_version())
        store.snapshot()
        store.list()
        assert store.data_version() == versions[-1]

    changes: list[Callable[[], object]] = [
        lambda: store.create("sql", ["relay.example.com"], rules),
        lambda: store.change("sql", hosts=["a"]),
        lambda: store.change("sql", description=Description("orders")),
        lambda: store.change("sql", disabled=True),
        lambda: store.put_rule("sql", "manager", [Right.MANAGE]),
        lambda: store.put_rule("sql", "manager", [Right.SEND]),
        lambda: store.delete_rule("sql", "manager"),
        lambda: store.regenerate_key("sql", "sender", PRIMARY),
        lambda: store.revoke_key("sql", "sender", PRIMARY),
        lambda: store.delete("sql"),
    ]
    for change in changes:
        change()
        changed()
    assert len(set(versions)) == len(changes) + 1


def test_a_key_that_the_rule_already_has_is_refused(store: Store, rules: Rules) -> None:
    before = store.create("sql", ["relay.example.com"], rules)
    sender = store.rule("sql", "sender")
    for slot in KeySlot:
        with pytest.raises(ConfigurationError, match=r"already .*; nothing was changed"):
            store.regenerate_key("sql", "sender", slot, sender.primary)
    assert store.list() == (before,)

    key = generate_key()
    assert store.regenerate_key("sql", "sender", PRIMARY, key) == key


def test_using_it_after_closing_is_an_error(store: Store) -> None:
    store.close()
    store.close()
    takes = partial(store.take_claim, "claim", b"proof", "taker")
    for read in (store.data_version, store.snapshot, store.list, store.open_claims, takes):
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
    after = store.change("sql", hosts=["a.example.com", "b.example.com"])

    assert after.hosts == ("a.example.com", "b.example.com")
    assert (after.rules, after.generations, after.created_at) == (before.rules, before.generations, before.created_at)
    assert store.get("other") == other
    assert not diff({"sql": before}, {"sql": after})


@pytest.mark.parametrize(("name", "hosts"), [("missing", ["a"]), ("sql", []), ("sql", ["a", "A."]), ("sql", ["a b"])])
def test_hosts_that_cannot_be(store: Store, rules: Rules, name: str, hosts: list[str]) -> None:
    before = store.create("sql", ["a.example.com"], rules)
    with pytest.raises(ConfigurationError):
        store.change(name, hosts=hosts)
    assert store.list() == (before,)


DESCRIPTION = Description("Orders, read only\nsee the wiki", {"owner": "Ann", "ticket": "4711 \u00fc"})


def test_a_description_is_kept_and_replaced(store: Store, rules: Rules) -> None:
    created = store.create("sql", ["relay.example.com"], rules, DESCRIPTION)
    assert created.description == DESCRIPTION
    assert list(created.description.metadata) == ["owner", "ticket"]
    other = Description("Orders")
    assert store.change("sql", description=other).description == other
    assert store.get("sql").rules == rules
    assert store.get("sql").hosts == ("relay.example.com",)
    both = store.change("sql", description=DESCRIPTION, hosts=["a", "b"])
    assert (both.description, both.hosts) == (DESCRIPTION, ("a", "b"))
    with pytest.raises(ConfigurationError, match="host"):
        store.change("sql", description=other, hosts=["not a host"])
    assert store.get("sql") == both
    imported = store.import_(RelayRecord("web", ["h"], rules), DESCRIPTION)
    assert store.get("web").description == imported.description == DESCRIPTION


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        ("x" * 1025, {}),
        ("\x1b[2J", {}),
        ("\ud800", {}),
        ("", {"": "x"}),
        ("", {"x" * 65: "x"}),
        ("", {"x": "x" * 257}),
        ("", {"x": "two\nlines"}),
        ("", {str(number): "x" for number in range(33)}),
    ],
)
def test_what_a_description_cannot_be(text: str, metadata: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"description|metadata"):
        Description(text, metadata)


def test_only_what_is_given_is_changed(store: Store, rules: Rules) -> None:
    created = store.create("sql", ["a"], rules, DESCRIPTION)
    store.create("off", ["a"], rules, disabled=True)
    assert not created.disabled
    assert store.get("off").disabled

    disabled = store.change("sql", disabled=True)
    assert disabled == store.get("sql")
    assert (disabled.disabled, disabled.description, disabled.hosts) == (True, DESCRIPTION, ("a",))
    assert disabled.generations == created.generations, "no key changes"
    described = store.change("sql", description=Description("other"))
    assert (described.disabled, described.description.text) == (True, "other")
    assert not store.change("sql", disabled=False).disabled


def test_rules_are_added_changed_and_deleted(store: Store, rules: Rules) -> None:
    before = store.create("sql", ["relay.example.com"], rules)
    added = store.put_rule("sql", "billing", [Right.SEND])
    billing = added.rule("billing")
    assert billing is not None
    assert billing.rights == {Right.SEND}
    assert [rule.name for rule in added.rules] == ["billing", "listener", "sender"]
    assert None not in (billing.primary, billing.secondary)
    assert diff({"sql": before}, {"sql": added}) == frozenset()
    more = store.put_rule("sql", "billing", [Right.SEND, Right.LISTEN])
    assert more.rule("billing") == Rule("billing", [Right.SEND, Right.LISTEN], billing.primary, billing.secondary)
    assert more.generations == added.generations
    less = store.put_rule("sql", "billing", [Right.LISTEN])
    ended = {added.key_id("billing", slot) for slot in KeySlot}
    assert diff({"sql": more}, {"sql": less}) == ended
    gone = store.delete_rule("sql", "billing")
    assert gone.rules == before.rules
    assert gone.generations == before.generations
    assert diff({"sql": less}, {"sql": gone}) == ended
    again = store.put_rule("sql", "billing", [Right.SEND])
    assert not ended & {again.key_id("billing", slot) for slot in KeySlot}
    assert store.get("sql") == again


def test_a_hybrid_connection_has_at_most_twelve_rules(store: Store) -> None:
    store.create("sql", ["relay.example.com"], [])
    for number in range(12):
        store.put_rule("sql", f"rule{number}", [Right.SEND])
    before = store.get("sql")
    with pytest.raises(ConfigurationError, match="at most 12"):
        store.put_rule("sql", "one-more", [Right.SEND])
    for name, rights in (("no/name", [Right.SEND]), ("rule0", [])):
        with pytest.raises(ConfigurationError, match="rule"):
            store.put_rule("sql", name, rights)
    assert store.get("sql") == before


def test_every_change_has_a_version_of_its_own(store: Store, rules: Rules) -> None:
    versions = [store.create("sql", ["a"], rules).version, store.create("web", ["a"], rules).version]
    changes: list[Callable[[], object]] = [
        lambda: store.change("sql", hosts=["b"]),
        lambda: store.change("sql", description=DESCRIPTION),
        lambda: store.put_rule("sql", "manager", [Right.MANAGE]),
        lambda: store.delete_rule("sql", "manager"),
        lambda: store.regenerate_key("sql", "sender", PRIMARY),
        lambda: store.revoke_key("sql", "sender", PRIMARY),
    ]
    web = store.get("web")
    for change in changes:
        change()
        versions.append(store.get("sql").version)
    store.delete("sql")
    versions.append(store.create("sql", ["a"], rules).version)
    assert versions == sorted(set(versions))
    assert store.get("web") == web


def test_only_what_the_caller_has_read_is_changed(store: Store, rules: Rules) -> None:
    old = store.create("sql", ["a"], rules).version
    current = store.change("sql", description=DESCRIPTION)
    changes: list[Callable[[int], object]] = [
        lambda version: store.change("sql", hosts=["b"], version=version),
        lambda version: store.change("sql", description=Description(), version=version),
        lambda version: store.put_rule("sql", "manager", [Right.MANAGE], version=version),
        lambda version: store.delete_rule("sql", "sender", version=version),
        lambda version: store.delete("sql", version=version),
    ]
    for change in changes:
        with pytest.raises(ChangedMeanwhile):
            change(old)
        assert store.get("sql") == current
    for change in changes:
        change(store.get("sql").version)
    assert store.list() == ()


def test_only_the_key_that_the_caller_knows_is_replaced_or_revoked(store: Store, rules: Rules) -> None:
    before = store.create("sql", ["a"], rules)
    known = before.generations["sender", PRIMARY]
    for generation in (0, known + 1000):
        with pytest.raises(ChangedMeanwhile, match=f"has generation {known}"):
            store.regenerate_key("sql", "sender", PRIMARY, generation=generation)
        with pytest.raises(ChangedMeanwhile):
            store.revoke_key("sql", "sender", PRIMARY, generation=generation)
    assert store.get("sql") == before
    store.regenerate_key("sql", "sender", PRIMARY, generation=known)
    # The same request once more, because its answer was lost.
    with pytest.raises(ChangedMeanwhile):
        store.regenerate_key("sql", "sender", PRIMARY, generation=known)
    store.revoke_key("sql", "sender", PRIMARY, generation=store.get("sql").generations["sender", PRIMARY])
    with pytest.raises(ChangedMeanwhile, match="is revoked"):
        store.regenerate_key("sql", "sender", PRIMARY, generation=known)
    store.regenerate_key("sql", "sender", PRIMARY, generation=0)


def test_each_kind_of_error_has_its_class(store: Store, rules: Rules) -> None:
    store.create("sql", ["a"], rules)
    with pytest.raises(NameTaken):
        store.create("sql", ["a"], rules)
    missing: list[Callable[[], object]] = [
        lambda: store.get("web"),
        lambda: store.delete("web"),
        lambda: store.change("web", description=DESCRIPTION),
        lambda: store.put_rule("web", "sender", [Right.SEND]),
        lambda: store.delete_rule("web", "sender"),
        lambda: store.delete_rule("sql", "nobody"),
        lambda: store.revoke_key("sql", "nobody", PRIMARY),
    ]
    for ask in missing:
        with pytest.raises(NotFound):
            ask()


def test_tokens_are_added_found_and_deleted(store: Store) -> None:
    second, _ = generate_management_token("second", ManagementRole.VIEWER, scope="team/", now=5.0)
    first, _ = generate_management_token("first", ManagementRole.ADMIN, now=6.0)
    assert store.tokens() == ()
    versions = {store.data_version()}
    for token in (second, first):
        store.add_token(token)
        versions.add(store.data_version())
    assert store.tokens() == (first, second)
    assert store.token(second.id) == second
    assert store.token("a" * 8) is None
    with pytest.raises(NameTaken):
        store.add_token(generate_management_token("first", ManagementRole.VIEWER, now=0.0)[0])
    store.set_last_use_of_tokens({second.id: 9.5, "a" * 8: 1.0})
    store.set_last_use_of_tokens({second.id: 8.5})  # an earlier use, which another process writes later
    found = store.token(second.id)
    assert found is not None
    assert found.last_used_at == 9.5
    store.delete_token(second.id)
    versions.add(store.data_version())
    assert len(versions) == 4
    assert store.tokens() == (first,)
    with pytest.raises(NotFound):
        store.delete_token(second.id)


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("team/db", "team/"),
        ("team/sub/db", "team/sub/"),
        ("team/süd/db", "team/s"),
        ("team", ""),
        ("Team/db", ""),
        ("te_m/db", ""),
    ],
)
def test_the_longest_scope_of_a_token_that_covers_a_name(store: Store, name: str, scope: str) -> None:
    assert store.scope_of(name) == ""
    for one in ("team/", "team/sub/", "", "team/s"):
        store.add_token(generate_management_token(f"t{len(one)}", ManagementRole.VIEWER, scope=one, now=0.0)[0])
    assert store.scope_of(name) == scope


def test_tokens_are_limited(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay.relay.store.checks.MAX_TOKENS", 2)
    for name in ("a", "b"):
        store.add_token(generate_management_token(name, ManagementRole.VIEWER, now=0.0)[0])
    with pytest.raises(ConfigurationError, match="already 2 tokens"):
        store.add_token(generate_management_token("c", ManagementRole.VIEWER, now=0.0)[0])


def test_limits_are_stored_and_an_edition_has_to_exist(store: Store, rules: Rules) -> None:
    limits = Limits(listeners=3, sessions=5, bytes_per_month=10**12, bytes_per_second=10**6, end_at_limit=True)
    quota = Quota("basic", limits)
    assert store.create("sql", ["a"], rules).quota == NO_QUOTA
    assert store.change("sql", quota=quota).quota == store.get("sql").quota == quota
    assert store.change("sql", disabled=True).quota == quota
    assert store.create("web", ["a"], rules, quota=quota).quota == quota
    for wrong in (
        lambda: store.change("sql", quota=Quota("gold")),
        lambda: store.create("other", ["a"], rules, quota=Quota("gold")),
        lambda: store.use_edition("gold"),
        lambda: store.change_edition("gold", 1, Limits()),
    ):
        with pytest.raises(NotFound, match="gold") as caught:
            wrong()
        assert "standard" in str(caught.value.remedy)
    presets = store.editions().by_name.values()
    assert [(one.name, one.connections, one.limits.bytes_per_month) for one in presets] == [
        ("developer", 5, 5 * 10**9), ("free", 5, 5 * 10**9), ("basic", 10, 50 * 10**9), ("standard", 50, 250 * 10**9),
        ("premium", 100, 500 * 10**9),
    ]  # fmt: skip
    assert store.editions().of_relay is None
    changed = store.change_edition("free", 2, limits, version=0)
    assert (
        changed == store.editions().by_name["free"] == Edition(name="free", connections=2, limits=limits, version=1)
    )
    with pytest.raises(ChangedMeanwhile):
        store.change_edition("free", 3, Limits(), version=0)
    with pytest.raises(ConfigurationError):
        store.change_edition("free", -1, Limits())
    assert store.use_edition("free").of_relay == store.editions().of_relay == changed


def test_the_edition_of_the_relay_limits_how_many_there_are(store: Store, rules: Rules) -> None:
    store.change_edition("free", 1, Limits())
    store.create("one", ["a"], rules)
    store.create("two", ["a"], rules)
    store.use_edition("free")
    creations: list[Callable[[], object]] = [
        lambda: store.create("three", ["a"], rules),
        lambda: store.import_(RelayRecord("three", ["a"], rules)),
    ]
    for create in creations:
        with pytest.raises(QuotaReached, match="allows 1 hybrid connections, and there are 2"):
            create()
    assert len(store.list()) == 2, "nothing is taken away"
    store.delete("one")
    with pytest.raises(QuotaReached):
        store.create("three", ["a"], rules)
    store.use_edition("")
    store.create("three", ["a"], rules)


def test_every_change_of_a_limit_is_noticed(store: Store, rules: Rules) -> None:
    store.create("sql", ["a"], rules)
    versions = [store.data_version()]
    changes: list[Callable[[], object]] = [
        lambda: store.change("sql", quota=Quota("free")),
        lambda: store.change_edition("free", 1, Limits()),
        lambda: store.use_edition("free"),
    ]
    for change in changes:
        change()
        versions.append(store.data_version())
    assert len(set(versions)) == len(versions)


# --- claims

PROOF = bytes(range(32))


def new_claim(number: int = 1, connection: str = "sql", *, seconds: float = 3600.0) -> Claim:
    digest = hashlib.sha256(PROOF).hexdigest()
    return Claim(f"{number:032x}", connection, digest, b"sealed", 1234.5, 1234.5 + seconds, f"note {number}")


def test_a_claim_is_delivered_once(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    before = store.get("sql")
    store.add_claim(new_claim())
    assert store.claims("sql") == (new_claim(),)

    assert store.take_claim("0" * 32, PROOF, "192.0.2.1").reason is Reason.CLAIM_UNKNOWN
    assert store.take_claim(new_claim().id, bytes(32), "192.0.2.1").reason is Reason.CLAIM_UNKNOWN
    assert store.claims("sql") == (new_claim(),)

    take = store.take_claim(new_claim().id, PROOF, "192.0.2.1")
    assert (take.reason, take.sealed) == (Reason.NO_ERROR, b"sealed")
    (left,) = store.claims("sql")
    assert left == attrs.evolve(new_claim(), sealed=None, taken_at=1234.5, taken_by="192.0.2.1")

    again = store.take_claim(new_claim().id, PROOF, "192.0.2.2")
    assert (again.reason, again.sealed) == (Reason.CLAIM_TAKEN, None)
    (left,) = store.claims("sql")
    assert (left.taken_again, left.taken_again_at, left.taken_again_by) == (1, 1234.5, "192.0.2.2")
    assert store.get("sql") == before  # nothing of the hybrid connection has changed


def test_the_open_claims_of_all(store: Store, rules: Rules) -> None:
    """The one that ends first at the beginning; those that have ended are left out."""
    store.create("sql", ["relay.example.com"], rules)
    store.create("orders", ["relay.example.com"], rules)
    assert store.open_claims() == ()
    late, soon, taken, revoked = (
        new_claim(1),
        new_claim(2, "orders", seconds=600.0),
        new_claim(3),
        new_claim(4, "orders"),
    )
    for claim in (late, soon, taken, revoked):
        store.add_claim(claim)
    store.take_claim(taken.id, PROOF, "192.0.2.1")
    store.revoke_claim("orders", revoked.id)
    assert store.open_claims() == tuple(
        OpenClaim(one.id, one.connection, one.created_at, one.expires_at, one.note) for one in (soon, late)
    )


def test_the_attempt_to_which_a_claim_was_delivered_is_stored(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    store.add_claim(new_claim())
    claim_id = new_claim().id
    assert store.take_claim(claim_id, PROOF, "192.0.2.1", b"a" * 16).sealed == b"sealed"
    assert store.take_claim(claim_id, PROOF, "192.0.2.1", b"a" * 16).reason is Reason.CLAIM_LOST
    (left,) = store.claims("sql")
    assert (left.taken_attempt, left.taken_again) == (hashlib.sha256(b"a" * 16).hexdigest(), 0)
    assert store.take_claim(claim_id, PROOF, "192.0.2.1", b"b" * 16).reason is Reason.CLAIM_TAKEN


def test_a_disabled_connection_keeps_its_claims(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules, disabled=True)
    store.add_claim(new_claim())
    assert store.take_claim(new_claim().id, PROOF, "x").reason is Reason.CONNECTION_DISABLED
    store.change("sql", disabled=False)
    assert store.take_claim(new_claim().id, PROOF, "x").sealed == b"sealed"


def test_a_claim_is_revoked(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    store.create("other", ["relay.example.com"], rules)
    store.add_claim(new_claim())
    for name, claim_id in (("sql", "f" * 32), ("other", new_claim().id)):
        with pytest.raises(NotFound, match="has no such claim"):
            store.revoke_claim(name, claim_id)
    assert store.revoke_claim("sql", new_claim().id)
    assert not store.revoke_claim("sql", new_claim().id)
    assert store.take_claim(new_claim().id, PROOF, "x").reason is Reason.CLAIM_REVOKED
    (left,) = store.claims("sql")
    assert (left.sealed, left.revoked_at) == (None, 1234.5)


def test_claims_that_cannot_be_added(store: Store, rules: Rules) -> None:
    with pytest.raises(NotFound):
        store.claims("sql")
    with pytest.raises(NotFound):
        store.add_claim(new_claim())
    store.create("sql", ["relay.example.com"], rules)
    store.add_claim(new_claim())
    with pytest.raises(NameTaken):
        store.add_claim(new_claim())
    for seconds in (0.0, -5.0, 7 * 86_400 + 2.0):
        with pytest.raises(ConfigurationError, match="at most 7 days"):
            store.add_claim(new_claim(2, seconds=seconds))
    assert store.claims("sql") == (new_claim(),)


def test_claims_go_with_their_connection(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    store.add_claim(new_claim())
    store.delete("sql")
    assert store.take_claim(new_claim().id, PROOF, "x").reason is Reason.CLAIM_UNKNOWN
    store.create("sql", ["relay.example.com"], rules)
    assert store.claims("sql") == ()


def test_a_hybrid_connection_has_a_limited_number_of_claims(store: Store, rules: Rules) -> None:
    for name in "abcdef":
        store.create(name, ["relay.example.com"], rules)
    for number in range(200):
        store.add_claim(new_claim(number, "a"))
    with pytest.raises(ConfigurationError, match="200 of them"):
        store.add_claim(new_claim(5000, "a"))
    with pytest.raises(ConfigurationError, match="has 200 of them"):
        store.add_claim(new_claim(5000, "a"))


def test_many_hybrid_connections_leave_room_for_claims_of_another_one(store: Store, rules: Rules) -> None:
    """Each opens as many as it can, one after the other."""
    number, opened = 0, []
    for name in (*(f"greedy{one}" for one in range(60)), "honest"):
        store.create(name, ["relay.example.com"], rules)
        before = number
        with pytest.raises(ConfigurationError, match="fewer while many are open"):  # noqa: PT012
            for _ in range(1001):
                store.add_claim(new_claim(number, name))
                number += 1
        opened.append(number - before)
    assert opened[:3] == [200, 200, 100]
    assert sorted(opened, reverse=True) == opened
    assert opened[-1] >= 2


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_expired_claims_lose_their_content_and_are_forgotten(kind: str, rules: Rules, tmp_path: Path) -> None:
    now = [1234.5]
    store: Store
    if kind == "sqlite":
        store = SQLiteStore.open(tmp_path / "state", clock=lambda: now[0])
    else:
        store = MemoryStore(lambda: now[0])
    store.create("sql", ["relay.example.com"], rules)
    store.add_claim(new_claim())
    version = store.data_version()
    store.sweep_claims(now[0])
    assert (store.claims("sql"), store.data_version()) == ((new_claim(),), version)
    now[0] += 3601
    store.sweep_claims(now[0])
    assert store.claims("sql") == (new_claim().without_content(),)
    version = store.data_version()
    store.sweep_claims(now[0])
    assert store.data_version() == version
    assert store.take_claim(new_claim().id, PROOF, "x").reason is Reason.CLAIM_EXPIRED
    now[0] += 31 * 86_400
    store.sweep_claims(now[0])
    assert store.claims("sql") == ()
    store.close()


# --- rolls


def test_a_roll_begins_with_its_key_and_ends_with_the_old_one(store: Store, rules: Rules) -> None:
    before = store.create("sql", ["relay.example.com"], rules)
    key = store.roll_key("sql", "sender", SECONDARY, seconds=60.0, generation=before.generations["sender", SECONDARY])
    known = store.get("sql")
    roll = known.roll("sender")
    assert roll is not None
    assert known.rolls == (roll,)
    assert store.rule("sql", "sender").secondary == key
    assert (roll.slot, roll.started_at, roll.ends_at, roll.waits) == (SECONDARY, 1234.5, 1294.5, False)
    assert roll.old_key("sql") == known.key_id("sender", PRIMARY)
    assert roll.new_key("sql") == known.key_id("sender", SECONDARY)
    assert store.snapshot() == {"sql": known}
    with pytest.raises(ConfigurationError, match="is already being rolled"):
        store.roll_key("sql", "sender", SECONDARY, seconds=60.0)
    assert store.get("sql") == known
    store.revoke_key("sql", "sender", PRIMARY, generation=roll.old_generation)
    assert store.get("sql").rolls == ()
    # The next one goes the other way.
    store.roll_key("sql", "sender", PRIMARY, seconds=60.0, generation=0, waits=True)
    roll = store.get("sql").roll("sender")
    assert roll is not None
    assert (roll.slot, roll.waits) == (PRIMARY, True)


def test_a_roll_is_over_when_one_of_its_keys_changes(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    changes: list[Callable[[], object]] = [
        lambda: store.regenerate_key("sql", "sender", PRIMARY),
        lambda: store.regenerate_key("sql", "sender", SECONDARY),
        lambda: store.revoke_key("sql", "sender", SECONDARY),
    ]
    for change in changes:
        store.roll_key("sql", "sender", SECONDARY, seconds=60.0)
        change()
        assert store.get("sql").rolls == ()
    store.roll_key("sql", "sender", SECONDARY, seconds=60.0)
    store.change("sql", description=Description("orders"))
    assert len(store.get("sql").rolls) == 1
    store.delete_rule("sql", "sender")
    assert store.get("sql").rolls == ()


def test_rolls_that_cannot_begin(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    store.revoke_key("sql", "sender", PRIMARY)
    before = store.get("sql")
    with pytest.raises(ConfigurationError, match="has no primary key that could be rolled"):
        store.roll_key("sql", "sender", SECONDARY, seconds=60.0)
    with pytest.raises(NotFound):
        store.roll_key("sql", "nobody", SECONDARY, seconds=60.0)
    with pytest.raises(ChangedMeanwhile):
        store.roll_key("sql", "sender", PRIMARY, seconds=60.0, generation=77)
    with pytest.raises(ConfigurationError, match=r"already .*; nothing was changed"):
        store.roll_key("sql", "sender", PRIMARY, store.rule("sql", "sender").secondary, seconds=60.0)
    assert store.get("sql") == before


def an_update(sequence: int, role: Role = Role.CONNECTOR, serial: str = "", name: str = "sql") -> StoredUpdate:
    return StoredUpdate(name, role, serial, sequence, b"sealed %d" % sequence, 1234.5, 9999.0, "target")


def test_the_latest_update_for_each_group_of_recipients(store: Store, rules: Rules) -> None:
    with pytest.raises(NotFound):
        store.put_update(an_update(1))
    for name in ("sql", "other"):
        store.create(name, ["relay.example.com"], rules)
    before = store.get("sql").version
    for one in (an_update(1), an_update(1, Role.APPLICATION), an_update(2, serial="AB"), an_update(5, name="other")):
        store.put_update(one)
    store.put_update(an_update(3))
    expected = (an_update(1, Role.APPLICATION), an_update(3), an_update(2, serial="AB"))
    assert store.updates("sql") == expected
    assert store.updates() == (an_update(5, name="other"), *expected)
    assert store.updates_of(["sql"]) == expected
    assert store.updates_of(["sql", "none", "other"]) == store.updates()
    assert store.updates_of([]) == store.updates_of(["none"]) == ()
    assert store.get("sql").version > before
    with pytest.raises(NotFound):
        store.updates("none")


@pytest.mark.parametrize("sequence", [3, 2])
def test_an_earlier_update_is_refused(store: Store, rules: Rules, sequence: int) -> None:
    store.create("sql", ["relay.example.com"], rules)
    store.put_update(an_update(3))
    with pytest.raises(ChangedMeanwhile, match="the relay has update 3 already"):
        store.put_update(an_update(sequence))
    assert store.updates("sql") == (an_update(3),)


def test_too_many_updates_and_those_of_a_deleted_connection(store: Store, rules: Rules) -> None:
    store.create("sql", ["relay.example.com"], rules)
    for number in range(MAX_UPDATES_PER_CONNECTION):
        store.put_update(an_update(1, serial=f"{number:X}"))
    with pytest.raises(ConfigurationError, match="keeps at most"):
        store.put_update(an_update(1, serial="FF"))
    store.put_update(an_update(2, serial="1"))
    store.delete("sql")
    store.create("sql", ["relay.example.com"], rules)
    assert store.updates() == ()


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 0},
        {"sequence": 2**53},
        {"serial": "x"},
        {"document": b""},
        {"document": bytes(MAX_UPDATE + 1)},
        {"note": "a\nb"},
        {"role": "relay"},
        {"expires_at": float("nan")},
    ],
)
def test_an_impossible_update_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        attrs.evolve(an_update(1), **change)  # type: ignore[arg-type]
