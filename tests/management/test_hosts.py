"""Which names requests may be for."""

from __future__ import annotations

import pytest

from hybridrelay.management.hosts import AllowedHosts

HOSTS = AllowedHosts(["Admin.Example.org"], lambda: {"relay.example.com", "*.wild.example.com"})


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "::1", "192.0.2.1", "2001:db8::1", "admin.example.org", "relay.example.com",
     "relay.example.com.", "a.wild.example.com"],
)  # fmt: skip
def test_an_allowed_host_is_recognized(host: str) -> None:
    assert host in HOSTS


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "example.com", "a.relay.example.com", "wild.example.com", "a.b.wild.example.com", ".",
     "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "*.wild.example.com.evil.example"],
)  # fmt: skip
def test_any_other_host_is_not(host: str) -> None:
    assert host not in HOSTS
