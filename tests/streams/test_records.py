"""Records are collected before OpenSSL sees them."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.streams.records import MAX_RECORDS_OF_STRANGER, RecordFeeder


def _record(length: int, kind: int = 23) -> bytes:
    return bytes([kind, 3, 3]) + length.to_bytes(2, "big") + bytes(length)


def _fed(feeder: RecordFeeder, incoming: ssl.MemoryBIO) -> bytes:
    while feeder.feed():
        pass
    return incoming.read()


@given(st.lists(st.integers(0, 4000), max_size=4), st.integers(0, 4000), st.integers(1, 700))
def test_openssl_gets_whole_records_only(lengths: list[int], rest: int, step: int) -> None:
    incoming = ssl.MemoryBIO()
    feeder = RecordFeeder(incoming, None)
    whole = b"".join(map(_record, lengths))
    data = whole + _record(4001)[: 5 + rest]
    fed = b""
    for start in range(0, len(data), step):
        assert feeder.add_untrusted(data[start : start + step])
        fed += _fed(feeder, incoming)
        assert not feeder.has_record
        assert data.startswith(fed)
    assert fed == whole
    assert feeder.held_bytes == len(data) - len(whole)
    feeder.feed_all()
    assert incoming.read() == data[len(whole) :]
    assert feeder.held_bytes == 0


@pytest.mark.parametrize("limit", [0, 1024, 4000])
def test_a_record_that_is_too_long_is_refused_with_its_header(limit: int) -> None:
    feeder = RecordFeeder(ssl.MemoryBIO(), limit)
    longest = max(limit, 1024) + 256  # a record adds something to what it carries
    assert feeder.add_untrusted(_record(longest))
    while feeder.feed():
        pass
    header = _record(longest + 1)[:5]
    assert feeder.add_untrusted(header[:4])
    assert not feeder.add_untrusted(header[4:])
    assert feeder.held_bytes == 5


def test_a_large_record_is_given_in_small_pieces() -> None:
    incoming = ssl.MemoryBIO()
    feeder = RecordFeeder(incoming, None)
    feeder.add_untrusted(_record(5000) + _record(1))
    pieces = []
    while feeder.feed():
        pieces.append(incoming.pending)
        incoming.read()
    assert sum(pieces) == 5005 + 6
    assert max(pieces) == 1024


def test_what_can_be_no_record_is_left_to_openssl() -> None:
    incoming = ssl.MemoryBIO()
    feeder = RecordFeeder(incoming, None)
    feeder.add_untrusted(b"GET / HTTP/1.1\r\n")
    assert _fed(feeder, incoming) == b"GET / HTTP/1.1\r\n"


def test_a_stranger_may_send_few_records() -> None:
    incoming = ssl.MemoryBIO()
    feeder = RecordFeeder(incoming, 8192)
    for _ in range(MAX_RECORDS_OF_STRANGER):
        assert feeder.add_untrusted(_record(1))
        assert _fed(feeder, incoming)
    feeder.limit = None
    for _ in range(MAX_RECORDS_OF_STRANGER):
        assert feeder.add_untrusted(_record(1))
        assert _fed(feeder, incoming)
    feeder.limit = 8192
    assert feeder.add_untrusted(_record(1))
    assert _fed(feeder, incoming)
    assert not feeder.add_untrusted(_record(1))
