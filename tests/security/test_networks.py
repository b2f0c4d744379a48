"""Networks that are trusted to say where connections come from."""

from __future__ import annotations

import pytest

from hybridrelay.security import Networks, parse_networks_untrusted


def test_addresses_and_networks() -> None:
    networks = parse_networks_untrusted("192.0.2.7, 10.0.0.0/8,2001:db8::/32,::1")
    for address in ("192.0.2.7", "10.1.2.3", "2001:db8:1::5", "::1", "::ffff:10.9.9.9", "2001:db8::1%eth0", "::1%lo"):
        assert networks.covers(address), address
    for address in ("192.0.2.8", "11.0.0.1", "2001:db9::", "::2", "::ffff:11.0.0.1", "local", "", "localhost"):
        assert not networks.covers(address), address
    assert str(networks) == "192.0.2.7/32,10.0.0.0/8,2001:db8::/32,::1/128"


def test_no_networks_cover_nothing() -> None:
    assert not Networks()
    assert not Networks().covers("127.0.0.1")


@pytest.mark.parametrize(
    "text", ["", "10.0.0.0/8,", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "*", "10.0.0.0-10.0.0.9"]
)
def test_what_is_not_a_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected addresses or networks"):
        parse_networks_untrusted(text)
