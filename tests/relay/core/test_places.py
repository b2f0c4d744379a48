"""Places that are few: how much one key, one hybrid connection and one holder gets, and what is left for others."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.holders import Holder, network_of
from hybridrelay.relay.core.lottery import ROTATION_SECONDS
from hybridrelay.relay.core.places import FAR_MORE, GUARANTEED, TENURE_SECONDS, Place, Places
from hybridrelay.relay.model import KeyId

from ..places import HONEST, KEY, NEIGHBOUR, ROGUE, Scene, filled, key, make_places


def take_all(places: Places[str], *keys: KeyId) -> int:
    """Take places for these keys in turn, until each would have to displace one. Returns how many were taken."""
    before = len(places)
    going_on = list(keys)
    while going_on:
        for one in list(going_on):
            try:
                displaced = places.choose_displaced(Holder(one))
            except RendezvousError:
                going_on.remove(one)
            else:
                if displaced is None:
                    places.take(Holder(one), "owner")
                else:
                    going_on.remove(one)
    return len(places) - before


def test_one_key_alone_gets_half_of_them() -> None:
    assert take_all(make_places("places", 100), key("a")) == 50


def test_one_hybrid_connection_alone_gets_two_thirds_of_them() -> None:
    keys = [key("a", generation=number) for number in range(20)]
    assert take_all(make_places("places", 300), *keys) == 200


def test_a_latecomer_always_finds_some() -> None:
    places = make_places("places", 300)
    take_all(places, *(key("a", generation=number) for number in range(20)))
    taken = [places.take(Holder(key("b")), "owner") for _ in range(50)]
    assert take_all(places, key("b")) == 0
    assert take_all(places, key("c")) == 25
    # And what was given back is there for everybody.
    for place in taken:
        places.leave(place)
    assert take_all(places, key("c")) == 25


def test_those_who_take_in_turn_get_the_same() -> None:
    places = make_places("places", 100)
    tenants = [key(name) for name in "abc"]
    assert take_all(places, *tenants) == 75
    assert [places.held_by_connection(tenant.connection) for tenant in tenants] == [25, 25, 25]


def test_the_refusal_says_whose_limit_it_is() -> None:
    places = make_places("data channels", 100, per_connection=1)
    places.take(Holder(key("a")), "owner")
    with pytest.raises(RendezvousError, match="hybrid connection has as many data channels") as caught:
        places.choose_displaced(Holder(key("a")))
    assert caught.value.reason is Reason.LIMIT
    places = make_places("data channels", 100, per_key=1)
    places.take(Holder(key("b")), "owner")
    with pytest.raises(RendezvousError, match="the key 'sender' has as many"):
        places.choose_displaced(Holder(key("b")))


def test_fixed_limits_hold_for_each_key_and_each_hybrid_connection() -> None:
    places = make_places("places", 100, per_connection=10, per_key=6)
    assert take_all(places, key("a")) == 6
    assert take_all(places, key("a", "another")) == 4
    assert take_all(places, key("b")) == 6


@pytest.mark.parametrize("limits", [(0, None, None), (5, 0, None), (5, None, 0), (5, -1, None), (-1, None, None)])
def test_limits_that_would_let_nobody_in(limits: tuple[int, int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_places("places", limits[0], per_connection=limits[1], per_key=limits[2])


@given(st.integers(1, 30), st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans())))
def test_places_are_admitted_and_counted_as_the_rules_say(total: int, steps: list[tuple[str, int, bool]]) -> None:
    places = make_places("places", total)
    held: list[Place[str]] = []
    for connection, generation, give_back in steps:
        one = key(connection, generation=generation)
        own = [other for other in held if other.holder.key == one]
        if give_back and own:
            for _ in range(2):
                places.leave(own[0])
            held.remove(own[0])
            continue
        free = total - len(held)
        of_each = Counter(other.holder.key.connection for other in held)
        of_connection = of_each.pop(connection, 0)
        allowed = len(own) < free and of_connection < 2 * free  # rule 1
        if free and of_connection + 1 <= GUARANTEED and max(of_each.values(), default=0) > of_connection + 1:
            allowed = True  # rule 9
        try:
            displaced = places.choose_displaced(Holder(one))
        except RendezvousError:
            assert not allowed
        else:
            assert allowed == (displaced is None)
            if displaced is None:
                held.append(places.take(Holder(one), "owner"))
        assert len(places) == len(held) <= total
    if len(held) < total:  # a key that holds nothing is never refused while there is a place
        assert places.choose_displaced(Holder(key("newcomer"))) is None


# --- holders of one key


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_holders_are_compared_by_their_network(address: str, network: str) -> None:
    assert network_of(address) == Holder(KEY, address).network == network


@pytest.mark.parametrize("honest", [HONEST, NEIGHBOUR])
def test_one_holder_never_keeps_another_one_out(honest: Holder) -> None:
    scene = filled(ROGUE, 6)
    assert scene.enter(honest, "honest 1") == "0", "the oldest"
    assert scene.enter(honest, "honest 2") == "1"
    # With three and three, it is enough.
    assert scene.enter(honest, "honest 3") == "2"
    assert scene.is_refused(honest)
    for _ in range(3):
        assert scene.is_refused(ROGUE)


def test_a_holder_that_asks_without_end_displaces_itself() -> None:
    scene = filled(ROGUE, 5)
    assert scene.enter(HONEST, "honest") == "0"
    gone = []
    for number in range(200):
        scene.now += 0.5
        if not scene.is_refused(ROGUE, f"again {number}"):
            gone.append(scene.enter(ROGUE, f"again {number}"))
    assert len(gone) > 50
    assert "honest" not in gone


def test_a_young_place_is_not_displaced_by_a_newcomer_of_its_own_holder() -> None:
    scene = filled(ROGUE, 3)
    scene.now = TENURE_SECONDS - 0.1
    assert scene.is_refused(ROGUE)
    scene.now = TENURE_SECONDS
    assert scene.enter(ROGUE, "newcomer") == "0"


def test_many_addresses_of_one_network_are_no_more_than_one() -> None:
    scene = Scene.make(10)
    for number in range(10):
        scene.enter(Holder(KEY, f"192.0.2.{number}"), f"rogue {number}")
    for number in range(5):
        assert str(scene.enter(HONEST, f"honest {number}")).startswith("rogue")
    # Another address of that network has nothing, and its network has as many as the other one.
    assert scene.is_refused(Holder(KEY, "192.0.2.99"))
    scene.now = TENURE_SECONDS
    assert str(scene.enter(Holder(KEY, "192.0.2.99"), "rogue")).startswith("rogue")


@pytest.mark.parametrize("spares", [True, False])
def test_established_places_stay_while_there_are_provisional_ones(spares: bool) -> None:
    scene = Scene.make(6, spares_established=spares)
    for number in range(5):
        scene.enter(HONEST, f"established {number}", established=True)
    scene.enter(ROGUE, "rogue")
    for number in range(10):
        # The holder of the five established places displaces a provisional one.
        scene.now += TENURE_SECONDS
        assert str(scene.enter(HONEST, f"honest {number}")) in ("rogue", f"honest {number - 1}")
    for number in range(10):
        scene.now += TENURE_SECONDS
        assert not str(scene.enter(ROGUE, f"rogue {number}")).startswith("established")


def test_established_places_are_shared_as_well() -> None:
    scene = Scene.make(4)
    for number in range(4):
        scene.enter(ROGUE, f"{number}", established=True)
    assert scene.enter(HONEST, "honest 1", established=True) == "3", "the newest"
    assert scene.enter(HONEST, "honest 2", established=True) == "2"
    for holder in (ROGUE, HONEST):
        assert scene.is_refused(holder)


def test_idle_places_do_not_count_as_none_where_established_ones_are_shared() -> None:
    scene = Scene.make(8)
    for number in range(4):
        scene.enter(HONEST, f"{number}", established=True)
    for number in range(4):
        scene.enter(ROGUE, f"rogue {number}")
    assert scene.is_refused(ROGUE)


def test_spared_places_are_displaced_rarely_and_by_a_holder_without_any() -> None:
    scene = Scene.make(4, spares_established=True)
    for number in range(4):
        scene.enter(ROGUE, f"{number}", established=True)
    assert scene.enter(HONEST, "honest", established=True) == "3"
    assert scene.is_refused(HONEST), "it has one"
    third = Holder(KEY, "203.0.113.1")
    scene.now = ROTATION_SECONDS - 0.1
    assert scene.is_refused(third)
    scene.now = ROTATION_SECONDS
    assert scene.is_refused(HONEST), "it has one, and the other one has three"
    assert scene.enter(third, "third") == "2"


@pytest.mark.parametrize("honest", [HONEST, NEIGHBOUR])
def test_spared_places_of_a_holder_that_has_far_more_are_displaced_rarely(honest: Holder) -> None:
    scene = Scene.make(30, spares_established=True)
    for number in range(2):
        scene.enter(honest, f"honest {number}", established=True)
    for number in range(28):
        scene.enter(ROGUE, f"{number}", established=True)
    times: list[float] = []
    while scene.now < 300.0:
        assert scene.is_refused(ROGUE)
        try:
            displaced = scene.enter(honest, f"honest at {scene.now}", established=True)
        except RendezvousError:
            pass
        else:
            assert displaced == f"{27 - len(times)}", "the newest of the holder that has far more"
            times.append(scene.now)
        scene.now += 1.0
    # It has 10, and the other one has 20, which is not more than twice 11.
    assert times == [number * ROTATION_SECONDS for number in range(8)]


def test_spared_places_do_not_all_go_to_the_holder_that_asks_most_often() -> None:
    """Somebody in two networks, of which one gives back what it gets, so that it has far less than the other one."""
    scene = Scene.make(40, spares_established=True)
    other = Holder(KEY, "203.0.113.1")
    for holder, count in ((HONEST, 3), (other, 3), (ROGUE, 34)):
        for number in range(count):
            scene.enter(holder, f"{number}", established=True)
    got = 0
    while scene.now < 300.0:
        for holder in (other, ROGUE, other):
            with contextlib.suppress(RendezvousError):
                scene.enter(holder, "again", established=True)
            for place in scene.places.of(KEY):
                if place.holder is other and place.owner == "again":
                    scene.places.leave(place)
        if scene.now % 5 == 0:
            with contextlib.suppress(RendezvousError):
                scene.enter(HONEST, "honest", established=True)
                got += 1
        scene.now += 0.5
    assert got >= 8


def test_spared_places_are_drawn_among_networks_and_not_among_their_addresses() -> None:
    """One network asks from many addresses, and another one from a single address. Neither has a place."""
    scene = Scene.make(8, spares_established=True)
    for number in range(8):
        scene.enter(ROGUE, f"{number}", established=True)
    crowd = [Holder(KEY, f"203.0.113.{number}") for number in range(60)]
    wins = {HONEST.network: 0, crowd[0].network: 0}
    while scene.now < 40 * ROTATION_SECONDS:
        scene.now += 1.0
        for newcomer in (*crowd, HONEST):
            wins[newcomer.network] += not scene.is_refused(newcomer)
    assert sum(wins.values()) >= 35
    assert wins[HONEST.network] >= 10


def test_holders_that_have_about_the_same_do_not_take_spared_places_of_each_other() -> None:
    scene = Scene.make(8, spares_established=True)
    for holder, count in ((ROGUE, 5), (HONEST, 3)):
        for number in range(count):
            scene.enter(holder, f"{number}", established=True)
    for _ in range(100):
        scene.now += ROTATION_SECONDS
        for holder in (ROGUE, HONEST):
            assert scene.is_refused(holder)


def test_a_young_provisional_place_goes_before_an_established_one() -> None:
    for spares in (True, False):
        scene = Scene.make(4, spares_established=spares)
        for number in range(3):
            scene.enter(ROGUE, f"{number}", established=True)
        scene.enter(ROGUE, "young")
        assert scene.enter(HONEST, "honest") == "young"


def test_a_place_that_is_passed_on() -> None:
    scene = Scene.make(1)
    other = Holder(key("db", "other"), ROGUE.address)
    place = scene.places.take(ROGUE, "owner")
    scene.places.establish(place)
    scene.places.pass_on(place, other)
    assert (place.owner, place.is_established) == ("owner", True)
    assert (scene.places.held(KEY), scene.places.held(other.key), len(scene.places)) == (0, 1, 1)
    scene.places.leave(place)
    assert (scene.places.held(other.key), len(scene.places)) == (0, 0)
    scene.places.pass_on(place, ROGUE)
    assert (scene.places.held(KEY), len(scene.places)) == (0, 0), "it was given back"


def test_a_place_that_is_passed_on_stays_established_only_for_the_time_that_was_set() -> None:
    scene = Scene.make(1)
    other = Holder(key("db", "other"), ROGUE.address)
    place = scene.places.take(ROGUE, "owner")
    scene.places.establish(place, 60.0)
    scene.now = 30.0
    scene.places.pass_on(place, other)
    scene.now = 59.0
    assert not scene.places.is_provisional(place, 0.0)
    scene.now = 60.0 + TENURE_SECONDS
    assert scene.places.is_provisional(place, TENURE_SECONDS)
    assert scene.enter(Holder(other.key, ROGUE.address), "newcomer") == "owner"


def test_a_place_that_is_passed_on_does_not_stay_established_until_younger_ones_end() -> None:
    scene = Scene.make(100)
    place = scene.places.take(ROGUE, "owner")
    scene.places.establish(place, 60.0)
    scene.now = 30.0
    scene.places.establish(scene.places.take(HONEST, "younger"), 60.0)
    scene.places.pass_on(place, Holder(key("db", "other"), ROGUE.address))
    scene.now = 60.0
    assert scene.places.is_provisional(place, 0.0)


def test_spared_places_of_one_holder_are_not_drawn() -> None:
    scene = Scene.make(2, spares_established=True)
    for number in range(2):
        scene.enter(HONEST, f"{number}", established=True)
    for _ in range(100):
        scene.now += ROTATION_SECONDS
        assert scene.is_refused(HONEST)


def test_a_program_that_nothing_distinguishes_from_others_gets_a_place_after_a_while() -> None:
    scene = Scene.make(3)
    for number in range(3):
        scene.enter(ROGUE, f"{number}", established=True)
    assert scene.is_refused(ROGUE, "patient")
    for _ in range(99):
        scene.now += ROTATION_SECONDS / 100
        assert scene.is_refused(ROGUE, "impatient")
    # At the second draw at the latest, there is no other applicant left.
    scene.now += 60.0
    for _ in range(20):
        scene.now += 60.0
        if not scene.is_refused(ROGUE, "patient"):
            return
    pytest.fail("it was never drawn")


def test_a_place_that_is_established_for_a_limited_time() -> None:
    scene = Scene.make(2)
    places = [scene.places.take(ROGUE, f"{number}") for number in range(2)]
    for place in places:
        scene.places.establish(place, 60.0)
    scene.now = 30.0
    scene.places.establish(places[0], 60.0)
    scene.now = 59.0
    assert not scene.places.is_provisional(places[1], 0.0)
    assert scene.is_refused(ROGUE)
    scene.now = 60.0 + TENURE_SECONDS
    assert scene.places.is_provisional(places[1], TENURE_SECONDS)
    assert not scene.places.is_provisional(places[1], TENURE_SECONDS + 1)
    assert not scene.places.is_provisional(places[0], 0.0)
    assert scene.enter(ROGUE, "newcomer") == "1"
    scene.places.leave(places[0])
    scene.places.leave(places[0])
    assert len(scene.places) == 1


def test_a_place_that_is_made_provisional_again() -> None:
    scene = Scene.make(1)
    place = scene.places.take(ROGUE, "old")
    scene.places.establish(place)
    assert scene.is_refused(HONEST)
    scene.now = 50.0
    scene.places.make_provisional(place)
    scene.now += TENURE_SECONDS
    assert scene.enter(HONEST, "honest") == "old"
    # It was given back, so these calls have no effect.
    scene.places.establish(place)
    scene.places.make_provisional(place)
    scene.places.leave(place)
    assert len(scene.places) == 1


def test_places_that_are_established_by_their_age() -> None:
    scene = Scene.make(2, spares_established=True, established_after=90.0)
    scene.enter(ROGUE, "old")
    scene.now = 80.0
    scene.enter(ROGUE, "young")
    scene.now = 90.0
    for _ in range(2):
        assert scene.enter(ROGUE, "newcomer") != "old"
        scene.now += TENURE_SECONDS


def test_another_key_of_the_hybrid_connection_that_has_more_loses_places() -> None:
    now = 0.0
    places: Places[str] = make_places("places", 100, clock=lambda: now, per_connection=4)
    for number in range(4):
        place = places.take(HONEST, f"{number}")
        if number:
            places.establish(place)
    other = Holder(key("db", "other"), ROGUE.address)
    for owner in ("0", "3"):
        displaced = places.choose_displaced(other)
        assert displaced is not None
        assert displaced.owner == owner
        places.leave(displaced)
        places.establish(places.take(other, "other"))
    with pytest.raises(RendezvousError):
        places.choose_displaced(other)


def test_places_of_another_key_do_not_count_for_a_newcomer_at_the_same_address() -> None:
    """They are all provisional and young, so nothing else lets the newcomer displace one of them."""
    places: Places[str] = make_places("places", 100, per_connection=3)
    for number in range(3):
        places.take(HONEST, f"{number}")
    displaced = places.choose_displaced(Holder(key("db", "other"), HONEST.address))
    assert displaced is not None
    assert displaced.owner == "0"


class SharingMachine(RuleBasedStateMachine):
    """Holders of one key take places, of which some are established and some are kept, in any order."""

    LIMIT = 9
    ADDRESSES = ("192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::/64", "")
    KEPT_SECONDS = 25.0

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene.make(self.LIMIT, spares_established=True)
        self.held: list[Place[str]] = []
        #: The time at which each of those that are kept ends.
        self.kept: dict[Place[str], float] = {}
        #: The same for those that were kept, and were not established since.
        self.lent: dict[Place[str], float] = {}
        #: Addresses that were refused: they may be drawn later.
        self.waiting: set[str] = set()
        #: When an established place was last displaced, and when any place was.
        self.gave_way_at = self.displaced_at = -1e9

    def counts(self, holder: Holder) -> tuple[int, int]:
        taken = [*self.held, *self.kept]
        return (
            sum(one.holder.network == holder.network for one in taken),
            sum(one.holder.address == holder.address for one in taken),
        )

    @rule(address=st.sampled_from(ADDRESSES), name=st.sampled_from("abc"))
    def enter(self, address: str, name: str) -> None:
        newcomer = Holder(KEY, address)
        own = [one for one in self.kept if one.name == name] or [one for one in self.kept if one.holder == newcomer]
        taken = len(self.held) + len(self.kept)
        before = self.counts(newcomer)
        try:
            displaced = self.scene.places.choose_displaced(newcomer, name)
        except RendezvousError:
            assert taken == self.LIMIT
            assert not own, "it gets the place that is kept for it"
            self.nobody_has_far_more(newcomer)
            return
        assert (displaced is None) == (taken < self.LIMIT or bool(own))
        if displaced is not None:
            if displaced.is_established and before[1]:
                network, at_address = self.counts(displaced.holder)
                mine = before[0]
                if displaced.holder.network == newcomer.network:
                    network, mine = at_address, before[1]
                assert network > FAR_MORE * (mine + 1)
            if displaced.is_established:
                assert self.scene.now >= self.gave_way_at + ROTATION_SECONDS
                self.gave_way_at = self.scene.now
                self.waiting.discard(address)
            self.displaced_at = self.scene.now
            self.forget(displaced)
            self.scene.places.leave(displaced)
        total = len(self.scene.places)
        place = self.scene.places.take(newcomer, name, name)
        assert place.is_established == bool(own), "one that was kept remains established"
        assert (place in own) == bool(own)
        assert place.holder == newcomer
        if own:
            assert len(self.scene.places) == total
            self.lent[place] = self.kept.pop(place)
        self.held.append(place)

    @rule(address=st.sampled_from(ADDRESSES))
    def fill(self, address: str) -> None:
        """A holder takes and establishes places as long as nothing has to be displaced."""
        while len(self.held) + len(self.kept) < self.LIMIT:
            self.enter(address, "a")
            self.establish(len(self.held) - 1)

    def nobody_has_far_more(self, newcomer: Holder) -> None:
        """Check that a newcomer was refused for a reason: no holder has far more places than its own, or a place was
        displaced a moment ago, or others are waiting, too."""
        provisional = [one for one in self.held if not one.is_established]
        mine = sum(one.holder.network == newcomer.network for one in provisional)
        for other in provisional:
            assert sum(one.holder.network == other.holder.network for one in provisional) <= mine + 1
        others_wait = self.waiting - {newcomer.address}
        self.waiting.add(newcomer.address)
        if others_wait or self.scene.now < self.displaced_at + ROTATION_SECONDS:
            return
        established = [one for one in (*self.held, *self.kept) if one.is_established]
        for other in established:
            theirs = sum(one.holder.network == other.holder.network for one in established)
            assert theirs <= FAR_MORE * (self.counts(newcomer)[0] + 1)

    def forget(self, place: Place[str]) -> None:
        if place in self.kept:
            del self.kept[place]
        else:
            self.held.remove(place)
        self.lent.pop(place, None)

    @rule(number=st.integers(0, LIMIT - 1))
    def establish(self, number: int) -> None:
        if number < len(self.held):
            self.scene.places.establish(self.held[number])
            self.lent.pop(self.held[number], None)

    @rule(number=st.integers(0, LIMIT - 1))
    def lose_use(self, number: int) -> None:
        if number < len(self.held):
            self.scene.places.make_provisional(self.held[number])
            self.lent.pop(self.held[number], None)

    @rule(number=st.integers(0, LIMIT - 1))
    def leave(self, number: int) -> None:
        if number < len(self.held):
            place = self.held[number]
            self.forget(place)
            self.scene.places.leave(place)

    @rule(number=st.integers(0, LIMIT - 1))
    def keep(self, number: int) -> None:
        if number < len(self.held):
            place = self.held[number]
            is_kept, until = place.is_established, self.lent.get(place, self.scene.now + self.KEPT_SECONDS)
            self.forget(place)
            self.scene.places.keep(place, self.KEPT_SECONDS)
            if is_kept:
                self.kept[place] = until

    @rule(seconds=st.sampled_from([0.1, TENURE_SECONDS, ROTATION_SECONDS, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.scene.now += seconds
        self.kept = {place: until for place, until in self.kept.items() if until > self.scene.now}
        self.lent = {place: until for place, until in self.lent.items() if until > self.scene.now}

    @invariant()
    def counts_agree(self) -> None:
        places = self.scene.places
        assert len(places) == places.held(KEY) == len(self.held) + len(self.kept) <= self.LIMIT
        assert places.held_by_connection("db") == len(places)
        assert places.kept == len(self.kept)
        assert all(place.is_kept == (place in self.kept) for place in places.of(KEY))
        assert all(place.is_established for place in self.lent)

    def teardown(self) -> None:
        for place in self.held:
            self.scene.places.leave(place)
        self.scene.now += self.KEPT_SECONDS
        assert len(self.scene.places) == self.scene.places.kept == 0


TestSharingMachine = SharingMachine.TestCase
TestSharingMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
