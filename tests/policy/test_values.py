"""What the values of a policy mean, and which texts are refused."""

from __future__ import annotations

import datetime as dt

import pytest

from hybridrelay.policy.document import Entry, HoursList, Place
from hybridrelay.policy.index import RelayIndex
from hybridrelay.policy.values import address_of, parse_authority, parse_hours, parse_relay, parse_target
from hybridrelay.security import HostPort

PIN = "sha256:" + "A" * 43 + "="


@pytest.mark.parametrize(
    ("pattern", "host", "port", "address", "is_about", "permits"),
    [
        ("db.corp.example:5432", "db.corp.example", 5432, "", True, True),
        ("db.corp.example:5432", "DB.Corp.Example.", 5432, "10.0.0.1", True, True),
        ("db.corp.example:5432", "db.corp.example", 5433, "", False, False),
        ("db.corp.example:5432", "db2.corp.example", 5432, "", False, False),
        ("*.corp.example:*", "a.b.corp.example", 1, "", True, True),
        ("*.corp.example:*", "corp.example", 1, "", False, False),
        ("*.corp.example:*", "evilcorp.example", 1, "", False, False),
        ("*:22", "anything", 22, "", True, True),
        ("*:22", "::1", 22, "", True, True),
        ("*:8000-8999", "anything", 8999, "", True, True),
        ("*:8000-8999", "anything", 9000, "", False, False),
        ("10.1.0.0/16:*", "10.1.255.255", 80, "", True, True),
        ("10.1.0.0/16:*", "10.2.0.0", 80, "", False, False),
        # A name in a network: unknown until it is resolved, so it is neither denied nor refused yet.
        ("10.1.0.0/16:*", "db", 80, "", False, True),
        ("10.1.0.0/16:*", "db", 80, "10.1.2.3", True, True),
        ("10.1.0.0/16:*", "db", 80, "10.2.2.3", False, False),
        ("10.1.2.3:80", "::ffff:10.1.2.3", 80, "", True, True),
        ("[2001:db8::/32]:443", "2001:db8:1::5", 443, "", True, True),
        ("[2001:db8::/32]:443", "10.1.2.3", 443, "", False, False),
        ("[fe80::/10]:22", "fe80::1%eth0", 22, "", True, True),
        # Connecting to the unspecified address reaches this machine, so a rule about loopback is also about it.
        ("127.0.0.0/8:*", "0.0.0.0", 22, "", True, True),
        ("0.0.0.0/32:*", "0.0.0.0", 22, "", True, False),
        ("[::1]:*", "::", 22, "", True, True),
    ],
)
def test_which_targets_a_pattern_denies_and_permits(
    pattern: str, host: str, port: int, address: str, is_about: bool, permits: bool
) -> None:
    parsed, target = parse_target(pattern), HostPort(host, port)
    known = address_of(address or host)

    assert parsed.is_about(target, known) is is_about
    assert parsed.permits(target, known) is permits


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("db.corp.example", "expected host:port"),
        ("tcp://db:22", "expected host:port"),
        (":22", "the host is missing"),
        ("db:", "a port is"),
        ("db:0", "a port is"),
        ("db:65536", "a port is"),
        ("db:022", "a port is"),
        ("db:22-", "a port is"),
        ("db:23-22", "ends before it begins"),
        ("db:ssh", "a port is"),
        ("d*b:22", "a wildcard is"),
        ("*.*.example:22", "not a valid host name"),
        ("*.10:22", "not a valid IPv4 address"),
        ("10.0.0.300:22", "not a valid IPv4 address"),
        ("10.1:22", "not a valid IPv4 address"),
        ("010.0.0.1:22", "not a valid IPv4 address"),
        ("10.0.0.5/8:22", "host bits"),
        ("10.0.0.0/33:22", "not a valid address or network"),
        ("db.example/24:22", "not a valid address or network"),
        ("::1:22", "in brackets"),
        ("[db]:22", "brackets are for IPv6"),
        ("[::1:22", "brackets are for IPv6"),
        ("[::ffff:10.0.0.1]:22", "IPv4-mapped"),
        ("[fe80::1%eth0]:22", "zone"),
        ("db .example:22", "not a valid host name"),
        ("d\u0431.example:22", "ASCII form"),
        ("", "expected host:port"),
    ],
)
def test_a_target_that_could_never_match_is_an_error(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_target(text)


@pytest.mark.parametrize(
    ("pattern", "host", "permitted"),
    [
        ("127.0.0.0/8:*", "127.0.0.1", True),
        ("127.0.0.0/8:*", "0.0.0.0", False),
        ("127.0.0.0/8:*", "localhost", False),
        ("0.0.0.0/0:*", "0.0.0.0", True),
        ("[::1]:*", "::", False),
        ("*:*", "::", True),
        ("localhost:*", "localhost", True),
    ],
)
def test_listening_everywhere_is_not_listening_on_loopback(pattern: str, host: str, permitted: bool) -> None:
    assert parse_target(pattern).permits_listening(HostPort(host, 80)) is permitted


@pytest.mark.parametrize(
    ("pattern", "host", "permitted"),
    [
        ("relay.example.com", "Relay.Example.COM.", True),
        ("*.example.com", "relay.example.com", True),
        ("*.example.com", "example.com", False),
        ("192.0.2.0/24", "192.0.2.7", True),
        ("192.0.2.0/24", "relay.example.com", False),
        ("2001:db8::1", "2001:db8:0::1", True),
        ("[2001:db8::/32]", "2001:db8::1", True),
        (PIN, "relay.example.com", False),
    ],
)
def test_which_relays_a_pattern_permits(pattern: str, host: str, permitted: bool) -> None:
    assert RelayIndex([parse_relay(pattern)]).permits(host) is permitted


@pytest.mark.parametrize("text", ["https://relay.example", "relay.example:443", "sha256:abc", "rel ay", "[x]", ""])
def test_what_is_not_a_relay_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_relay(text)


def test_an_authority_may_be_written_in_several_ways() -> None:
    digits = "0f" * 32

    assert {parse_authority(one) for one in (digits, f"sha256:{digits.upper()}", ":".join(["0F"] * 32))} == {digits}
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        parse_authority(digits[:-1])


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("Mon-Fri 08:00-18:00", ["Mon 08:00", "Fri 17:59"], ["Mon 07:59", "Fri 18:00", "Sat 12:00"]),
        ("sat-mon 00:00-24:00", ["Sat 00:00", "Sun 12:00", "Mon 23:59"], ["Tue 00:00", "Fri 23:59"]),
        ("Wed 12:00-12:01", ["Wed 12:00"], ["Wed 12:01", "Thu 12:00"]),
        ("daily 06:00-22:00", ["Sun 06:00"], ["Sun 05:59"]),
    ],
)
def test_which_moments_are_within_hours(text: str, inside: list[str], outside: list[str]) -> None:
    place = Place("policy.toml", 1)
    hours = HoursList(place, (Entry(parse_hours(text), text, place),))

    assert all(hours.include(_moment(one)) for one in inside)
    assert not any(hours.include(_moment(one)) for one in outside)


