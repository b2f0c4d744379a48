"""The client's address and the scheme of a request, as stated by the proxies that have forwarded it. Pure.

Each proxy appends the address from which it got the request to X-Forwarded-For, or to Forwarded (RFC 7239).
Everything to the left of that may come from the client itself. Therefore the elements are read from the right, up to
the first one that is not the address of a trusted proxy. Nothing to the left of it is parsed, so a client can neither
choose its address nor make the header malformed.

If both headers are present, X-Forwarded-For is used. A proxy has to set one of them and remove the other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from .head import Headers

__all__ = ["client_address", "forwarded_for", "forwarded_scheme"]

#: How many elements are examined, and how many characters of each field, counted from the end. Limited because
#: strangers may send anything in these fields; nobody has more proxies in a row.
_MAX_ELEMENTS: Final = 32
_MAX_VALUE: Final = 2048
_QUOTE_OR_COMMA: Final = re.compile('[",]')
_BLANKS: Final = " \t"
#: Characters that cannot be part of a value. A backslash would escape the next character.
_NOT_IN_VALUE: Final = frozenset('"\\')
_IPV4_WITH_PORT: Final = re.compile(r"([0-9.]+):[0-9]{1,5}")
_IPV6_IN_BRACKETS: Final = re.compile(r"\[([0-9A-Fa-f]*:[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?")


def forwarded_for(headers: Headers) -> tuple[str, ...]:
    """Return the addresses as the proxies have written them, that of the nearest proxy last.

    An element of Forwarded that cannot be parsed becomes an empty string. At most the last 32 are returned.
    """
    values = [value[-_MAX_VALUE:] for value in headers.all("x-forwarded-for")]
    if values:
        elements = [element.strip() for value in values for element in value.split(",")]
        return tuple(elements[-_MAX_ELEMENTS:])
    found: list[str] = []
    for element in _last_first(headers.all("forwarded")):
        found.append(_parse_pair(element, "for"))
        if len(found) == _MAX_ELEMENTS:
            break
    return tuple(reversed(found))


def forwarded_scheme(headers: Headers) -> str | None:
    """Return how the nearest proxy says that it was reached: ``https`` or ``http``; None if it does not say so.

    It is the last value of X-Forwarded-Proto. Without this header, it is ``proto`` in the last element of Forwarded.
    """
    values = headers.all("x-forwarded-proto")
    if values:
        scheme = values[-1][-_MAX_VALUE:].rpartition(",")[2].strip(_BLANKS)
    else:
        scheme = _parse_pair(next(_last_first(headers.all("forwarded")), ""), "proto")
    scheme = scheme.lower()
    return scheme if scheme in ("http", "https") else None


def _last_first(values: Sequence[str]) -> Iterator[str]:
    """Yield the elements of Forwarded, the last first. Text that cannot be divided into elements becomes an empty
    string.

    Quoted strings may contain commas. Quotes are matched from the right, because the client may have written an
    unmatched one further left.
    """
    for value in reversed(values):
        value = value[-_MAX_VALUE:]
        end, is_quoted = len(value), False
        for match in reversed(list(_QUOTE_OR_COMMA.finditer(value))):
            if match[0] == '"':
                is_quoted = not is_quoted
            elif not is_quoted:
                yield value[match.end() : end]
                end = match.start()
        yield "" if is_quoted else value[:end]


def _parse_pair(element: str, name: str) -> str:
    """Return the value of a parameter in an element; empty if it is missing, malformed or there more than once."""
    found = []
    for pair in element.split(";"):
        key, _, value = pair.strip(_BLANKS).partition("=")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if key.lower() == name and _NOT_IN_VALUE.isdisjoint(value):
            found.append(value)
    return found[0] if len(found) == 1 else ""


def client_address(remote: str, elements: Sequence[str], is_trusted: Callable[[str], bool]) -> str:
    """Return the address that a request comes from.

    Args:
        remote: the other end of the connection.
        elements: see `forwarded_for`.
        is_trusted: returns whether an address is that of a trusted proxy.

    Returns:
        The first address from the right that is not trusted; if all are, the leftmost one.

    Raises:
        ValueError: a trusted proxy has written something other than an address.
    """
    address = remote
    for element in reversed(elements):
        if not is_trusted(address):
            break
        address = _parse_address(element)
    return address


def _parse_address(text: str) -> str:
    for form in (_IPV4_WITH_PORT, _IPV6_IN_BRACKETS):
        if (match := form.fullmatch(text)) is not None:
            text = match[1]
            break
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        raise ValueError("a trusted proxy has stated something other than an IP address")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)
