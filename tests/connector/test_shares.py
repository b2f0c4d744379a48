"""One application cannot take the descriptors of all others."""

from __future__ import annotations

from hybridrelay._descriptors import reserved_descriptors
from hybridrelay.connector.shares import DescriptorShares

LIMIT = 1024
USABLE = LIMIT - 2 * reserved_descriptors(LIMIT)


def _take_all(shares: DescriptorShares, owner: str) -> int:
    count = 0
    while shares.take(owner):
        count += 1
    return count


def test_each_gets_half_of_what_is_left() -> None:
    shares = DescriptorShares(lambda: LIMIT)
    taken = [_take_all(shares, owner) for owner in "abcd"]
    assert taken == [USABLE // 2, USABLE // 4, USABLE // 8, USABLE // 16]
    assert [shares.held(owner) for owner in "abcd"] == taken


def test_what_is_given_back_can_be_taken_again() -> None:
    shares = DescriptorShares(lambda: LIMIT)
    most = _take_all(shares, "a")
    shares.give_back("a")
    assert _take_all(shares, "a") == 1
    for _ in range(most):
        shares.give_back("a")
    assert shares.held("a") == 0
    assert _take_all(shares, "b") == most


def test_everybody_gets_at_least_one() -> None:
    shares = DescriptorShares(lambda: 16)
    assert all(_take_all(shares, owner) >= 1 for owner in "abcdefghijkl")


def test_without_a_limit_there_are_no_shares() -> None:
    shares = DescriptorShares(lambda: None)
    assert all(shares.take("a") for _ in range(10_000))
