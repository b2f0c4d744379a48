"""The header of the PROXY protocol, in which a proxy in front of a server states where a connection comes from.

Versions 1 and 2 of https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. The header is the first data on a
connection. Both versions are read, and version 2 is written. Only `receive_proxy_header` does I/O.

A header can state any address, so accept it only from trusted proxies. Require it from them, because a connection
without a header would count as the proxy's own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from .._value import Value

__all__ = [
    "MAX_PROXY_HEADER",
    "ProxyHeader",
    "ProxyHeaderError",
    "format_proxy_header",
    "parse_proxy_header_untrusted",
    "receive_proxy_header",
]

#: The longest header that is accepted (bytes): the first 16 bytes of version 2, addresses, and additional fields
#: (TLVs), which are skipped. Proxies send a few hundred bytes of these at most.
MAX_PROXY_HEADER: Final = 2048
#: The longest header of version 1, with its CR LF.
_MAX_V1: Final = 107
#: The shortest header of version 1: ``PROXY UNKNOWN``, CR LF.
_MIN_V1: Final = 15
_V1: Final = b"PROXY "
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD: Final = 16
#: Version 2: commands, address families, and transport protocols.
_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_STREAM = 1
#: The length of the address block of each family: two addresses and two ports, or two paths.
_ADDRESSES: Final = {_UNSPEC: 0, _INET: 12, _INET6: 36, _UNIX: 216}
#: An IPv6 address that begins with this has an IPv4 address in its last four bytes.
_MAPPED: Final = bytes(10) + b"\xff\xff"
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")


class ProxyHeaderError(ValueError):
    """A proxy has sent something other than a PROXY header. The message says what is wrong, without quoting what was
    sent."""


@attrs.frozen
class ProxyHeader(Value):
    """A complete header."""

    #: Its length (bytes).
    size: int
    #: The address that the connection comes from. None if the proxy has made the connection for itself, or states no
    #: IP address. The connection then counts as the proxy's own.
    address: str | None


def parse_proxy_header_untrusted(data: bytes) -> ProxyHeader | int:
    """Parse a header from the first bytes of a connection. `data` may continue after the header.

    Returns:
        The header; or if it is incomplete, how many more bytes are needed at least.

    Raises:
        ProxyHeaderError: this is not a header, or it is too long.
    """
    if data.startswith(_SIGNATURE):
        return _parse_v2(data)
    if data.startswith(_V1):
        return _parse_v1(data)
    if _SIGNATURE.startswith(data[: len(_SIGNATURE)]) or _V1.startswith(data[: len(_V1)]):
        return _MIN_V1 - len(data)
    raise ProxyHeaderError("the connection does not begin with a PROXY header")


async def receive_proxy_header(stream: trio.abc.ReceiveStream) -> str | None:
    """Receive a header, and nothing after it. The caller sets the deadline.

    Returns:
        `ProxyHeader.address`.

    Raises:
        ProxyHeaderError: something other than a header has arrived.
        trio.BrokenResourceError: the connection was lost, or has ended before the header was complete.

    If cancelled, a part of the header may have been read.
    """
    data = b""
    while isinstance(found := parse_proxy_header_untrusted(data), int):
        more = await stream.receive_some(found)
        if not more:
            # Health checks of load balancers do this.
            raise trio.BrokenResourceError("the connection ended before its PROXY header was complete")
        data += more
    return found.address


def format_proxy_header(
    source: tuple[str, int] | None, destination: tuple[str, int] | None, fields: Mapping[int, bytes]
) -> bytes:
    """Return a header of version 2 for a TCP connection.

    Args:
        source: the address and port that the connection comes from; None if they are not known. The header then has
            no addresses.
        destination: the address and port that it is for; None if it is for a Unix socket, which has none. The header
            then has the unspecified address of the family of `source`, and port 0. Zones of IPv6 addresses are left
            out. If the two are of different families, both are written as IPv6 addresses.
        fields: additional fields (TLVs): their values by their types (0 to 255). Together they must have less than
            1 KiB.

    Raises:
        ValueError: an address is not an IP address.
        OverflowError: a port or the length of a field needs more than 16 bits.
    """
    tail = b"".join(bytes([kind]) + len(value).to_bytes(2) + value for kind, value in fields.items())
    family, addresses = _UNSPEC, b""
    if source is not None:
        if destination is None:
            destination = ("::" if ":" in source[0] else "0.0.0.0"), 0  # noqa: S104 - nothing is bound
        ends = [ipaddress.ip_address(host.partition("%")[0]) for host, _ in (source, destination)]
        if all(end.version == 4 for end in ends):
            family, packed = _INET, [end.packed for end in ends]
        else:
            family, packed = _INET6, [end.packed if end.version == 6 else _MAPPED + end.packed for end in ends]
        addresses = b"".join(packed) + b"".join(port.to_bytes(2) for _, port in (source, destination))
    protocol = _UNSPEC if family == _UNSPEC else _STREAM
    head = bytes([2 << 4 | _PROXY, family << 4 | protocol]) + (len(addresses) + len(tail)).to_bytes(2)
    return _SIGNATURE + head + addresses + tail


def _parse_v1(data: bytes) -> ProxyHeader | int:
    end = data.find(b"\r\n", 0, _MAX_V1)
    if end < 0:
        if len(data) >= _MAX_V1:
            raise ProxyHeaderError("the line of the PROXY header is too long")
        return max(_MIN_V1 - len(data), 1 if data.endswith(b"\r") else 2)
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(end + 2, None)
    versions = {b"TCP4": 4, b"TCP6": 6}
    if len(words) != 6 or words[1] not in versions or not all(map(_is_port, words[4:])):
        raise ProxyHeaderError("the line of the PROXY header is malformed")
    addresses = [_parse_address(word, versions[words[1]]) for word in words[2:4]]
    return ProxyHeader(end + 2, addresses[0])


def _is_port(word: bytes) -> bool:
    return _PORT.fullmatch(word) is not None and int(word) <= 65535


def _parse_address(word: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(word.decode("ascii"))
    except ValueError:
        address = None
    if address is None or address.version != version or b"%" in word:
        raise ProxyHeaderError("the line of the PROXY header has a malformed address")
    return _as_text(address)


def _parse_v2(data: bytes) -> ProxyHeader | int:
    if len(data) < _V2_HEAD:
        return _V2_HEAD - len(data)
    version, command = data[12] >> 4, data[12] & 0xF
    family, protocol = data[13] >> 4, data[13] & 0xF
    length = int.from_bytes(data[14:16])
    if version != 2 or command not in (_LOCAL, _PROXY) or family not in _ADDRESSES or protocol > 2:
        raise ProxyHeaderError("the PROXY header has an unknown version, command or kind of address")
    size = _V2_HEAD + length
    if size > MAX_PROXY_HEADER:
        raise ProxyHeaderError(f"the PROXY header is longer than {MAX_PROXY_HEADER} bytes")
    if command == _PROXY and length < _ADDRESSES[family]:
        raise ProxyHeaderError("the PROXY header is shorter than its addresses")
    if len(data) < size:
        return size - len(data)
    if command == _LOCAL or protocol != _STREAM or family not in (_INET, _INET6):
        return ProxyHeader(size, None)
    width = 4 if family == _INET else 16
    return ProxyHeader(size, _as_text(ipaddress.ip_address(data[_V2_HEAD : _V2_HEAD + width])))


def _as_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)
