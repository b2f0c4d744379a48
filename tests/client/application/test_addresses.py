"""Addresses for published hosts."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.client.application.addresses import BASES, MAX_PUBLISHED, Published, check_published
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import HostPort


@given(st.integers(0, BASES - 1))
def test_names_get_loopback_addresses_of_their_own(base: int) -> None:
    hosts = [HostPort("a.example", 1), HostPort("A.example.", 2), HostPort("b.example", 1), HostPort("10.1.2.3", 80)]
    found = Published.of(hosts, base)
    first, same, second, literal = found.addresses
    assert found.names == {"a.example": first[0], "b.example": second[0]}
    assert (same, literal) == ((first[0], 2), ("10.1.2.3", 80))
    addresses = {ipaddress.IPv4Address(one) for one in (first[0], second[0], found.spare)}
    assert len(addresses) == 3
    assert all(one in ipaddress.IPv4Network("127.64.0.0/10") for one in addresses)


def test_addresses_are_in_their_shortest_form() -> None:
    """As they are compared with those that a program connects to."""
    assert Published.of([HostPort("FD00:0::5", 80)], 0).addresses == (("fd00::5", 80),)
    assert Published.of([HostPort("::ffff:10.1.2.3", 80)], 0).addresses == (("10.1.2.3", 80),)


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ([HostPort("localhost", 80)], "localhost"),
        ([HostPort("127.0.0.1", 80)], "loopback"),
        (
            [HostPort("a.example", 80), HostPort("A.example.", 80)],
            "two hybrid connections have the name A.example.:80",
        ),
        ([HostPort(f"host{n}", 80) for n in range(MAX_PUBLISHED + 1)], "too many"),
    ],
)
def test_what_cannot_be_published(hosts: list[HostPort], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        check_published(hosts)


def test_as_many_as_possible_have_different_addresses() -> None:
    hosts = [HostPort(f"host{n}", 80) for n in range(MAX_PUBLISHED)]
    check_published(hosts)
    found = Published.of(hosts, BASES - 1)
    assert len({*found.names.values(), found.spare}) == MAX_PUBLISHED + 1
    assert all(ipaddress.IPv4Address(one).is_loopback for one in found.names.values())
