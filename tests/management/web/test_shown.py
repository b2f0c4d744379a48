"""How numbers and times are written."""

from __future__ import annotations

import pytest

from hybridrelay.management.sizes import bytes_of
from hybridrelay.management.web.html import Element, render
from hybridrelay.management.web.shown import count, duration, moment, plural, segment


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (99_499, "99.5 kB"), (99_500, "100 kB"),
        (999_499, "999 kB"), (999_500, "1.0 MB"), (5e9, "5.0 GB"), (1.5e21, "1500 EB"),
    ],
)  # fmt: skip
def test_amounts_of_data_are_shown_with_a_unit(number: float, text: str) -> None:
    assert bytes_of(number) == text


def test_numbers_are_grouped_and_have_their_noun() -> None:
    assert count(1_234_567) == "1\u202f234\u202f567"
    assert (plural(1, "listener"), plural(0, "listener"), plural(2, "key", "keys")) == (
        "1 listener",
        "0 listeners",
        "2 keys",
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (7500, "2 h 5 min"), (86_400, "1 day"), (90_000, "1 day 1 h")],
)
def test_a_duration_is_shown_with_its_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_time_says_which_zone_it_is_in() -> None:
    element = moment(0.5)
    assert isinstance(element, Element)
    assert render(element) == '<time datetime="1970-01-01T00:00:00.500Z">1970-01-01 00:00:00 UTC</time>'
    assert moment(None) == "never"
    assert moment(1e300, otherwise="unknown") == moment(float("nan"), otherwise="unknown") == "unknown"


def test_a_name_is_one_segment_of_a_path() -> None:
    assert segment("a/b?c#d%e é") == "a%2Fb%3Fc%23d%25e%20%C3%A9"
