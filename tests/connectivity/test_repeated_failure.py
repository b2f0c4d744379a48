"""How a failure that happens repeatedly is logged."""

from __future__ import annotations

from hybridrelay.connectivity.refusals import all_failed
from hybridrelay.connectivity.repeated_failure import RepeatedFailure
from hybridrelay.errors import HybridRelayError, RelayUnreachable

DOWN = RelayUnreachable("a cannot be reached: refused, and so on", remedy="start it", brief="a cannot be reached")
DROPPED = RelayUnreachable("a cannot be reached: dropped", brief="a cannot be reached")


def test_in_full_at_first_and_when_it_changes() -> None:
    failure = RepeatedFailure()

    assert [failure.describe(error) for error in (DOWN, DOWN, DOWN, DROPPED, DROPPED, DOWN)] == [
        "a cannot be reached: refused, and so on; start it",
        "a cannot be reached, as before",
        "a cannot be reached, as before",
        "a cannot be reached: dropped",
        "a cannot be reached, as before",
        "a cannot be reached: refused, and so on; start it",
    ]


def test_in_full_again_once_it_has_worked() -> None:
    failure = RepeatedFailure()
    first = failure.describe(DOWN)
    failure.succeeded()

    assert failure.describe(DOWN) == first


def test_what_comes_again_is_a_warning_once_a_minute() -> None:
    failure = RepeatedFailure()

    def level(error: HybridRelayError, now: float) -> int:
        failure.describe(error)
        return failure.level(now)

    assert [level(DOWN, now) for now in (0, 5, 59, 60, 61, 120)] == [30, 10, 10, 30, 10, 30]
    assert level(DROPPED, 121) == 30
    assert level(DOWN, 122) == 30
    failure.succeeded()
    assert level(DOWN, 123) == 30


def test_what_is_short_loses_its_remedy_only() -> None:
    failure = RepeatedFailure()
    error = HybridRelayError("no listener", remedy="start the connector")

    assert [failure.describe(error), failure.describe(error)] == ["no listener; start the connector", "no listener"]


def test_several_relays_in_short_are_their_names() -> None:
    failure = RepeatedFailure()
    error = all_failed({"a": DOWN, "b": DROPPED})
    failure.describe(error)

    assert failure.describe(error) == "no relay works (a, b), as before"
