"""Places that are few: how much one key, one hybrid connection and one holder gets, and what is left for others."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.holders import Holder, network_of
from hybridrelay.relay.core.lottery import ROTATION_SECONDS
from hybridrelay.relay.core.places import TENURE_SECONDS, Place, Places
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot

from ..places import make_places


def key(connection: str, rule: str = "sender", generation: int = 1) -> KeyId:
    return KeyId(connection, rule, KeySlot.PRIMARY, generation)


def take_all(places: Places[str], *keys: KeyId) -> int:
    """As many as there are to be had without displacing others, in turn; how many."""
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


def test_who_comes_later_always_finds_some() -> None:
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


def test_fixed_limits() -> None:
    places = make_places("places", 100, per_connection=10, per_key=6)
    assert take_all(places, key("a")) == 6
    assert take_all(places, key("a", "another")) == 4
    assert take_all(places, key("b")) == 6


@pytest.mark.parametrize("limits", [(0, None, None), (5, 0, None), (5, None, 0), (5, -1, None), (-1, None, None)])
def test_limits_that_would_let_nobody_in(limits: tuple[int, int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_places("places", limits[0], per_connection=limits[1], per_key=limits[2])


@given(st.integers(1, 30), st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans())))
def test_the_books_agree(total: int, steps: list[tuple[str, int, bool]]) -> None:
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
        of_connection = sum(other.holder.key.connection == connection for other in held)
        allowed = len(own) < free and of_connection < 2 * free
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

KEY = key("db")
#: Two networks, and a neighbour of the first address.
ROGUE, NEIGHBOUR, HONEST = (Holder(KEY, address) for address in ("192.0.2.1", "192.0.2.2", "198.51.100.7"))


@attrs.define
class Scene:
    """Places of which the key may have a few."""

    now: float = 0.0
    places: Places[str] = attrs.field(init=False)

    @classmethod
    def make(cls, limit: int, *, spares_established: bool = False, settles_after: float = 1e9) -> Scene:
        scene = cls()
        scene.places = make_places(
            "places",
            1000,
            clock=lambda: scene.now,
            per_key=limit,
            spares_established=spares_established,
            settles_after=settles_after,
        )
        return scene

    def enter(self, holder: Holder, owner: str, *, established: bool = False) -> str | None:
        """Take a place; the owner of the one that made room, or None."""
        displaced = self.places.choose_displaced(holder, owner)
        if displaced is not None:
            self.places.leave(displaced)
        place = self.places.take(holder, owner)
        if established:
            self.places.establish(place)
        return None if displaced is None else displaced.owner

    def is_refused(self, holder: Holder, owner: str = "newcomer") -> bool:
        try:
            self.places.choose_displaced(holder, owner)
        except RendezvousError as exc:
            return exc.reason is Reason.LIMIT
        return False


def filled(holder: Holder, count: int) -> Scene:
    """A scene in which one holder has all of the key's places."""
    scene = Scene.make(count)
    for number in range(count):
        assert scene.enter(holder, f"{number}") is None
    return scene


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_networks(address: str, network: str) -> None:
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


def test_a_place_has_time_to_show_its_use_where_nothing_tells_holders_apart() -> None:
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
def test_what_is_established_stays_while_something_provisional_can_go(spares: bool) -> None:
    scene = Scene.make(6, spares_established=spares)
    for number in range(5):
        scene.enter(HONEST, f"established {number}", established=True)
    scene.enter(ROGUE, "rogue")
    for number in range(10):
        # The holder that has five of them gets the place of the one that has shown no use.
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


def test_spared_places_give_way_to_a_holder_without_any_and_seldom() -> None:
    scene = Scene.make(4, spares_established=True)
    for number in range(4):
        scene.enter(ROGUE, f"{number}", established=True)
    assert scene.enter(HONEST, "honest", established=True) == "3"
    assert scene.is_refused(HONEST), "it has one"
    third = Holder(KEY, "203.0.113.1")
    scene.now = ROTATION_SECONDS - 0.1
    assert scene.is_refused(third)
    scene.now = ROTATION_SECONDS
    assert scene.is_refused(HONEST), "it has one"
    assert scene.enter(third, "third") == "2"


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
    passed = scene.places.pass_on(place, other)
    assert (passed.owner, passed.is_established) == ("owner", True)
    assert (scene.places.held(KEY), scene.places.held(other.key), len(scene.places)) == (0, 1, 1)
    scene.places.leave(place)
    assert len(scene.places) == 1
    scene.places.leave(passed)
    assert len(scene.places) == 0


