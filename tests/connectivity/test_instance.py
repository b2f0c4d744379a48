"""When a control channel may have been superseded by one of this process, and when only by another process."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer
from hybridrelay.connectivity import Candidate, RelayEndpoint, candidates, discover
from hybridrelay.connectivity import link as link_module
from hybridrelay.connectivity.control import Introduction
from hybridrelay.connectivity.instance import (
    LONGEST_PAUSE_SECONDS,
    RENEWAL_SECONDS,
    OwnInstance,
    RenewalPace,
    new_instance,
)
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.protocol import control

CANDIDATE = candidates(discover(), "tcp")[0]


class FakeChannel:
    intercepted_by = None

    def __init__(self, generation: int) -> None:
        self.generation = generation


@pytest.fixture
def introduced(monkeypatch: pytest.MonkeyPatch) -> list[OwnInstance]:
    """The instances with which control channels would have been opened; none is opened."""
    seen: list[OwnInstance] = []

    async def run(
        endpoint: RelayEndpoint,
        candidate: Candidate,
        introduction: Introduction,
        *,
        dialer: Dialer,
        task_status: trio.TaskStatus[FakeChannel],
    ) -> None:
        seen.append(introduction.instance)
        task_status.started(FakeChannel(introduction.generation))

    monkeypatch.setattr(link_module, "run_control_channel", run)
    return seen


def link(instance: OwnInstance, host: str = "relay.example") -> RelayLink:
    return RelayLink(RelayEndpoint(host=host), control.PeerRole.CONNECTOR, instance=instance, mode="tcp")


@pytest.mark.parametrize("role", control.PeerRole)
def test_only_connectors_state_the_secret_of_their_instance(role: control.PeerRole) -> None:
    """A relay needs it to let nobody else register as this instance, which a client never does."""
    instance = new_instance()
    hello = Introduction(role, instance, 1).hello()
    assert hello.instance == instance.id
    assert hello.secret == (instance.secret if role is control.PeerRole.CONNECTOR else None)


async def test_the_latest_channel_can_only_be_superseded_by_another_process(
    nursery: trio.Nursery, introduced: list[OwnInstance]
) -> None:
    instance = new_instance()
    one, other = link(instance), link(instance, "another.example")
    first = await one.start_control(nursery, CANDIDATE)
    second = await other.start_control(nursery, CANDIDATE)
    assert first.generation < second.generation
    assert one.renew_instance(first) is None, "two names may lead to one relay"
    third = await one.start_control(nursery, CANDIDATE)
    renewed = one.renew_instance(third)
    assert renewed is not None
    await one.start_control(nursery, CANDIDATE)
    await other.start_control(nursery, CANDIDATE)
    assert introduced == [instance, instance, instance, renewed, instance]
    nursery.cancel_scope.cancel()


async def test_a_relay_that_lies_makes_a_process_renew_its_instance_ever_more_rarely(
    nursery: trio.Nursery, introduced: list[OwnInstance], autojump_clock: trio.testing.MockClock
) -> None:
    at_relay, renewed = link(new_instance()), 0
    for _ in range(6 * 360):
        channel = await at_relay.start_control(nursery, CANDIDATE)
        renewed += at_relay.renew_instance(channel) is not None
        await trio.sleep(10)
    assert 9 < renewed < 9 + 6
    nursery.cancel_scope.cancel()


def test_the_pause_between_renewals_doubles_and_is_short_again_after_a_calm_time() -> None:
    pace, now = RenewalPace(), 1000.0
    at: list[float] = []
    while len(at) < 12:
        if pace.admits(now):
            at.append(now)
        now += 1.0
    pauses = [after - before for before, after in pairwise(at)]
    assert pauses == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0, 3600.0, 3600.0]
    now = at[-1] + 2 * LONGEST_PAUSE_SECONDS
    assert pace.admits(now)
    assert not pace.admits(now + RENEWAL_SECONDS - 1.0)
    assert pace.admits(now + RENEWAL_SECONDS)
