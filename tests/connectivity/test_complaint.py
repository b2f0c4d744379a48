"""What is logged of a failure that comes again and again."""

from __future__ import annotations

from hybridrelay.connectivity.complaint import Complaint
from hybridrelay.connectivity.refusals import all_failed
from hybridrelay.errors import HybridRelayError, RelayUnreachable

DOWN = RelayUnreachable("a cannot be reached: refused, and so on", remedy="start it", brief="a cannot be reached")
SWALLOWED = RelayUnreachable("a cannot be reached: swallowed", brief="a cannot be reached")


def test_in_full_at_first_and_when_it_changes() -> None:
    complaint = Complaint()

    assert [complaint.about(error) for error in (DOWN, DOWN, DOWN, SWALLOWED, SWALLOWED, DOWN)] == [
        "a cannot be reached: refused, and so on; start it",
        "a cannot be reached, as before",
        "a cannot be reached, as before",
        "a cannot be reached: swallowed",
        "a cannot be reached, as before",
        "a cannot be reached: refused, and so on; start it",
    ]


def test_in_full_again_once_it_has_worked() -> None:
    complaint = Complaint()
    first = complaint.about(DOWN)
    complaint.over()

    assert complaint.about(DOWN) == first


def test_what_comes_again_is_a_warning_once_a_minute() -> None:
    complaint = Complaint()

    def level(error: HybridRelayError, now: float) -> int:
        complaint.about(error)
        return complaint.level(now)

    assert [level(DOWN, now) for now in (0, 5, 59, 60, 61, 120)] == [30, 10, 10, 30, 10, 30]
    assert level(SWALLOWED, 121) == 30
    assert level(DOWN, 122) == 30
    complaint.over()
    assert level(DOWN, 123) == 30


def test_what_is_short_loses_its_remedy_only() -> None:
    complaint = Complaint()
    error = HybridRelayError("no listener", remedy="start the connector")

    assert [complaint.about(error), complaint.about(error)] == ["no listener; start the connector", "no listener"]


def test_several_relays_in_short_are_their_names() -> None:
    complaint = Complaint()
    error = all_failed({"a": DOWN, "b": SWALLOWED})
    complaint.about(error)

    assert complaint.about(error) == "no relay works (a, b), as before"
