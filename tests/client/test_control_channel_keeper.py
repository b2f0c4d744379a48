"""A client whose control channel was lost opens another one, so that relays can reach it."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import trio
import trio.testing

from hybridrelay.client.control_channel_keeper import CHECK_SECONDS, SPREAD_SECONDS, ControlChannelKeeper
from hybridrelay.client.relays.relay_connection import RelayConnection
from hybridrelay.client.relays.relays import Relays
from hybridrelay.errors import HybridRelayError, RelayUnreachable

from .fakes import FakeRelay


class Relay(FakeRelay):
    """A relay to which control channels are opened."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.has = True
        self.opened_at: list[float] = []
        self.refusal: HybridRelayError | None = None

    @property
    def has_control(self) -> bool:
        return self.has

    async def ensure_control_channel(self) -> None:
        self.opened_at.append(trio.current_time())
        await trio.sleep(0.1)
        if self.refusal is not None:
            raise self.refusal
        self.has = True


@attrs.frozen
class Session:
    through: list[RelayConnection]

    def goes_through(self, relay: RelayConnection) -> bool:
        return relay in self.through


@attrs.define
class Scene:
    relays: list[Relay]
    through: list[RelayConnection]

    def __iter__(self) -> Iterator[Session]:
        return iter([Session(self.through)])


def begin(nursery: trio.Nursery, draw: float = 0.5) -> Scene:
    relays = [Relay("a.example"), Relay("b.example")]
    scene = Scene(relays, [relays[0]])
    nursery.start_soon(ControlChannelKeeper(Relays(relays), scene, draw=lambda: draw).run)
    return scene


async def test_a_lost_control_channel_is_opened_again_after_a_random_pause(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = begin(nursery, draw=0.5)
    first, second = scene.relays
    await trio.sleep(1000)
    assert first.opened_at == []
    first.has = second.has = False
    began = trio.current_time()
    await trio.sleep(SPREAD_SECONDS + 2 * CHECK_SECONDS)
    (at,) = first.opened_at
    assert SPREAD_SECONDS / 2 <= at - began <= SPREAD_SECONDS / 2 + 2 * CHECK_SECONDS
    assert second.opened_at == []  # no session goes through it
    await trio.sleep(1000)
    assert len(first.opened_at) == 1
    first.has = False
    await trio.sleep(1000)
    assert len(first.opened_at) == 2


async def test_a_session_that_opens_one_itself_needs_no_other(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = begin(nursery, draw=0.99)
    scene.relays[0].has = False
    await trio.sleep(SPREAD_SECONDS / 2)
    scene.relays[0].has = True
    await trio.sleep(1000)
    assert scene.relays[0].opened_at == []


async def test_attempts_that_fail_become_rare(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    scene = begin(nursery, draw=0.99)
    relay = scene.relays[0]
    relay.has, relay.refusal = False, RelayUnreachable("dropped")
    await trio.sleep(3600)
    pauses = [round(after - before) for before, after in zip(relay.opened_at, relay.opened_at[1:], strict=False)]
    assert pauses == sorted(pauses)
    assert pauses[0] >= 29
    assert 290 <= pauses[-1] <= 310
    relay.refusal = None
    await trio.sleep(310)
    assert relay.has


async def test_a_relay_that_asked_to_be_left_alone_is_not_asked(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = begin(nursery)
    relay = scene.relays[0]
    relay.has, relay.away_until = False, trio.current_time() + 60
    await trio.sleep(59)
    assert relay.opened_at == []
    await trio.sleep(SPREAD_SECONDS + 2 * CHECK_SECONDS)
    assert len(relay.opened_at) == 1


async def test_without_a_session_nobody_is_asked(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = begin(nursery)
    scene.through = []
    scene.relays[0].has = False
    await trio.sleep(1000)
    assert scene.relays[0].opened_at == []
