"""Rules are added, changed and deleted, and connection strings carry their keys."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from hybridrelay.administration import Registry, delete_rule, issue_connection_string, set_rule
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import ConnectionString, KeySlot, Right, Role, load_connection_string

from .conftest import Scene

PRIMARY, SECONDARY = KeySlot


def test_a_rule_is_added_and_changed_and_keeps_its_keys(scene: Scene) -> None:
    called = []
    added = set_rule(scene.registry, "orders", "billing", [Right.SEND], before_change=lambda: called.append(1))
    assert (added.before, added.ends_access, added.hosts) == (None, False, ("a.example.com",))
    assert added.after == scene.registry.connection("orders").rule("billing")
    more = set_rule(scene.registry, "orders", "billing", [Right.SEND, Right.LISTEN])
    assert (more.before, more.ends_access) == (added.after, False)
    less = set_rule(scene.registry, "orders", "billing", [Right.LISTEN])
    assert less.ends_access
    assert less.after is not None
    assert less.after.keys == added.after.keys
    assert called == [1]


def test_a_rule_is_deleted(scene: Scene) -> None:
    before = scene.store.get("orders")
    set_rule(scene.registry, "orders", "billing", [Right.SEND])
    done = delete_rule(scene.registry, "orders", "billing")
    assert (done.after, done.ends_access) == (None, True)
    assert scene.store.get("orders").rules == before.rules


def test_what_is_not_there_is_named_before_anything_is_changed(scene: Scene) -> None:
    def called() -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="no rule 'nobody'") as caught:
        delete_rule(scene.registry, "orders", "nobody", before_change=called)
    assert "application, connector" in str(caught.value.remedy)
    with pytest.raises(ConfigurationError, match="no hybrid connection 'other'"):
        set_rule(scene.registry, "other", "billing", [Right.SEND], before_change=called)
    with pytest.raises(ConfigurationError, match="no hybrid connection 'other'"):
        delete_rule(scene.registry, "other", "billing", before_change=called)


def _issue(
    scene: Scene,
    out: Path,
    *,
    rule: str | None = None,
    slot: KeySlot = PRIMARY,
    registry: Registry | None = None,
    key_file: Path | None = None,
) -> ConnectionString:
    issue_connection_string(
        "orders",
        Role.APPLICATION,
        "billing",
        authority_path=scene.files.authority,
        out=out,
        now=time.time(),
        rule=rule,
        slot=slot,
        registry=registry,
        key_file=key_file,
    )
    return load_connection_string(out)


def test_a_string_carries_the_key_of_another_rule(scene: Scene, tmp_path: Path) -> None:
    set_rule(scene.registry, "orders", "billing", [Right.SEND])
    for slot in KeySlot:
        string = _issue(scene, tmp_path / slot, rule="billing", slot=slot, registry=scene.registry)
        assert (string.key_name, string.key) == ("billing", scene.key("billing", slot))
    (tmp_path / "key").write_text(scene.key("billing", SECONDARY).reveal())
    string = _issue(scene, tmp_path / "elsewhere", rule="billing", key_file=tmp_path / "key")
    assert (string.key_name, string.key) == ("billing", scene.key("billing", SECONDARY))
    usual = _issue(scene, tmp_path / "usual", key_file=tmp_path / "key")
    assert (usual.key_name, usual.key) == ("application", string.key)
    named = _issue(scene, tmp_path / "named", rule="application")
    assert (named.key_name, named.key) == ("application", scene.key("application", PRIMARY))


@pytest.mark.parametrize(
    ("rule", "rights", "from_store", "says"),
    [
        ("billing", [Right.LISTEN], True, "does not have the right Send"),
        ("billing", [], True, "no rule 'billing'"),
        ("billing", [Right.SEND], False, "has no key of rule billing"),
    ],
)
def test_no_string_with_a_key_that_would_be_refused(
    scene: Scene,
    tmp_path: Path,
    rule: str,
    rights: list[Right],
    from_store: bool,
    says: str,
) -> None:
    with contextlib.suppress(ConfigurationError):
        set_rule(scene.registry, "orders", rule, rights)
    with pytest.raises(ConfigurationError, match=says) as caught:
        _issue(scene, tmp_path / "out", rule=rule, registry=scene.registry if from_store else None)
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_rule_that_may_manage_may_send(scene: Scene, tmp_path: Path) -> None:
    set_rule(scene.registry, "orders", "all", [Right.MANAGE])
    assert _issue(scene, tmp_path / "out", rule="all", registry=scene.registry).key_name == "all"
