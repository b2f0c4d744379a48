"""When an idle flow of datagrams ends."""

from __future__ import annotations

import pytest

from hybridrelay.connector.idle import ANSWERED_PORTS, ANSWERED_SECONDS, IDLE_SECONDS, IdleRule


@pytest.mark.parametrize(
    ("port", "exchanged", "seconds"),
    [
        (161, "", IDLE_SECONDS),
        (161, "sr", IDLE_SECONDS),
        *((port, "sr", ANSWERED_SECONDS) for port in sorted(ANSWERED_PORTS)),
        (53, "", IDLE_SECONDS),
        (53, "s", IDLE_SECONDS),
        (53, "r", IDLE_SECONDS),
        (53, "ss", IDLE_SECONDS),
        (53, "ssr", IDLE_SECONDS),
        (53, "srr", IDLE_SECONDS),
        (53, "srs", IDLE_SECONDS),
        (53, "srsr", IDLE_SECONDS),
    ],
)
def test_the_deadline(port: int, exchanged: str, seconds: float) -> None:
    rule = IdleRule(port, 100.0)
    now = 100.0
    for step in exchanged:
        now += 7
        (rule.sent if step == "s" else rule.received)(now)
    assert rule.deadline == now + seconds
