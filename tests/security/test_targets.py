"""Targets: how they are written, and what they may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.security import (
    HostPort,
    HostPorts,
    NamedInstance,
    PortSet,
    Protocols,
    Target,
    UnixSocket,
    each_stream_target,
    local_name_of_target,
    parse_local_name_untrusted,
    parse_target_untrusted,
)
from hybridrelay.security.targets import MAX_TARGET_PORTS

FTP = HostPorts("ftp.corp", PortSet([(21, 21), (50000, 50100)]))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("db.corp:5432", HostPort("db.corp", 5432)),
        ("[fd00::5]:5432", HostPort("fd00::5", 5432)),
        ("ftp.corp:21,50000-50100", FTP),
        ("dns.corp:53/udp", HostPort("dns.corp", 53, protocols=Protocols.UDP)),
        ("dc1.corp:389/tcp+udp", HostPort("dc1.corp", 389, protocols=Protocols.BOTH)),
        ("kdc.corp:88,464/udp", HostPorts("kdc.corp", PortSet([(88, 88), (464, 464)]), protocols=Protocols.UDP)),
        ("[fd00::5]:53/udp", HostPort("fd00::5", 53, protocols=Protocols.UDP)),
        ("[fd00::5]:1-2", HostPorts("fd00::5", PortSet([(1, 2)]))),
        ("10.0.0.5:443,80,81", HostPorts("10.0.0.5", PortSet([(443, 443), (80, 80), (81, 81)]))),
        ("unix:/run/a:1,2", UnixSocket("/run/a:1,2")),
        (r"sql01\SQLEXPRESS", NamedInstance("sql01", "SQLEXPRESS")),
        (r"[fd00::5]\a_$#9", NamedInstance("fd00::5", "a_$#9")),
    ],
)
def test_they_are_read_as_they_are_written(text: str, target: Target) -> None:
    assert parse_target_untrusted(text) == target
    assert str(target) == text


def test_one_port_is_not_a_set() -> None:
    assert parse_target_untrusted("db:7-7") == HostPort("db", 7)
    with pytest.raises(ValueError, match="at least two"):
        HostPorts("db", PortSet([(7, 7)]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp.corp:", "from 1 to 65535"),
        ("ftp.corp:,", "from 1 to 65535"),
        ("ftp.corp:21,", "from 1 to 65535"),
        ("ftp.corp:21, 22", "without blanks"),
        ("ftp.corp:21-", "from 1 to 65535"),
        ("ftp.corp:-21", "from 1 to 65535"),
        ("ftp.corp:1-2-3", "from 1 to 65535"),
        ("ftp.corp:0-5", "from 1 to 65535"),
        ("ftp.corp:65535-65536", "from 1 to 65535"),
        ("ftp.corp:021,22", "from 1 to 65535"),
        ("ftp.corp:*", "from 1 to 65535"),
        ("ftp.corp:50100-50000", "50100-50000 ends before it begins"),
        ("ftp.corp:21,20-22", "port 21 occurs twice"),
        ("ftp.corp:21,21", "port 21 occurs twice"),
        (f"ftp.corp:1-{MAX_TARGET_PORTS + 1}", "at most 512 ports"),
        ("ftp.corp:1-65535", "at most 512 ports are possible, and these are 65535"),
        ("ftp.corp:" + "1," * 100_000, "at most 512 ports"),
        ("fd00::5:1,2", "in brackets"),
        ("ftp .corp:1,2", "not a valid host name"),
        ("sql01\\", "1 to 16 characters"),
        ("\\SQLEXPRESS", "the host is missing"),
        (r"sql01\9", "1 to 16 characters"),
        (r"sql01\a;b", "1 to 16 characters"),
        ("sql01\\" + "a" * 17, "1 to 16 characters"),
        (r"sql01\a\b", "1 to 16 characters"),
        (r"sql01\SQLEXPRESS,1433", "either the name of an instance, or a port"),
        (r"sql01:1433\SQLEXPRESS", "in brackets"),
    ],
)
def test_what_no_target_is(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_target_untrusted(text)


def test_the_most_ports() -> None:
    numbers = range(1, 2 * MAX_TARGET_PORTS, 2)
    target = parse_target_untrusted(f"h:{','.join(map(str, numbers))}")
    assert isinstance(target, HostPorts)
    assert list(target.ports) == list(numbers)
    assert len(target.ports) == MAX_TARGET_PORTS


@given(st.lists(st.integers(1, 65535), min_size=2, max_size=60, unique=True))
def test_every_list_of_ports_survives(numbers: list[int]) -> None:
    target = HostPorts("h", PortSet.of(numbers))
    assert parse_target_untrusted(str(target)) == target
    assert list(target.ports) == numbers
    assert [one.port for one in target.each] == numbers
    assert target.first == HostPort("h", numbers[0])
    outside = {1, 65535}.union(*({number - 1, number + 1} for number in numbers)).difference(numbers)
    assert all(number in target.ports for number in numbers)
    assert not any(number in target.ports for number in outside)


@pytest.mark.parametrize("numbers", [[443, 80], [1, 2, 3, 65535], list(range(1000, 1050)), list(range(1, 120, 2))])
def test_no_other_port_is_one_of_a_target(numbers: list[int]) -> None:
    ports = PortSet.of(numbers)
    assert [number for number in range(1, 65536) if number in ports] == sorted(numbers)


@given(st.text("0123456789,-: []abcU/\\", max_size=40))
def test_any_text_is_a_target_or_a_value_error(text: str) -> None:
    try:
        target = parse_target_untrusted(text)
    except ValueError:
        return
    assert parse_target_untrusted(str(target)) == target


@pytest.mark.parametrize("suffix", ["/tcp", "/", "/UDP", "/udp+tcp", "/udp/udp", "/sctp", "/tcp+udp,54"])
def test_other_protocols_are_refused(suffix: str) -> None:
    with pytest.raises(ValueError, match=r"only /udp and /tcp\+udp are possible"):
        parse_target_untrusted(f"dns.corp:53{suffix}")


def test_a_stream_or_flow_has_one_protocol() -> None:
    def shown(text: str) -> list[str]:
        return [str(one) for one in each_stream_target(parse_target_untrusted(text))]

    assert shown("h:1") == ["h:1"]
    assert shown("h:1,3/udp") == ["h:1/udp", "h:3/udp"]
    assert shown("h:1-2/tcp+udp") == ["h:1", "h:1/udp", "h:2", "h:2/udp"]
    assert shown("unix:/run/db") == ["unix:/run/db"]


def test_a_local_name_has_no_protocols() -> None:
    with pytest.raises(ValueError, match="without /udp"):
        parse_local_name_untrusted("dns.corp:53/udp")
    assert str(local_name_of_target(parse_target_untrusted("dns.corp:53/udp"))) == "dns.corp:53"
