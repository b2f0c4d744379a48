"""PROXY headers, versions 1 and 2."""

from __future__ import annotations

import ipaddress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.streams.proxy_protocol import (
    MAX_PROXY_HEADER,
    ProxyHeader,
    ProxyHeaderError,
    format_proxy_header,
    parse_proxy_header_untrusted,
    receive_proxy_header,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, kind: int, payload: bytes, *, version: int = 2, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return SIGNATURE + bytes([version << 4 | command, kind]) + size.to_bytes(2) + payload


def addresses(source: str, destination: str) -> bytes:
    packed = [ipaddress.ip_address(one).packed for one in (source, destination)]
    return b"".join(packed) + (4711).to_bytes(2) + (443).to_bytes(2)


V4 = addresses("192.0.2.7", "198.51.100.1")
V6 = addresses("2001:db8::7", "2001:db8::1")
TLVS = b"\x04\0\x03abc" + b"\x20\0\x05" + bytes(5)

VALID = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", "192.0.2.7"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    (b"PROXY TCP6 2001:db8::7 2001:DB8::1 4711 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 2001:0DB8:0:0::7 ::1 0 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 1\r\n", "192.0.2.7"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff whatever 65535\r\n", None),
    (v2(1, 0x11, V4), "192.0.2.7"),
    (v2(1, 0x21, V6), "2001:db8::7"),
    (v2(1, 0x21, addresses("::ffff:192.0.2.7", "::1")), "192.0.2.7"),
    (v2(1, 0x11, V4 + TLVS), "192.0.2.7"),
    (v2(1, 0x11, V4 + bytes(MAX_PROXY_HEADER - 28)), "192.0.2.7"),
    (v2(0, 0x00, b""), None),
    (v2(0, 0x11, V4), None),
    (v2(0, 0x11, b"short"), None),
    (v2(1, 0x00, b"whatever"), None),
    (v2(1, 0x12, V4), None),
    (v2(1, 0x31, bytes(216)), None),
]

INVALID = [
    b"GET / HTTP/1.1\r\n",
    b"POST ",
    b"\x16\x03\x01",
    b"\r\n\r\nX",
    b"PROXYTCP4",
    b"PROXY  TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 \r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 04711 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
    b"PROXY TCP4 192.0.2.07 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.1 4711 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.7 nonsense 4711 443\r\n",
    "PROXY TCP4 ١٩٢.0.2.7 198.51.100.1 4711 443\r\n".encode(),
    b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    b"PROXY TCP4 192.0.2.7\n 198.51.100.1 4711 443" + b" " * 70,
    v2(1, 0x11, V4, version=1),
    v2(1, 0x11, V4, version=3),
    v2(2, 0x11, V4),
    v2(1, 0x41, V4),
    v2(1, 0x13, V4),
    v2(1, 0x11, V4[:-1]),
    v2(1, 0x21, V6[:-1]),
    v2(1, 0x31, bytes(215)),
    v2(1, 0x11, b"", length=MAX_PROXY_HEADER - 15),
    v2(0, 0x11, b"", length=65535),
]


@pytest.mark.parametrize(("header", "address"), VALID)
@pytest.mark.parametrize("behind", [b"", b"\x16\x03\x01 what follows", b"PROXY TCP4"])
def test_a_header_says_where_the_connection_comes_from(header: bytes, address: str | None, behind: bytes) -> None:
    assert parse_proxy_header_untrusted(header + behind) == ProxyHeader(len(header), address)


@pytest.mark.parametrize(("header", "address"), VALID)
def test_a_header_may_arrive_one_byte_at_a_time(header: bytes, address: str | None) -> None:
    for size in range(len(header)):
        missing = parse_proxy_header_untrusted(header[:size])
        assert isinstance(missing, int)
        assert 1 <= missing <= len(header) - size, "never more than belongs to it"


@pytest.mark.parametrize("data", INVALID)
def test_what_is_not_a_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError) as caught:
        parse_proxy_header_untrusted(data)
    assert "192.0.2" not in str(caught.value)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=150).map(lambda rest: b"PROXY " + rest)
    | st.binary(max_size=300).map(lambda rest: SIGNATURE + rest)
)
def test_any_bytes_are_a_header_or_refused_or_need_a_bounded_number_more(data: bytes) -> None:
    try:
        found = parse_proxy_header_untrusted(data)
    except ProxyHeaderError:
        return
    if isinstance(found, int):
        assert found >= 1
        assert len(data) + found <= MAX_PROXY_HEADER
    else:
        assert found.size <= len(data)
        assert found.address is None or ipaddress.ip_address(found.address)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=100))
def test_every_address_of_version_2_is_read(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    rest: bytes,
) -> None:
    if source.version != destination.version:
        destination = source
    payload = source.packed + destination.packed + port.to_bytes(2) * 2 + rest
    found = parse_proxy_header_untrusted(v2(1, 0x11 if source.version == 4 else 0x21, payload))
    assert isinstance(found, ProxyHeader)
    assert found.address is not None
    assert ipaddress.ip_address(found.address) in (source, getattr(source, "ipv4_mapped", None))


@pytest.mark.parametrize(("header", "address"), VALID)
async def test_nothing_behind_the_header_is_read(header: bytes, address: str | None) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(header + b"behind")
    assert await receive_proxy_header(theirs) == address
    assert await theirs.receive_some() == b"behind"


async def test_a_connection_that_ends_within_the_header_is_lost() -> None:
    for data in (b"", VALID[0][0][:-1], SIGNATURE, VALID[7][0][:-1]):
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(data)
        await ours.aclose()
        with pytest.raises(trio.BrokenResourceError, match="ended"):
            await receive_proxy_header(theirs)


@pytest.mark.parametrize(
    ("source", "destination", "header"),
    [
        (("192.0.2.7", 4711), ("198.51.100.1", 443), v2(1, 0x11, V4 + TLVS)),
        (("2001:db8::7", 4711), ("2001:db8::1", 443), v2(1, 0x21, V6 + TLVS)),
        (("2001:db8::7%eth0", 4711), ("2001:db8::1", 443), v2(1, 0x21, V6 + TLVS)),
        (("192.0.2.7", 4711), ("2001:db8::1", 443), v2(1, 0x21, addresses("::ffff:192.0.2.7", "2001:db8::1") + TLVS)),
        (None, ("198.51.100.1", 443), v2(1, 0, TLVS)),
        (None, None, v2(1, 0, TLVS)),
        # A Unix socket has no address, so that of the destination is the unspecified one.
        (("192.0.2.7", 0), None, v2(1, 0x11, bytes([192, 0, 2, 7]) + bytes(8) + TLVS)),
        (("2001:db8::7", 0), None, v2(1, 0x21, ipaddress.ip_address("2001:db8::7").packed + bytes(20) + TLVS)),
    ],
)
def test_what_is_written(source: tuple[str, int] | None, destination: tuple[str, int] | None, header: bytes) -> None:
    assert format_proxy_header(source, destination, {4: b"abc", 0x20: bytes(5)}) == header


@given(
    st.ip_addresses(),
    st.ip_addresses(),
    st.integers(0, 65535),
    st.dictionaries(st.integers(0, 255), st.binary(max_size=50), max_size=5),
)
def test_what_is_written_can_be_read(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    fields: dict[int, bytes],
) -> None:
    header = format_proxy_header((str(source), port), (str(destination), port), fields)
    read = parse_proxy_header_untrusted(header + b"the first data")
    assert isinstance(read, ProxyHeader)
    assert read.size == len(header)
    assert read.address == str(getattr(source, "ipv4_mapped", None) or source)
