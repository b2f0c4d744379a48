"""How exactly connectors learn the addresses of clients."""

from __future__ import annotations

import pytest

from hybridrelay.protocol.control import MAX_CLIENT_ADDRESS
from hybridrelay.relay.client_addresses import ClientAddresses


@pytest.mark.parametrize(
    ("address", "exact", "network"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("2001:db8::7:8", "2001:db8::7:8", "2001:db8::/64"),
        ("2001:0DB8:0:0::7", "2001:db8::7", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::1", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("", "", ""),
        ("a Unix socket", "a Unix socket", "a Unix socket"),
    ],
)
def test_an_address_is_stated_exactly_as_its_network_or_not_at_all(address: str, exact: str, network: str) -> None:
    assert ClientAddresses.EXACT.stated(address) == exact
    assert ClientAddresses.NETWORK.stated(address) == network
    assert ClientAddresses.NONE.stated(address) == ""
    assert len(ClientAddresses.EXACT.stated("ffff:" * 7 + "ffff")) <= MAX_CLIENT_ADDRESS
