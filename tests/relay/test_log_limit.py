"""How often peers can make the relay log something."""

from __future__ import annotations

from hybridrelay.relay.log_limit import LogLimit


def test_lines_beyond_the_limit_are_counted_and_told_with_the_next() -> None:
    limit = LogLimit(lines=2, seconds=10)
    assert [limit.admit(now) for now in (100.0, 101.0, 102.0, 109.9, 110.0, 111.0, 112.0)] == [
        0, 0, None, None, 2, 0, None,
    ]  # fmt: skip


def test_a_quiet_relay_logs_everything() -> None:
    limit = LogLimit(lines=1, seconds=10)
    assert [limit.admit(now) for now in (0.0, 10.0, 1000.0)] == [0, 0, 0]
