"""Registering, choosing and displacing listeners, and remembering those that have left; also against a model."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.control_states import TargetHealth
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.choice import ChoiceReason
from hybridrelay.relay.core.listeners import Listener, ListenerTable
from hybridrelay.relay.core.lottery import ROTATION_SECONDS
from hybridrelay.relay.limits import DEPARTED_SECONDS, DROPPED_SECONDS, SENIORITY_SECONDS
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot

KEY = KeyId("sql", "listener", KeySlot.PRIMARY, 1)
OTHER_KEY = KeyId("sql", "listener", KeySlot.SECONDARY, 2)


def table(clock: Callable[[], float] = lambda: 0.0, **limits: int) -> ListenerTable[str]:
    return ListenerTable(randbelow=random.Random(3).randrange, clock=clock, **limits)


def listener(instance: str = "a", generation: int = 1, key: KeyId = KEY, connection: str = "sql") -> Listener[str]:
    return Listener(connection, instance, generation, key, "handle")


@pytest.mark.parametrize("generation", [5, 6])
def test_the_same_instance_takes_its_own_place_at_once(generation: int) -> None:
    listeners = table()
    first = listener(generation=5)
    second = listener(generation=generation)
    assert listeners.register(first) is None

    assert listeners.register(second) is first

    assert listeners.of("sql") == (second,)
    assert not listeners.remove(first), "the end of the earlier registration does not end the new one"
    assert listeners.find("sql", "a") is second
    assert listeners.remove(second)
    assert listeners.find("sql", "a") is None


@pytest.mark.parametrize("left", [False, True])
def test_a_lower_generation_is_refused(left: bool) -> None:
    listeners = table()
    current = listener(generation=5)
    listeners.register(current)
    if left:
        listeners.remove(current)
    with pytest.raises(RendezvousError) as caught:
        listeners.register(listener(generation=4))
    assert caught.value.reason is Reason.SUPERSEDED
    assert listeners.find("sql", "a") is (None if left else current)


def test_different_instances_coexist_and_are_chosen_at_random() -> None:
    listeners = table()
    for name in "abc":
        assert listeners.register(listener(name)) is None
    assert {one.instance for one in listeners.of("sql")} == {"a", "b", "c"}
    chosen = [listeners.choose("sql") for _ in range(100)]
    assert {one.listener.instance for one in chosen if one} == {"a", "b", "c"}
    assert listeners.count() == 3


def test_those_passed_over_are_not_chosen_again() -> None:
    listeners = table()
    listeners.register(listener("a"))
    listeners.register(listener("b"))
    assert {one.listener.instance for _ in range(20) if (one := listeners.choose("sql", passed_over={"a"}))} == {"b"}
    assert listeners.choose("sql", passed_over=["a", "b"]) is None
    assert listeners.choose("elsewhere") is None


def test_a_listener_that_is_drained_is_found_and_not_chosen() -> None:
    listeners = table()
    a, b = listener("a"), listener("b")
    for one in (a, b):
        listeners.register(one)
    assert listeners.set_draining("sql", "a", on=True)
    assert not listeners.set_draining("sql", "a", on=True)
    offered = [listeners.choose("sql") for _ in range(20)]
    assert {one.listener for one in offered if one is not None} == {b}
    assert listeners.find("sql", "a") is a
    assert (listeners.is_draining(a), listeners.is_draining(b)) == (True, False)
    # It stays so while its control channel is replaced, and until it is undone.
    listeners.remove(a)
    assert not listeners.set_draining("sql", "a", on=True)
    again = listener("a", generation=2)
    listeners.register(again)
    assert listeners.is_draining(again)
    listeners.set_draining("sql", "b", on=True)
    assert listeners.choose("sql") is None
    assert listeners.set_draining("sql", "a", on=False)
    chosen = listeners.choose("sql")
    assert chosen is not None
    assert chosen.listener is again
    assert not listeners.set_draining("elsewhere", "a", on=True)
    # An administrator can also undo it while the connector is away.
    listeners.remove(b)
    assert listeners.set_draining("sql", "b", on=False)
    assert not listeners.set_draining("sql", "b", on=False)
    back = listener("b", generation=3)
    listeners.register(back)
    assert not listeners.is_draining(back)


def test_listeners_of_one_network_that_decline_do_not_take_all_tries_of_a_sender() -> None:
    listeners = table(max_per_connection=64)
    for number in range(60):
        listeners.register(at(f"10.0.0.{number}", f"rogue {number}"))
    listeners.register(at("192.0.2.1", "honest"))
    found = 0
    for _ in range(100):
        passed_over: set[str] = set()
        for _ in range(8):
            chosen = listeners.choose("sql", passed_over=passed_over)
            assert chosen is not None
            passed_over.add(chosen.listener.instance)
        found += "honest" in passed_over
    assert found > 95
    # Where nobody was passed over, all are equally likely.
    first = Counter(one.listener.address for _ in range(610) if (one := listeners.choose("sql")))
    assert first["192.0.2.1"] < 40


def test_gone_and_absent_instances_are_distinguished() -> None:
    listeners = table()
    assert listeners.why_not("sql") is Reason.NO_LISTENER
    assert listeners.why_not("sql", "a") is Reason.LISTENER_ABSENT

    current = listener("a", 5)
    listeners.register(current)
    listeners.remove(current)
    assert listeners.why_not("sql", "a") is Reason.LISTENER_ABSENT

    assert listeners.declare_gone("sql", "a") is None
    assert listeners.why_not("sql", "a") is Reason.LISTENER_GONE

    # The instance was not dead, and registers again.
    back = listener("a", 5)
    listeners.register(back)
    assert listeners.declare_gone("sql", "a") is back
    assert listeners.of("sql") == ()
    assert listeners.declare_gone("sql", "never seen") is None
    assert listeners.why_not("sql", "never seen") is Reason.LISTENER_GONE
    leaving = listener("b")
    listeners.register(leaving)
    assert listeners.declare_gone("sql", "b") is leaving
    assert not listeners.remove(leaving), "its control channel ends later"
    assert listeners.why_not("sql", "b") is Reason.LISTENER_GONE


def test_an_instance_that_may_come_back_is_remembered() -> None:
    listeners = table()
    assert not listeners.is_remembered("sql", "a")
    current = listener("a", 5)
    listeners.register(current)
    assert listeners.is_remembered("sql", "a")
    listeners.remove(current)
    assert listeners.is_remembered("sql", "a")
    assert not listeners.is_remembered("sql", "b")
    listeners.declare_gone("sql", "a")
    assert not listeners.is_remembered("sql", "a")


def test_the_memory_of_the_departed_is_bounded_for_each_connection() -> None:
    listeners = table(max_departed_per_connection=2)
    listeners.declare_gone("other", "z")
    for name in "abc":
        listeners.declare_gone("sql", name)
    answers = [listeners.why_not("sql", name) for name in "abc"]
    assert answers == [Reason.LISTENER_ABSENT, Reason.LISTENER_GONE, Reason.LISTENER_GONE]
    assert listeners.why_not("other", "z") is Reason.LISTENER_GONE


def test_the_departed_are_forgotten_after_a_while() -> None:
    now = 0.0
    listeners = table(lambda: now)
    current = listener(generation=9)
    listeners.register(current)
    listeners.declare_gone("sql", "a")
    now = DEPARTED_SECONDS - 1
    assert listeners.why_not("sql", "a") is Reason.LISTENER_GONE
    with pytest.raises(RendezvousError):
        listeners.register(listener(generation=8))
    now = DEPARTED_SECONDS
    assert listeners.why_not("sql", "a") is Reason.LISTENER_ABSENT
    assert listeners.register(listener(generation=8)) is None


def test_the_limit_of_one_connection_leaves_those_registered_alone() -> None:
    listeners = table(max_per_connection=2)
    listeners.register(listener("a"))
    listeners.register(listener("b"))
    with pytest.raises(RendezvousError) as caught:
        listeners.register(listener("c"))
    assert caught.value.reason is Reason.LISTENER_QUOTA
    listeners.register(listener("a", 2))
    listeners.register(listener("c", connection="other"))
    assert listeners.count() == 3


def at(address: str, instance: str, *, key: KeyId = KEY) -> Listener[str]:
    return Listener("sql", instance, 1, key, "handle", address)


def test_a_holder_that_has_fewer_displaces_the_newest_of_the_one_that_has_most() -> None:
    listeners = table(max_per_connection=4)
    rogues = [at("10.0.0.9", f"rogue {number}") for number in range(4)]
    for rogue in rogues:
        assert listeners.register(rogue) is None
    first, second = at("10.0.0.1", "honest 1"), at("10.0.0.1", "honest 2")
    displaced = listeners.register(first)
    assert displaced in rogues
    assert listeners.find("sql", displaced.instance) is None
    assert listeners.find("sql", "honest 1") is first
    # With two of four each, neither holder displaces the other any more.
    with pytest.raises(RendezvousError):
        listeners.register(at("10.0.0.9", "rogue 5"))
    listeners.register(second)
    for newcomer in (at("10.0.0.9", "rogue 6"), at("10.0.0.1", "honest 3")):
        with pytest.raises(RendezvousError) as caught:
            listeners.register(newcomer)
        assert caught.value.reason is Reason.LISTENER_QUOTA
    assert {one.instance for one in listeners.of("sql")} >= {"honest 1", "honest 2"}


def test_another_key_at_the_same_address_is_another_holder() -> None:
    listeners = table(max_per_connection=3)
    for number in range(3):
        listeners.register(at("", f"rogue {number}"))
    assert listeners.register(at("", "honest", key=OTHER_KEY)) is not None


def test_an_instance_that_was_registered_for_long_enough_gets_its_place_back_from_a_newer_one() -> None:
    now = 0.0
    listeners = table(lambda: now, max_per_connection=3)
    honest = at("", "honest")
    listeners.register(honest)
    listeners.register(at("", "rogue 1"))
    now = SENIORITY_SECONDS
    listeners.register(at("", "rogue 2"))
    listeners.remove(honest)
    now += 1
    listeners.register(at("", "rogue 3"))
    now += 1
    displaced = listeners.register(at("", "honest"))
    assert displaced is not None
    assert displaced.instance == "rogue 3"
    # Coming back does not work for those that are newer, however often they try.
    for name in ("rogue 3", "rogue 4"):
        with pytest.raises(RendezvousError):
            listeners.register(at("", name))
    assert listeners.find("sql", "honest") is not None


def test_nobody_with_a_key_can_cause_senior_instances_to_be_forgotten() -> None:
    now = 0.0
    listeners = table(lambda: now, max_per_connection=2)
    honest = at("", "honest")
    listeners.register(honest)
    now = SENIORITY_SECONDS
    listeners.remove(honest)
    for number in range(10):
        rogue = at("", f"rogue {number}")
        listeners.register(rogue)
        now += SENIORITY_SECONDS
        listeners.remove(rogue)
    for name in "ab":
        listeners.register(at("", name))
    # A limited number is remembered, and the newest ones are not.
    with pytest.raises(RendezvousError):
        listeners.register(at("", "rogue 9"))
    assert listeners.register(at("", "honest")) is not None


def test_an_instance_that_was_registered_for_a_moment_has_no_place_to_come_back_to() -> None:
    now = 0.0
    listeners = table(lambda: now, max_per_connection=1)
    brief = at("", "brief")
    listeners.register(brief)
    now = SENIORITY_SECONDS - 1
    listeners.remove(brief)
    listeners.register(at("", "other"))
    with pytest.raises(RendezvousError):
        listeners.register(at("", "brief"))


@pytest.mark.parametrize(
    "addresses",
    [
        [f"10.1.{number}.1" for number in range(8)],
        [f"2001:db8:1:{number}::/64" for number in range(8)],
    ],
)
def test_many_addresses_of_one_key_or_network_are_one_holder(addresses: list[str]) -> None:
    listeners = table(max_per_connection=8)
    for number, address in enumerate(addresses):
        listeners.register(at(address, f"rogue {number}"))
    assert listeners.register(at("192.0.2.1", "another key", key=OTHER_KEY)) is not None
    if ":" in addresses[0]:
        assert listeners.register(at("2001:db8:2:1::/64", "another network")) is not None


def test_a_listener_that_nothing_distinguishes_from_the_others_is_admitted_after_a_while() -> None:
    now = 0.0
    listeners = table(lambda: now, max_per_connection=4)
    for number in range(4):
        listeners.register(at(f"10.{number}.0.1", f"rogue {number}"))
    honest = at("192.0.2.1", "honest")
    with pytest.raises(RendezvousError):
        listeners.register(honest)
    now = ROTATION_SECONDS - 1
    with pytest.raises(RendezvousError):
        listeners.register(honest)
    now = ROTATION_SECONDS
    displaced = listeners.register(honest)
    assert displaced is not None
    assert displaced.instance.startswith("rogue")
    # Nobody else gets in right after it.
    with pytest.raises(RendezvousError):
        listeners.register(at("192.0.2.2", "another"))
    assert listeners.find("sql", "honest") is honest


def test_asking_often_does_not_win_every_place() -> None:
    """Rogues in more networks than there are places ask without a pause, and a connector now and then."""
    now = 0.0
    listeners = table(lambda: now, max_per_connection=8)
    rogues = [at(f"10.{number}.0.1", f"rogue {number}") for number in range(10)]
    honest = at("192.0.2.1", "honest")
    for step in range(1200):
        now += 0.1
        for one in rogues:
            if listeners.find("sql", one.instance) is None:
                with contextlib.suppress(RendezvousError):
                    listeners.register(one)
        if step % 50 == 49:
            with contextlib.suppress(RendezvousError):
                listeners.register(honest)
            if listeners.find("sql", "honest") is honest:
                return
    pytest.fail("it was not registered in two minutes")


def test_another_address_of_a_network_that_has_its_share_displaces_nobody_elsewhere() -> None:
    listeners = table(max_per_connection=6)
    for number in range(3):
        listeners.register(at(f"10.0.0.{number}", f"rogue {number}"))
        listeners.register(at("192.0.2.1", f"honest {number}"))
    with pytest.raises(RendezvousError):
        listeners.register(at("10.0.0.9", "rogue"))


@pytest.mark.parametrize("rogue_addresses", [1, 8])
def test_listeners_that_were_displaced_do_not_take_their_places_back(rogue_addresses: int) -> None:
    """They were registered for long enough to be remembered, and ask again and again."""
    now = 0.0
    listeners = table(lambda: now, max_per_connection=8)
    rogues = [at(f"10.{number % rogue_addresses}.0.1", f"rogue {number}") for number in range(8)]
    for rogue in rogues:
        listeners.register(rogue)
    now = 2 * SENIORITY_SECONDS
    honest = at("192.0.2.1", "honest")
    registered = looks = 0
    for _ in range(600):
        now += 0.1
        for one in (honest, *rogues):
            if listeners.find("sql", one.instance) is None:
                with contextlib.suppress(RendezvousError):
                    listeners.register(one)
        looks += 1
        registered += listeners.find("sql", "honest") is not None
    assert registered > looks / 2
    if rogue_addresses == 1:
        assert registered == looks


def test_a_revoked_key_ends_what_it_authorized() -> None:
    listeners = table()
    hit, kept = listener("a"), listener("b", key=OTHER_KEY)
    listeners.register(hit)
    listeners.register(kept)
    assert listeners.revoke({KEY}) == [hit]
    assert listeners.of("sql") == (kept,)


def test_a_deleted_connection_is_forgotten() -> None:
    listeners = table()
    current = listener("a", 9)
    listeners.register(current)
    listeners.declare_gone("sql", "b")
    assert listeners.forget("sql") == [current]
    assert listeners.forget("sql") == []
    assert listeners.why_not("sql", "b") is Reason.LISTENER_ABSENT
    assert listeners.register(listener("a", 1)) is None


def test_handles_do_not_print() -> None:
    assert "handle" not in repr(listener())


class ListenerMachine(RuleBasedStateMachine):
    """Compares the table with a model that knows only what happened last to each instance."""

    INSTANCES = "abcd"
    LIMIT = 3

    @attrs.define
    class Model:
        registered: Listener[Any] | None = None
        highest: int = 0
        gone: bool = False
        #: What it has reported since it registered.
        target: TargetHealth = TargetHealth.UNKNOWN

    def __init__(self) -> None:
        super().__init__()
        self.table: ListenerTable[str] = ListenerTable(
            randbelow=random.Random(5).randrange,
            clock=lambda: 0.0,
            max_per_connection=self.LIMIT,
            max_departed_per_connection=10,
        )
        self.models = {name: self.Model() for name in self.INSTANCES}
        self.ever: list[Listener[str]] = []

    @property
    def registered(self) -> dict[str, Listener[Any]]:
        return {name: model.registered for name, model in self.models.items() if model.registered is not None}

    @rule(name=st.sampled_from(INSTANCES), generation=st.integers(1, 5), key=st.sampled_from([KEY, OTHER_KEY]))
    def register(self, name: str, generation: int, key: KeyId) -> None:
        model = self.models[name]
        one = listener(name, generation, key)
        self.ever.append(one)
        held = Counter(other.key for other in self.registered.values())
        is_full = model.registered is None and len(self.registered) >= self.LIMIT
        makes_room = is_full and held[key] < max(held.values()) - 1
        if generation < model.highest or (is_full and not makes_room):
            with pytest.raises(RendezvousError) as caught:
                self.table.register(one)
            assert caught.value.reason is (Reason.SUPERSEDED if generation < model.highest else Reason.LISTENER_QUOTA)
            return
        displaced = self.table.register(one)
        target = TargetHealth.UNKNOWN if model.registered is None else model.target
        if makes_room:
            assert displaced is not None
            assert held[displaced.key] == max(held.values())
            gave_way = self.models[displaced.instance]
            assert displaced is gave_way.registered
            gave_way.registered, gave_way.gone = None, False
        else:
            assert displaced is model.registered
        self.models[name] = self.Model(one, generation, target=target)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if not self.ever:
            return
        one = data.draw(st.sampled_from(self.ever))
        model = self.models[one.instance]
        assert self.table.remove(one) is (model.registered is one)
        if model.registered is one:
            model.registered = None
            model.gone = False

    @rule(name=st.sampled_from(INSTANCES))
    def declare_gone(self, name: str) -> None:
        model = self.models[name]
        assert self.table.declare_gone("sql", name) is model.registered
        model.registered = None
        model.gone = True

    @rule(key=st.sampled_from([KEY, OTHER_KEY]))
    def revoke(self, key: KeyId) -> None:
        hit = [one for one in self.registered.values() if one.key == key]
        assert {id(one) for one in self.table.revoke([key])} == {id(one) for one in hit}
        for one in hit:
            self.models[one.instance].registered = None

    @rule()
    def forget(self) -> None:
        assert {one.instance for one in self.table.forget("sql")} == self.registered.keys()
        self.models = {name: self.Model() for name in self.INSTANCES}

    @rule(data=st.data(), health=st.sampled_from(TargetHealth))
    def report_target(self, data: st.DataObject, health: TargetHealth) -> None:
        if not self.ever:
            return
        one = data.draw(st.sampled_from(self.ever))
        model = self.models[one.instance]
        is_registered = model.registered is one
        assert self.table.report_target(one, health) is (model.target if is_registered else None)
        if is_registered:
            model.target = health

    @rule(passed_over=st.sets(st.sampled_from(INSTANCES)))
    def choose(self, passed_over: set[str]) -> None:
        chosen = self.table.choose("sql", passed_over=passed_over)
        candidates = [one for name, one in self.registered.items() if name not in passed_over]
        unhealthy = [one for one in candidates if self.models[one.instance].target is TargetHealth.UNHEALTHY]
        assert chosen is None or (chosen.candidates, chosen.healthy) == (
            len(candidates),
            len(candidates) - len(unhealthy),
        )
        if len(unhealthy) < len(candidates):
            candidates = [one for one in candidates if one not in unhealthy]
        assert chosen.listener in candidates if chosen is not None else not candidates

    @invariant()
    def agrees(self) -> None:
        assert self.table.count() == len(self.registered)
        for name, model in self.models.items():
            assert self.table.find("sql", name) is model.registered
            if model.registered is not None:
                assert self.table.target_of(model.registered) is model.target
            if model.registered is None:
                expected = Reason.LISTENER_GONE if model.gone else Reason.LISTENER_ABSENT
                assert self.table.why_not("sql", name) is expected


TestListenerMachine = ListenerMachine.TestCase
TestListenerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_instance_that_was_dropped_may_register_again_after_a_while() -> None:
    now = 0.0
    listeners = table(lambda: now)
    assert listeners.drop("sql", "a") is None
    first, other = listener("a"), listener("b")
    listeners.register(first)
    listeners.register(other)
    assert listeners.drop("sql", "a") is first
    assert listeners.drop("sql", "a") is None
    assert listeners.of("sql") == (other,), "the others stay"
    assert listeners.why_not("sql", "a") is Reason.LISTENER_ABSENT
    now = DROPPED_SECONDS - 0.1
    for generation in (1, 2):
        with pytest.raises(RendezvousError) as caught:
            listeners.register(listener("a", generation))
        assert caught.value.reason is Reason.ADMINISTRATOR_DROPPED
    now = DROPPED_SECONDS
    assert listeners.register(listener("a", 2)) is None
    assert [position for position, _ in listeners.index.page(9)] == [("sql", "a"), ("sql", "b")]
    assert len(listeners.forget("sql")) == 2
    assert len(listeners.index) == 0


def test_since_when_an_instance_has_been_registered() -> None:
    now = 10.0
    listeners = table(lambda: now)
    listeners.register(listener("a"))
    now += SENIORITY_SECONDS
    renewed = listener("a", 2)
    listeners.register(renewed)
    assert listeners.registered_since(renewed) == 10.0, "it was registered all the time"
    listeners.drop("sql", "a")
    now += DROPPED_SECONDS
    again = listener("a", 3)
    listeners.register(again)
    assert listeners.registered_since(again) == now, "there was a time without it"


def test_what_a_listener_reports_about_its_target_lasts_as_long_as_its_registration() -> None:
    listeners = table(lambda: 0.0)
    a, b = listener("a"), listener("b")
    listeners.register(a)
    listeners.register(b)
    assert listeners.target_of(a) is TargetHealth.UNKNOWN
    assert listeners.report_target(a, TargetHealth.UNHEALTHY) is TargetHealth.UNKNOWN
    assert listeners.report_target(a, TargetHealth.UNHEALTHY) is TargetHealth.UNHEALTHY
    assert listeners.unhealthy("sql") == 1
    for _ in range(20):
        choice = listeners.choose("sql")
        assert choice is not None
        assert (choice.listener, choice.why, choice.candidates, choice.healthy) == (
            b,
            ChoiceReason.ONLY_HEALTHY,
            2,
            1,
        )
        listeners.count_choice(choice)
    assert listeners.chosen(a).counts == {}
    assert (listeners.chosen(b).counts, listeners.chosen(b).last) == (
        {ChoiceReason.ONLY_HEALTHY: 20},
        ChoiceReason.ONLY_HEALTHY,
    )
    renewed = listener("a", 2)
    listeners.register(renewed)
    assert listeners.target_of(renewed) is TargetHealth.UNHEALTHY, "over its next control channel"
    assert listeners.report_target(a, TargetHealth.HEALTHY) is None, "it was replaced"
    listeners.set_draining("sql", "b", on=True)
    choice = listeners.choose("sql")
    assert choice is not None
    assert (choice.listener, choice.why, choice.healthy) == (renewed, ChoiceReason.ONLY, 0), (
        "the other one is drained"
    )
    listeners.remove(renewed)
    again = listener("a", 3)
    listeners.register(again)
    assert listeners.target_of(again) is TargetHealth.UNKNOWN
    assert listeners.unhealthy("sql") == listeners.unhealthy("elsewhere") == 0
