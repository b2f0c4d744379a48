"""DNS messages (RFC 1035): reads queries, and makes the answers to them. Pure.

Answers contain A and AAAA records only, so that they always fit into 512 bytes, and are never truncated. EDNS
(RFC 6891) in a query is accepted, and not used.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import attrs

from ..._value import Value

__all__ = ["MAX_ADDRESSES", "MAX_MESSAGE", "NotAQuery", "Query", "ResponseCode", "make_answer", "make_failure"]
__all__ += ["parse_query_untrusted"]

#: The longest query that is read (bytes). A query has one name of at most 255 bytes, and perhaps EDNS options.
MAX_MESSAGE: Final = 4096
#: How many addresses an answer may contain: 12 + 255 + 4 bytes of header and question, and 28 for each address.
MAX_ADDRESSES: Final = 8
#: RFC 1035, 2.3.4.
_MAX_NAME_BYTES = 255
_HEADER = struct.Struct("!6H")
_QUESTION_END = struct.Struct("!2H")

# Flags of the second word of the header.
_RESPONSE = 0x8000
_OPCODE = 0x7800
_AUTHORITATIVE = 0x0400
_RECURSION_DESIRED = 0x0100
_RECURSION_AVAILABLE = 0x0080

_CLASS_INTERNET = 1
_TYPE_A = 1
_TYPE_AAAA = 28
_TYPE_ANY = 255
#: Points to the name of the question, directly after the header (RFC 1035, 4.1.4).
_SAME_NAME = b"\xc0\x0c"


class NotAQuery(Exception):
    """The message is not a DNS query that can be answered, and has to be ignored. The text says why."""


class ResponseCode(enum.IntEnum):
    """Why there is no answer (RFC 1035, 4.1.1)."""

    FORMAT_ERROR = 1
    SERVER_FAILURE = 2
    #: The name does not exist.
    NAME_ERROR = 3
    NOT_IMPLEMENTED = 4
    REFUSED = 5


@attrs.frozen
class Query(Value):
    """A query with one question."""

    identifier: int
    #: In lower case, without the final dot; empty for the root. Bytes that no host name has are escaped: ``\\042``.
    name: str
    #: The type of records that is asked for.
    kind: int
    #: Whether it is about the Internet (class IN), as practically all are.
    is_internet: bool
    #: Whether it is an ordinary query (opcode 0).
    is_standard: bool
    #: Whether the server is asked to find the answer elsewhere.
    recursion_desired: bool
    #: The question as it was sent, with upper and lower case, which an answer has to repeat.
    question: bytes = attrs.field(repr=False)

    @property
    def wants_ipv4(self) -> bool:
        """Whether IPv4 addresses answer it."""
        return self.is_internet and self.kind in (_TYPE_A, _TYPE_ANY)

    @property
    def wants_ipv6(self) -> bool:
        """Whether IPv6 addresses answer it."""
        return self.is_internet and self.kind in (_TYPE_AAAA, _TYPE_ANY)


def parse_query_untrusted(data: bytes) -> Query:
    """Parse a query.

    Raises:
        NotAQuery: it is a response, has not exactly one question, or is malformed.
    """
    if not _HEADER.size <= len(data) <= MAX_MESSAGE:
        raise NotAQuery(f"{len(data)} bytes")
    identifier, flags, questions, *_ = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise NotAQuery("it is a response")
    if questions != 1:
        raise NotAQuery(f"{questions} questions")
    name, end = _parse_name(data, _HEADER.size)
    if len(data) < end + _QUESTION_END.size:
        raise NotAQuery("the question is cut off")
    kind, class_ = _QUESTION_END.unpack_from(data, end)
    return Query(
        identifier,
        name,
        kind,
        is_internet=class_ == _CLASS_INTERNET,
        is_standard=not flags & _OPCODE,
        recursion_desired=bool(flags & _RECURSION_DESIRED),
        question=data[_HEADER.size : end + _QUESTION_END.size],
    )


def _parse_name(data: bytes, start: int) -> tuple[str, int]:
    """Return a name, and the offset of what follows it.

    Raises:
        NotAQuery: it is malformed. A question needs no compression, so that is malformed as well.
    """
    labels: list[str] = []
    at = start
    while True:
        if at >= len(data):
            raise NotAQuery("the name is cut off")
        length = data[at]
        at += 1
        if length == 0:
            return ".".join(labels), at
        if length > 63:
            raise NotAQuery("a label is too long, or compressed")
        if at + length + 1 - start > _MAX_NAME_BYTES:
            raise NotAQuery("the name is too long")
        if at + length > len(data):
            raise NotAQuery("the name is cut off")
        labels.append("".join(map(_character, data[at : at + length])))
        at += length


def _character(byte: int) -> str:
    """Return a byte of a label in lower case, or escaped as in master files (RFC 1035, 5.1)."""
    character = chr(byte).lower()
    return character if byte < 0x80 and (character.isalnum() or character in "-_") else f"\\{byte:03}"


def make_answer(query: Query, addresses: Sequence[IPv4Address | IPv6Address], *, ttl: int) -> bytes:
    """Return an authoritative answer with those addresses for which the query asks.

    If there are none of this kind, the answer says that the name exists, and is empty.

    Args:
        query: the query.
        addresses: all addresses of the name, at most `MAX_ADDRESSES`.
        ttl: how long the answer may be cached (seconds).
    """
    assert len(addresses) <= MAX_ADDRESSES
    records = b""
    count = 0
    for address in addresses:
        is_wanted = query.wants_ipv4 if address.version == 4 else query.wants_ipv6
        if is_wanted:
            kind = _TYPE_A if address.version == 4 else _TYPE_AAAA
            size = len(address.packed)
            records += _SAME_NAME + struct.pack("!2HIH", kind, _CLASS_INTERNET, ttl, size) + address.packed
            count += 1
    return _header(query, 0, count) + query.question + records


def make_failure(query: Query, code: ResponseCode) -> bytes:
    """Return a response without records, which says why the query is not answered."""
    return _header(query, int(code), 0) + query.question


def _header(query: Query, code: int, answers: int) -> bytes:
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | code
    if query.recursion_desired:
        flags |= _RECURSION_DESIRED
    return _HEADER.pack(query.identifier, flags, 1, answers, 0, 0)
