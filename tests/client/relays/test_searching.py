"""A client finds a listener that proves itself among others that fail, stall or never come."""

from __future__ import annotations

import itertools

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.client.relays.listeners import MAX_TRIED, PAUSE_SECONDS, AvoidedListeners, ListenerSearch
from hybridrelay.client.relays.searching import (
    FURTHER_LISTENER_SECONDS,
    MAX_AT_A_TIME,
    NEXT_LISTENER_SECONDS,
    STALLED_SECONDS,
    Search,
)
from hybridrelay.errors import AuthorizationError, HybridRelayError, PeerIdentityError, RendezvousError
from hybridrelay.protocol.control import MAX_AVOID
from hybridrelay.protocol.reasons import Reason

ROGUE = PeerIdentityError("a certificate of its own", reason=Reason.IDENTITY_WRONG_AUTHORITY)
ABSENT = RendezvousError("it did not come", reason=Reason.PEER_ABSENT)
NOBODY = RendezvousError("no connector is listening", reason=Reason.NO_LISTENER)
REVOKED = AuthorizationError("revoked", reason=Reason.KEY_REVOKED)
#: What a ticket's lifetime costs at a listener that never comes (seconds).
LIFETIME = 30.0


@attrs.frozen
class Answer:
    listener: str


@attrs.define
class Relay:
    """Offers its listeners in order. Each takes some time, and then fails or not."""

    listeners: dict[str, tuple[float, HybridRelayError | None]]
    asked: list[tuple[float, tuple[str, ...]]] = attrs.field(factory=list)
    refusal: HybridRelayError | None = None
    ignores_avoid: bool = False
    open: int = 0
    most_open: int = 0
    discarded: list[str] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)

    async def ask(self, avoid: tuple[str, ...]) -> Answer:
        await trio.lowlevel.checkpoint()
        self.asked.append((trio.current_time(), avoid))
        assert len(avoid) <= MAX_AVOID
        if self.refusal is not None:
            raise self.refusal
        for name in self.listeners:
            if self.ignores_avoid or name not in avoid:
                return Answer(name)
        raise NOBODY

    async def open_channel(self, answer: Answer) -> str:
        takes, error = self.listeners[answer.listener]
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await trio.sleep(takes)
        finally:
            self.open -= 1
        if error is not None:
            raise error
        return answer.listener

    async def discard(self, channel: str) -> None:
        self.discarded.append(channel)

    async def find(self, search: ListenerSearch | None = None) -> str:
        search = search or ListenerSearch(AvoidedListeners())
        on_failure = lambda instance, error: self.failures.append(instance)  # noqa: E731
        return await Search(search, self.ask, self.open_channel, self.discard, on_failure).run()


async def test_a_listener_that_is_quick_is_the_only_one_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"a": (NEXT_LISTENER_SECONDS / 2, None), "b": (0, None)})
    assert await relay.find() == "a"
    assert len(relay.asked) == 1


async def test_one_that_fails_is_replaced_at_once(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"a": (0.1, ROGUE), "b": (0.1, ABSENT), "c": (0.1, None)})
    began = trio.current_time()
    assert await relay.find() == "c"
    assert trio.current_time() - began == pytest.approx(0.3)
    assert relay.failures == ["a", "b"]


async def test_the_honest_one_is_found_soon_among_many_that_stall(autojump_clock: trio.testing.MockClock) -> None:
    stalling = {f"rogue {number}": (LIFETIME, ABSENT) for number in range(7)}
    relay = Relay({**stalling, "honest": (0.2, None)})
    avoided = AvoidedListeners()
    began = trio.current_time()
    assert await relay.find(ListenerSearch(avoided)) == "honest"
    assert trio.current_time() - began == pytest.approx(NEXT_LISTENER_SECONDS + 6 * FURTHER_LISTENER_SECONDS + 0.2)
    assert relay.open == 0, "what was tried beside it is cancelled"


async def test_the_honest_one_is_found_soon_among_all_that_a_hybrid_connection_can_have(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stalling = {f"rogue {number}": (LIFETIME, ABSENT) for number in range(63)}
    relay = Relay({**stalling, "honest": (0.2, None)})
    avoided = AvoidedListeners()
    began = trio.current_time()
    assert await relay.find(ListenerSearch(avoided)) == "honest"
    assert trio.current_time() - began < 40
    assert relay.most_open <= MAX_AT_A_TIME
    # Nearly all that stalled are avoided from then on.
    assert len(avoided.at(trio.current_time())) >= 63 - MAX_AT_A_TIME
    began = trio.current_time()
    assert await relay.find(ListenerSearch(avoided)) == "honest"
    assert trio.current_time() - began < 10


async def test_one_that_was_only_slower_than_another_is_not_avoided(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"far away": (STALLED_SECONDS - 0.1, None), "near": (0.1, None)})
    avoided = AvoidedListeners()
    assert await relay.find(ListenerSearch(avoided)) == "near"
    assert avoided.at(trio.current_time()) == ()


async def test_no_more_than_so_many_are_tried_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({f"rogue {number}": (1000, ABSENT) for number in range(30)})
    with trio.move_on_after(12):
        await relay.find()
    assert relay.most_open == MAX_AT_A_TIME
    assert relay.open == 0


async def test_one_that_is_slow_and_alone_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"far away": (9.0, None)})
    assert await relay.find() == "far away"
    # The relay was asked again now and then: another one might have registered meanwhile.
    assert [avoid for _, avoid in relay.asked] == [(), *([("far away",)] * 4)]


