"""Addresses for published hosts."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.client.application.addresses import BASES, MAX_HOSTS, Published, check_published
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import HostPort, HostPorts, HostTarget, PortSet

SEVERAL = HostPorts("a.example", PortSet([(21, 21), (50000, 50001)]))


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
    """The addresses in the form in which they are compared with those that a program connects to."""
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
        ([HostPort(f"host{n}", 80) for n in range(MAX_HOSTS + 1)], "251 hosts are too many"),
        ([SEVERAL, HostPort("a.example", 50001)], "two hybrid connections have the name a.example:50001"),
        (
            [HostPorts(f"host{n}", PortSet([(1, 512)])) for n in range(3)],
            "1536 ports of all hosts together are too many: at most 1024",
        ),
    ],
)
def test_what_cannot_be_published(hosts: list[HostTarget], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        check_published(hosts)


def test_as_many_as_possible_have_different_addresses() -> None:
    hosts = [HostPort(f"host{n}", 80) for n in range(MAX_HOSTS)]
    check_published(hosts)
    found = Published.of(hosts, BASES - 1)
    assert len({*found.names.values(), found.spare}) == MAX_HOSTS + 1
    assert all(ipaddress.IPv4Address(one).is_loopback for one in found.names.values())


def test_all_ports_of_a_host_have_its_address() -> None:
    found = Published.of([SEVERAL, HostPort("b.example", 21)], 7)
    first, second = found.names["a.example"], found.names["b.example"]
    assert found.addresses == ((first, 21), (first, 50000), (first, 50001), (second, 21))


def test_in_a_private_network_ports_of_one_host_only_are_open_at_every_address() -> None:
    """An address that the server tells the application then leads to the same host."""
    alike = HostPorts("c.example", PortSet([(50001, 50002)]))
    found = Published.of([SEVERAL, HostPort("b.example", 21), HostPort("d.example", 80), alike], 7)
    a, b, c, d = (found.names[f"{letter}.example"] for letter in "abcd")
    everywhere = "0.0.0.0"
    assert found.private_addresses == (
        (a, 21), (everywhere, 50000), (a, 50001), (b, 21), (d, 80), (c, 50001), (everywhere, 50002),
    )  # fmt: skip
    v6 = HostPorts("fd00::5", PortSet([(1, 2)]))
    assert Published.of([v6], 7).private_addresses == (("fd00::5", 1), ("fd00::5", 2))
