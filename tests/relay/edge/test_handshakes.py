"""Whose handshake comes next, and what a peer that does not authenticate uses up."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.edge.handshakes import Handshake, Handshakes, Turn, Turns
from hybridrelay.relay.limits import Ration

FLOOD, HONEST, OTHER = "192.0.2.66", "192.0.2.1", "192.0.2.2"
KEY, OTHER_KEY = b"k" * 8, b"o" * 8
PROVED, EACH_KEY = Ration(4, 1.0), Ration(2, 1.0)


class Line:
    """`Handshakes` with a clock of its own and names for everybody."""

    def __init__(
        self,
        total: Ration,
        known: Ration,
        each: Ration,
        remembered: int = 10,
        proved: Ration = PROVED,
        each_key: Ration = EACH_KEY,
    ) -> None:
        self.machine = Handshakes(total, known, each, proved=proved, each_key=each_key, remembered=remembered)
        self.now = 1000.0
        self.names: dict[Handshake, str] = {}
        self._numbers = itertools.count()

    def again(self, handshake: Handshake) -> None:
        """The second handshake of a connection."""
        self.machine.want(handshake, self.now)

    def want(self, group: str, name: str = "", key: bytes | None = None) -> Handshake:
        handshake = Handshake(group, lambda: None, key)
        self.names[handshake] = name or f"{group}#{next(self._numbers)}"
        self.machine.want(handshake, self.now)
        return handshake

    def begun(self) -> list[Handshake]:
        """All that may begin now."""
        return list(iter(lambda: self.machine.begin(self.now), None))

    def groups(self) -> list[str]:
        return [handshake.group for handshake in self.begun()]


def line(total: int = 4, per_second: float = 2.0, each: int = 2) -> Line:
    return Line(Ration(total, per_second), Ration(total, per_second), Ration(each, 1.0))


def test_strangers_get_a_burst_and_then_the_rate() -> None:
    table = line(total=4, per_second=2.0, each=4)
    for _ in range(20):
        table.want(FLOOD)
    assert len(table.begun()) == 4
    assert table.machine.next_at() == pytest.approx(table.now + 1.0)  # one a second for one address
    for _ in range(3):
        table.now += 1.0
        assert len(table.begun()) == 1
    assert table.machine.waiting == 13


def test_one_address_leaves_room_for_others() -> None:
    table = line(total=4, each=2)
    for _ in range(20):
        table.want(FLOOD)
    table.want(HONEST)
    assert sorted(table.groups()) == sorted([FLOOD, FLOOD, HONEST])


def test_who_asks_rarely_comes_first_when_all_is_used_up() -> None:
    table = line(total=4, each=4)
    flood = [f"198.51.100.{number}" for number in range(4)]
    for group in flood * 5:
        table.want(group)
    assert len(table.begun()) == 4
    table.want(HONEST)
    table.now += 0.5
    assert table.groups() == [HONEST]


def busy_line(addresses: int) -> tuple[Line, list[str]]:
    """Two handshakes a second for all strangers, and so many addresses that have used up what there was."""
    table = line(total=4, per_second=2.0, each=4)
    flood = [f"198.51.100.{number}" for number in range(addresses)]
    for group in flood * 20:
        table.want(group)
    for _ in range(3 * addresses):
        table.begun()
        table.now += 0.5
    table.begun()
    return table, flood


def test_the_second_handshake_of_a_newcomer_is_the_next_one_that_begins() -> None:
    """However many addresses wait: its first handshake does not send it to the end of the line."""
    table, _ = busy_line(10)
    mine = table.want(HONEST)
    table.now += 0.5
    assert table.begun() == [mine]
    table.again(mine)
    table.now += 0.5
    assert table.begun() == [mine]


def test_who_leaves_before_its_second_handshake_gives_no_place_to_others_of_its_address() -> None:
    table, flood = busy_line(10)
    mine = table.want(HONEST)
    table.now += 0.5
    assert table.begun() == [mine]
    table.again(mine)
    table.want(HONEST, "newer")
    table.machine.leave(mine, table.now)
    table.now += 0.5
    assert table.groups()[0] in flood


def test_second_handshakes_that_are_saved_up_count_and_keep_nobody_out() -> None:
    """An address that lets many first handshakes pass, and asks for all second ones at once, gets its ration only."""
    table = line(total=8, per_second=2.0, each=4)
    saved = [table.want(FLOOD) for _ in range(4)]
    assert len(table.begun()) == 4
    for handshake in saved:
        table.again(handshake)
    assert table.begun() == [], "the address owes as much as it may"
    others = [table.want(f"198.51.100.{number}") for number in range(4)]
    assert table.begun() == others, "an address without an allowance does not stop the line"
    newcomer = table.want(HONEST)
    table.now += 0.5
    assert table.begun() == [newcomer]


def test_within_an_address_second_handshakes_come_first() -> None:
    table = line(total=100, each=2)
    older = table.want(FLOOD)
    assert table.begun() == [older]
    newest = table.want(FLOOD)
    table.again(older)
    assert table.begun() == [older]
    table.now += 1.0
    assert table.begun() == [newest]


def test_within_an_address_the_newest_comes_first() -> None:
    table = line(each=1)
    for name in "abc":
        table.want(FLOOD, name)
    assert [table.names[handshake] for handshake in table.begun()] == ["c"]


def test_peers_that_authenticate_use_nothing_up() -> None:
    """Thousands of honest peers behind one address: no time passes, and all get in."""
    table = line(total=4, each=2)
    for _ in range(1000):
        table.want(HONEST)
    served = 0
    while begun := table.begun():
        for handshake in begun:
            table.machine.authenticated(handshake, table.now)
            table.machine.leave(handshake, table.now)
            served += 1
    assert served == 1000


def test_what_a_probe_owes_is_paid_back_by_who_authenticates_afterwards() -> None:
    """The prober's look at the port authenticates nobody, and each client has one before its control channel."""
    table = line(total=100, each=2)
    for _ in range(50):
        probe = table.want(HONEST)
        assert table.begun() == [probe]
        table.machine.leave(probe, table.now)
        control = table.want(HONEST)
        assert table.begun() == [control]
        table.machine.authenticated(control, table.now)
        table.machine.leave(control, table.now)


