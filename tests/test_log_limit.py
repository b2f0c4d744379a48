"""How often a peer can make a program log something."""

from __future__ import annotations

import logging
import math
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay._log_limit import EXAMPLE_LENGTH, LINES, SECONDS, LeftOut, LogLimit, may_log, report_left_out


def _admit(limit: LogLimit, kind: object, *times: float) -> list[bool]:
    return [limit.admit(kind, now, partial("{} at {}".format, kind, now)) for now in times]


def test_lines_beyond_the_limit_are_counted_and_reported_once_when_the_period_is_over() -> None:
    limit = LogLimit(lines=2, seconds=10)

    assert _admit(limit, "a", 100.0, 101.0, 102.0, 109.9) == [True, True, False, False]
    assert limit.ended(109.9) == []
    assert limit.ended(110.0) == [LeftOut("a", 2, "a at 102.0")]
    assert limit.ended(110.0) == []
    assert _admit(limit, "a", 110.0, 111.0, 112.0) == [True, True, False]


def test_a_quiet_program_logs_everything() -> None:
    limit = LogLimit(lines=1, seconds=10)
    for now in (0.0, 10.0, 1000.0):
        assert limit.ended(now) == []
        assert limit.admit("a", now, str)


def test_kinds_do_not_share_a_limit() -> None:
    limit = LogLimit(lines=1, seconds=10)
    assert _admit(limit, "a", 0.0, 1.0) == [True, False]
    assert _admit(limit, "b", 2.0, 3.0) == [True, False]
    assert limit.ended(10.0) == [LeftOut("a", 1, "a at 1.0")]
    assert limit.ended(12.0) == [LeftOut("b", 1, "b at 3.0")]


def test_the_number_of_kinds_is_bounded() -> None:
    limit = LogLimit(lines=1, seconds=10, max_kinds=2)
    assert [limit.admit(kind, 0.0, lambda: "x") for kind in range(100)] == [True, True, True] + [False] * 97
    assert limit.ended(10.0) == [LeftOut(None, 97, "x")]


def test_at_the_end_everything_is_reported() -> None:
    limit = LogLimit(lines=1, seconds=10)
    _admit(limit, "a", 0.0, 1.0)
    assert limit.ended(math.inf) == [LeftOut("a", 1, "a at 1.0")]
    assert limit.ended(math.inf) == []


def test_examples_are_cut() -> None:
    limit = LogLimit(lines=0, seconds=10)
    limit.admit("a", 0.0, lambda: "x" * 10_000)
    (told,) = limit.ended(math.inf)
    assert told.example == "x" * EXAMPLE_LENGTH


def _messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "hybridrelay.test"]


def _log(level: int, message: str, *arguments: object) -> None:
    if may_log("hybridrelay.test", level, message, lambda: message % arguments):
        logging.getLogger("hybridrelay.test").log(level, message, *arguments)


async def test_the_count_is_logged_although_no_line_follows(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_left_out)
        for number in range(LINES + 7):
            _log(logging.INFO, "line %d", number)
        await trio.sleep(2 * SECONDS + 1)
        nursery.cancel_scope.cancel()

    assert _messages(caplog)[LINES:] == [f"7 more lines like this were left out in {SECONDS:.0f} s: line {LINES}"]


async def test_the_count_is_logged_before_the_next_line_and_at_the_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(LINES + 1):
            _log(logging.WARNING, "line %d", number)
        await trio.sleep(SECONDS)
        nursery.start_soon(report_left_out)
        _log(logging.WARNING, "another kind")
        for number in range(LINES + 2):
            _log(logging.WARNING, "line %d", number)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    told = [text for text in _messages(caplog) if "line " not in text or "left out" in text]
    assert told == [
        f"1 more lines like this were left out in {SECONDS:.0f} s: line {LINES}",
        "another kind",
        f"2 more lines like this were left out in {SECONDS:.0f} s: line {LINES}",
    ]
