"""How long the relay waits for what a peer sends: by the clock, and by the passes of its event loop."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.relay.service.patience import STEPS, happens, in_time


@pytest.mark.parametrize("after", [0.0, 3.0, 9.9])
async def test_what_happens_in_time(after: float, autojump_clock: trio.testing.MockClock) -> None:
    event = trio.Event()

    async def happen() -> None:
        await trio.sleep(after)
        event.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(happen)
        assert await happens(event, 10.0)
        assert trio.current_time() == pytest.approx(after)


async def test_what_does_not_happen(autojump_clock: trio.testing.MockClock) -> None:
    assert not await happens(trio.Event(), 10.0)
    assert trio.current_time() == pytest.approx(10.0)


async def test_each_step_takes_a_pass_of_the_event_loop_however_long_that_is(
    mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    results: list[bool] = []

    async def wait() -> None:
        results.append(await happens(trio.Event(), 10.0))

    nursery.start_soon(wait)
    for _ in range(STEPS):
        await trio.testing.wait_all_tasks_blocked()
        assert not results
        mock_clock.jump(100.0)
    await trio.testing.wait_all_tasks_blocked()
    assert results == [False]


async def test_the_result_of_what_returns_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async def act() -> str:
        await trio.sleep(9)
        return "the answer"

    assert await in_time(act, 10) == "the answer"
    assert trio.current_time() == pytest.approx(9)


async def test_what_is_late_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async def act() -> str:
        try:
            await trio.Event().wait()
        except trio.Cancelled:
            cancelled.append(trio.current_time())
            raise
        return "the answer"

    cancelled: list[float] = []
    assert await in_time(act, 10) is None
    assert cancelled == [pytest.approx(10)]


async def test_an_error_is_raised_alone(autojump_clock: trio.testing.MockClock) -> None:
    async def act() -> None:
        await trio.sleep(1)
        raise trio.BrokenResourceError

    with pytest.raises(trio.BrokenResourceError):
        await in_time(act, 10)
    assert trio.current_time() == pytest.approx(1)


async def test_what_is_cancelled_from_outside(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await in_time(trio.Event().wait, 10)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1)
