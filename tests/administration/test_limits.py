"""Limits of hybrid connections and of editions are changed one by one, and the others stay."""

from __future__ import annotations

import pytest

from hybridrelay.administration import change_edition, change_limits, use_edition
from hybridrelay.errors import ConfigurationError
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.relay.store.store import NotFound

from .conftest import Scene


def test_limits_of_a_hybrid_connection(scene: Scene) -> None:
    held: list[str] = []
    found = change_limits(scene.registry, "orders", {"sessions": 5, "senders": 7}, edition="basic")
    assert found.quota == Quota("basic", Limits(sessions=5, senders=7))
    found = change_limits(
        scene.registry, "orders", {"senders": None, "end_at_limit": True}, before_change=lambda: held.append("change")
    )
    assert found.quota == Quota("basic", Limits(sessions=5, end_at_limit=True))
    assert scene.store.get("orders").quota == found.quota
    assert (found.in_force.sessions, held) == (5, ["change"])
    assert change_limits(scene.registry, "orders", {}, edition="").quota.edition == ""


def test_what_stays_the_same_is_not_changed(scene: Scene) -> None:
    before = scene.store.get("orders")

    def unexpected() -> None:
        raise AssertionError("there is nothing to change")

    for changes in ({}, {"sessions": None}):
        assert change_limits(scene.registry, "orders", changes, before_change=unexpected).quota == before.quota
    assert scene.store.get("orders") == before


def test_the_edition_of_a_relay(scene: Scene) -> None:
    now = use_edition(scene.registry, "free")
    assert now.edition is not None
    assert (now.edition.name, now.connections) == ("free", 1)
    assert use_edition(scene.registry, "").edition is None


def test_an_edition_is_changed(scene: Scene) -> None:
    before = scene.store.editions().by_name["free"]
    changed, earlier = change_edition(scene.registry, "free", {"listeners": 3})
    assert (changed.limits.listeners, changed.connections) == (3, before.connections)
    assert earlier.by_name["free"] == before
    changed, _ = change_edition(scene.registry, "free", {"listeners": None}, connections=lambda _: None)
    assert (changed.limits.listeners, changed.connections) == (None, None)
    assert scene.store.editions().by_name["free"] == changed


def test_what_cannot_be_set(scene: Scene) -> None:
    with pytest.raises(ConfigurationError, match="too low or too high"):
        change_limits(scene.registry, "orders", {"listeners": 10**9})
    with pytest.raises(ConfigurationError, match="too low or too high"):
        change_edition(scene.registry, "free", {"listeners": 10**9})
    for change in (
        lambda: change_limits(scene.registry, "nothing", {}),
        lambda: change_limits(scene.registry, "orders", {}, edition="gold"),
        lambda: change_edition(scene.registry, "gold", {}),
        lambda: use_edition(scene.registry, "gold"),
    ):
        with pytest.raises(NotFound):
            change()
    assert scene.store.get("orders").quota == Quota("", Limits())
