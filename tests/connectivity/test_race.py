"""Who wins the staggered race, and when."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from hybridrelay.connectivity._race import RaceTiming, race

TIMING = RaceTiming(stagger_seconds=1, min_grace_seconds=2, max_grace_seconds=8)
NEVER = 1000

# Runners as (seconds, whether it arrives), best first; who wins; when that is known; who was started at all.
TABLE = [
    ([], None, 0, 0),
    ([(0, True)], 0, 0, 1),
    ([(5, True)], 0, 5, 1),
    ([(5, False)], None, 5, 1),
    # The next starts at once when one fails, and after the stagger when it is slow.
    ([(0, False), (0, True)], 1, 0, 2),
    ([(0.5, False), (0, True)], 1, 0.5, 2),
    ([(0.5, True), (0, True)], 0, 0.5, 1),
    ([(5, True), (NEVER, True)], 0, 5, 2),
    # A better one still under way gets the least grace, ...
    ([(2.5, True), (0.5, True)], 0, 2.5, 2),
    ([(NEVER, True), (0.5, True)], 1, 1 + 0.5 + 2, 2),
    # ... as long as the worse one took, ...
    ([(10, True), (5, True)], 0, 10, 2),
    ([(12, True), (5, True)], 1, 1 + 5 + 5, 2),
    # ... or the longest.
    ([(NEVER, True), (50, True)], 1, 1 + 50 + 8, 2),
    # The grace ends when nothing better is left.
    ([(2, False), (0.5, True)], 1, 2, 2),
    ([(NEVER, True), (NEVER, True), (0, True)], 2, 2 + 2, 3),
    # The middle one arrives within the grace of the last, and does not prolong it.
    ([(NEVER, True), (2.5, True), (0, True)], 1, 2 + 2, 3),
    ([(3, False), (2.5, True), (0, True)], 1, 3.5, 3),
    # Once somebody arrived, nobody else starts.
    ([(NEVER, True), (0, True), (0, True)], 1, 1 + 2, 2),
    ([(0, False), (0, False), (0, False)], None, 0, 3),
    ([(3, False), (3, False), (0, False)], None, 4, 3),
]


@pytest.mark.parametrize(("runners", "winner", "when", "started"), TABLE)
async def test_race(runners, winner, when, started, autojump_clock):
    begun = []
    running = set()

    async def run(index, seconds, arrives):
        begun.append(index)
        running.add(index)
        try:
            await trio.sleep(seconds)
            return arrives
        finally:
            running.remove(index)

    began = trio.current_time()
    calls = [partial(run, index, *runner) for index, runner in enumerate(runners)]
    assert await race(calls, TIMING) == winner
    assert trio.current_time() - began == pytest.approx(when)
    assert sorted(begun) == list(range(started))
    assert not running
