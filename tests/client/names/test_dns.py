"""DNS messages: queries of resolvers, the answers to them, and bytes that are not a query."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.client.names.dns import (
    MAX_ADDRESSES,
    NotAQuery,
    Query,
    ResponseCode,
    make_answer,
    make_failure,
    parse_query_untrusted,
)

A, AAAA, MX, ANY = 1, 28, 15, 255
V4 = IPv4Address("127.64.0.1")
V6 = IPv6Address("fd00::5")


def name_bytes(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def query(name: str = "sql01.corp.example", kind: int = A, *, flags: int = 0x0100, class_: int = 1) -> bytes:
    header = struct.pack("!6H", 0x1234, flags, 1, 0, 0, 0)
    return header + name_bytes(name) + struct.pack("!2H", kind, class_)


def test_a_query_is_read() -> None:
    found = parse_query_untrusted(query("SQL01.Corp.Example"))
    assert found.name == "sql01.corp.example"
    assert (found.identifier, found.kind, found.is_internet, found.is_standard) == (0x1234, A, True, True)
    assert found.recursion_desired


def test_what_follows_the_question_is_ignored() -> None:
    """The OPT record of EDNS, which glibc and dig send, is such a record."""
    opt = b"\0" + struct.pack("!2HIH", 41, 1232, 0, 0)
    data = query()
    with_opt = data[:10] + b"\0\1" + data[12:] + opt
    assert parse_query_untrusted(with_opt) == parse_query_untrusted(data)


@pytest.mark.parametrize(
    ("kind", "records"),
    [(A, [V4.packed]), (AAAA, [V6.packed]), (ANY, [V4.packed, V6.packed]), (MX, [])],
)
def test_an_answer_has_the_addresses_that_were_asked_for(kind: int, records: list[bytes]) -> None:
    data = query(kind=kind)
    answer = make_answer(parse_query_untrusted(data), [V4, V6], ttl=5)
    identifier, flags, questions, count, *_ = struct.unpack_from("!6H", answer)
    assert (identifier, questions, count) == (0x1234, 1, len(records))
    assert flags == 0x8580  # response, authoritative, recursion desired and available, no error
    assert answer[12 : len(data)] == data[12:]
    rest = answer[len(data) :]
    for record in records:
        assert rest[:2] == b"\xc0\x0c"
        _, class_, ttl, size = struct.unpack_from("!2HIH", rest, 2)
        assert (class_, ttl, rest[12 : 12 + size]) == (1, 5, record)
        rest = rest[12 + size :]
    assert rest == b""


def test_the_case_of_the_question_is_repeated() -> None:
    """Some resolvers send random case, and check it in the answer."""
    data = query("sQl01.coRP.exAmple")
    assert name_bytes("sQl01.coRP.exAmple") in make_answer(parse_query_untrusted(data), [V4], ttl=5)


def test_a_failure_has_its_code() -> None:
    answer = make_failure(parse_query_untrusted(query(flags=0)), ResponseCode.NAME_ERROR)
    assert struct.unpack_from("!6H", answer) == (0x1234, 0x8483, 1, 0, 0, 0)


def test_addresses_of_another_class_are_not_given() -> None:
    chaos = parse_query_untrusted(query(class_=3))
    assert not chaos.is_internet
    assert struct.unpack_from("!6H", make_answer(chaos, [V4], ttl=5))[3] == 0


def test_the_longest_answer_needs_no_truncation() -> None:
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert len(make_answer(parse_query_untrusted(query(longest, AAAA)), [V6] * MAX_ADDRESSES, ttl=5)) <= 512


@pytest.mark.parametrize(
    "data",
    [
        b"",
        query()[:11],
        query(flags=0x8180),  # a response
        query()[:4] + b"\0\2" + query()[6:],
        query()[:4] + b"\0\0" + query()[6:],
        query()[:-1],
        query()[:20],
        query()[:12] + b"\xc0\x0c" + b"\0\1\0\1",  # a pointer to itself
        query()[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",  # 257 bytes
        query() + bytes(4096),
    ],
)
def test_what_is_not_a_query_is_not_read(data: bytes) -> None:
    with pytest.raises(NotAQuery):
        parse_query_untrusted(data)


def test_strange_bytes_in_a_name_are_escaped() -> None:
    """No name can look like another one, and none has a dot within a label."""
    data = query()[:12] + b"\x05a.b\x00\xff\0" + struct.pack("!2H", A, 1)
    assert parse_query_untrusted(data).name == "a\\046b\\000\\255"


@given(st.binary(max_size=600))
def test_any_bytes_are_either_a_query_or_none(data: bytes) -> None:
    try:
        found = parse_query_untrusted(data)
    except NotAQuery:
        return
    assert isinstance(found, Query)
    assert make_failure(found, ResponseCode.REFUSED)[12:] == found.question


@given(st.binary(max_size=300))
def test_any_question_is_answered_or_refused(question: bytes) -> None:
    try:
        found = parse_query_untrusted(struct.pack("!6H", 1, 0, 1, 0, 0, 0) + question)
    except NotAQuery:
        return
    assert question.startswith(found.question)
    assert len(make_answer(found, [V4], ttl=1)) <= 12 + 259 + 16
