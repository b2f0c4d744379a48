"""How many rendezvous there are, and which instances have pairs."""

from __future__ import annotations

from hybridrelay.relay.core.presence import Presence
from hybridrelay.relay.limits import KEPT_AFTER_BREAK_SECONDS


def test_what_is_counted_and_who_has_a_pair() -> None:
    presence = Presence()
    for _ in range(2):
        presence.begins("db")
    presence.begins("web")
    assert (presence.count("db"), presence.count("web"), presence.count("other")) == (2, 1, 0)
    assert presence.connections == ["db", "web"]
    assert not presence.has_pair("db", "a", 0.0)
    presence.joined("db", "a")
    assert presence.has_pair("db", "a", 0.0)
    assert not presence.has_pair("web", "a", 0.0)
    presence.ended("db", "a", 10.0, was_joined=True)
    presence.ended("db", "b", 10.0, was_joined=False)
    assert presence.connections == ["web"]
    assert not presence.has_pair("db", "b", 10.0)
    assert presence.has_pair("db", "a", 10.0 + KEPT_AFTER_BREAK_SECONDS - 1)
    assert not presence.has_pair("db", "a", 10.0 + KEPT_AFTER_BREAK_SECONDS)


def test_an_instance_that_joins_again_has_a_pair_until_that_one_ends() -> None:
    presence = Presence()
    for at in (0.0, 1000.0):
        presence.begins("db")
        presence.joined("db", "a")
        assert presence.has_pair("db", "a", at + 500)
        presence.ended("db", "a", at + 500, was_joined=True)
    assert not presence.has_pair("db", "a", 5000.0)
