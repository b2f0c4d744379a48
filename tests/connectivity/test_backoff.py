"""Waits grow to a limit, have jitter, and become short again only after a success that lasted."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connectivity import Backoff


def at_most(**kwargs: float) -> Backoff:
    """A back-off without jitter: every wait is as long as it may be."""
    return Backoff(random=lambda: 1.0, **kwargs)


def test_waits_grow_to_the_bound() -> None:
    backoff = at_most(first_seconds=0.5, max_seconds=10)
    assert [backoff.next_wait() for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]


def test_jitter_is_full() -> None:
    backoff = Backoff(first_seconds=64, max_seconds=64, random=random.Random(1).random)
    waits = [backoff.next_wait() for _ in range(1000)]
    assert min(waits) < 1
    assert max(waits) > 63
    assert 30 < sum(waits) / len(waits) < 34


def test_no_wait_is_next_to_nothing() -> None:
    backoff = Backoff(min_seconds=0.1, random=lambda: 0.0)
    assert [backoff.next_wait() for _ in range(3)] == [0.1] * 3


def test_a_deadline_and_a_hint_bound_one_wait() -> None:
    backoff = at_most(first_seconds=4, max_seconds=30)
    assert backoff.next_wait(at_most=2) == 2
    assert backoff.next_wait(at_least=3) == 3 + 8
    assert backoff.next_wait(at_least=30, at_most=2) == 2
    backoff.random = lambda: 0.5
    assert backoff.next_wait(at_most=2) == 1
    assert backoff.next_wait(at_least=30, at_most=2) == 1.5, "not all at the same moment"


def test_a_relay_that_was_away_is_called_every_five_seconds() -> None:
    backoff = at_most()
    assert max(backoff.next_wait() for _ in range(100)) == 5


def test_attempts_that_take_long_are_rarer() -> None:
    backoff = at_most()
    assert [backoff.next_wait(took_seconds=12) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 24, 24]
    assert backoff.next_wait(took_seconds=1e9) == 30
    assert backoff.next_wait(took_seconds=2.4) == 5


def test_only_a_success_that_held_counts() -> None:
    backoff = at_most(first_seconds=1, held_seconds=10)
    backoff.next_wait()
    backoff.next_wait()
    backoff.succeeded(held_seconds=9.9)
    assert backoff.next_wait() == 4
    backoff.succeeded(held_seconds=10)
    assert backoff.next_wait() == 1
    backoff.reset()
    assert backoff.next_wait() == 1


@pytest.mark.parametrize("make", [lambda: Backoff(first_seconds=0), lambda: Backoff(max_seconds=0)])
def test_nonsense_is_refused(make: Callable[[], Backoff]) -> None:
    with pytest.raises(ValueError):
        make()


@given(st.integers(0, 5000), st.floats(0, 1, exclude_max=True))
def test_every_wait_is_within_bounds(failures: int, luck: float) -> None:
    backoff = Backoff(random=lambda: luck)
    backoff.failures = failures
    assert backoff.min_seconds <= backoff.next_wait() <= backoff.max_seconds