def test_known_addresses_come_first_and_have_an_allowance_of_their_own() -> None:
    table = line(total=4, each=4)
    known = table.want(HONEST)
    table.begun()
    table.machine.authenticated(known, table.now)
    for _ in range(20):
        table.want(FLOOD)
        table.want(OTHER)
    table.begun()
    table.want(HONEST)
    assert table.groups() == [HONEST]


def test_a_known_address_comes_before_others_while_both_have_an_allowance() -> None:
    table = line(total=4, each=4)
    known = table.want(HONEST)
    table.begun()
    table.machine.authenticated(known, table.now)
    table.want(OTHER)
    table.want(HONEST)
    assert table.groups() == [HONEST, OTHER]


def test_a_connection_that_authenticates_twice_returns_once_what_it_took() -> None:
    table = line(total=100, each=8)
    for _ in range(8):
        table.want(HONEST)
    handshake, *_ = table.begun()
    for _ in range(4):
        table.machine.authenticated(handshake, table.now)
    for _ in range(8):
        table.want(HONEST)
    assert len(table.begun()) == 2, "its own, and one for a probe"


def test_the_address_that_authenticated_least_recently_is_forgotten() -> None:
    table = Line(Ration(100, 1.0), Ration(100, 1.0), Ration(10, 1.0), remembered=2)
    for group in (FLOOD, HONEST, FLOOD, OTHER):
        handshake = table.want(group)
        table.begun()
        table.machine.authenticated(handshake, table.now)
        table.machine.leave(handshake, table.now)
    # All of them may begin; the one that is not remembered is in the last line.
    for group in (HONEST, FLOOD, OTHER):
        table.want(group)
    assert table.groups()[-1] == HONEST


def test_the_next_time_is_that_of_the_line_which_has_room_first() -> None:
    table = Line(Ration(1, 0.1), Ration(1, 1.0), Ration(10, 10.0))
    known = table.want(HONEST)
    table.begun()
    table.machine.authenticated(known, table.now)
    table.now += 100
    for group in (HONEST, OTHER) * 2:
        table.want(group)
    assert len(table.begun()) == 2
    assert table.machine.next_at() == pytest.approx(table.now + 1.0)
    table.now += 1.0
    assert table.groups() == [HONEST]
    assert table.machine.next_at() == pytest.approx(table.now + 9.0)


