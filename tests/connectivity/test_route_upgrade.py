"""When a better route is looked for, and what the owner of a link learns."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.connectivity import Candidate, RelayEndpoint, candidates, discover
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import UPGRADE_INTERVAL_SECONDS, RelayLink
from hybridrelay.connectivity.prober import RouteChoice
from hybridrelay.connectivity.report import Report
from hybridrelay.errors import RelayUnreachable
from hybridrelay.protocol import control


class Owner:
    """The owner of one session, which it moves to better routes."""

    def __init__(self, on: Candidate | None) -> None:
        self.on = on
        self.moved = 0

    def in_use(self) -> Candidate | None:
        return self.on

    async def improved(self, better: Candidate) -> None:
        self.on = better
        self.moved += 1


@pytest.fixture
def link() -> RelayLink:
    endpoint = RelayEndpoint("relay.example")
    return RelayLink(endpoint, control.PeerRole.CLIENT, instance=new_instance())


async def test_upgrades_from_the_route_in_use_after_the_choice_was_forgotten(
    link: RelayLink, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tcp, *_, worst = candidates(discover(), "auto")
    looks = 0

    async def find_better(current: Candidate) -> Candidate | None:
        nonlocal looks
        looks += 1
        return tcp

    monkeypatch.setattr(link._prober, "find_better", find_better)
    owner = Owner(tcp)
    nursery.start_soon(link.upgrade_route, owner.in_use, owner.improved)
    await trio.sleep(24 * 3600)
    assert looks == 0
    # After a day on the best route, the interval has not grown.
    link.forget()
    owner.on = worst
    await trio.sleep(3 * UPGRADE_INTERVAL_SECONDS)
    assert (owner.on, owner.moved, looks) == (tcp, 1, 2)
    nursery.cancel_scope.cancel()


async def test_stays_where_nothing_works_over_the_better_route(
    link: RelayLink, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe works over the better route, but the session does not. It is tried at growing intervals."""
    tcp, wss, *_ = candidates(discover(), "auto")

    async def find_better(current: Candidate) -> Candidate | None:
        return tcp

    async def choose(*, thorough: bool) -> RouteChoice:
        report = Report(host="relay.example", mode="auto", attempts=(), chosen="wss", seconds=0.1)
        return RouteChoice(wss, report)

    monkeypatch.setattr(link._prober, "find_better", find_better)
    monkeypatch.setattr(link._prober, "choose", choose)
    assert await link.choose() == wss
    failures: list[float] = []

    async def fail(better: Candidate) -> None:
        assert await link.choose() == tcp
        failures.append(trio.current_time())
        raise RelayUnreachable("dropped")

    nursery.start_soon(link.upgrade_route, lambda: wss, fail)
    await trio.sleep(24 * 3600)
    assert await link.choose() == wss
    assert 24 * 6 <= len(failures) <= 24 * 20
    nursery.cancel_scope.cancel()
