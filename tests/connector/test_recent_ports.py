"""The local UDP ports of flows that have ended: who had them, and for how long that is remembered."""

from __future__ import annotations

import pytest

from hybridrelay.connector import recent_ports
from hybridrelay.connector.recent_ports import KEEP_SECONDS, RecentPorts, Way

DNS, NTP = ("192.0.2.1", 53), ("192.0.2.1", 123)


def ways(count: int) -> list[Way]:
    return [(40_000 + number, DNS) for number in range(count)]


def test_a_port_is_kept_from_others_for_some_minutes() -> None:
    recent = RecentPorts()
    recent.ended((40_000, DNS), "bob", 10.0)
    assert recent.foreign_since((40_000, DNS), "alice", 11.0) == 10.0
    assert recent.foreign_since((40_000, DNS), "bob", 11.0) is None
    assert recent.foreign_since((40_001, DNS), "alice", 11.0) is None
    assert recent.foreign_since((40_000, NTP), "alice", 11.0) is None, "its socket receives nothing from DNS"
    assert recent.foreign_since((40_000, DNS), "alice", 9.0 + KEEP_SECONDS) == 10.0
    assert recent.foreign_since((40_000, DNS), "alice", 10.0 + KEEP_SECONDS) is None


def test_the_last_application_counts() -> None:
    recent = RecentPorts()
    for at, owner in enumerate(("bob", "alice", "bob", "alice")):
        recent.ended((40_000, DNS), owner, float(at))
    assert len(recent) == 1
    assert recent.foreign_since((40_000, DNS), "bob", 5.0) == 3.0
    assert recent.foreign_since((40_000, DNS), "alice", 5.0) is None


def test_an_application_displaces_only_its_own_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_ports, "MAX_OF_OWNER", 3)
    recent = RecentPorts()
    recent.ended((1, DNS), "bob", 0.0)
    for way in ways(10):
        recent.ended(way, "alice", 1.0)
    assert len(recent) == 4
    assert recent.foreign_since((1, DNS), "alice", 2.0) == 0.0
    assert [way for way in ways(10) if recent.foreign_since(way, "bob", 2.0) is not None] == ways(10)[-3:]


def test_what_is_long_ago_takes_no_memory() -> None:
    recent = RecentPorts()
    for way in ways(10):
        recent.ended(way, way[0], 0.0)
    recent.ended((1, DNS), "bob", KEEP_SECONDS)
    assert len(recent) == 1
    assert len(recent._of_owner) == 1