def test_a_known_address_that_floods_takes_nothing_from_others() -> None:
    table = line(total=4, each=2)
    known = table.want(FLOOD)
    table.begun()
    table.machine.authenticated(known, table.now)
    for _ in range(20):
        table.want(FLOOD)
    assert table.groups() == [FLOOD, FLOOD]
    table.want(HONEST)
    assert table.groups() == [HONEST]


def test_only_so_many_addresses_are_remembered() -> None:
    table = Line(Ration(1, 1.0), Ration(100, 1.0), Ration(10, 1.0), remembered=2)
    for group in (FLOOD, HONEST, OTHER):
        handshake = table.want(group)
        table.begun()
        table.machine.authenticated(handshake, table.now)
        table.machine.leave(handshake, table.now)
        table.now += 10
    table.want("198.51.100.1")
    assert len(table.begun()) == 1, "the strangers' allowance is used up"
    for group in (FLOOD, HONEST, OTHER):
        table.want(group)
    assert sorted(table.groups()) == sorted([HONEST, OTHER])


def test_a_proved_key_comes_first_from_the_address_of_a_flood() -> None:
    table = line(total=4, each=2)
    for _ in range(20):
        table.want(FLOOD)
    assert table.groups() == [FLOOD, FLOOD]
    mine = table.want(FLOOD, key=KEY)
    for _ in range(20):
        table.want(FLOOD)
    assert table.begun() == [mine]
    assert table.machine.waiting == 38


def test_proofs_that_are_repeated_use_up_the_ration_of_their_key_and_nothing_else() -> None:
    table = line(total=4, each=2)
    known = table.want(HONEST)
    table.begun()
    table.machine.authenticated(known, table.now)
    for _ in range(20):
        table.want(FLOOD, key=KEY)
    # Two of the key's, and two as a stranger.
    assert table.groups() == [FLOOD] * 4
    from_known = table.want(HONEST, key=KEY)
    from_other = table.want(OTHER, key=KEY)
    other_key = table.want(FLOOD, key=OTHER_KEY)
    assert table.begun() == [other_key, from_known, from_other]
    assert table.machine.waiting == 16


def test_all_proved_keys_together_are_bounded() -> None:
    table = line(total=1, each=1)
    for number in range(20):
        table.want(FLOOD, key=bytes([number] * 8))
    assert len(table.begun()) == 4 + 1


def test_peers_with_a_proof_that_authenticate_use_nothing_up() -> None:
    table = line(total=1, each=1)
    table.want(HONEST)
    table.begun()  # the line of its address is used up
    for _ in range(100):
        probe = table.want(HONEST, key=KEY)
        assert table.begun() == [probe]
        table.machine.leave(probe, table.now)
        control = table.want(HONEST, key=KEY)
        assert table.begun() == [control]
        table.machine.authenticated(control, table.now)
        table.machine.leave(control, table.now)


def test_a_key_gets_its_ration_again_as_time_passes() -> None:
    table = line(total=1, each=1)
    for _ in range(20):
        table.want(FLOOD, key=KEY)
    table.begun()
    table.now += 1.0
    assert len(table.begun()) == 2, "one of the key's, one of the address's"


def test_a_peer_with_a_proof_that_leaves_stands_in_no_line() -> None:
    table = line()
    table.machine.leave(table.want(HONEST, key=KEY), table.now)
    assert table.machine.begin(table.now) is None
    assert (table.machine.waiting, table.machine.next_at()) == (0, None)
    table.machine.leave(table.want(HONEST), table.now)
    assert not table.machine._accounts


def test_who_leaves_is_not_served_and_leaving_is_harmless_at_any_time() -> None:
    table = line()
    gone = table.want(FLOOD)
    table.machine.leave(gone, table.now)
    table.machine.leave(gone, table.now)
    assert table.machine.begin(table.now) is None
    assert table.machine.next_at() is None
    again = table.want(FLOOD)
    assert table.begun() == [again]
    table.machine.leave(again, table.now)


def test_nothing_is_left_of_a_flood_from_many_addresses() -> None:
    table = line()
    for number in range(5000):
        table.machine.leave(table.want(f"2001:db8:{number:x}::/64"), table.now)
        table.machine.begin(table.now)
    assert len(table.machine._accounts) < 10
    assert sum(map(len, table.machine._lines.values())) < 10


