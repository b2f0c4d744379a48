"""One application cannot take the descriptors, or the local ports, of all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridrelay._descriptors import reserved_descriptors
from hybridrelay.connector import shares as shares_module
from hybridrelay.connector.shares import Share, Shares, count_local_ports
from hybridrelay.security import HostPort

LIMIT = 1024
USABLE = LIMIT - 2 * reserved_descriptors(LIMIT)
DATABASE, OTHER = HostPort("db.example", 5432), HostPort("db.example", 3306)


def _take_all(share: Share, owner: str) -> int:
    count = 0
    while share.take(owner):
        count += 1
    return count


def test_each_gets_half_of_what_is_left() -> None:
    share = Shares(limit=lambda: LIMIT).descriptors
    taken = [_take_all(share, owner) for owner in "abcd"]
    assert taken == [USABLE // 2, USABLE // 4, USABLE // 8, USABLE // 16]
    assert [share.held(owner) for owner in "abcd"] == taken


def test_what_is_given_back_can_be_taken_again() -> None:
    share = Shares(limit=lambda: LIMIT).descriptors
    most = _take_all(share, "a")
    share.give_back("a")
    assert _take_all(share, "a") == 1
    for _ in range(most):
        share.give_back("a")
    assert share.held("a") == 0
    assert share.is_unused
    assert _take_all(share, "b") == most


def test_everybody_gets_at_least_one() -> None:
    share = Shares(limit=lambda: 16).descriptors
    assert all(_take_all(share, owner) >= 1 for owner in "abcdefghijkl")


def test_without_a_limit_there_are_no_shares() -> None:
    share = Shares(limit=lambda: None).descriptors
    assert all(share.take("a") for _ in range(10_000))


def test_local_ports_are_shared_out_for_each_target() -> None:
    shares = Shares(ports=lambda: 1064)
    assert [_take_all(shares.ports(DATABASE), owner) for owner in "ab"] == [500, 250]
    assert _take_all(shares.ports(OTHER), "a") == 500, "a port can be used once for each target"
    assert "local ports towards db.example:5432" in shares.ports(DATABASE).why_refused("a")


def test_local_udp_ports_are_one_share_for_all_targets() -> None:
    ports = 1064
    shares = Shares(ports=lambda: ports)
    share = shares.datagram_ports
    assert [_take_all(share, owner) for owner in "ab"] == [266, 133], "half of them remain for other programs"
    assert share.why_refused("a") == "266 flows are open, this application's share of the local UDP ports"
    assert _take_all(shares.ports(DATABASE), "a") == 500, "TCP has ports of its own"
    ports *= 2  # net.ipv4.ip_local_port_range was widened
    assert _take_all(share, "a") > 0


def test_targets_that_nobody_uses_are_forgotten() -> None:
    shares = Shares(ports=lambda: 1064)
    kept = shares.ports(DATABASE)
    kept.take("a")
    for number in range(1, 100):
        share = shares.ports(HostPort("db.example", number))
        share.take("b")
        share.give_back("b")
    assert len(shares._by_target) <= 3
    assert shares.ports(DATABASE) is kept


@pytest.mark.parametrize(
    ("text", "ports"), [("32768\t60999\n", 28_232), ("40000 40000\n", 1), ("nonsense\n", 16_384), (None, 16_384)]
)
def test_how_many_ports_there_are(
    text: str | None, ports: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "range"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(shares_module, "_PORT_RANGE", path)
    assert count_local_ports() == ports
