"""When an idle flow of datagrams ends."""

from __future__ import annotations

import pytest

from hybridrelay.connector.idle import ANSWERED_PORTS, ANSWERED_SECONDS, IDLE_SECONDS, SILENT_SECONDS, IdleRule


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
def test_only_one_request_and_one_answer_shorten_the_deadline(port: int, exchanged: str, seconds: float) -> None:
    rule = IdleRule(port, 100.0)
    now = 100.0
    for step in exchanged:
        now += 7
        (rule.sent if step == "s" else rule.received)(now)
    assert rule.deadline == now + seconds


@pytest.mark.parametrize("port", [161, 53])
@pytest.mark.parametrize("renewed_at", [None, 0.0, 290.0])
def test_only_the_program_keeps_a_flow_for_long(port: int, renewed_at: float | None) -> None:
    """The target sends every five seconds, and the program at most once."""
    rule, now = IdleRule(port, 0.0), 0.0
    if renewed_at == 0.0:
        rule.sent(now)
    while now < rule.deadline:
        now += 5.0
        if now < rule.deadline:
            rule.received(now)
        if now == renewed_at:
            rule.sent(now)
    assert rule.deadline == (renewed_at or 0.0) + SILENT_SECONDS