def test_asking_and_leaving_again_and_again_does_not_lengthen_the_line() -> None:
    table = line(total=100, each=2)
    for _ in range(2):
        table.want(FLOOD)
    table.begun()
    table.want(HONEST)  # waits in front, because it owes less, and keeps what is behind it from being looked at
    for _ in range(5000):
        table.machine.leave(table.want(FLOOD), table.now)
    assert sum(map(len, table.machine._lines.values())) < 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["want", "want", "prove", "begin", "leave", "authenticated", "wait"]), st.integers(0, 5)
        ),
        max_size=120,
    ),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_strangers_never_get_more_than_the_ration_and_nobody_is_forgotten(
    steps: list[tuple[str, int]], burst: int, each: int
) -> None:
    table = Line(Ration(burst, 1.0), Ration(burst, 1.0), Ration(each, 0.5), 2, Ration(burst, 1.0), Ration(each, 0.5))
    waiting: list[Handshake] = []
    begun: list[Handshake] = []
    strangers = 0
    start = table.now
    anybody_known = proved = False
    for step, which in steps:
        match step:
            case "want":
                waiting.append(table.want(f"10.0.0.{which}"))
            case "prove":
                proved = True
                waiting.append(table.want(f"10.0.0.{which}", key=bytes([which % 2] * 8)))
            case "begin":
                expected = table.machine.next_at()
                handshake = table.machine.begin(table.now)
                assert (handshake is not None) == (expected is not None and expected <= table.now)
                if handshake is not None:
                    waiting.remove(handshake)
                    begun.append(handshake)
                    strangers += 1
            case "leave" if waiting:
                table.machine.leave(waiting.pop(which % len(waiting)), table.now)
            case "authenticated" if begun:
                anybody_known = True
                table.machine.authenticated(begun.pop(which % len(begun)), table.now)
            case "wait":
                table.now += which / 4
        assert table.machine.waiting == len(waiting)
        if not anybody_known:
            assert strangers <= (1 + proved) * (burst + (table.now - start)) + 1e-6
    for _ in waiting:
        table.now += 1000
        assert table.machine.begin(table.now) is not None


async def test_a_turn_comes_in_each_pass_and_again_when_somebody_authenticates(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ration = Ration(1, 0.001)
    turns = Turns(Handshakes(ration, ration, ration, proved=ration, each_key=ration, remembered=1))
    order: list[str] = []
    first_may_go = trio.Event()

    async def peer(name: str) -> None:
        with Turn.of(turns, "192.0.2.1") as turn:
            await turn.wait()
            order.append(name)
            await first_may_go.wait()
            turn.authenticated()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        nursery.start_soon(peer, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(peer, "second")
        await trio.testing.wait_all_tasks_blocked()
        assert (order, turns.waiting) == (["first"], 1)
        first_may_go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (order, turns.waiting) == (["first", "second"], 0)
        nursery.cancel_scope.cancel()


async def start_turns(nursery: trio.Nursery, each: Ration) -> Turns:
    turns = Turns(Handshakes(each, each, each, proved=each, each_key=each, remembered=1))
    nursery.start_soon(turns.run)
    await trio.testing.wait_all_tasks_blocked()
    return turns


async def test_other_tasks_run_between_two_handshakes(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    turns = await start_turns(nursery, Ration(10, 1.0))
    order: list[str] = []
    for _ in range(10):
        turns.want(Handshake("192.0.2.1", lambda: order.append("handshake")))

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


async def test_the_first_turn_of_a_connection_that_was_given_one_is_at_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Its second one waits, and nothing is owed for the first one twice."""
    turns = await start_turns(nursery, Ration(1, 1.0))
    given = Turn(turns, Handshake("192.0.2.1", lambda: None))
    began = trio.current_time()
    await given.wait()
    await given.wait()
    assert trio.current_time() == began
    await given.wait()
    assert trio.current_time() == pytest.approx(began + 1)
    nursery.cancel_scope.cancel()


async def test_who_gives_up_waiting_uses_nothing_up(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    turns = await start_turns(nursery, Ration(1, 0.1))
    with Turn.of(turns, "192.0.2.1") as first:
        await first.wait()
    began = trio.current_time()
    with trio.move_on_after(1), Turn.of(turns, "192.0.2.1") as second:
        await second.wait()
    assert turns.waiting == 0
    with Turn.of(turns, "192.0.2.1") as third:
        await third.wait()
    assert trio.current_time() == pytest.approx(began + 10)
    nursery.cancel_scope.cancel()
