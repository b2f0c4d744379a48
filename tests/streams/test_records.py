"""Records are collected before OpenSSL sees them."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.streams.records import MAX_RECORDS_OF_STRANGER, RECORDS_AT_ONCE, RecordCounter, RecordFeeder


def _record(length: int, kind: int = 23) -> bytes:
    return bytes([kind, 3, 3]) + length.to_bytes(2, "big") + bytes(length)


def _fed(feeder: RecordFeeder, incoming: ssl.MemoryBIO) -> bytes:
    while feeder.feed():
        pass
    return incoming.read()


@given(st.lists(st.integers(0, 4000), max_size=4), st.integers(0, 4000), st.integers(1, 700))
def test_openssl_gets_whole_records_only(lengths: list[int], rest: int, step: int) -> None:
    incoming = ssl.MemoryBIO()
    feeder = RecordFeeder(incoming, None, RecordCounter())
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
    feeder = RecordFeeder(ssl.MemoryBIO(), limit, RecordCounter())
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
    feeder = RecordFeeder(incoming, None, RecordCounter())
    feeder.add_untrusted(_record(5000) + _record(1))
    pieces = []
    while feeder.feed():
        pieces.append(incoming.pending)
        incoming.read()
    assert sum(pieces) == 5005 + 6
    assert max(pieces) == 512


def test_what_cannot_be_a_record_is_left_to_openssl() -> None:
    incoming = ssl.MemoryBIO()
    feeder = RecordFeeder(incoming, None, RecordCounter())
    feeder.add_untrusted(b"GET / HTTP/1.1\r\n")
    assert _fed(feeder, incoming) == b"GET / HTTP/1.1\r\n"


def test_a_stranger_may_send_few_records() -> None:
    incoming = ssl.MemoryBIO()
    feeder = RecordFeeder(incoming, 8192, RecordCounter())
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


@given(st.lists(st.sampled_from([0, 1, 22, 255, 256, 3000]), max_size=200), st.integers(1, 3000))
def test_records_are_counted_and_passed_on_in_portions(lengths: list[int], step: int) -> None:
    counter = RecordCounter()
    data = b"".join(map(_record, lengths))
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        while piece:
            before = counter.passed
            end = counter.count_untrusted(piece)
            assert counter.passed - before <= RECORDS_AT_ONCE
            assert end == len(piece) or counter.passed - before == RECORDS_AT_ONCE
            piece = piece[end:]
    assert counter.passed == len(lengths)


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=9), st.data())
def test_counting_goes_on_where_a_feeder_ends(lengths: list[int], data: st.DataObject) -> None:
    counter = RecordCounter()
    feeder = RecordFeeder(ssl.MemoryBIO(), None, counter)
    records = b"".join(map(_record, lengths))
    middle = data.draw(st.integers(0, len(records)))
    feeder.add_untrusted(records[:middle])
    for _ in range(data.draw(st.integers(0, 12))):
        feeder.feed()
    feeder.feed_all()
    counter.count_untrusted(records[middle:])
    assert counter.passed == len(lengths)


@pytest.mark.parametrize("pieces", range(4))
def test_a_long_record_that_a_feeder_has_passed_on_in_part_counts_once(pieces: int) -> None:
    counter = RecordCounter()
    feeder = RecordFeeder(ssl.MemoryBIO(), None, counter)
    records = _record(1500) * 3
    feeder.add_untrusted(records[:1600])
    for _ in range(pieces):
        feeder.feed()
    feeder.feed_all()
    counter.count_untrusted(records[1600:])
    assert counter.passed == 3


@pytest.mark.parametrize(
    ("passed", "with_data", "expected"),
    [(64, 0, False), (65, 0, True), (64_000 + 1064, 64_000, False), (64_000 + 1065, 64_000, True)],
)
def test_few_records_may_carry_no_data(passed: int, with_data: int, expected: bool) -> None:
    counter = RecordCounter()
    counter.passed, counter.with_data = passed, with_data
    assert counter.is_exceeded is expected
