"""The registry of reasons: each has one number, one name and one sentence."""

from __future__ import annotations

import pytest

from hybridrelay.protocol import Reason


@pytest.mark.parametrize("reason", Reason)
def test_goes_over_the_wire_as_number_and_as_name(reason: Reason) -> None:
    assert 0 <= reason <= 0xFFFF
    assert Reason.from_wire(int(reason)) is reason
    assert Reason.from_name(reason.slug) is reason
    assert reason.slug == reason.slug.lower()


@pytest.mark.parametrize("reason", Reason)
def test_says_what_happened_in_one_sentence(reason: Reason) -> None:
    assert reason.describe
    assert not reason.describe.endswith(".")
    assert "\n" not in reason.describe
    assert isinstance(reason.is_permanent, bool)


def test_no_two_are_the_same() -> None:
    assert len(Reason.__members__) == len(list(Reason)) == len({reason.describe for reason in Reason})


def test_an_unknown_one_is_an_internal_error() -> None:
    assert Reason.from_wire(0xFFFF) is Reason.INTERNAL_ERROR
    assert Reason.from_name("never-heard-of") is Reason.INTERNAL_ERROR
