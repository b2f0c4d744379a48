"""What may stand in an argument, and what may not."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import pytest

from hybridrelay._datagram_address import DatagramAddress
from hybridrelay._own_address import EveryPort
from hybridrelay._unix_address import UnixAddress
from hybridrelay.cli.arguments import values
from hybridrelay.cli.commands.relay import make_bindings
from hybridrelay.relay import Binding

NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5432", ("127.0.0.1", 5432)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:5432", ("::1", 5432)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_to_listen_on_is_parsed(text: str, expected: tuple[str, int]) -> None:
    assert values.listen_address(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:53", ("127.0.0.1", 53)),
        ("127.0.0.1:53/udp", DatagramAddress("127.0.0.1", 53)),
        ("[::1]:53/tcp+udp", DatagramAddress("::1", 53, with_streams=True)),
        ("127.0.0.9:*", EveryPort("127.0.0.9")),
        ("[::1]:*/udp", EveryPort("::1", with_streams=False, with_datagrams=True)),
        ("127.0.0.9:*/tcp+udp", EveryPort("127.0.0.9", with_datagrams=True)),
        ("unix:/run/x", UnixAddress("/run/x")),
        ("own", "own"),
        ("own/udp", "own/udp"),
        ("own/tcp+udp", "own/tcp+udp"),
    ],
)
def test_a_local_address_is_parsed(text: str, expected: object) -> None:
    assert values.local_address(text) == expected
    assert str(expected) == text or isinstance(expected, tuple)


@pytest.mark.parametrize("text", ["own/tcp", "own:", "127.0.0.1:*/tcp", ":*/udp", "own/udp/udp"])
def test_what_is_not_a_local_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        values.local_address(text)


@pytest.mark.parametrize(
    "text", ["", "5432", ":5432", "::1:5432", "[::1]", "127.0.0.1:65536", "127.0.0.1:-1", "a b:1"]
)
def test_what_is_not_an_address_to_listen_on_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        values.listen_address(text)
    assert "from 1 to" not in str(caught.value)  # 0 is possible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("probe=9350", {"probe": (None, 9350)}),
        ("data=off", {"data": None}),
        ("http=0", {"http": (None, 0)}),
        (
            "probe=9350,http=127.0.0.1:8080, data=off,https=[::1]:0",
            {"probe": (None, 9350), "http": ("127.0.0.1", 8080), "data": None, "https": ("::1", 0)},
        ),
    ],
)
def test_ports_are_parsed(text: str, expected: dict[str, values.PortOption]) -> None:
    assert values.ports(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected name=number"),
        ("9350", "expected name=number"),
        ("=9350", "expected name=number"),
        ("probe=", "expected a port number"),
        ("probe=on", "expected a port number"),
        ("probe=65536", "expected a port number"),
        ("probe=+5", "expected a port number"),
        ("probe=1_0", "expected a port number"),
        ("probe=09350", "expected a port number"),
        ("probe=\u0665", "expected a port number"),
        ("probe=00", "expected a port number"),
        ("probe=1,probe=2", "port probe appears twice"),
        ("http=::1:80", "brackets"),
    ],
)
def test_wrong_ports_are_explained(text: str, says: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        values.ports(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("relay.example.com", "relay.example.com"), ("[2001:db8::7]", "2001:db8::7"), ("::1", "::1")],
)
def test_a_host_is_parsed(text: str, expected: str) -> None:
    assert values.host(text) == expected


@pytest.mark.parametrize("parse", [values.host, values.endpoint])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("relay.example.com:443", "without a port; --"),
        ("[2001:db8::7]:443", "without a port; --"),
        ("https://relay.example.com", "without a scheme"),
        ("https://relay.example.com:443/", "without a scheme"),
        ("relay.example.com/", "without a scheme or a path"),
        ("127.1", "not a valid IPv4 address"),
        ("[127.0.0.1]", "brackets are for IPv6"),
        ("[relay.example.com]", "brackets are for IPv6"),
        ("2001:db8:::7", "not a valid IPv6 address"),
    ],
)
def test_what_is_more_than_a_host(parse: Callable[[str], str], text: str, says: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        parse(text)


@pytest.mark.parametrize("text", ["tcp://db:5432", "postgresql://db:5432/orders", "tcp://[::1]:5432"])
def test_a_target_is_not_a_url(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="without a scheme such as tcp://"):
        values.target(text)


@pytest.mark.parametrize("parse", [values.path, values.path_or_stdin])
def test_a_path_contains_no_nul(parse: Callable[[str], object]) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a path contains no NUL character"):
        parse("a\0b")


@pytest.mark.parametrize("text", ["5", "0.5", "86400", "0.1"])
def test_a_duration_is_a_number_of_seconds(text: str) -> None:
    assert values.seconds(0.1)(text) == float(text)


@pytest.mark.parametrize(
    "text", ["0", "86401", "+5", "-1", "1_0", " 5", "5s", "1e3", "inf", "nan", "\u0665", ".5", "5.", ""]
)
def test_a_wrong_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="seconds"):
        values.seconds(0.1)(text)


@pytest.mark.parametrize("text", ["0", "-1", "101", "nan", "ten", "1_0", "+1", "1e1"])
def test_a_wrong_number_of_years_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        values.years(text)


def test_ports_that_are_not_named_have_their_defaults_on_every_host() -> None:
    bindings = make_bindings(["192.0.2.1", "::1"], {"http": ("127.0.0.1", 8080), "https": None, "data": (None, 1)})

    assert bindings == {
        "probe": (Binding("192.0.2.1", 9350), Binding("::1", 9350)),
        "control": (Binding("192.0.2.1", 5671), Binding("::1", 5671)),
        "data": (Binding("192.0.2.1", 1), Binding("::1", 1)),
        "http": (Binding("127.0.0.1", 8080),),
    }


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("500", 500), ("9999999", 9_999_999)])
def test_a_count_is_parsed(text: str, number: int) -> None:
    assert values.count(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", "1.5", "1_0", " 1", "1e3", "10000000", "\u0661", "nan", "many"]
)
def test_a_wrong_count_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        values.count(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", NOW - 1_800),
        ("12h", NOW - 43_200),
        ("7d", NOW - 604_800),
        ("2026-01-31", 1_769_817_600),
        ("2026-01-31T12:00", 1_769_860_800),
        ("2026-01-31T12:00:00.500Z", 1_769_860_800.5),
        ("2026-01-31T12:00+02:00", 1_769_853_600),
    ],
)
def test_a_moment_is_a_time_or_a_duration_ago(text: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))
    assert values.moment(text) == expected
