"""Which listener is displaced when all places of a hybrid connection are taken: the rules, as a table."""

from __future__ import annotations

import attrs
import pytest

from hybridrelay.relay.core.displacement import choose_displaced
from hybridrelay.relay.core.listener import Listener
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot


@attrs.frozen
class Case:
    #: The holders of the places, in the order in which they registered: a key and an address.
    held: str
    #: The holder that needs a place.
    newcomer: str
    #: How many of the others registered later than the newcomer's instance did at first.
    before: int
    #: The position in `held` of the listener that is displaced; None: the newcomer is refused.
    expected: int | None
    is_drawn: bool = False


def _listener(instance: str, holder: str) -> Listener[None]:
    key, address = holder[0], holder[1]
    return Listener(
        connection="db",
        instance=instance,
        generation=1,
        key=KeyId("db", key, KeySlot.PRIMARY, 1),
        handle=None,
        address=f"192.0.{address}.1",
    )


@pytest.mark.parametrize(
    "case",
    [
        Case(
            "a1 b1 a2 a3 b2 b3", "c1", 0, 5, is_drawn=False
        ),  # a holder without a place displaces the newest listener
        Case("a1 a2 a3 b1", "b1", 0, 2),  # by key
        Case("a1 a1 a1 a2", "a3", 0, 2),  # by network, within a key
        Case("a1 a1 b1 b1", "a1", 4, 1),  # an instance that returns displaces a newer one of its own
        Case("a1 a1 b1 b1 b1", "a1", 5, 4),  # or of a holder that has more
        Case("a1 a1 b1", "b1", 3, 2),  # its own, and no other
        Case("a1 a1 b1 c1", "d1", 4, 1),
        Case("b1 b1", "a1", 0, 1),
        Case("a1 b1", "a1", 0, None),  # nothing distinguishes them
        Case("a1 b1", "c1", 2, 1),  # it is back, and its holder has none
        Case("a1 b1", "c1", 1, 1),
        Case("a1 b1", "a1", 1, None),  # the newer one is of a holder that has no more than its own
        Case("a1 a1 b1 b1", "a1", 2, None),
        Case("b1 c1", "a1", 0, None),
        Case("b1 c1", "a1", 0, 1, is_drawn=True),
    ],
    ids=str,
)
def test_the_listener_that_the_rules_choose_is_displaced(case: Case) -> None:
    holders = case.held.split()
    listeners = [_listener(str(number), holder) for number, holder in enumerate(holders)]
    since = {str(number): float(number) for number in range(len(holders))}
    displaced = choose_displaced(
        listeners,
        since,
        _listener("new", case.newcomer),
        len(holders) - case.before - 0.5,
        is_drawn=case.is_drawn,
        randbelow=lambda bound: bound - 1,
    )
    assert (None if displaced is None else int(displaced.instance)) == case.expected
