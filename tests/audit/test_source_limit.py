"""How many records the peers of one hybrid connection may cause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.audit.record import Record
from hybridrelay.audit.source_limit import BURST, RATE, SourceLimit
from hybridrelay.protocol.reasons import Reason


def record(event: str = "listener.registered", connection: str = "orders") -> Record:
    return Record(0.0, event, {"connection": connection})


def test_what_is_above_the_limit_is_left_out_and_counted() -> None:
    limit = SourceLimit()
    admitted = sum(limit.admits(record(), 10.0) for _ in range(BURST + 500))

    assert admitted == BURST
    assert limit.take_left_out(10.0) == {"orders": 500}
    assert limit.take_left_out(10.0) == {}


def test_others_are_not_affected() -> None:
    limit = SourceLimit()
    for _ in range(BURST + 1):
        limit.admits(record(), 0.0)

    assert not limit.admits(record("rendezvous.ended"), 0.0)
    assert limit.admits(record(connection="payroll"), 0.0)
    assert limit.admits(record("listener.left", connection=""), 0.0)
    assert all(
        limit.admits(record(event), 0.0)
        for event in (
            "stream.opened",
            "key.revoked",
            "management.called",
            "audit.records-left-out",
            "program.stopped",
        )
    )


@pytest.mark.parametrize(
    ("event", "reason", "is_limited"),
    [
        ("listener.drain-started", "", False),
        ("listener.drain-ended", "", False),
        ("listener.left", Reason.ADMINISTRATOR_DROPPED.slug, False),
        ("rendezvous.ended", Reason.ADMINISTRATOR_DROPPED.slug, False),
        ("rendezvous.ended", Reason.KEY_REVOKED.slug, False),
        ("listener.left", Reason.CONNECTION_DISABLED.slug, False),
        ("rendezvous.ended", Reason.NO_ERROR.slug, True),
        ("listener.left", Reason.NO_ERROR.slug, True),
        ("listener.refused", Reason.CONNECTION_DISABLED.slug, True),  # as often as it asks
        ("listener.declined", Reason.KEY_REVOKED.slug, True),  # the connector states the reason
        ("listener.registered", "", True),
    ],
)
def test_what_an_administrator_does_is_recorded_in_any_case(event: str, reason: str, is_limited: bool) -> None:
    """It takes no room from the peers."""
    limit = SourceLimit()
    for _ in range(BURST):
        limit.admits(record(), 0.0)
    one = Record(0.0, event, {"connection": "orders", "reason": reason})
    assert limit.admits(one, 0.0) is not is_limited
    assert limit.take_left_out(0.0) == ({"orders": 1} if is_limited else {})


def test_it_recovers_with_time() -> None:
    limit = SourceLimit()
    for _ in range(BURST):
        limit.admits(record(), 0.0)

    assert sum(limit.admits(record(), 60.0) for _ in range(BURST)) == 60 * RATE


def test_a_source_that_causes_no_more_records_is_forgotten() -> None:
    limit = SourceLimit()
    for number in range(1000):
        limit.admits(record(connection=str(number)), 0.0)
    assert len(limit._sources) == 1000

    limit.take_left_out(1.0)
    assert len(limit._sources) == 0


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 3000)), max_size=12))
def test_never_more_than_the_limit_in_any_time(steps: list[tuple[float, int]]) -> None:
    limit, now, admitted, left_out = SourceLimit(), 0.0, 0, 0
    for seconds, count in steps:
        now += seconds
        admitted += sum(limit.admits(record(), now) for _ in range(count))
        assert admitted <= BURST + now * RATE + 1
        left_out += limit.take_left_out(now).get("orders", 0)
    assert admitted + left_out == sum(count for _, count in steps)
