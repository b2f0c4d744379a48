"""Hosts, addresses and ports: what is accepted means the same to every program that reads it later."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hybridrelay.security.names import (
    bracketed,
    check_host,
    ip_address,
    is_loopback,
    normal_host,
    parse_host_port_untrusted,
    parse_port_untrusted,
)

_TRICKY = st.text("0123456789abcdefxXoO._-:%\u0665 \t\n+/@[]", max_size=20)


@pytest.mark.parametrize(
    "host",
    ["db", "db.internal", "DB.internal.", "a_b", "127.0.0.1", "255.255.255.255", "::1", "fe80::1%eth0", "x1", "1a"],
)
def test_a_valid_host_is_accepted(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "010.0.0.1",
        "10.0.0.010",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "127.0.0.0x1",
        "0x",
        "256.0.0.1",
        "1.2.3.4.5",
        "127.0.0.1.",
        "db.1",
        "\u0661.1.1.1",
        "127.0.0.1 ",
        "127。0。0。1",
        "::ffff:010.0.0.1",
        "::1%",
        "fe80::1%25eth0",
        "fe80::1%a/b",
        "fe80::1%eth0%1",
        "db%2einternal",
        "db..internal",
        ".db",
        "db..",
    ],
)
def test_an_invalid_host_is_refused_and_not_repeated(host: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_host(host)
    assert host not in str(caught.value)


def _resolver(host: str) -> set[str]:
    """What the system's resolver takes it for, without asking a name server."""
    try:
        found = socket.getaddrinfo(host, 1, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return set()
    return {str(entry[4][0]).partition("%")[0] for entry in found}


@given(_TRICKY | st.from_regex(r"[0-9x.]{1,12}") | st.ip_addresses().map(str))
@example("1.2.3.4")
@example("0")
@example("1.2.3")
def test_the_resolver_and_the_standard_library_agree_on_what_is_accepted(host: str) -> None:
    try:
        check_host(host)
    except ValueError:
        return
    bare = host.partition("%")[0]
    try:
        address: str | None = str(ipaddress.ip_address(bare))
    except ValueError:
        address = None

    if "%" not in host:
        assert {str(ipaddress.ip_address(one)) for one in _resolver(host)} == ({address} if address else set())
    assert (ip_address(host) is None) is (address is None)
    assert urlsplit(f"http://{bracketed(bare)}:1/").hostname == bare.lower()


@given(st.text("0123456789+-_ \u0665\u0660\t\n.eExX", max_size=8) | st.integers(-9, 99999).map(str))
@example("05")
@example("\u0665")
@example("1_0")
@example("+5")
def test_ports_have_one_reading(text: str) -> None:
    try:
        port = parse_port_untrusted(text)
    except ValueError:
        return
    assert str(port) == text
    assert 1 <= port <= 65535
    assert urlsplit(f"http://x:{text}/").port == port
    assert socket.getaddrinfo("127.0.0.1", text, flags=socket.AI_NUMERICSERV)[0][4][1] == port


@given(_TRICKY)
@example("[::1]:5432")
@example("[127.0.0.1]:1")
@example("a:1:2")
def test_an_address_to_dial_is_written_back_as_it_was_read(text: str) -> None:
    try:
        parsed = parse_host_port_untrusted(text)
    except ValueError:
        return
    assert str(parsed) == text
    assert parse_host_port_untrusted(str(parsed)) == parsed


def test_a_url_is_not_an_address_to_dial() -> None:
    with pytest.raises(ValueError, match="without a scheme such as tcp://"):
        parse_host_port_untrusted("tcp://db:5432")


@pytest.mark.parametrize(
    ("first", "second"),
    [("DB.Internal", "db.internal."), ("2001:DB8::0:7", "2001:db8::7"), ("FE80::1%eth0", "fe80::1%eth0")],
)
def test_two_spellings_of_one_host(first: str, second: str) -> None:
    assert normal_host(check_host(first)) == normal_host(check_host(second))


def test_an_ipv4_address_inside_ipv6_is_the_ipv4_address() -> None:
    assert ip_address("::ffff:127.0.0.1") == ipaddress.IPv4Address("127.0.0.1")
    assert ip_address("fe80::1%eth0") == ipaddress.IPv6Address("fe80::1")
    assert ip_address("localhost") is None


def test_no_error_repeats_what_was_given() -> None:
    for parse, text in ((parse_port_untrusted, "secret"), (parse_host_port_untrusted, "secret:secret")):
        with pytest.raises(ValueError) as caught:
            parse(text)
        assert not re.search("secret", str(caught.value))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("Localhost.", True),
     ("db.localhost", True),
     ("::ffff:127.0.0.1", True), ("::ffff:192.0.2.1", False),
     ("0.0.0.0", False), ("::", False), ("192.0.2.1", False), ("db.internal", False)],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected
