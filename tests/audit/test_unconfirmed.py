"""What was sent to a syslog server and may not have been read: pure transcripts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.audit.sinks.unconfirmed import CONFIRMED_SECONDS, MAX_ENDS, MAX_KEPT, WATCH_SECONDS, Unconfirmed


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


def test_after_an_early_end_connections_are_kept_from_being_idle() -> None:
    """A server that closes idle connections gets everything twice, and does not fail."""
    kept = Unconfirmed()
    kept.sent(b"a", 0.0, is_first=True)
    assert not kept.needs_keepalive
    assert not kept.ended()
    kept.sent(b"", 20.0, is_first=True)
    for second in range(20, 20 + int(CONFIRMED_SECONDS)):
        kept.alive(float(second))
        assert kept.needs_keepalive
    kept.alive(20.0 + CONFIRMED_SECONDS)
    assert not kept.needs_keepalive
    assert not kept.ended()
    kept.sent(b"b", 100.0, is_first=True)
    assert not kept.needs_keepalive