@pytest.mark.parametrize(
    "text",
    ["Mon 8:00-18:00", "Mon 18:00-08:00", "Mon 08:00-24:01", "Mon 08:60-09:00", "Mo 08:00-09:00", "08:00-09:00"],
)
def test_what_is_not_a_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_hours(text)


def _moment(text: str) -> dt.datetime:
    """A moment in a week that begins on Monday, 2 March 2026."""
    day, time = text.split()
    days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    return dt.datetime.fromisoformat(f"2026-03-{days.index(day) + 2:02}T{time}")


@pytest.mark.parametrize(
    ("pattern", "path", "resolved", "is_about", "permits"),
    [
        ("unix:/run/db.sock", "/run/db.sock", "/run/db.sock", True, True),
        ("unix:/run/db.sock", "/run/db.sock2", "/run/db.sock2", False, False),
        ("unix:/run/db.sock", "/run/link", "/run/db.sock", True, True),
        # A denial also holds for the path as it is configured. What is allowed is only where it leads.
        ("unix:/run/link", "/run/link", "/run/db.sock", True, False),
        ("unix:/run/db/*", "/run/db/a", "/run/db/a", True, True),
        ("unix:/run/db/*", "/run/db/a/b", "/run/db/a/b", True, True),
        ("unix:/run/db/*", "/run/db", "/run/db", False, False),
        ("unix:/run/db/*", "/run/db2/a", "/run/db2/a", False, False),
        ("unix:/run/db/*", "/run/db/../x", "/run/x", True, False),
        ("unix:*", "/anything", "/anything", True, True),
        # Every target includes Unix sockets, but only if it is denied.
        ("*:*", "/run/db.sock", "/run/db.sock", True, False),
        ("*:1-65534", "/run/db.sock", "/run/db.sock", False, False),
        ("0.0.0.0/0:*", "/run/db.sock", "/run/db.sock", False, False),
        # Not resolved yet: it may be allowed.
        ("unix:/run/db.sock", "/x", None, False, True),
        ("db:5432", "/x", None, False, False),
    ],
)
def test_which_unix_sockets_a_pattern_denies_and_permits(
    pattern: str, path: str, resolved: str | None, is_about: bool, permits: bool
) -> None:
    parsed = parse_target(pattern)
    assert parsed.is_about_path({path, resolved or path}) is is_about
    assert parsed.permits_path(resolved) is permits


@pytest.mark.parametrize(
    "text",
    ["unix:", "unix:run/db", "unix:/run/../db", "unix:/run//db", "unix:/run/./db", "unix:/run/", "unix:/run/*/db",
     "unix:/*x", "unix:/run/d*", "unix://run/db", "unix:/a;b", "unix:/a\nb"],
)  # fmt: skip
def test_paths_that_could_never_match(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|unix:/"):
        parse_target(text)
