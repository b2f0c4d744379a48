"""Permission for handshakes, with Trio: one in each pass of the event loop, and waiting that can be cancelled."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.relay.edge.handshakes import Handshake, HandshakeQueue
from hybridrelay.relay.edge.permits import HandshakePermit, HandshakeScheduler
from hybridrelay.relay.limits import RateLimit


def make_scheduler(limit: RateLimit) -> HandshakeScheduler:
    return HandshakeScheduler(HandshakeQueue(limit, limit, limit, proved=limit, each_key=limit, remembered=1))


async def start_scheduler(nursery: trio.Nursery, limit: RateLimit) -> HandshakeScheduler:
    scheduler = make_scheduler(limit)
    nursery.start_soon(scheduler.run)
    await trio.testing.wait_all_tasks_blocked()
    return scheduler


async def test_a_handshake_may_begin_in_each_pass_and_again_when_a_peer_authenticates(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scheduler = make_scheduler(RateLimit(1, 0.001))
    order: list[str] = []
    first_may_go = trio.Event()

    async def peer(name: str) -> None:
        with HandshakePermit.of_new_connection(scheduler, "192.0.2.1") as permit:
            await permit.wait()
            order.append(name)
            await first_may_go.wait()
            permit.authenticated()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.run)
        nursery.start_soon(peer, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(peer, "second")
        await trio.testing.wait_all_tasks_blocked()
        assert (order, scheduler.waiting) == (["first"], 1)
        first_may_go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (order, scheduler.waiting) == (["first", "second"], 0)
        nursery.cancel_scope.cancel()


async def test_other_tasks_run_between_two_handshakes(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scheduler = await start_scheduler(nursery, RateLimit(10, 1.0))
    order: list[str] = []
    for _ in range(10):
        scheduler.add(Handshake("192.0.2.1", lambda: order.append("handshake")))

    async def other() -> None:
        for _ in range(30):
            order.append("other")
            await trio.lowlevel.checkpoint()

    nursery.start_soon(other)
    await trio.testing.wait_all_tasks_blocked()
    first, last = order.index("handshake"), len(order) - 1 - order[::-1].index("handshake")
    assert order.count("handshake") == 10
    assert order[first : last + 1].count("other") >= 8
    nursery.cancel_scope.cancel()


async def test_a_permit_that_was_granted_before_lets_the_first_handshake_begin_at_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The second handshake waits, and the first one is not counted again."""
    scheduler = await start_scheduler(nursery, RateLimit(1, 1.0))
    granted = HandshakePermit(scheduler, Handshake("192.0.2.1", lambda: None), is_granted=True)
    began = trio.current_time()
    await granted.wait()
    await granted.wait()
    assert trio.current_time() == began
    await granted.wait()
    assert trio.current_time() == pytest.approx(began + 1)
    nursery.cancel_scope.cancel()


async def test_a_peer_that_gives_up_waiting_uses_nothing_up(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scheduler = await start_scheduler(nursery, RateLimit(1, 0.1))
    with HandshakePermit.of_new_connection(scheduler, "192.0.2.1") as first:
        await first.wait()
    began = trio.current_time()
    with trio.move_on_after(1), HandshakePermit.of_new_connection(scheduler, "192.0.2.1") as second:
        await second.wait()
    assert scheduler.waiting == 0
    with HandshakePermit.of_new_connection(scheduler, "192.0.2.1") as third:
        await third.wait()
    assert trio.current_time() == pytest.approx(began + 10)
    nursery.cancel_scope.cancel()
