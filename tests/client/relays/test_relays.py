"""Which relay is next: the order, the race that begins late, in virtual time."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.client.relays.listeners import AvoidedListeners, ListenerSearch
from hybridrelay.client.relays.relays import NEXT_RELAY_SECONDS, SET_BACK_SECONDS, Relays
from hybridrelay.errors import AuthorizationError, HybridRelayError, RelayUnreachable, RendezvousError
from hybridrelay.protocol.reasons import Reason

from ..fakes import ANY, OURS, FakeRelay

DOWN = RelayUnreachable("down", remedy="start it")
NO_LISTENER = RendezvousError("nobody", reason=Reason.NO_LISTENER)
WRONG_KEY = AuthorizationError("wrong", reason=Reason.WRONG_KEY)
GONE = RendezvousError("gone", reason=Reason.LISTENER_GONE)


def search() -> ListenerSearch:
    return ListenerSearch(AvoidedListeners())


@pytest.fixture
def fakes() -> list[FakeRelay]:
    return [FakeRelay(host) for host in ("a.example", "b.example", "c.example")]


@pytest.fixture
def relays(fakes: list[FakeRelay]) -> Relays:
    return Relays(fakes)


async def test_the_first_choice_comes_first(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, c = fakes
    assert relays.in_order() == [a, b, c]
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is a
    assert not b.asked
    assert not c.asked


async def test_what_worked_is_first_as_long_as_it_works(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, c = fakes
    a.error = DOWN
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is b
    a.error = None
    await trio.sleep(10 * SET_BACK_SECONDS)
    assert relays.in_order() == [b, a, c]
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is b
    b.error = DOWN
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is a


async def test_a_relay_that_failed_comes_after_the_others_for_a_while(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, c = fakes
    a.error = b.error = DOWN
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is c
    c.error = DOWN
    a.error = None
    await trio.sleep(SET_BACK_SECONDS / 2)
    assert relays.in_order() == [c, a, b]
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is a
    await trio.sleep(SET_BACK_SECONDS * 0.6)
    assert relays.in_order() == [a, b, c], "b failed longer ago"


async def test_a_draining_relay_is_last_even_if_it_is_asked_for(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, c = fakes
    a.away_until = trio.current_time() + 5
    assert relays.in_order() == [b, c, a]
    assert relays.in_order(a)[-1] is a
    assert relays.in_order(c) == [c, b, a]
    await trio.sleep(5)
    assert relays.in_order(a) == [a, b, c]


async def test_a_refusal_is_no_reason_to_wait(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, _ = fakes
    a.error = WRONG_KEY
    began = trio.current_time()
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is b
    assert trio.current_time() - began == pytest.approx(0.02)
    assert a.failed_at > began


async def test_a_relay_that_says_nothing_is_overtaken(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, c = fakes
    a.takes = b.takes = 60
    began = trio.current_time()
    channel = await relays.open_data_channel(search(), relays.in_order(), OURS)
    assert channel.relay is c
    assert trio.current_time() - began == pytest.approx(2 * NEXT_RELAY_SECONDS + 0.01)
    assert (a.cancelled, b.cancelled) == (1, 1)
    assert relays.in_order()[0] is c


async def test_a_slow_relay_still_wins_where_the_others_fail(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, c = fakes
    a.takes, b.error, c.error = 20, DOWN, DOWN
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is a


async def test_of_two_that_arrive_together_one_is_closed(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, _ = fakes
    a.ready = b.ready = ready = trio.Event()

    async def arrive() -> None:
        await trio.sleep(NEXT_RELAY_SECONDS + 1)
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrive)
        channel = await relays.open_data_channel(search(), relays.in_order(), OURS)
    (other,) = (one for one in [*a.opened, *b.opened] if one is not channel)
    with pytest.raises(trio.ClosedResourceError):
        await other.stream.send_all(b"x")
    await channel.stream.transport_stream.send_all(b"x")


async def test_cancelled_nothing_stays_open(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, *_ = fakes
    opened, returned = trio.Event(), trio.Event()

    async def cancel() -> None:
        await opened.wait()
        nursery.cancel_scope.cancel()

    a.on_opened = opened.set
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        await relays.open_data_channel(search(), relays.in_order(), OURS)
        returned.set()
    assert not returned.is_set(), "it was cancelled in the moment of success"
    (channel,) = a.opened
    with pytest.raises(trio.ClosedResourceError):
        await channel.stream.transport_stream.send_all(b"x")


async def test_a_listener_at_the_second_relay_is_found_at_once(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, _ = fakes
    a.error = NO_LISTENER
    began = trio.current_time()
    assert (await relays.open_data_channel(search(), relays.in_order(), OURS)).relay is b
    assert trio.current_time() - began == pytest.approx(0.02)
    assert a.failed_at < began, "nothing is wrong with that relay"


@pytest.mark.parametrize("reason", [Reason.NO_LISTENER, Reason.LIMIT])
async def test_each_relay_is_asked_once(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay], reason: Reason
) -> None:
    a, b, c = fakes
    a.error = DOWN
    b.error = c.error = RendezvousError("not now", reason=reason)
    with pytest.raises(RendezvousError) as caught:
        await relays.open_data_channel(search(), relays.in_order(), OURS)
    assert caught.value.reason is reason
    assert [len(relay.asked) for relay in fakes] == [1, 1, 1]
    for word in ("a.example: down", "b.example: not now", "c.example: not now"):
        assert word in str(caught.value)


async def test_that_a_connector_is_gone_is_for_its_own_relay_or_for_all_to_say(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, c = fakes

    async def reason(*tried: FakeRelay, home: FakeRelay | None) -> Reason:
        with pytest.raises(HybridRelayError) as caught:
            await relays.open_data_channel(ANY, tried, OURS, home=home)
        return caught.value.reason

    a.error, b.error = GONE, DOWN
    assert (await relays.open_data_channel(ANY, relays.in_order(), OURS, home=a)).relay is c
    c.error = NO_LISTENER
    assert await reason(a, b, c, home=a) is Reason.LISTENER_GONE
    assert await reason(a, b, c, home=None) is not Reason.LISTENER_GONE
    assert await reason(a, b, c, home=b) is not Reason.LISTENER_GONE
    b.error = c.error = GONE
    assert await reason(b, c, home=a) is not Reason.LISTENER_GONE, "a was not asked"
    assert await reason(a, b, c, home=None) is Reason.LISTENER_GONE


async def test_every_relay_is_named_where_all_fail(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    a, b, c = fakes
    a.error, b.error, c.error = DOWN, WRONG_KEY, RelayUnreachable("far away", remedy="start it")
    with pytest.raises(RelayUnreachable) as caught:
        await relays.open_data_channel(ANY, relays.in_order(), OURS)
    assert str(caught.value) == "no relay works: a.example: down; b.example: wrong; c.example: far away"
    assert caught.value.remedy == "start it"
    assert not caught.value.reason.is_permanent, "a and c may come back"
    for relay in fakes:
        relay.error = WRONG_KEY
    with pytest.raises(AuthorizationError) as refused:
        await relays.open_data_channel(ANY, relays.in_order(), OURS)
    assert refused.value.reason is Reason.WRONG_KEY


async def test_it_is_known_when_the_first_relay_comes_back(
    autojump_clock: trio.testing.MockClock, relays: Relays, fakes: list[FakeRelay]
) -> None:
    began = trio.current_time()
    assert relays.away_until <= began
    for relay, seconds in zip(fakes, (5, 3, 4), strict=True):
        relay.away_until = began + seconds
    assert relays.away_until == began + 3
