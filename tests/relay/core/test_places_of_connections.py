"""How hybrid connections share places: no number of them, whatever they do, keeps another one out."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybridrelay.errors import RendezvousError
from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.core.lottery import ROTATION_SECONDS
from hybridrelay.relay.core.places import GUARANTEED, TENURE_SECONDS, Place, Places

from ..places import key, make_places

#: How long a newcomer asks, once a second, before a test gives up (seconds). A winner of a draw that does not come
#: for its place has it for `ROTATION_SECONDS`, and each of those that have asked may win once.
PATIENCE = 300


@attrs.define
class Relay:
    """Places of a relay whose hybrid connections are named by letters, and a clock."""

    total: int
    spares_established: bool = False
    now: float = 0.0
    places: Places[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.places = make_places(
            "places", self.total, clock=lambda: self.now, spares_established=self.spares_established
        )

    def enter(
        self, connection: str, owner: str = "", *, rule: str = "sender", established: bool = False
    ) -> str | None:
        """Take a place. Returns the owner of the one that was displaced for it, or None."""
        holder = Holder(key(connection, rule), "192.0.2.1")
        displaced = self.places.choose_displaced(holder)
        if displaced is not None:
            self.places.leave(displaced)
        place = self.places.take(holder, owner or connection)
        if established:
            self.places.establish(place)
        return None if displaced is None else displaced.owner

    def try_to_enter(self, connection: str, *, established: bool = False) -> bool:
        try:
            self.enter(connection, established=established)
        except RendezvousError:
            return False
        return True

    def fill(self, *connections: str, established: bool = False) -> None:
        """Let each of these take what it gets without displacing anything, from four keys, one after the other."""
        for connection in connections:
            for name in ("application", "connector", "a", "b"):
                holder = Holder(key(connection, name), "203.0.113.9")
                while True:
                    try:
                        if self.places.choose_displaced(holder) is not None:
                            break
                    except RendezvousError:
                        break
                    place = self.places.take(holder, connection)
                    if established:
                        self.places.establish(place)

    def use(self, connection: str, count: int) -> None:
        """Let one take this many places and use them, whatever the rules say."""
        for _ in range(count):
            self.places.establish(self.places.take(Holder(key(connection), "203.0.113.9"), connection))

    def held(self, connections: Sequence[str]) -> list[int]:
        return [self.places.held_by_connection(one) for one in connections]


@pytest.mark.parametrize("total", [30, 120, 2000])
@pytest.mark.parametrize("spares", [False, True])
def test_a_newcomer_gets_an_equal_share_of_idle_places(total: int, spares: bool) -> None:
    relay = Relay(total, spares)
    others = [f"evil {number}" for number in range(15)]
    relay.fill(*others)
    assert len(relay.places) == total
    relay.now = TENURE_SECONDS
    share = total // (len([one for one in others if relay.places.held_by_connection(one)]) + 1)
    for _ in range(share):
        assert str(relay.enter("honest")).startswith("evil")
    assert relay.places.held_by_connection("honest") == share


@pytest.mark.parametrize("total", [30, 120])
@pytest.mark.parametrize("spares", [False, True])
def test_a_newcomer_gets_a_few_places_although_others_use_all(total: int, spares: bool) -> None:
    relay = Relay(total, spares)
    for letter, count in zip("abcd", (total // 2, total // 4, total // 8), strict=False):
        relay.use(letter, count)
    relay.use("d", total - len(relay.places))
    share = min(GUARANTEED, total // 5)
    for _ in range(share):
        assert relay.enter("honest", established=True) in ("a", "b", "c", "d")
        relay.now += ROTATION_SECONDS


def test_places_in_use_are_lost_to_the_guarantee_only() -> None:
    """However many hybrid connections somebody has, each of them gains at most the guarantee."""
    relay = Relay(400)
    relay.use("honest", 300)
    relay.use("old", 100)
    for _ in range(100):
        for number in range(10):
            relay.now += ROTATION_SECONDS
            relay.try_to_enter(f"evil {number}", established=True)
    assert relay.held([f"evil {number}" for number in range(10)]) == [GUARANTEED] * 10
    assert relay.held(["honest", "old"]) == [300 - 10 * GUARANTEED, 100], "who has the most loses"


@pytest.mark.parametrize("spares", [False, True])
def test_places_in_use_are_lost_rarely(spares: bool) -> None:
    relay = Relay(40, spares)
    for letter, count in (("a", 20), ("b", 12), ("c", 8)):
        relay.use(letter, count)
    times = []
    while relay.now < 200:
        before = relay.held(["honest"])
        if relay.try_to_enter("honest", established=True) and relay.held(["honest"]) != before:
            times.append(relay.now)
        relay.now += 1.0
    assert times == [number * ROTATION_SECONDS for number in range(GUARANTEED)]
    assert relay.held("abc") == [12, 12, 8], "the one that has the most loses"


@pytest.mark.parametrize("spares", [False, True])
def test_one_that_takes_a_place_in_use_and_gives_it_back_can_repeat_this_only_rarely(spares: bool) -> None:
    relay = Relay(12, spares)
    relay.use("honest", 12)
    taken = 0
    while relay.now < 100:
        if relay.try_to_enter("evil"):
            taken += 1
            relay.places.leave(*relay.places.of(key("evil")))
            relay.use("honest", 1)
        relay.now += 0.5
    assert taken == 100 / ROTATION_SECONDS


def test_those_that_wait_for_places_in_use_are_drawn_with_equal_chances() -> None:
    relay = Relay(12, spares_established=True)
    relay.use("all", 12)
    won = {"honest": 0, "evil": 0}
    while relay.now < 60 * ROTATION_SECONDS:
        relay.now += 1.0
        for name in ("evil",) * 20 + ("honest",):
            if relay.try_to_enter(name):
                won[name] += 1
                relay.places.leave(*relay.places.of(key(name)))
                relay.use("all", 1)
    assert min(won.values()) >= 15


def test_single_places_are_safe_and_hybrid_connections_beyond_them_are_refused() -> None:
    relay = Relay(10)
    for letter in "abcdefghij":
        assert relay.enter(letter) is None or len(relay.places) == 10
    relay.now = 1000.0
    assert relay.held("abcdefghij") == [1] * 10
    for letter in "klm":
        assert not relay.try_to_enter(letter)


def test_nobody_is_displaced_while_places_are_free() -> None:
    relay = Relay(300)
    relay.fill("a")
    assert relay.held("a") == [200]
    relay.now = TENURE_SECONDS
    # What rule 1 leaves for others, others get; and beyond it, because "a" has idle places, which others may
    # displace.
    for _ in range(100):
        assert relay.enter("b") is None
    assert relay.enter("b") == "a"


def test_two_hybrid_connections_do_not_displace_each_other_without_end() -> None:
    relay = Relay(64)
    relay.fill(*"abcdefgh")
    others_lost = 0
    for _ in range(400):
        relay.now += TENURE_SECONDS
        for letter in "abcdefghi":
            with contextlib.suppress(RendezvousError):
                others_lost += relay.enter(letter) not in (None, letter)
    assert max(relay.held("abcdefghi")) - min(relay.held("abcdefghi")) <= 1
    assert others_lost < 64


def test_limits_of_an_operator_are_not_exceeded() -> None:
    places = make_places("places", 20, per_connection=6, per_key=2)
    for name in "bcde":
        for number in range(5):
            places.take(Holder(key(name, f"{number // 2}"), "192.0.2.1"), name)
    for rule_name in ("one", "one", "two"):
        displaced = places.choose_displaced(Holder(key("a", rule_name)))
        assert displaced is not None
        assert displaced.owner != "a"
        places.leave(displaced)
        places.take(Holder(key("a", rule_name)), "a")
    with pytest.raises(RendezvousError, match="the key 'one'"):
        places.choose_displaced(Holder(key("a", "one")))


def test_another_key_of_a_hybrid_connection_gets_in_if_no_place_is_free() -> None:
    relay = Relay(12)
    relay.fill("b")
    while relay.try_to_enter("a") and relay.held("a")[0] < 6:
        pass
    assert len(relay.places) == 12
    assert relay.enter("a", rule="connector") is not None
    assert relay.places.held(key("a", "connector")) == 1


def test_any_program_of_the_hybrid_connection_that_was_drawn_gets_the_place() -> None:
    relay = Relay(12)
    relay.use("all", 12)
    assert relay.try_to_enter("first")
    # These are refused until the next draw, which one of the two hybrid connections wins.
    for name in ("a", "b"):
        with pytest.raises(RendezvousError):
            relay.places.choose_displaced(Holder(key(name), "192.0.2.1"), "one program")
    relay.now = ROTATION_SECONDS
    got = []
    for name in ("a", "b", "a", "b"):
        with contextlib.suppress(RendezvousError):
            assert relay.places.choose_displaced(Holder(key(name, "other"), "198.51.100.1"), "another") is not None
            got.append(name)
    assert len(got) == 1


def test_nothing_is_remembered_of_those_that_have_left() -> None:
    relay = Relay(12)
    relay.use("all", 12)
    assert relay.try_to_enter("first")
    assert not relay.try_to_enter("second")
    for name in ("all", "first"):
        for place in relay.places.of(key(name)):
            relay.places.leave(place)
    kinds = [vars(relay.places)[name] for name in ("_connections", "_young", "_rotations", "_ending")]
    assert kinds == [{}] * 4


def test_a_place_that_is_passed_on_is_established_by_the_age_that_it_has_since() -> None:
    relay = Relay(10)
    relay.places = make_places("places", 10, clock=lambda: relay.now, established_after=90.0)
    place = relay.places.take(Holder(key("a"), "192.0.2.1"), "owner")
    relay.now = 60.0
    relay.places.pass_on(place, Holder(key("b"), "192.0.2.1"))
    relay.now = 149.0
    assert relay.places.is_provisional(place, 80.0)
    relay.now = 150.0
    assert not relay.places.is_provisional(place, 0.0)


def test_a_place_that_is_passed_on_counts_for_the_other_hybrid_connection() -> None:
    relay = Relay(10)
    place = relay.places.take(Holder(key("a"), "192.0.2.1"), "owner")
    relay.now = 2 * TENURE_SECONDS
    assert relay.enter("b") is None
    relay.places.pass_on(place, Holder(key("b"), "192.0.2.1"))
    assert relay.held("ab") == [0, 2]


class ConnectionsMachine(RuleBasedStateMachine):
    """Hybrid connections take, use and give back places in any order. Each refusal has its reason in the rules."""

    TOTAL = 20
    NAMES = "abcdefghijklmnopqrstuv"
    SPARES = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.places: Places[str] = make_places(
            "places",
            self.TOTAL,
            clock=lambda: self.now,
            spares_established=self.SPARES,
            established_after=90.0 if self.SPARES else float("inf"),
        )
        self.held: list[Place[str]] = []
        #: When each hybrid connection last lost a place that was not idle to another one.
        self.lost_at: dict[str, float] = {}

    def count(self, name: str) -> int:
        return sum(one.holder.key.connection == name for one in self.held)

    def is_idle(self, place: Place[str]) -> bool:
        return not place.is_established and self.now - place.since >= TENURE_SECONDS

    def most(self, name: str, *, idle: bool) -> int:
        """How many places the other hybrid connection has that has the most."""
        others = set(self.NAMES) - {name}
        return max(
            sum(one.holder.key.connection == other and (not idle or self.is_idle(one)) for one in self.held)
            for other in others
        )

    def share(self, name: str) -> int:
        others = {one.holder.key.connection for one in self.held} - {name}
        return self.TOTAL // (len(others) + 1)

    def ask(self, name: str, rule_name: str, address: str) -> bool:
        """Take a place, and compare with the rules how. Returns False if it was refused."""
        holder = Holder(key(name, rule_name), address)
        assert len(self.places) == len(self.held)  # it also lets the time pass there
        would_have, is_full = self.count(name) + 1, len(self.held) == self.TOTAL
        is_idle_elsewhere = self.most(name, idle=True) > would_have
        is_guaranteed = would_have <= GUARANTEED and self.most(name, idle=False) > would_have
        try:
            displaced = self.places.choose_displaced(holder)
        except RendezvousError:
            assert not is_idle_elsewhere
            assert not is_guaranteed or is_full
            return False
        if displaced is not None:
            loser = displaced.holder.key.connection
            if loser != name:
                assert is_full
                assert self.count(loser) > would_have, "nobody loses a place to one that has more"
                self.is_lost(loser, displaced, is_idle_elsewhere, is_guaranteed)
            self.held.remove(displaced)
            self.places.leave(displaced)
        self.held.append(self.places.take(holder, name))
        return True

    def is_lost(self, loser: str, place: Place[str], is_idle_elsewhere: bool, is_guaranteed: bool) -> None:
        if is_idle_elsewhere:
            assert self.is_idle(place)
            return
        assert is_guaranteed
        if place.is_established:
            assert all(one.is_established for one in self.held if one.holder.key.connection == loser)
        assert self.now >= self.lost_at.get(loser, -1e9) + ROTATION_SECONDS
        self.lost_at[loser] = self.now

    @rule(
        name=st.sampled_from(NAMES), rule_name=st.sampled_from("xy"), address=st.sampled_from(["192.0.2.1", "unix"])
    )
    def one_comes(self, name: str, rule_name: str, address: str) -> None:
        all_idle = self.all_others_are_idle(name)
        entitled_to = min(self.share(name), self.TOTAL if all_idle else GUARANTEED)
        is_below = self.count(name) < entitled_to
        for _ in range(PATIENCE):
            if self.ask(name, rule_name, address) or not is_below:
                return
            assert not all_idle, "nobody has to wait for an idle place"
            self.now += 1.0
        raise AssertionError(f"{name} has {self.count(name)} places of {entitled_to}, and was never admitted")

    def all_others_are_idle(self, name: str) -> bool:
        len(self.places)
        return all(self.is_idle(one) for one in self.held if one.holder.key.connection != name)

    @rule(name=st.sampled_from(NAMES), rule_name=st.sampled_from("xyz"), is_used=st.booleans())
    def one_takes_all_it_can(self, name: str, rule_name: str, is_used: bool) -> None:
        for _ in range(self.TOTAL):
            if not self.ask(name, rule_name, "203.0.113.9"):
                break
            if is_used:
                self.places.establish(self.held[-1])

    @rule(number=st.integers(0, TOTAL - 1), is_used=st.booleans())
    def one_becomes_used_or_idle(self, number: int, is_used: bool) -> None:
        if number < len(self.held):
            (self.places.establish if is_used else self.places.make_provisional)(self.held[number])

    @rule(number=st.integers(0, TOTAL - 1))
    def one_leaves(self, number: int) -> None:
        if number < len(self.held):
            self.places.leave(self.held.pop(number))

    @rule(number=st.integers(0, TOTAL - 1), name=st.sampled_from(NAMES))
    def one_is_passed_on(self, number: int, name: str) -> None:
        if number < len(self.held):
            self.places.pass_on(self.held[number], Holder(key(name), "192.0.2.1"))

    @rule(seconds=st.sampled_from([0.5, TENURE_SECONDS, ROTATION_SECONDS, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.places) == len(self.held) <= self.TOTAL
        for name in self.NAMES:
            assert self.places.held_by_connection(name) == self.count(name)

    def teardown(self) -> None:
        for place in self.held:
            self.places.leave(place)
        assert len(self.places) == 0


class SparingConnectionsMachine(ConnectionsMachine):
    """The same for pairs, which are established by their age."""

    SPARES = True


TestConnections = ConnectionsMachine.TestCase
TestSparingConnections = SparingConnectionsMachine.TestCase
for case in (TestConnections, TestSparingConnections):
    case.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
