"""Offers to one listener wait for their turns, so that those with one key leave others room."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from hybridrelay.connectivity.control import REQUEST_SECONDS
from hybridrelay.protocol import control
from hybridrelay.protocol.preamble import TICKET_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.join import MAX_ASKED
from hybridrelay.relay.core.listeners import Listener
from hybridrelay.relay.core.offer_queue import FORGET_SECONDS, MAX_UNANSWERED
from hybridrelay.relay.service.broker import OFFER_SECONDS
from hybridrelay.relay.service.offer_turns import WAIT_SECONDS, OfferTurns
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import Right, Rule

from ..listening import FakeListener, willing
from ..peers import HOST, FarEnd, client_hello, hello_of, make_broker, token_for


async def take_turn(turns: OfferTurns, number: int, connection: str, wait_seconds: float = WAIT_SECONDS) -> bool:
    until = trio.current_time() + wait_seconds
    return await turns.take(number, connection, "1", silent_seconds=OFFER_SECONDS, until=until)


class Taken:
    """A task that waits for a turn, and its result."""

    def __init__(self, nursery: trio.Nursery, turns: OfferTurns, number: int, connection: str = "a") -> None:
        self.result: object = None
        self.scope = trio.CancelScope()

        async def take() -> None:
            with self.scope:
                try:
                    self.result = await take_turn(turns, number, connection)
                except (trio.TooSlowError, trio.BrokenResourceError) as exc:
                    self.result = type(exc)

        nursery.start_soon(take)


async def begun(nursery: trio.Nursery, turns: OfferTurns, *owners: tuple[int, str]) -> list[Taken]:
    """Tasks that have begun to wait in this order: the number of the offer, and the hybrid connection."""
    found = []
    for number, connection in owners:
        found.append(Taken(nursery, turns, number, connection))
        await trio.testing.wait_all_tasks_blocked()
    return found


async def full(nursery: trio.Nursery) -> OfferTurns:
    """As many offers as may be unanswered."""
    turns = OfferTurns()
    sent = [Taken(nursery, turns, number) for number in range(MAX_UNANSWERED)]
    await trio.testing.wait_all_tasks_blocked()
    assert all(one.result is True for one in sent)
    return turns


async def test_each_answer_lets_one_more_be_sent(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    turns = await full(nursery)
    # The offer of another hybrid connection was added last, and is the next but one.
    waiting = await begun(nursery, turns, (100, "a"), (101, "a"), (102, "a"), (200, "b"))
    order = []
    for number in range(4):
        turns.answered(number)
        turns.answered(number)
        await trio.testing.wait_all_tasks_blocked()
        order.append([index for index, one in enumerate(waiting) if one.result is True])
    assert order == [[0], [0, 3], [0, 1, 3], [0, 1, 2, 3]]


async def test_a_listener_that_answers_nothing_is_given_up(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    turns = await full(nursery)
    began = trio.current_time()
    assert not await take_turn(turns, 100, "b")
    assert trio.current_time() - began == pytest.approx(OFFER_SECONDS)
    await trio.sleep(FORGET_SECONDS)
    assert await take_turn(turns, 101, "b")


async def test_while_others_are_answered_an_offer_waits_longer(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    turns = await full(nursery)
    before = [Taken(nursery, turns, 100 + number) for number in range(20)]
    await trio.testing.wait_all_tasks_blocked()
    late, soon = await begun(nursery, turns, (300, "a"), (200, "b"))
    began = trio.current_time()
    for number in range(10):
        await trio.sleep(0.9)
        turns.answered(number)
        if number == 2:
            assert soon.result is True
    assert late.result is trio.TooSlowError
    assert [one.result for one in before].count(True) < 10
    assert trio.current_time() - began > WAIT_SECONDS


async def answer_slowly(turns: OfferTurns) -> None:
    """Answer one offer in each second in which the relay would otherwise give the listener up."""
    for number in range(MAX_UNANSWERED):
        await trio.sleep(0.9 * OFFER_SECONDS)
        turns.answered(number)


@pytest.mark.parametrize("wait_seconds", [-1.0, 0.0, 0.5, 1.0, 2.5])
async def test_an_offer_waits_no_longer_than_its_join_may(
    wait_seconds: float, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    turns = await full(nursery)
    _ = [Taken(nursery, turns, 100 + number, "b") for number in range(20)]
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(answer_slowly, turns)
    began = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await take_turn(turns, 200, "b", wait_seconds)
    assert trio.current_time() - began == pytest.approx(max(0.0, wait_seconds))
    nursery.cancel_scope.cancel()


async def test_an_offer_that_has_to_wait_for_nothing_is_sent_although_its_join_may_not_wait() -> None:
    assert await take_turn(OfferTurns(), 1, "a", 0.0)


class Busy(FakeListener):
    """A listener that answers slowly, and to which many others are offered first."""

    turns: OfferTurns

    @classmethod
    async def begin(cls, nursery: trio.Nursery) -> Busy:
        busy = cls(None)
        busy.turns = await full(nursery)
        _ = [Taken(nursery, busy.turns, 100 + number, "db") for number in range(2 * MAX_UNANSWERED)]
        await trio.testing.wait_all_tasks_blocked()
        return busy

    async def take_turn(self, connection: str, holder: str, until: float) -> int | None:
        may_send = await self.turns.take(1000, connection, "1", silent_seconds=OFFER_SECONDS, until=until)
        return 1000 if may_send else None


@pytest.mark.parametrize("has_room", [True, False], ids=["another has room", "all are busy"])
async def test_a_join_waits_for_the_turns_of_all_listeners_together_no_longer_than_for_those_of_one(
    has_room: bool,
    registry: SQLiteStore,
    rules: tuple[Rule, ...],
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    registry.create("db", [HOST], rules)
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    busy = [await Busy.begin(nursery) for _ in range(MAX_ASKED - 1)]
    handles = [*busy, willing() if has_room else await Busy.begin(nursery)]
    for number, handle in enumerate(handles):
        broker.listeners.register(Listener("db", f"{number:032x}", 1, listen.key, handle))
    for handle in handles:
        if isinstance(handle, Busy):
            nursery.start_soon(answer_slowly, handle.turns)
    began = trio.current_time()
    answer = await broker.join(send, None)
    if has_room:
        assert isinstance(answer, control.Joined)
        assert trio.current_time() - began <= WAIT_SECONDS + 0.01
    else:
        assert isinstance(answer, control.Failed)
        assert answer.reason is Reason.LIMIT
        assert trio.current_time() - began == pytest.approx(WAIT_SECONDS)
    nursery.cancel_scope.cancel()


def test_a_client_waits_for_the_answer_to_a_join_for_as_long_as_the_relay_may_need() -> None:
    """It asks some listeners, each of which may answer nothing, and waits for their turns."""
    assert WAIT_SECONDS + MAX_ASKED * OFFER_SECONDS < REQUEST_SECONDS


async def test_all_waits_end_with_the_control_channel(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    turns = await full(nursery)
    waiting = Taken(nursery, turns, 100)
    await trio.testing.wait_all_tasks_blocked()
    turns.lost()
    await trio.testing.wait_all_tasks_blocked()
    assert waiting.result is trio.BrokenResourceError


async def test_an_offer_that_is_cancelled_neither_waits_nor_counts(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    turns = await full(nursery)
    first, second = await begun(nursery, turns, (100, "a"), (101, "a"))
    first.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    turns.answered(0)
    await trio.testing.wait_all_tasks_blocked()
    assert (first.result, second.result) == (None, True)
    turns.drop(101)  # it was cancelled before it has sent the offer
    third, fourth = await begun(nursery, turns, (102, "a"), (103, "a"))
    assert (third.result, fourth.result) == (True, None)
    turns.answered(1)
    await trio.testing.wait_all_tasks_blocked()
    assert fourth.result is True


async def listening(registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery) -> FarEnd:
    """A listener of the hybrid connection db."""
    registry.create("db", [HOST], rules)
    connector = await FarEnd.connect(make_broker(registry), nursery, hello_of("0" * 64))
    await connector.hear()
    assert isinstance(await connector.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
    return connector


async def offer(connector: FarEnd, number: int) -> object:
    """The relay offers a session to a listener. Returns the answer."""
    return await connector.peer.offer(
        number, "db", bytes(TICKET_SIZE), 20.0, withdraw=lambda: None, proved=lambda: None
    )


async def test_the_answers_of_a_listener_make_room_for_more_offers(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connector = await listening(registry, rules, nursery)
    for _ in range(2 * MAX_UNANSWERED):
        number = await connector.peer.take_turn("db", "1", math.inf)
        assert number is not None, "the listener has answered all offers before this one"
        nursery.start_soon(offer, connector, number)
        heard = await connector.hear()
        assert isinstance(heard, control.Offer)
        assert heard.id == number
        await connector.say(control.Accept(number))
    nursery.cancel_scope.cancel()


async def test_an_offer_that_is_cancelled_before_it_was_sent_does_not_count_as_unanswered(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connector = await listening(registry, rules, nursery)
    for _ in range(MAX_UNANSWERED):
        number = await connector.peer.take_turn("db", "1", math.inf)
        assert number is not None
        with trio.CancelScope() as scope:
            scope.cancel()
            await offer(connector, number)
        assert scope.cancelled_caught
    assert await connector.peer.take_turn("db", "1", math.inf) is not None
    nursery.cancel_scope.cancel()


async def test_an_offer_does_not_wait_for_a_listener_whose_control_channel_has_ended(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connector = await listening(registry, rules, nursery)
    for _ in range(MAX_UNANSWERED):
        assert await connector.peer.take_turn("db", "1", math.inf) is not None
    began = trio.current_time()
    async with trio.open_nursery() as ending:

        async def end() -> None:
            await trio.testing.wait_all_tasks_blocked()
            connector.session.close()

        ending.start_soon(end)
        with pytest.raises(trio.BrokenResourceError):
            await connector.peer.take_turn("db", "1", math.inf)
    assert trio.current_time() - began < OFFER_SECONDS
    nursery.cancel_scope.cancel()


async def waiting(connector: FarEnd, count: int) -> None:
    """Wait until so many offers to the listener wait for their turn. Their tokens are checked in threads."""
    while connector.peer._offer_turns is None or len(connector.peer._offer_turns._turns) < count:
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_joins_with_one_key_leave_room_for_another_hybrid_connection(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """The listener reads offers slowly. Before it has read many, there is one of the other hybrid connection."""
    registry.create("db", [HOST], rules)
    others = (Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND]))
    registry.create("other", [HOST], others)
    broker = make_broker(registry)
    connector = await FarEnd.connect(broker, nursery, hello_of("0" * 64))
    await connector.hear()
    for number, (name, its) in enumerate((("db", rules), ("other", others))):
        answer = await connector.ask(control.Register(number, name, token_for(its[0], name)))
        assert isinstance(answer, control.Registered)
    for _ in range(3):  # more than one, because a client may have only `MAX_JOINS` at a time
        flood = await FarEnd.connect(broker, nursery, client_hello())
        await flood.hear()
        await flood.say(*(control.Join(number, "db", token_for(rules[1])) for number in range(MAX_UNANSWERED)))
    await waiting(connector, 2 * MAX_UNANSWERED)
    victim = await FarEnd.connect(broker, nursery, client_hello())
    await victim.hear()
    await victim.say(control.Join(1, "other", token_for(others[1], "other")))
    await waiting(connector, 2 * MAX_UNANSWERED + 1)
    offered = []
    while "other" not in offered:
        offer = await connector.hear()
        assert isinstance(offer, control.Offer)
        offered.append(offer.connection)
        await connector.say(control.Accept(offer.id))
        # Offers whose turn comes in the same pass of the event loop are sent in any order, so only one's does.
        await trio.testing.wait_all_tasks_blocked()
    assert len(offered) <= MAX_UNANSWERED + 2
    assert isinstance(await victim.hear(), control.Joined)
    nursery.cancel_scope.cancel()
