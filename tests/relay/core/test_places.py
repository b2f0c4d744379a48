"""Places that are few: how much one key and one hybrid connection get, and what is left for others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.places import Places
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot


def key(connection: str, rule: str = "sender", generation: int = 1) -> KeyId:
    return KeyId(connection, rule, KeySlot.PRIMARY, generation)


def take_all(places: Places, *keys: KeyId) -> int:
    """As many as there are to be had, in turn; how many."""
    before = len(places)
    going_on = list(keys)
    while going_on:
        for one in list(going_on):
            try:
                places.take(one)
            except RendezvousError:
                going_on.remove(one)
    return len(places) - before


def test_one_key_alone_gets_half_of_them() -> None:
    assert take_all(Places("places", 100), key("a")) == 50


def test_one_hybrid_connection_alone_gets_two_thirds_of_them() -> None:
    keys = [key("a", generation=number) for number in range(20)]
    assert take_all(Places("places", 300), *keys) == 200


def test_who_comes_later_always_finds_some() -> None:
    places = Places("places", 300)
    take_all(places, *(key("a", generation=number) for number in range(20)))
    assert take_all(places, key("b")) == 50
    assert take_all(places, key("c")) == 25
    # And what was given back is there for everybody.
    for _ in range(50):
        places.give_back(key("b"))
    assert take_all(places, key("c")) == 25


def test_those_who_take_in_turn_get_the_same() -> None:
    places = Places("places", 100)
    tenants = [key(name) for name in "abc"]
    assert take_all(places, *tenants) == 75
    assert [places._by_connection[tenant.connection] for tenant in tenants] == [25, 25, 25]


def test_the_refusal_says_whose_limit_it_is() -> None:
    places = Places("data channels", 100, per_connection=1)
    places.take(key("a"))
    with pytest.raises(RendezvousError, match="hybrid connection has as many data channels") as caught:
        places.take(key("a"))
    assert caught.value.reason is Reason.LIMIT
    places = Places("data channels", 100, per_key=1)
    places.take(key("b"))
    with pytest.raises(RendezvousError, match="the key 'sender' has as many"):
        places.take(key("b"))


def test_fixed_limits() -> None:
    places = Places("places", 100, per_connection=10, per_key=6)
    assert take_all(places, key("a")) == 6
    assert take_all(places, key("a", "another")) == 4
    assert take_all(places, key("b")) == 6


@pytest.mark.parametrize("limits", [(0, None, None), (5, 0, None), (5, None, 0), (5, -1, None), (-1, None, None)])
def test_limits_that_would_let_nobody_in(limits: tuple[int, int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Places("places", limits[0], per_connection=limits[1], per_key=limits[2])


@given(st.integers(1, 30), st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans())))
def test_the_books_agree(total: int, steps: list[tuple[str, int, bool]]) -> None:
    places = Places("places", total)
    held: list[KeyId] = []
    for connection, generation, give_back in steps:
        one = key(connection, generation=generation)
        if give_back and one in held:
            places.give_back(one)
            held.remove(one)
            continue
        free = total - len(held)
        of_connection = sum(other.connection == connection for other in held)
        allowed = held.count(one) < free and of_connection < 2 * free
        try:
            places.take(one)
        except RendezvousError:
            assert not allowed
        else:
            assert allowed
            held.append(one)
        assert len(places) == len(held) <= total
    if len(held) < total:
        places.take(key("newcomer"))  # who has nothing yet is never refused while there is a place