async def test_one_that_registers_while_another_stalls_is_used(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"rogue": (LIFETIME, ABSENT)})
    async with trio.open_nursery() as nursery:
        found: list[str] = []

        async def find() -> None:
            found.append(await relay.find())

        nursery.start_soon(find)
        await trio.sleep(5)
        relay.listeners["honest"] = (0.1, None)
        await trio.sleep(NEXT_LISTENER_SECONDS + 0.2)
        assert found == ["honest"]


async def test_the_error_is_how_the_last_one_failed(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"a": (0.1, ABSENT), "b": (5.0, ROGUE)})
    with pytest.raises(PeerIdentityError) as caught:
        await relay.find()
    assert caught.value is ROGUE


async def test_a_refusal_that_may_pass_does_not_end_what_is_being_tried(
    autojump_clock: trio.testing.MockClock,
) -> None:
    relay = Relay({"slow": (5.0, None)})
    async with trio.open_nursery() as nursery:
        found: list[str] = []

        async def find() -> None:
            found.append(await relay.find())

        nursery.start_soon(find)
        await trio.sleep(1)
        relay.refusal = RendezvousError("too many", reason=Reason.LIMIT)
    assert found == ["slow"]


@pytest.mark.parametrize("refusal", [NOBODY, REVOKED], ids=str)
async def test_a_refusal_of_the_relay_ends_the_search(
    refusal: HybridRelayError, autojump_clock: trio.testing.MockClock
) -> None:
    relay = Relay({"a": (0, None)}, refusal=refusal)
    with pytest.raises(HybridRelayError) as caught:
        await relay.find()
    assert caught.value is refusal
    assert len(relay.asked) == 1


async def test_a_relay_that_revokes_the_key_meanwhile_ends_the_search(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"rogue": (LIFETIME, ABSENT)})
    async with trio.open_nursery() as nursery:
        errors: list[HybridRelayError] = []

        async def find() -> None:
            with pytest.raises(AuthorizationError) as caught:
                await relay.find()
            errors.append(caught.value)

        nursery.start_soon(find)
        await trio.sleep(1)
        relay.refusal = REVOKED
        await trio.sleep(NEXT_LISTENER_SECONDS)
        assert errors == [REVOKED]
        assert relay.open == 0


async def test_a_relay_that_names_the_same_one_again_is_not_asked_in_a_loop(
    autojump_clock: trio.testing.MockClock,
) -> None:
    relay = Relay({"a": (9.0, None)}, ignores_avoid=True)
    assert await relay.find() == "a"
    assert len(relay.asked) == 5


async def test_one_that_fails_and_comes_although_it_is_avoided_is_not_tried_in_a_loop(
    autojump_clock: trio.testing.MockClock,
) -> None:
    relay = Relay({"a": (0.01, ROGUE)}, ignores_avoid=True)
    with trio.move_on_after(20):
        await relay.find()
    times = [at for at, _ in relay.asked]
    assert times[1] - times[0] == pytest.approx(0.01), "it may be another one"
    assert all(after - before > NEXT_LISTENER_SECONDS for before, after in itertools.pairwise(times[1:]))
    assert len(times) > 5, "a relay that is repaired is noticed"


async def test_a_relay_that_makes_listeners_up_does_not_keep_its_client_busy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    made_up = Relay({f"made up {number}": (0.01, ROGUE) for number in range(1000)})
    avoided = AvoidedListeners()
    with trio.move_on_after(30):
        while True:
            with pytest.raises(PeerIdentityError):
                await made_up.find(ListenerSearch(avoided))
    assert len(made_up.asked) <= MAX_TRIED + 30 / PAUSE_SECONDS


async def test_as_many_that_fail_as_a_hybrid_connection_can_have_cost_no_pause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    relay = Relay({**{f"rogue {number}": (0.01, ROGUE) for number in range(MAX_TRIED - 1)}, "honest": (0.01, None)})
    began = trio.current_time()
    assert await relay.find() == "honest"
    assert trio.current_time() - began == pytest.approx(MAX_TRIED * 0.01)


async def test_two_at_the_same_moment_leave_one_open(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"a": (NEXT_LISTENER_SECONDS + 1, None), "b": (1, None)})
    found = await relay.find()
    assert sorted([found, *relay.discarded]) == ["a", "b"]
    assert relay.open == 0


async def test_cancelled_nothing_stays_open(autojump_clock: trio.testing.MockClock) -> None:
    relay = Relay({"a": (10, None), "b": (10, None)})
    with trio.move_on_after(5):
        await relay.find()
    assert relay.open == 0
    assert relay.discarded == []


@pytest.mark.parametrize("ignores_avoid", [False, True])
async def test_a_search_for_another_listener_does_not_return_to_the_one_that_failed(
    autojump_clock: trio.testing.MockClock, ignores_avoid: bool
) -> None:
    relay = Relay({"a": (0.1, None)}, ignores_avoid=ignores_avoid)
    with pytest.raises(RendezvousError) as caught:
        await relay.find(ListenerSearch(AvoidedListeners(), ("a",)))
    assert caught.value.reason is Reason.NO_LISTENER
    assert len(relay.asked) == 1
    assert relay.most_open == 0
    relay.listeners["b"] = (0.1, None)
    if not ignores_avoid:
        assert await relay.find(ListenerSearch(AvoidedListeners(), ("a",))) == "b"
