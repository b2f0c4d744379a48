"""What was sent to a syslog server and may not have been read: pure transcripts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.audit.sinks.unconfirmed import (
    CONFIRMED_SECONDS,
    MAX_ENDS,
    MAX_KEPT,
    MAX_SENDINGS,
    READ_SECONDS,
    WATCH_SECONDS,
    Unconfirmed,
)


def test_what_was_sent_is_kept_until_the_connection_is_found_alive() -> None:
    kept = Unconfirmed()
    kept.sent(b"a", 0.0, is_first=True)
    kept.sent(b"b", 10.0, is_first=False)
    kept.alive(CONFIRMED_SECONDS - 1)
    assert kept.data == b"ab"
    kept.alive(CONFIRMED_SECONDS)
    assert kept.data == b"b"
    kept.alive(CONFIRMED_SECONDS + 10)
    assert not kept
    assert not kept.ended(), "a server may close a connection on which nothing was sent recently"
    assert kept.watch_seconds == WATCH_SECONDS[0]


def test_what_is_sent_again_is_kept_from_then_on() -> None:
    kept = Unconfirmed()
    kept.sent(b"a", 0.0, is_first=True)
    assert not kept.ended()
    kept.sent(b"b", CONFIRMED_SECONDS, is_first=True)
    kept.alive(CONFIRMED_SECONDS + 1)
    assert kept.data == b"ab"
    kept.alive(2 * CONFIRMED_SECONDS)
    assert not kept


def test_a_server_that_closes_connections_soon_does_not_get_the_same_data_without_end() -> None:
    """Each connection is open long enough to be read, and ends before that counts as confirmed."""
    kept = Unconfirmed()
    kept.sent(b"a", 0.0, is_first=True)
    data = []
    for number in range(MAX_SENDINGS + 1):
        data.append(kept.data)
        now = 20.0 * number
        kept.alive(now + READ_SECONDS)
        kept.alive(now + READ_SECONDS + 1)
        if number == 0:
            kept.sent(b"b", now + READ_SECONDS + 1, is_first=False)  # too late to be found alive on this connection
        kept.ended()
        kept.sent(b"", now + 20.0, is_first=True)
    assert data == [b"a", *[b"ab"] * (MAX_SENDINGS - 1), b"b"]
    assert not kept


def test_a_server_that_closes_connections_soon_does_not_fail_for_ever() -> None:
    kept = Unconfirmed()
    kept.sent(b"a", 0.0, is_first=True)
    failures = []
    for number in range(3 * MAX_SENDINGS):
        kept.alive(20.0 * number + READ_SECONDS)
        failures.append(kept.ended())
        kept.sent(b"x" if number < 2 * MAX_SENDINGS else b"", 20.0 * (number + 1), is_first=True)
    assert failures == [False, *[True] * (MAX_SENDINGS - 2), *[False] * (2 * MAX_SENDINGS + 1)]
    now = 20.0 * 3 * MAX_SENDINGS
    kept.sent(b"y", now, is_first=False)
    kept.alive(now + READ_SECONDS - 1)
    assert not kept.ended(), "the first one, which was not alive for long enough"
    kept.sent(b"", now + 20, is_first=True)
    assert kept.ended(), "the second one"
    kept.sent(b"", now + 40, is_first=True)
    kept.alive(now + 40 + CONFIRMED_SECONDS)
    kept.sent(b"z", now + 80, is_first=True)
    kept.alive(now + 80 + READ_SECONDS)
    assert not kept.ended()
    kept.sent(b"", now + 100, is_first=True)
    kept.alive(now + 100 + READ_SECONDS)
    assert kept.ended(), "it no longer counts as one that closes idle connections"


def test_what_nobody_may_have_read_is_sent_as_often_as_needed() -> None:
    kept = Unconfirmed()
    kept.sent(b"a", 0.0, is_first=True)
    for number in range(10 * MAX_SENDINGS):
        kept.alive(number + READ_SECONDS - 0.1)
        kept.ended()
        kept.sent(b"", float(number + 1), is_first=True)
    assert kept.data == b"a"


def test_a_server_fails_when_connections_end_in_a_row() -> None:
    kept = Unconfirmed()
    watched = []
    for number in range(1, 5):
        assert kept.ended(during=True) is (number >= MAX_ENDS)
        watched.append(kept.watch_seconds)
    assert watched == [WATCH_SECONDS[1], *[WATCH_SECONDS[-1]] * 3]
    kept.sent(b"a", 100.0, is_first=True)
    kept.alive(100.0 + CONFIRMED_SECONDS - 1)
    assert kept.ended(), "it was not alive for long enough"
    kept.sent(b"b", 200.0, is_first=True)
    kept.alive(200.0 + CONFIRMED_SECONDS)
    kept.sent(b"c", 300.0, is_first=False)
    assert not kept.ended(), "this connection was alive for long"


def test_a_connection_that_was_alive_for_long_counts_however_much_is_sent_on_it() -> None:
    kept = Unconfirmed()
    assert not kept.ended(during=True)
    kept.sent(b"a", 0.0, is_first=True)
    for second in range(int(CONFIRMED_SECONDS) + 1):
        kept.sent(bytes(MAX_KEPT), float(second), is_first=False)
        kept.alive(float(second))
    assert not kept.ended()


@given(st.lists(st.integers(0, 3 * MAX_KEPT // 2), min_size=1, max_size=8))
def test_how_much_is_kept(sizes: list[int]) -> None:
    kept, sent = Unconfirmed(), []
    for size in sizes:
        sent.append(bytes(size))
        kept.sent(sent[-1], 0.0, is_first=False)
        assert len(kept.data) <= max(MAX_KEPT, size)
        assert len(kept.data) >= size
    kept.alive(CONFIRMED_SECONDS)
    assert not kept


def test_the_oldest_is_dropped_first() -> None:
    kept = Unconfirmed()
    kept.sent(b"a" * MAX_KEPT, 0.0, is_first=True)
    kept.alive(READ_SECONDS)
    kept.sent(b"b", READ_SECONDS + 1, is_first=False)
    assert kept.data == b"b"
