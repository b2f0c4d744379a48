"""How often programs may request identities."""

from __future__ import annotations

import itertools

import pytest

from hybridrelay.connector.issuing.rates import MAX_REMEMBERED, MAX_REQUESTS, REQUESTS_SECONDS, RequestRates


@pytest.mark.parametrize("every", [0.25, 1.0, 2.0, 2.5])
def test_a_program_that_asks_all_the_time_gets_as_many_answers_as_allowed(every: float) -> None:
    """What was refused does not count. Otherwise it would get no answer any more."""
    rates, admitted, reported = RequestRates(), list[float](), list[float]()
    for number in range(int(10 * REQUESTS_SECONDS / every)):
        now = number * every
        if rates.admit("a", now):
            admitted.append(now)
        elif rates.reports("a", now):
            reported.append(now)
    assert len(admitted) == min(10 * MAX_REQUESTS, 10 * REQUESTS_SECONDS / every)
    for begin in admitted:
        assert sum(begin <= at < begin + REQUESTS_SECONDS for at in admitted) <= MAX_REQUESTS
    for earlier, later in itertools.pairwise(reported):
        assert later - earlier >= REQUESTS_SECONDS
    assert len(reported) == (10 if every * MAX_REQUESTS < REQUESTS_SECONDS else 0)


def test_each_program_has_its_own_rate() -> None:
    rates = RequestRates()
    assert all(rates.admit("a", 0.0) for _ in range(MAX_REQUESTS))
    assert not rates.admit("a", 0.0)
    assert rates.reports("a", 0.0)
    assert not rates.reports("a", REQUESTS_SECONDS - 1)
    assert rates.admit("b", 0.0)
    assert rates.reports("b", 0.0)
    assert rates.admit("a", REQUESTS_SECONDS)


def test_the_number_of_programs_that_are_remembered_is_limited() -> None:
    rates = RequestRates()
    for number in range(2 * MAX_REMEMBERED):
        assert rates.admit(number, 0.0)
    assert len(rates) == MAX_REMEMBERED