def test_spared_places_of_one_holder_are_not_drawn() -> None:
    scene = Scene.make(2, spares_established=True)
    for number in range(2):
        scene.enter(HONEST, f"{number}", established=True)
    for _ in range(100):
        scene.now += ROTATION_SECONDS
        assert scene.is_refused(HONEST)


def test_nobody_is_kept_out_where_nothing_tells_holders_apart() -> None:
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


def test_use_for_a_while() -> None:
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


def test_a_place_that_has_lost_its_use() -> None:
    scene = Scene.make(1)
    place = scene.places.take(ROGUE, "old")
    scene.places.establish(place)
    assert scene.is_refused(HONEST)
    scene.now = 50.0
    scene.places.make_provisional(place)
    scene.now += TENURE_SECONDS
    assert scene.enter(HONEST, "honest") == "old"
    # It is over: nothing that is said about it has an effect.
    scene.places.establish(place)
    scene.places.make_provisional(place)
    scene.places.leave(place)
    assert len(scene.places) == 1


def test_places_that_settle_by_themselves() -> None:
    scene = Scene.make(2, spares_established=True, settles_after=90.0)
    scene.enter(ROGUE, "old")
    scene.now = 80.0
    scene.enter(ROGUE, "young")
    scene.now = 90.0
    for _ in range(2):
        assert scene.enter(ROGUE, "newcomer") != "old"
        scene.now += TENURE_SECONDS


def test_another_key_of_the_hybrid_connection_that_has_more_gives_way() -> None:
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


class SharingMachine(RuleBasedStateMachine):
    """Holders of one key take places, of which some are established, in any order."""

    LIMIT = 6
    ADDRESSES = ("192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::/64", "")

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene.make(self.LIMIT, spares_established=True)
        self.held: list[Place[str]] = []

    @rule(address=st.sampled_from(ADDRESSES), name=st.sampled_from("abc"))
    def enter(self, address: str, name: str) -> None:
        newcomer = Holder(KEY, address)
        try:
            displaced = self.scene.places.choose_displaced(newcomer, name)
        except RendezvousError:
            assert len(self.held) == self.LIMIT
            of_network = [
                one for one in self.held if not one.is_established and one.holder.network == newcomer.network
            ]
            provisional = [one for one in self.held if not one.is_established]
            # So nobody is refused beside a network that has two more.
            for other in provisional:
                theirs = sum(one.holder.network == other.holder.network for one in provisional)
                assert theirs <= len(of_network) + 1
            return
        assert (displaced is None) == (len(self.held) < self.LIMIT)
        if displaced is not None:
            if displaced.is_established:
                assert not any(one.holder.address == address for one in self.held)
            self.held.remove(displaced)
            self.scene.places.leave(displaced)
        self.held.append(self.scene.places.take(newcomer, name))

    @rule(number=st.integers(0, LIMIT - 1))
    def establish(self, number: int) -> None:
        if number < len(self.held):
            self.scene.places.establish(self.held[number])

    @rule(number=st.integers(0, LIMIT - 1))
    def lose_use(self, number: int) -> None:
        if number < len(self.held):
            self.scene.places.make_provisional(self.held[number])

    @rule(number=st.integers(0, LIMIT - 1))
    def leave(self, number: int) -> None:
        if number < len(self.held):
            self.scene.places.leave(self.held.pop(number))

    @rule(seconds=st.sampled_from([0.1, TENURE_SECONDS, ROTATION_SECONDS, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.scene.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.scene.places) == self.scene.places.held(KEY) == len(self.held)
        assert self.scene.places.held_by_connection("db") == len(self.held)

    def teardown(self) -> None:
        for place in self.held:
            self.scene.places.leave(place)
        assert len(self.scene.places) == 0


TestSharingMachine = SharingMachine.TestCase
TestSharingMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
