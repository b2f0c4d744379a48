"""Which listeners a client avoids, for how long, and when it tries them again."""

from __future__ import annotations

import pytest

from hybridrelay.client.relays.listeners import AVOID_SECONDS, MAX_TRIED, AvoidedListeners, ListenerSearch
from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.control import MAX_AVOID, Join
from hybridrelay.protocol.reasons import Reason

NOBODY = RendezvousError("no connector is listening", reason=Reason.NO_LISTENER)
FIRST = RendezvousError("silent", reason=Reason.PEER_SILENT)
SECOND = RendezvousError("absent", reason=Reason.PEER_ABSENT)


def instance(number: int) -> str:
    return f"{number:032x}"


def test_no_more_are_avoided_than_a_join_can_name() -> None:
    avoided = AvoidedListeners()
    for number in range(10 * MAX_AVOID):
        avoided.add(instance(number), now=0.0)
    assert avoided.at(1.0) == tuple(instance(number) for number in range(9 * MAX_AVOID, 10 * MAX_AVOID))
    Join(1, "db", "token", None, avoided.at(1.0))


def test_each_is_avoided_for_a_while_from_its_last_failure() -> None:
    avoided = AvoidedListeners()
    avoided.add(instance(1), now=0.0)
    avoided.add(instance(2), now=10.0)
    avoided.add(instance(1), now=20.0)
    assert set(avoided.at(AVOID_SECONDS + 9.9)) == {instance(1), instance(2)}
    assert avoided.at(AVOID_SECONDS + 10.0) == (instance(1),)
    assert avoided.at(AVOID_SECONDS + 20.0) == ()


def test_a_search_ends_with_the_last_failure_when_nobody_else_is_left() -> None:
    avoided = AvoidedListeners()
    search = ListenerSearch(avoided)
    assert search.failed(instance(1), FIRST, 0.0)
    assert search.failed(instance(2), SECOND, 0.0)
    assert search.none_left(NOBODY, 0.0) is SECOND
    assert avoided.at(0.0) == (), "the next search tries all of them again"


def test_a_search_that_begins_with_all_avoided_avoids_nobody() -> None:
    avoided = AvoidedListeners()
    avoided.add(instance(1), 0.0)
    search = ListenerSearch(avoided)
    assert search.avoid(1.0) == (instance(1),)
    assert search.none_left(NOBODY, 1.0) is None
    assert search.avoid(1.0) == ()
    assert search.none_left(NOBODY, 1.0) is NOBODY


@pytest.mark.parametrize("number", [1, MAX_TRIED - 1, MAX_TRIED])
def test_a_search_tries_so_many_and_no_more(number: int) -> None:
    search = ListenerSearch(AvoidedListeners())
    goes_on = [search.failed(instance(index), FIRST, 0.0) for index in range(number)]
    assert goes_on[-1] == (number < MAX_TRIED)


def test_a_search_for_another_listener_accepts_none_of_the_others() -> None:
    avoided = AvoidedListeners(seconds=5.0)
    avoided.add(instance(1), 0.0)
    search = ListenerSearch(avoided, (instance(2),))
    assert search.avoid(1.0) == (instance(1), instance(2))
    assert search.none_left(NOBODY, 1.0) is NOBODY, "those that are avoided are not tried either"
    assert search.avoid(1.0) == (instance(1), instance(2))
    assert search.failed(instance(3), FIRST, 1.0)
    assert search.none_left(NOBODY, 1.0) is FIRST
    assert ListenerSearch(avoided).avoid(5.0) == (instance(3),)
