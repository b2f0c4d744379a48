"""In which order offers are sent over one control channel, and how many are unanswered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.core.offer_queue import FORGET_SECONDS, MAX_UNANSWERED, OfferQueue


def added(*owners: str) -> OfferQueue:
    """A queue with offers, numbered from 0 on. An owner is a hybrid connection and a holder, such as ``a1``, or
    ``a1xp`` if the holder has three parts."""
    queue = OfferQueue()
    for number, owner in enumerate(owners):
        queue.add(number, owner[0], "/".join(owner[1:]))
    return queue


def order(queue: OfferQueue, now: float = 0.0) -> list[int]:
    """Send and answer all offers that wait."""
    found = []
    while (number := queue.next(now)) is not None:
        found.append(number)
        queue.answered(number)
    return found


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ([], []),
        (["a1", "a1", "a1"], [0, 1, 2]),
        # Hybrid connections take turns, however many holders one of them has.
        (["a1", "a2", "a3", "b1", "b1"], [0, 3, 1, 4, 2]),
        # So do the holders of one hybrid connection.
        (["a1", "a1", "a1", "a2", "a2"], [0, 3, 1, 4, 2]),
        # The same holder at two hybrid connections has turns at both.
        (["a1", "a1", "b1"], [0, 2, 1]),
        # Keys take turns, however many addresses and networks one of them is used from.
        (["a1xp", "a1xq", "a1yr", "a1zs", "a2xp", "a2xp"], [0, 4, 2, 5, 3, 1]),
        # So do the networks of a key, and the addresses of a network.
        (["a1xp", "a1xq", "a1xr", "a1yp", "a1yp"], [0, 3, 1, 4, 2]),
        (["a1xp", "a1xp", "a1xp", "a1xq"], [0, 3, 1, 2]),
    ],
)
def test_hybrid_connections_take_turns_and_so_do_their_holders(owners: list[str], expected: list[int]) -> None:
    assert order(added(*owners)) == expected


def test_only_so_many_are_unanswered() -> None:
    queue = added(*["a1"] * (MAX_UNANSWERED + 2))
    sent = [queue.next(0.0) for _ in range(MAX_UNANSWERED)]
    assert sent == list(range(MAX_UNANSWERED))
    assert queue.next(0.0) is None
    assert len(queue) == 2
    # Each answer makes room for one, and only once.
    queue.answered(0)
    queue.answered(0)
    queue.answered(MAX_UNANSWERED + 1)  # it still waits
    assert (queue.next(0.0), queue.next(0.0)) == (MAX_UNANSWERED, None)
    assert queue.answers == 1


def test_a_listener_that_never_answers_is_given_others_later() -> None:
    queue = added(*["a1"] * 2 * MAX_UNANSWERED)
    for number in range(MAX_UNANSWERED):
        queue.next(number / MAX_UNANSWERED)
    assert queue.next(FORGET_SECONDS - 0.1) is None
    assert queue.next(FORGET_SECONDS) == MAX_UNANSWERED
    assert queue.next(FORGET_SECONDS) is None


def test_an_offer_that_was_not_sent_makes_room() -> None:
    queue = added(*["a1"] * (MAX_UNANSWERED + 3))
    for _ in range(MAX_UNANSWERED):
        queue.next(0.0)
    queue.drop(0)  # it was its turn
    queue.drop(MAX_UNANSWERED)  # it waits
    queue.drop(MAX_UNANSWERED)
    assert (queue.next(0.0), queue.next(0.0)) == (MAX_UNANSWERED + 1, None)
    assert queue.answers == 0


Step = tuple[str, int]
OWNERS = ["a1xp", "a1xq", "a1yp", "a2xp", "b1xp", "b2xp", "c1xp", "c1yq"]


@given(st.lists(st.tuples(st.sampled_from([*OWNERS, "next", "answer", "drop"]), st.integers(0, 200)), max_size=400))
def test_any_order_of_inputs(steps: Iterable[Step]) -> None:
    """Against a model that knows only who waits: nothing is lost, sent twice or sent out of turn."""
    queue = OfferQueue()
    waiting: dict[int, str] = {}
    sent: dict[int, str] = {}
    #: How many turns others have had since each hybrid connection began to wait, or had its last turn.
    turns: Counter[str] = Counter()
    for number, (what, choice) in enumerate(steps):
        if what in OWNERS:
            queue.add(number, what[0], "/".join(what[1:]))
            if not any(owner[0] == what[0] for owner in waiting.values()):
                turns[what[0]] = 0
            waiting[number] = what
        elif what == "next":
            found = queue.next(0.0)
            assert (found is None) == (not waiting or len(sent) >= MAX_UNANSWERED)
            if found is None:
                continue
            owner = waiting.pop(found)
            sent[found] = owner
            assert not any(other < found for other, its in waiting.items() if its == owner)
            for connection in {its[0] for its in waiting.values()} - {owner[0]}:
                turns[connection] += 1
                assert turns[connection] < len("abc")
            turns[owner[0]] = 0
        else:
            known = [*waiting, *sent]
            if not known:
                continue
            chosen = known[choice % len(known)]
            if what == "answer":
                queue.answered(chosen)
                sent.pop(chosen, None)
            else:
                queue.drop(chosen)
                waiting.pop(chosen, None)
                sent.pop(chosen, None)
        assert len(queue) == len(waiting)
